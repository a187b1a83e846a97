// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here")
	}
	at := func(text string, zone *time.Location) time.Time {
		moment, err := time.ParseInLocation("2006-01-02 15:04:05", text, zone)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for _, c := range []struct {
		schedule, after, want string
		zone                  *time.Location
	}{
		{"*/15 * * * *", "2024-01-01 00:00:00", "2024-01-01 00:15:00", time.UTC},
		{"*/15 * * * *", "2024-01-01 00:14:59", "2024-01-01 00:15:00", time.UTC},
		{"20-35/15 * * * *", "2024-01-01 00:21:00", "2024-01-01 00:35:00", time.UTC},
		{"0 9 * * mon-fri", "2024-01-05 09:00:00", "2024-01-08 09:00:00", time.UTC},
		{"0 0 13 * 5", "2024-01-06 00:00:00", "2024-01-12 00:00:00", time.UTC},  // the 13th or a Friday
		{"0 0 */2 * 5", "2024-01-05 00:00:00", "2024-01-07 00:00:00", time.UTC}, // steps are no asterisk
		{"0 0 29 2 *", "2024-03-01 00:00:00", "2028-02-29 00:00:00", time.UTC},
		{"0 0 31 2 *", "2024-01-01 00:00:00", "", time.UTC},
		{"@monthly", "2024-12-15 12:00:00", "2025-01-01 00:00:00", time.UTC},
		{"@every 90s", "2024-01-01 00:00:00", "2024-01-01 00:01:30", time.UTC},
		{"30 2 * * *", "2024-03-30 12:00:00", "2024-04-01 02:30:00", berlin}, // which March 31 does not have
		{"0 3 * * *", "2024-10-26 12:00:00", "2024-10-27 03:00:00", berlin},
	} {
		s, err := ParseSchedule(c.schedule)
		if err != nil {
			t.Errorf("%s: %v", c.schedule, err)
			continue
		}
		var want time.Time
		if c.want != "" {
			want = at(c.want, c.zone)
		}
		if got := s.Next(at(c.after, c.zone)); !got.Equal(want) {
			t.Errorf("%s after %s: %v, want %v", c.schedule, c.after, got, want)
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, text := range []string{"*/5 * * * *", "@every 1h", "1-5/2,7 * ? jan-mar mon", "TZ=UTC * * * * *", "*/99999999999999999999 * * * *"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := ParseSchedule(text); err == nil {
			s.Next(time.Unix(0, 0).UTC())
		}
	})
}
