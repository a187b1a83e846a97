// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import "time"

// Work is what a request is expected to cost.
type Work struct {
	// Seats are taken while the request is carried out, Final for the time Extra afterwards.
	Seats, Final int
	Extra        time.Duration

	told int // 1 more than the watchers of a write; 0 for reads
}

// width is how many seats must be free for the request to begin.
func (w *Work) width() int { return max(w.Seats, w.Final) }

// Figures of estimates, as observed in Kubernetes v1.36.
const (
	bytesPerSeat    = 100_000
	maxCachedSeats  = 10  // of lists from the cache, and of writes
	maxSeats        = 100 // of lists at an exact revision
	watchersPerSeat = 10
	extraPerSeat    = 5 * time.Millisecond
	guessedDuration = 3 * time.Millisecond // of a request that has not run yet
	shareOfOneList  = 0.15                 // of a level's seats
	guessInSeconds  = float64(guessedDuration) / float64(time.Second)
)

// widest is the most seats that a request of a level may take, so that one does not take all.
func widest(nominal, hand int) int {
	most := min(maxSeats, ceil(shareOfOneList*float64(nominal)))
	if hand > 0 {
		most = min(most, nominal/hand)
	}
	return max(most, 1)
}

func ceil(x float64) int {
	n := int(x)
	if x > float64(n) {
		n++
	}
	return n
}

// One is the work of most requests.
func One() Work { return Work{Seats: 1} }

// List is the work of a list, or of the beginning of a watch that lists, of so many objects. Exact lists are those at an exact
// revision, which may need to read the store.
func List(objects int, bytesEach int64, exact bool, most int) Work {
	if !exact {
		most = min(most, maxCachedSeats)
	}
	seats := (int64(objects)*bytesEach + bytesPerSeat - 1) / bytesPerSeat
	return Work{Seats: int(max(1, min(seats, int64(most))))}
}

// Write is the work of a write that so many watchers will be told of.
func Write(watchers, most int) Work {
	if watchers < watchersPerSeat {
		return Work{Seats: 1, told: watchers + 1}
	}
	seats := (watchers + watchersPerSeat - 1) / watchersPerSeat
	w := Work{Seats: 1, Final: seats, Extra: extraPerSeat, told: watchers + 1}
	if most = min(most, maxCachedSeats); seats > most {
		w.Final, w.Extra = most, extraPerSeat*time.Duration(seats)/time.Duration(most)
	}
	return w
}
