// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// LogConfig describes a log file.
type LogConfig struct {
	// Path is the file; "-" is standard output.
	Path string
	// MaxSize is the size in bytes from which a file is rotated; 0 is never.
	MaxSize int64
	// MaxBackups and MaxAge bound which rotated files are kept; 0 keeps all.
	MaxBackups int
	MaxAge     time.Duration
	// Compress gzips rotated files.
	Compress bool
	// Legacy writes lines of words instead of JSON.
	Legacy bool
	Log    *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Log writes events to a file, a line each.
type Log struct {
	cfg LogConfig

	mu   sync.Mutex
	out  io.WriteCloser
	size int64
}

// rotatedLayout is the time in the names of rotated files: PATH-TIME.EXT.
const rotatedLayout = "2006-01-02T15-04-05.000"

// OpenLog opens a log.
func OpenLog(cfg LogConfig) (*Log, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{cfg: cfg}
	return l, l.open()
}

// open needs mu.
func (l *Log) open() error {
	if l.cfg.Path == "-" {
		l.out = nopCloser{os.Stdout}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.cfg.Path), 0o700); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	f, err := os.OpenFile(l.cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if info, err := f.Stat(); err == nil {
		l.size = info.Size()
	}
	l.out = f
	return nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// Write implements Sink.
func (l *Log) Write(events ...*auditv1.Event) error {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	for _, e := range events {
		if l.cfg.Legacy {
			buf.WriteString(legacy(e))
			continue
		}
		if err := encoder.Encode(e); err != nil {
			l.cfg.Log.Error("encode an audit event", "id", e.AuditID, "err", err)
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.MaxSize > 0 && l.size > 0 && l.size+int64(buf.Len()) > l.cfg.MaxSize && l.cfg.Path != "-" {
		if err := l.rotate(); err != nil {
			l.cfg.Log.Error("rotate the audit log", "err", err)
		}
	}
	if l.out == nil {
		return fmt.Errorf("audit log %s: %w", l.cfg.Path, os.ErrClosed)
	}
	n, err := l.out.Write(buf.Bytes())
	l.size += int64(n)
	if err != nil {
		l.cfg.Log.Error("write the audit log", "err", err)
	}
	return err
}

// legacy is an event as a line of words, as Kubernetes writes it.
func legacy(e *auditv1.Event) string {
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	list := func(names []string, otherwise string) string {
		quoted := make([]string, len(names))
		for i, name := range names {
			quoted[i] = strconv.Quote(name)
		}
		return or(strings.Join(quoted, ","), otherwise)
	}
	as, asGroups, namespace, response, ip := "<self>", "<lookup>", "<none>", "<deferred>", "<unknown>"
	if u := e.ImpersonatedUser; u != nil {
		as, asGroups = or(u.Username, as), list(u.Groups, asGroups)
	}
	if e.ObjectRef != nil {
		namespace = or(e.ObjectRef.Namespace, namespace)
	}
	if e.ResponseStatus != nil {
		response = strconv.Itoa(int(e.ResponseStatus.Code))
	}
	if len(e.SourceIPs) > 0 {
		ip = e.SourceIPs[0]
	}
	return fmt.Sprintf("%s AUDIT: id=%q stage=%q ip=%q method=%q user=%q groups=%q as=%q asgroups=%q user-agent=%q namespace=%q uri=%q response=%q\n",
		e.RequestReceivedTimestamp.UTC().Format(time.RFC3339Nano), e.AuditID, e.Stage, ip, e.Verb, or(e.User.Username, "<none>"),
		list(e.User.Groups, "<none>"), as, asGroups, e.UserAgent, namespace, e.RequestURI, response)
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		return nil
	}
	err := l.out.Close()
	l.out = nil
	return err
}

// rotate needs mu.
func (l *Log) rotate() error {
	if l.out != nil {
		if err := l.out.Close(); err != nil {
			return err
		}
		l.out = nil
	}
	extension := filepath.Ext(l.cfg.Path)
	backup := strings.TrimSuffix(l.cfg.Path, extension) + "-" + l.cfg.Now().UTC().Format(rotatedLayout) + extension
	if err := os.Rename(l.cfg.Path, backup); err != nil && !os.IsNotExist(err) {
		return err
	}
	l.size = 0
	if err := l.open(); err != nil {
		return err
	}
	if l.cfg.Compress {
		if err := compress(backup); err != nil {
			return err
		}
	}
	return l.prune()
}

func compress(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(file+".gz", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	if _, err = io.Copy(z, in); err == nil {
		err = z.Close()
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Remove(file)
}

// prune removes rotated files that are too many or too old.
func (l *Log) prune() error {
	if l.cfg.MaxBackups == 0 && l.cfg.MaxAge == 0 {
		return nil
	}
	extension := filepath.Ext(l.cfg.Path)
	prefix := strings.TrimSuffix(filepath.Base(l.cfg.Path), extension) + "-"
	entries, err := os.ReadDir(filepath.Dir(l.cfg.Path))
	if err != nil {
		return err
	}
	type backup struct {
		name string
		at   time.Time
	}
	var backups []backup
	for _, e := range entries {
		middle, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".gz"), prefix)
		if at, err := time.Parse(rotatedLayout, strings.TrimSuffix(middle, extension)); ok && err == nil {
			backups = append(backups, backup{e.Name(), at})
		}
	}
	slices.SortFunc(backups, func(a, b backup) int { return b.at.Compare(a.at) })
	for i, b := range backups {
		tooMany := l.cfg.MaxBackups > 0 && i >= l.cfg.MaxBackups
		tooOld := l.cfg.MaxAge > 0 && l.cfg.Now().Sub(b.at) > l.cfg.MaxAge
		if !tooMany && !tooOld {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(l.cfg.Path), b.name)); err != nil {
			return err
		}
	}
	return nil
}
