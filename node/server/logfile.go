// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// followEvery is how often a followed log is looked at; every tenth time the container is looked at too.
const followEvery = 100 * time.Millisecond

// maxLogLine bounds a line of a log, in bytes; runtimes split lines long before.
const maxLogLine = 1 << 20

// timeFixed is RFC 3339 with nanoseconds of fixed width.
const timeFixed = "2006-01-02T15:04:05.000000000Z07:00"

// logReader sends the log of a container, whose lines are "TIME STREAM TAG TEXT"; the tag P is a part of a line.
type logReader struct {
	path       string
	out        io.Writer
	since      time.Time
	tail       int64 // -1 is all
	left       int64 // bytes, -1 is all
	follow     bool
	timestamps bool
	stream     string // empty is both
	// partial tells that the last text had no end of line.
	partial bool
}

func newLogReader(path string, o *corev1.PodLogOptions, now time.Time, out io.Writer) *logReader {
	r := &logReader{path: path, out: out, tail: -1, left: -1, follow: o.Follow, timestamps: o.Timestamps}
	if o.TailLines != nil {
		r.tail = *o.TailLines
	}
	if o.LimitBytes != nil {
		r.left = *o.LimitBytes
	}
	if o.SinceSeconds != nil {
		r.since = now.Add(-time.Duration(*o.SinceSeconds) * time.Second)
	}
	if o.SinceTime != nil {
		r.since = o.SinceTime.Time
	}
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamStdout:
			r.stream = "stdout"
		case corev1.LogStreamStderr:
			r.stream = "stderr"
		}
	}
	return r
}

// errEnough ends a log that reached its limit.
var errEnough = errors.New("limit of bytes reached")

// send sends the log. With follow it goes on until the container does not run any more, which running tells.
func (r *logReader) send(ctx context.Context, running func(context.Context) bool) error {
	f, err := os.Open(r.path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if r.tail >= 0 {
		start, err := tailStart(f, r.tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	in := bufio.NewReaderSize(f, 64<<10)
	var rest []byte // of a line that is not complete yet
	ended := false
	for round := 0; ; round++ {
		if rest, err = r.lines(ctx, in, rest); err != nil {
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		}
		if !r.follow || ended {
			return ctx.Err()
		}
		if round%10 == 9 {
			ended = !running(ctx) // what was written before the end is read once more
			if next, ok := rotated(f, r.path); ok {
				_ = f.Close()
				f, rest = next, nil
				in.Reset(f)
			}
		}
		if ended {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
	}
}

// rotated opens the file that took the place of f, if one did.
func rotated(f *os.File, path string) (*os.File, bool) {
	old, err := f.Stat()
	if err != nil {
		return nil, false
	}
	current, err := os.Stat(path)
	if err != nil || os.SameFile(old, current) {
		return nil, false
	}
	next, err := os.Open(path)
	return next, err == nil
}

// lines sends the lines up to the end of the file and returns what has no end of line yet.
func (r *logReader) lines(ctx context.Context, in *bufio.Reader, rest []byte) ([]byte, error) {
	for ctx.Err() == nil {
		chunk, err := in.ReadSlice('\n')
		rest = append(rest, chunk...)
		switch {
		case err == nil:
			if err := r.line(rest); err != nil {
				return nil, err
			}
			rest = rest[:0]
		case errors.Is(err, io.EOF):
			return rest, nil
		case errors.Is(err, bufio.ErrBufferFull):
			if len(rest) > maxLogLine {
				return nil, errors.New("log has a line that is too long")
			}
		default:
			return nil, err
		}
	}
	return rest, ctx.Err()
}

// line sends one line of the file; lines that are none of a log are left out.
func (r *logReader) line(line []byte) error {
	parts := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
	if len(parts) < 3 {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, string(parts[0]))
	if err != nil || at.Before(r.since) || r.stream != "" && r.stream != string(parts[1]) {
		return nil
	}
	var text []byte
	if r.timestamps && !r.partial {
		text = append([]byte(at.Format(timeFixed)), ' ')
	}
	if len(parts) == 4 {
		text = append(text, parts[3]...)
	}
	tag, _, _ := bytes.Cut(parts[2], []byte(":"))
	if r.partial = string(tag) == "P"; !r.partial {
		text = append(text, '\n')
	}
	if r.left >= 0 && int64(len(text)) >= r.left {
		text = text[:r.left]
		if _, err := r.out.Write(text); err != nil {
			return err
		}
		return errEnough
	}
	if r.left >= 0 {
		r.left -= int64(len(text))
	}
	_, err = r.out.Write(text)
	return err
}

// tailStart finds where the last lines of a file begin.
func tailStart(f *os.File, lines int64) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := info.Size()
	if lines == 0 {
		return end, nil
	}
	buffer := make([]byte, 32<<10)
	found := int64(-1) // the end of the last line does not count
	for end > 0 {
		size := min(end, int64(len(buffer)))
		end -= size
		if _, err := f.ReadAt(buffer[:size], end); err != nil {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buffer[i] != '\n' {
				continue
			}
			if found++; found == lines {
				return end + i + 1, nil
			}
		}
	}
	return 0, nil
}
