// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	kmsapi "k8s.io/kms/apis/v2"

	"knarr.dev/api"
	"knarr.dev/store"
	"knarr.dev/store/pebble"
)

var silent = slog.New(slog.DiscardHandler)

func secret(first byte) string {
	key := make([]byte, 32)
	for i := range key {
		key[i] = first + byte(i)
	}
	return base64.StdEncoding.EncodeToString(key)
}

// Values that kube-apiserver v1.36 wrote to etcd, with the key 0, 1, 2, ... 31.
var observed = map[string]string{
	"/registry/secrets/n/leg":        "azhzOmVuYzphZXNjYmM6djE6a2V5MTopX1IF024aTUU92cvDjJ7qCRxXTktBaqm9OWXGbC9FHh6+rokUuQq/n4LQGTHG+Ks5uRw8EsdMMS9iNNyeqAhDXgZU2MsGpXcaeyjGEc/5blNEt/rQbscisVLOZqv2pUbervShg2dPRhNTch2TKSdB3edxSvTcEzP7UbW6jBhjEgfnjxsZ83fueThdDwMVuAi8B8uMsXwG4U/b8ioyEKAtjF2I12dClk85gRnKhobAjfydS0qDuFaZ8wPRqTP0J2BrBFBJ4amutnE4C0uJB+acK+6z4sGE3sEcl+RfUayg274aA+VwwdcckvAa8OYliHGR7/EO6R5UYYu4ob6wwywNJwOB76Y7jxdrtUVvbAnVhgJuO9tZVhcEf3KvnrnyfSXEbsBy2VYm+I68EtzbDXuQFXjV8BOxkp9cqUgmQcUeJhw4XufBHYsDHAaD45dRSGmLkUPTZE1anAJAPlwkng/ckf9BIftdGTZLA/3LxmMC+BE9Kg8iZR9Z73XzMMmdo6AEnqb7SkmyHwghm3uhgqlzVRCaLNVigrA9PBpA5tsvMlTd9yEpKb+15ty0UVVQxIINmZgwjQNRAzuSCGA7cFSrPrme/cqySCTIVNw6/EyIG7FO0OszDHk4WGTophNIhNNd8Fx+so89QtwXe0N6Ab1idSXjYOzMv5cMhbCbeMIdbKCyU5KVvUn5IknU8TIdY7hl/+YIl5h37uPGh/EhXbXdfZ04lAlv+uIcjqKGf4dj24WhA0VyHkj0QAZMWyen8AwOJe/IwygPzs7xHwC3k+92dqs/0XCzcH8SWemNvNY1k47wugfv7H4dfugveZXQeW9cmzApRPX/X9bhvPcodhFPGxFLpc14cgSThThgeuKbug==",
	"/registry/configmaps/n/enc":     "azhzOmVuYzphZXNnY206djE6a2V5MjokMjSfZnx/Ox57agjmJHqqfsIfrL0LQTijfBekchnTcmIOPgFU7SNcZsviDlji63wG8p+LnwFrnZwv7getR0aE61nu2KHIEr2FO2CEtXODB/FmXQEZWtHL5cC5pRgbIBPTPznQQLZM8rc7uf8UJ9lFpm8HDxEgQ7G3NeAcyDU8YoV/VLoW3FkCBdnB/wGTWWyD9Vl6HNFe9vCyBaNayHBaBMKT/Bux7PQTB6O6GKPM+DFALZ1FzOOCj++ODSLNf5r4IAIErSujQiZajZdHa0jo+czb30nNdVI=",
	"/registry/serviceaccounts/n/sa": "azhzOmVuYzpzZWNyZXRib3g6djE6a2V5MzoPCSaIbPu9oxzTRbFxHDFehwBnqPkElkrmU6W92z6exAc5WVE3xodtqJeGDEZri4O6kjrkQhMx5RpCYIx6Ym4pXRs0uK4ZK3LIvZQvp17XLpjuWS5lrdxhLTK9tSYmq/SziC/w7XPiP5RT1t7giqrSVJ+IQid/7+HHlgrRiodvTkkqHZH9uR+2TQ==",
}

// observedKMS is what kube-apiserver v1.36 wrote with a key service that returns seeds as they are, after "plain:".
const observedKMS = "azhzOmVuYzprbXM6djI6ZmFrZToKiQI2KEUfwMYqLy5fpuqABzUmTAJrVhtrcgFSE9fdJBgnvVTgTiMAx6hNa0eG74V/qFBHhU89haarcXklmdZjz2Z2iJ5i1cy0Fcb+TfN+iCbDGdtdrljjgE8gTkzUloEnyu5PSvspNJ3wA/Sl1avuBLftTWR/12PnaYoFfgSxfp99D23UPx0DFRkNjPUOnsla8wXsNohfX8CUo9PgkoRzIkLI8hPh27b+NvapfzCrK5PBuGjMuicWysEUw7eK+aP+6OmnnFS6dH3w87kt//yXv6ym1q0uLS+uOZMp8hnGhwl6cE8lNmkvgg0kjj2BGr/bKtmujd+GzLW3yFqHIqA5KiV4JWvx2Uo6cU4uEgVrZXktMRomcGxhaW46zKQ1u2dG9VjPSjvGVhZwXKfeYXSd3WfV2O5Yng0rY3kiEgoNYS5leGFtcGxlLmNvbRIBeCgB"

func TestReadsWhatKubernetesWroteWithAKeyService(t *testing.T) {
	stored, err := base64.StdEncoding.DecodeString(observedKMS)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := bytes.CutPrefix(stored, []byte("k8s:enc:kms:v2:fake:"))
	var object encrypted
	if err := object.unmarshal(payload); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if object.keyID != "key-1" || object.sourceType != seedSource || string(object.annotations["a.example.com"]) != "x" {
		t.Errorf("object %+v", object)
	}
	seed := bytes.TrimPrefix(object.source, []byte("plain:"))
	plain, err := openDerived(seed, object.data, []byte("/registry/secrets/nn/s1"))
	if err != nil || !bytes.HasPrefix(plain, []byte("k8s\x00")) {
		t.Errorf("got %.20q, %v", plain, err)
	}
	if !bytes.Equal(object.marshal(), payload) {
		t.Error("the message is written in another way")
	}
}

func configuration(resources ...string) []byte {
	return []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" + strings.Join(resources, "\n"))
}

func TestReadsWhatKubernetesWrote(t *testing.T) {
	c := NewConfig(api.Kinds())
	if err := c.Set(configuration(
		"- {resources: [secrets], providers: [{aescbc: {keys: [{name: key1, secret: "+secret(0)+"}]}}]}",
		"- {resources: [configmaps], providers: [{aesgcm: {keys: [{name: key2, secret: "+secret(0)+"}]}}]}",
		"- {resources: ['*.*'], providers: [{secretbox: {keys: [{name: key3, secret: "+secret(0)+"}]}}]}",
	), silent); err != nil {
		t.Fatal(err)
	}
	for key, text := range observed {
		stored, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		plain, stale, err := c.transformer(key).decrypt(t.Context(), stored, key)
		if err != nil || stale || !bytes.HasPrefix(plain, []byte("k8s\x00")) {
			t.Errorf("%s: %.20q, stale %v, %v", key, plain, stale, err)
		}
		stored[len(stored)-1] ^= 1
		if plain, _, err := c.transformer(key).decrypt(t.Context(), stored, key); err == nil && bytes.HasSuffix(plain, []byte("\x00")) {
			t.Errorf("%s: a changed value was read", key)
		}
	}
}

// observedElsewhere is what kube-apiserver v1.36 with --etcd-prefix=/other wrote for the Secret enc/ks, with aesgcm and a key of 32 k.
const observedElsewhere = "azhzOmVuYzphZXNnY206djE6azE6ESniJcrQYqPgsRHEtELgQ8UQJzPb0+cau+Q+x+uNcSRrrSnXyifXj6uxwXSWjmDfyxAUqReK9MTaotqnOlMG4oajg3BT9QXgyQ7TFqYShvpCR5HCvUqjVzuvEx6LOETFeQb8g4pxpUzpSCRFuu6g9iXi+sTKxw3dV8FjC0+GbMMLjZCMgbAq/WlBFWzfoG/AkSKKyDoPdrAzadbbV4eK+jvsXlRqAuqdh4xSkJQQ5vTHoj0TR3Z/xEwfCu15T2PDvmYd2tpsNCRJpWFz493M0RPK4kBs9AA+5zGNvsXKsEkMzzcO9feiQmBx"

func TestValuesAreBoundToTheirStoredKeys(t *testing.T) {
	plain, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	value, err := base64.StdEncoding.DecodeString(observedElsewhere)
	if err != nil {
		t.Fatal(err)
	}
	const key = "/registry/secrets/enc/ks"
	if _, err := plain.Write(t.Context(), store.Op{Key: key, Value: value, Expect: store.Any}); err != nil {
		t.Fatal(err)
	}
	c := NewConfig(api.Kinds())
	file := "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [{aesgcm: {keys: [{name: k1, secret: " +
		base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)) + "}]}}]}]}"
	if err := c.Set([]byte(file), silent); err != nil {
		t.Fatal(err)
	}
	if _, err := Wrap(plain, c).Read(t.Context(), store.Query{Key: key}); err == nil {
		t.Error("a value of another key was read")
	}
	s := Wrap(plain, c).Stored("/registry", "/other")
	page, err := s.Read(t.Context(), store.Query{Key: key})
	if err != nil || !bytes.HasPrefix(page.Records[0].Value, []byte("k8s\x00")) {
		t.Fatal(page, err)
	}
	if _, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte("x"), Expect: store.Any}); err != nil {
		t.Fatal(err)
	}
	if page, err := s.Read(t.Context(), store.Query{Key: key}); err != nil || string(page.Records[0].Value) != "x" {
		t.Error(page, err)
	}
}

func TestRules(t *testing.T) {
	c := NewConfig(api.Kinds())
	box := func(name string) string {
		return "[{secretbox: {keys: [{name: " + name + ", secret: " + secret(1) + "}]}}]"
	}
	if err := c.Set(configuration(
		"- {resources: [secrets, deployments.apps, services], providers: "+box("a")+"}",
		"- {resources: ['*.example.com'], providers: "+box("b")+"}",
		"- {resources: [events], providers: [{identity: {}}]}",
		"- {resources: ['*.'], providers: "+box("c")+"}",
	), silent); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"/registry/secrets/n/s": "a", "/registry/deployments/n/d": "a", "/registry/services/specs/n/s": "a", "/registry/example.com/things/n/t": "b",
		"/registry/events/n/e": "", "/registry/pods/n/p": "c", "/registry/replicasets/n/r": "-", "/registry/other.com/things/n/t": "-", "compact": "-",
		"/registry/ranges/servicenodeports": "-", "/registry/masterleases/192.0.2.1": "-", // as kube-apiserver has them
	} {
		got := "-"
		if tr := c.transformer(key); tr != nil {
			got = strings.TrimSuffix(strings.TrimPrefix(tr[0].prefix, "k8s:enc:secretbox:v1:"), ":")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, bad := range []string{
		"- {resources: [], providers: " + box("a") + "}", "- {resources: [secrets], providers: []}", "- {resources: ['*'], providers: " + box("a") + "}",
		"- {resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: YQ==}]}}]}", "- {resources: [secrets], providers: [{}]}",
		"- {resources: [secrets], providers: [{identity: {}, aescbc: {keys: []}}]}", "- {resources: [secrets], providers: [{kms: {apiVersion: v1, name: k, endpoint: 'unix:///x'}}]}",
		"- {resources: [secrets, secrets], providers: " + box("a") + "}", "- {resources: [secrets], providers: " + box("a") + ", x: 1}",
	} {
		if err := c.Set(configuration(bad), silent); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
	if c.transformer("/registry/secrets/n/s") == nil {
		t.Error("a bad configuration must change nothing")
	}
}

// service is a key service whose keys only have names.
type service struct {
	kmsapi.UnimplementedKeyManagementServiceServer
	key      atomic.Value
	decrypts atomic.Int32
}

func (s *service) Status(context.Context, *kmsapi.StatusRequest) (*kmsapi.StatusResponse, error) {
	return &kmsapi.StatusResponse{Version: "v2", Healthz: "ok", KeyId: s.key.Load().(string)}, nil
}

func (s *service) Encrypt(_ context.Context, r *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	key := s.key.Load().(string)
	return &kmsapi.EncryptResponse{Ciphertext: append([]byte(key+":"), r.Plaintext...), KeyId: key, Annotations: map[string][]byte{"v.example.com": {1}}}, nil
}

func (s *service) Decrypt(_ context.Context, r *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	s.decrypts.Add(1)
	plain, ok := bytes.CutPrefix(r.Ciphertext, []byte(r.KeyId+":"))
	if !ok || len(r.Annotations["v.example.com"]) != 1 {
		return nil, errors.New("not mine")
	}
	return &kmsapi.DecryptResponse{Plaintext: plain}, nil
}

func serve(t *testing.T) (*service, string) {
	t.Helper()
	s := &service{}
	s.key.Store("one")
	endpoint := filepath.Join(t.TempDir(), "kms.sock")
	l, err := net.Listen("unix", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	kmsapi.RegisterKeyManagementServiceServer(g, s)
	go g.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(g.Stop)
	return s, "unix://" + endpoint
}

func openStore(t *testing.T) store.Store {
	t.Helper()
	s, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem(), Log: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestNamesOfResources has the texts that kube-apiserver v1.36 was seen to refuse names with.
func TestNamesOfResources(t *testing.T) {
	const overlap = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
	for _, test := range []struct{ names, want string }{
		{"*.", ""}, {"*. *.apps", ""}, {"se*", ""}, {"pods/status", ""}, {"secrets *.*", "resources[0].resources: Invalid value: [\"secrets\",\"*.*\"]: " + overlap},
		{"*.apps deployments.apps", "resources[0].resources: Invalid value: [\"*.apps\",\"deployments.apps\"]: " + overlap},
		{"*.* *.", "resources[0].resources: Invalid value: [\"*.*\",\"*.\"]: " + overlap},
		{"*.*|secrets", `resource "secrets" is masked by earlier rule "*.*"`},
		{"*.|secrets", `resource "secrets" is masked by earlier rule "*."`},
		{"*.apps|deployments.apps", `resource "deployments.apps" is masked by earlier rule "*.apps"`},
		{"*.*|*.apps", `resource "*.apps" is masked by earlier rule "*.*"`},
		{"secrets|*.|*.apps|*.*", ""}, {"secrets|secrets", ""},
		{"*", `resources[0].resources[0]: Invalid value: "*": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources`},
		{"events.events.k8s.io", `resources[0].resources[0]: Invalid value: "events.events.k8s.io": '*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file`},
		{"*.extensions", `resources[0].resources[0]: Invalid value: "*.extensions": 'extensions' group has been removed and cannot be used for encryption`},
		{"Secrets", `resources[0].resources[0]: Invalid value: "Secrets": resource name should not contain capital letters`},
		{"secrets secrets", `resources[0].resources: Invalid value: ["secrets","secrets"]: the same resource cannot be specified multiple times`},
	} {
		var sections []string
		for section := range strings.SplitSeq(test.names, "|") {
			sections = append(sections, "- {resources: ['"+strings.ReplaceAll(section, " ", "', '")+"'], providers: [{identity: {}}]}")
		}
		got := ""
		if err := NewConfig(api.Kinds()).Set(configuration(sections...), silent); err != nil {
			got = strings.TrimPrefix(err.Error(), "encryption configuration: ")
		}
		if got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.names, got, test.want)
		}
	}
}

func TestKeyService(t *testing.T) {
	remote, endpoint := serve(t)
	provider := "- {resources: [secrets], providers: [{kms: {apiVersion: v2, name: k, endpoint: '" + endpoint + "'}}, {identity: {}}]}"
	c, plain := NewConfig(api.Kinds()), openStore(t)
	if err := c.Set(configuration(provider), silent); err != nil {
		t.Fatal(err)
	}
	s := Wrap(plain, c)
	const key = "/registry/secrets/n/s"
	put(t, s, key, "value")
	raw, err := plain.Read(t.Context(), store.Query{Key: key})
	if err != nil || !bytes.HasPrefix(raw.Records[0].Value, []byte("k8s:enc:kms:v2:k:")) || bytes.Contains(raw.Records[0].Value, []byte("value")) {
		t.Fatalf("stored %+v, %v", raw.Records, err)
	}
	if got := get(t, s, key); got != "value" || remote.decrypts.Load() != 0 {
		t.Errorf("got %q after %d calls", got, remote.decrypts.Load())
	}
	again := NewConfig(api.Kinds()) // as after a restart
	if err := again.Set(configuration(provider), silent); err != nil {
		t.Fatal(err)
	}
	s = Wrap(plain, again)
	for range 3 {
		if got := get(t, s, key); got != "value" || remote.decrypts.Load() != 1 {
			t.Errorf("got %q after %d calls", got, remote.decrypts.Load())
		}
	}
	if stale, err := s.Stale(t.Context(), key); stale || err != nil {
		t.Errorf("stale %v, %v", stale, err)
	}
	remote.key.Store("two")
	again.current.Load().kms[0].asked = again.current.Load().kms[0].asked.Add(-askEvery)
	if stale, err := s.Stale(t.Context(), key); !stale || err != nil {
		t.Errorf("after the key changed: stale %v, %v", stale, err)
	}
	put(t, s, key, "value")
	if stale, err := s.Stale(t.Context(), key); stale || err != nil {
		t.Errorf("after the rewrite: stale %v, %v", stale, err)
	}
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	r, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte(value), Expect: store.Any})
	if err != nil || string(r.Value) != "" && string(r.Value) != value {
		t.Fatalf("write %s: %q, %v", key, r.Value, err)
	}
}

func get(t *testing.T, s store.Store, key string) string {
	t.Helper()
	page, err := s.Read(t.Context(), store.Query{Key: key})
	if err != nil || len(page.Records) != 1 {
		t.Fatalf("read %s: %+v, %v", key, page, err)
	}
	return string(page.Records[0].Value)
}

func TestRotation(t *testing.T) {
	c, plain := NewConfig(api.Kinds()), openStore(t)
	s := Wrap(plain, c)
	const key = "/registry/secrets/n/s"
	put(t, s, key, "first")
	old := "{aesgcm: {keys: [{name: old, secret: " + secret(1) + "}]}}"
	young := "{aescbc: {keys: [{name: young, secret: " + secret(2) + "}]}}"
	w, err := s.Watch(t.Context(), "/registry/secrets/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, step := range []struct {
		providers string
		stale     bool
	}{
		{"[" + old + ", {identity: {}}]", true}, {"[{identity: {}}, " + old + "]", true}, {"[" + young + ", {identity: {}}]", true}, {"[" + old + ", " + young + "]", true},
	} {
		if err := c.Set(configuration("- {resources: [secrets], providers: "+step.providers+"}"), silent); err != nil {
			t.Fatal(err)
		}
		if stale, err := s.Stale(t.Context(), key); stale != step.stale || err != nil {
			t.Errorf("%s: stale %v, %v", step.providers, stale, err)
		}
		before := get(t, s, key)
		put(t, s, key, "for "+step.providers)
		events, err := w.Next(t.Context())
		if err != nil || string(events[0].Value) != "for "+step.providers || events[0].Prev != nil && string(events[0].Prev.Value) != before {
			t.Fatalf("%s: events %+v, %v", step.providers, events, err)
		}
		if stale, err := s.Stale(t.Context(), key); stale || err != nil {
			t.Errorf("%s: stale %v, %v after the rewrite", step.providers, stale, err)
		}
	}
	if _, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte("x"), Expect: store.Absent}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("conflict: %v", err)
	}
	if err := c.Set(configuration("- {resources: [secrets], providers: ["+young+"]}"), silent); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context(), store.Query{Key: key}); err == nil || !strings.Contains(err.Error(), "no matching prefix found") {
		t.Errorf("without its key: %v", err)
	}
}

func TestSecretboxOfEverySize(t *testing.T) {
	p, err := newSecretbox(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 300 {
		plain := bytes.Repeat([]byte{0xff}, n)
		sealed, err := p.encrypt(t.Context(), plain, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := p.decrypt(t.Context(), sealed, nil)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// The example of RFC 8439, section 2.5.2, and the hardest sums of its appendix A.3.
func TestPoly1305(t *testing.T) {
	hex := func(s string) []byte {
		var out []byte
		for i := 0; i+1 < len(s); i += 2 {
			digit := func(c byte) byte { return byte(strings.IndexByte("0123456789abcdef", c)) }
			out = append(out, digit(s[i])<<4|digit(s[i+1]))
		}
		return out
	}
	for _, test := range []struct{ key, message, tag string }{
		{"85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b", "43727970746f6772617068696320466f72756d2052657365617263682047726f7570", "a8061dc1305136c6c22b8baf0c0127a9"},
		{"0200000000000000000000000000000000000000000000000000000000000000", "ffffffffffffffffffffffffffffffff", "03000000000000000000000000000000"},
		{"02000000000000000000000000000000ffffffffffffffffffffffffffffffff", "02000000000000000000000000000000", "03000000000000000000000000000000"},
		{"0100000000000000000000000000000000000000000000000000000000000000", "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff11000000000000000000000000000000", "05000000000000000000000000000000"},
		{"0100000000000000000000000000000000000000000000000000000000000000", "fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe01010101010101010101010101010101", "00000000000000000000000000000000"},
		{"0200000000000000000000000000000000000000000000000000000000000000", "fdffffffffffffffffffffffffffffff", "faffffffffffffffffffffffffffffff"},
	} {
		var key [32]byte
		copy(key[:], hex(test.key))
		if got := poly1305(hex(test.message), &key); !bytes.Equal(got[:], hex(test.tag)) {
			t.Errorf("%s: got %x", test.message, got)
		}
	}
}
