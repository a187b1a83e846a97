// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/store"
)

// write makes a file for the test.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSecretsAreEncrypted(t *testing.T) {
	provider := func(name string, first byte) string {
		return "{aesgcm: {keys: [{name: " + name + ", secret: " + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{first}, 32)) + "}]}}"
	}
	configuration := func(providers string) string {
		return "{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [" + providers + "]}]}"
	}
	c := start(t, func(c *Config) {
		c.Security.EncryptionProviderConfig = write(t, configuration(provider("one", 1)+", {identity: {}}"))
	})
	secrets := client.Of(c.Client(Administrator()), core.Secrets)
	made, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte("open sesame")},
	})
	if err != nil {
		t.Fatal(err)
	}
	stored := func() []byte {
		page, err := c.encrypted.Store.Read(t.Context(), store.Query{Key: "/registry/secrets/default/s"})
		if err != nil || len(page.Records) != 1 {
			t.Fatal(page, err)
		}
		return page.Records[0].Value
	}
	if v := stored(); !bytes.HasPrefix(v, []byte("k8s:enc:aesgcm:v1:one:")) || bytes.Contains(v, []byte("sesame")) {
		t.Errorf("stored %.40q", v)
	}
	if err := c.encryption.Set([]byte(configuration(provider("two", 2)+", "+provider("one", 1))), c.log); err != nil {
		t.Fatal(err)
	}
	same, err := secrets.Update(t.Context(), made.DeepCopy())
	if err != nil || string(same.Data["k"]) != "open sesame" || same.ResourceVersion == made.ResourceVersion {
		t.Errorf("rewritten: %v, %v", same, err)
	}
	if v := stored(); !bytes.HasPrefix(v, []byte("k8s:enc:aesgcm:v1:two:")) {
		t.Errorf("stored %.40q after the key changed", v)
	}
	again, err := secrets.Update(t.Context(), same.DeepCopy())
	if err != nil || again.ResourceVersion != same.ResourceVersion {
		t.Errorf("an update that changes nothing wrote once more: %v", err)
	}
}

func TestAuditRecordsInProcessRequests(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	c := start(t, func(c *Config) {
		c.Audit.PolicyFile = write(t, "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: Request, users: [jane]}]}")
		c.Audit.LogPath = log
	})
	jane := client.Of(c.Client(call.Identity{Name: "jane"}), core.ConfigMaps)
	if _, err := jane.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"}}); err == nil {
		t.Error("jane may create")
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var event map[string]any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &event); err != nil || len(lines) != 1 {
		t.Fatal(err, lines)
	}
	if event["requestURI"] != "/api/v1/namespaces/default/configmaps" || event["verb"] != "create" || event["responseStatus"].(map[string]any)["code"] != 403.0 ||
		event["annotations"].(map[string]any)["authorization.k8s.io/decision"] != "forbid" || event["requestObject"].(map[string]any)["kind"] != "ConfigMap" {
		t.Errorf("event %s", lines[0])
	}
}
