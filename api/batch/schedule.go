// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Schedule says when a cron job runs: at the minutes that its fields select, or every so often.
type Schedule struct {
	minute, hour, day, month, weekday set
	every                             time.Duration // if not 0, the rest does not count
}

// set is a set of small numbers; star marks one that was written as an asterisk.
type set uint64

const star set = 1 << 63

func (s set) has(n int) bool { return s&(1<<uint(n)) != 0 }

// yearsMax is how far Next looks: a schedule such as February 30 never runs.
const yearsMax = 5

// span is what a field of a schedule may hold.
type span struct {
	min, max int
	names    string // of the values from min on, three letters each
}

func spans() [5]span {
	return [5]span{{0, 59, ""}, {0, 23, ""}, {1, 31, ""}, {1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}, {0, 6, "sunmontuewedthufrisat"}}
}

// ParseSchedule reads a schedule: the five fields of cron, or one of @yearly, @annually, @monthly, @weekly, @daily, @midnight,
// @hourly and "@every DURATION". Its errors are those that users of Kubernetes see. It knows nothing of time zones.
func ParseSchedule(text string) (*Schedule, error) {
	if text == "" {
		return nil, errors.New("empty spec string")
	}
	if strings.HasPrefix(text, "@") {
		return parseNamed(text)
	}
	fields := strings.Fields(text)
	if len(fields) != 5 {
		return nil, fmt.Errorf("expected exactly 5 fields, found %d: %s", len(fields), fields)
	}
	var sets [5]set
	for i, sp := range spans() {
		for _, part := range strings.FieldsFunc(fields[i], func(r rune) bool { return r == ',' }) {
			some, err := sp.parse(part)
			if err != nil {
				return nil, err
			}
			sets[i] |= some
		}
	}
	return &Schedule{minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4]}, nil
}

func parseNamed(text string) (*Schedule, error) {
	fields := ""
	switch text {
	case "@yearly", "@annually":
		fields = "0 0 1 1 *"
	case "@monthly":
		fields = "0 0 1 * *"
	case "@weekly":
		fields = "0 0 * * 0"
	case "@daily", "@midnight":
		fields = "0 0 * * *"
	case "@hourly":
		fields = "0 * * * *"
	default:
		if rest, ok := strings.CutPrefix(text, "@every "); ok {
			d, err := time.ParseDuration(rest)
			if err != nil {
				return nil, fmt.Errorf("failed to parse duration %s: %w", text, err)
			}
			return &Schedule{every: max(d.Truncate(time.Second), time.Second)}, nil
		}
		return nil, fmt.Errorf("unrecognized descriptor: %s", text)
	}
	return ParseSchedule(fields)
}

// parse reads one part of a field: *, 5, 1-5, mon-fri, each with /STEP or without.
func (sp span) parse(part string) (set, error) {
	bounds, stepText, stepped := strings.Cut(part, "/")
	low, highText, ranged := strings.Cut(bounds, "-")
	from, to, mark := sp.min, sp.max, set(0)
	if low == "*" || low == "?" {
		mark = star
	} else {
		var err error
		if from, err = sp.number(low); err != nil {
			return 0, err
		}
		to = from
		if strings.Contains(highText, "-") {
			return 0, fmt.Errorf("too many hyphens: %s", part)
		}
		if ranged {
			if to, err = sp.number(highText); err != nil {
				return 0, err
			}
		}
	}
	step := 1
	if stepped {
		if strings.Contains(stepText, "/") {
			return 0, fmt.Errorf("too many slashes: %s", part)
		}
		var err error
		if step, err = parseNumber(stepText); err != nil {
			return 0, err
		}
		if !ranged {
			to = sp.max
		}
		if step > 1 {
			mark = 0
		}
	}
	switch {
	case from < sp.min:
		return 0, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", from, sp.min, part)
	case to > sp.max:
		return 0, fmt.Errorf("end of range (%d) above maximum (%d): %s", to, sp.max, part)
	case from > to:
		return 0, fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", from, to, part)
	case step == 0:
		return 0, fmt.Errorf("step of range should be a positive number: %s", part)
	}
	for n := from; n <= to; n += min(step, math.MaxInt-to) {
		mark |= 1 << uint(n)
	}
	return mark, nil
}

func (sp span) number(text string) (int, error) {
	if len(text) == 3 {
		if i := strings.Index(sp.names, strings.ToLower(text)); i >= 0 && i%3 == 0 {
			return sp.min + i/3, nil
		}
	}
	return parseNumber(text)
}

func parseNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", text, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, text)
	}
	return n, nil
}

// Next is the first time after t, in t's time zone, or the zero time if there is none within five years.
func (s *Schedule) Next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every - time.Duration(t.Nanosecond()))
	}
	end := t.Year() + yearsMax
	t = t.Add(time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	for t.Year() <= end {
		year, month, day := t.Date()
		switch {
		case !s.month.has(int(month)):
			t = time.Date(year, month+1, 1, 0, 0, 0, 0, t.Location())
		case !s.onDay(t):
			t = startOfDay(year, month, day+1, t.Location())
		case !s.hour.has(t.Hour()):
			t = t.Add(time.Hour - time.Duration(t.Minute())*time.Minute)
		case !s.minute.has(t.Minute()):
			t = t.Add(time.Minute)
		default:
			return t
		}
	}
	return time.Time{}
}

// startOfDay is the first moment of a day, which is not midnight where clocks change then.
func startOfDay(year int, month time.Month, day int, zone *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, zone)
	if t.Hour() > 12 { // the day before: midnight does not exist
		t = t.Add(time.Duration(24-t.Hour()) * time.Hour)
	}
	return t
}

// onDay tells whether the schedule runs on the day of t: on days that both fields select if one is an asterisk, else on those that
// either selects.
func (s *Schedule) onDay(t time.Time) bool {
	day, weekday := s.day.has(t.Day()), s.weekday.has(int(t.Weekday()))
	if (s.day|s.weekday)&star != 0 {
		return day && weekday
	}
	return day || weekday
}
