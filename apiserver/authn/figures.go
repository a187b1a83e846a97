// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"time"

	"knarr.dev/apiserver/measure"
)

// Figures count the use of tokens, under Kubernetes' names. All methods do nothing on nil.
//
// What Kubernetes' token cache saves is all of a token's review, for ten seconds. Here it is the check of the signature, as long as the
// token is used: whether the token still holds is looked up each time.
type Figures struct {
	hits, misses          *measure.Counter
	hitTook, missTook     *measure.Histogram
	fetched, refused      *measure.Counter
	valid, legacy         *measure.Counter
	automatic, madeByHand *measure.Counter
	stale, invalid        *measure.Counter
}

// NewFigures adds figures to a set.
func NewFigures(set *measure.Set) *Figures {
	const cache = "authentication_token_cache_"
	requests := set.Counters(cache+"request_total", "[ALPHA]", "status")
	took := set.Histograms(measure.Seconds(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10), cache+"request_duration_seconds", "[ALPHA]", "status")
	fetches := set.Counters(cache+"fetch_total", "[ALPHA]", "status")
	tokens := func(name, help string) *measure.Counter {
		return set.Counters("serviceaccount_"+name, "[ALPHA] Cumulative "+help, nil...).With()
	}
	return &Figures{
		hits: requests.With("hit"), misses: requests.With("miss"), hitTook: took.With("hit"), missTook: took.With("miss"),
		fetched: fetches.With("ok"), refused: fetches.With("error"),
		valid:      tokens("valid_tokens_total", "valid projected service account tokens used"),
		legacy:     tokens("legacy_tokens_total", "legacy service account tokens used"),
		automatic:  tokens("legacy_auto_token_uses_total", "auto-generated legacy tokens used"),
		madeByHand: tokens("legacy_manual_token_uses_total", "manually created legacy tokens used"),
		stale:      tokens("stale_tokens_total", "stale projected service account tokens used"),
		invalid:    tokens("invalid_legacy_auto_token_uses_total", "invalid auto-generated legacy tokens used"),
	}
}

// hit counts a token whose signature was known.
func (f *Figures) hit() {
	if f != nil {
		f.hits.Inc()
		f.hitTook.Took(0)
	}
}

// missed counts a token whose signature was checked.
func (f *Figures) missed(took time.Duration, err error) {
	if f == nil {
		return
	}
	f.misses.Inc()
	f.missTook.Took(took)
	if err != nil {
		f.refused.Inc()
		return
	}
	f.fetched.Inc()
}

// refusedLegacy counts a token in a Secret that was marked invalid.
func (f *Figures) refusedLegacy() {
	if f != nil {
		f.invalid.Inc()
	}
}

// used counts a token that was good. Those that live in Secrets are legacy; automatic ones were made with their account. A stale one should
// have been replaced by its user.
func (f *Figures) used(c *Claims, automatic bool, now time.Time) {
	switch {
	case f == nil:
	case c.Legacy == nil && c.Kubernetes != nil && c.Kubernetes.WarnAfter != nil && now.After(c.Kubernetes.WarnAfter.Time()):
		f.stale.Inc()
	case c.Legacy == nil:
		f.valid.Inc()
	case automatic:
		f.legacy.Inc()
		f.automatic.Inc()
	default:
		f.legacy.Inc()
		f.madeByHand.Inc()
	}
}
