package primary

import (
	"strconv"
	"time"
)

// The numbers of a fleet are times: a number is the zone's own serial, rounded up to a multiple of ownUnit, and the half seconds
// since 2026-01-01 (see serial.go). So a number that a server makes without knowing of any other is later than all that were made
// before, and no earlier than what a server without share would publish. The zone's own serial is rounded so that servers of
// which one has a newer zone than the other count from the same number.

const (
	// ownUnit is so large that the zone's own serial goes over a multiple of it once in months or years.
	ownUnit = 1 << 24

	// The remainder of a number divided by classes is the id of the server that made it: each server makes one number in 8 s.
	// The last remainder is for the servers that have no id, because they have not reached the store since they were started:
	// they take turns in lanes rounds.
	classes = 16
	ids     = classes - 1
	lanes   = 16

	// maxEarly is by how many half seconds a number may be ahead of the clock. It is one round of the classes, so that a zone
	// that has not changed lately is published without a wait.
	maxEarly = classes

	// When the next number is ahead of the clock by more than unreachable, which is longer than all rounds of lanes, the clock was
	// wrong: the server does not wait for it.
	unreachable = 10 * lanes * classes

	// holdTime is how long a server makes no numbers after it got its id: those that its predecessor made are over by then. So are
	// all numbers of which a store that was flushed knows no more. It is longer than maxEarly by what clocks may differ.
	holdTime = maxEarly*serialUnit + 2*time.Second
)

// numbering makes the numbers of one server.
type numbering struct {
	now     time.Time
	class   uint32    // the remainder of the numbers that it makes, divided by of
	of      uint32    // a power of two; 0: it cannot make numbers now
	renewed time.Time // when registers had to be published again, or the zero time
}

// base returns the number of a moment, for a zone with that own serial.
func base(own uint32, at time.Time) uint32 { return (own+ownUnit-1)&^(ownUnit-1) + offsetAt(at) }

// number returns the first number with the remainder that is not before now, and later than latest if some is set. The server makes
// none as long as that is too far ahead of the clock.
func (n numbering) number(own, latest uint32, some bool) (uint32, bool) {
	if n.of == 0 {
		return 0, false
	}
	now := base(own, n.now)
	least := now
	if renewal := n.renewal(own); !n.renewed.IsZero() && serialBefore(least, renewal) {
		least = renewal
	}
	// The zone's own serial grows by less than half of the number space at once, and rounding adds ownUnit.
	switch step := least - latest; {
	case !some:
	case step == 0 || step > 1<<31+2*ownUnit:
		least = latest + 1
	case step > maxJump:
		least = latest + maxJump
	}
	number := least + (n.class-least)%n.of
	early := number - now
	return number, early <= maxEarly || early > unreachable
}

// renewal returns the number that registers of zones with that own serial must have at least.
func (n numbering) renewal(own uint32) uint32 { return base(own, n.renewed) + maxEarly + 1 }

// isOutdated reports whether r has to be published again, with a later number: see rule 7.
func (n numbering) isOutdated(r *register) bool {
	return !n.renewed.IsZero() && serialBefore(r.number, n.renewal(r.own))
}

// parseNumber returns the number in a register of the store.
func parseNumber(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil
}

func formatNumber(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
