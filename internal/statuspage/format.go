package statuspage

import (
	"strconv"
	"strings"
	"time"
)

// nbsp keeps a number and its unit on one line.
const nbsp = "\u00a0"

// amount writes n with commas: 1,234,567.
func amount[T ~int | ~int64 | ~uint64](n T) string {
	digits := strconv.FormatInt(int64(n), 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "−", digits[1:]
	}
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return sign + b.String()
}

// span writes d with as many digits as a person reads at a glance.
func span(d time.Duration) string {
	if d < 0 {
		return "−" + span(-d)
	}
	switch {
	case d == 0:
		return "0" + nbsp + "ms"
	case d < 10*time.Millisecond:
		return decimal(float64(d)/float64(time.Millisecond), 2) + nbsp + "ms"
	case d < time.Second:
		return strconv.FormatInt(d.Round(time.Millisecond).Milliseconds(), 10) + nbsp + "ms"
	case d < 10*time.Second:
		return decimal(d.Seconds(), 2) + nbsp + "s"
	case d < time.Minute:
		return decimal(d.Seconds(), 0) + nbsp + "s"
	case d < time.Hour:
		d = d.Round(time.Second)
		return parts(int64(d/time.Minute), "min", int64(d%time.Minute/time.Second), "s")
	case d < 48*time.Hour:
		return parts(int64(d/time.Hour), "h", int64(d%time.Hour/time.Minute), "min")
	}
	return amount(int64(d/(24*time.Hour))) + nbsp + "days"
}

func parts(n int64, unit string, m int64, smaller string) string {
	s := strconv.FormatInt(n, 10) + nbsp + unit
	if m == 0 {
		return s
	}
	return s + " " + strconv.FormatInt(m, 10) + nbsp + smaller
}

// decimal writes f with at most places digits after the point, and no needless zeros.
func decimal(f float64, places int) string {
	s := strconv.FormatFloat(f, 'f', places, 64)
	if strings.ContainsRune(s, '.') {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// ago says how long before now something was.
func ago(now, at time.Time) string {
	d := now.Sub(at)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s ago"
	case d < time.Hour:
		return strconv.FormatInt(int64(d/time.Minute), 10) + " min ago"
	case d < 48*time.Hour:
		return strconv.FormatInt(int64(d/time.Hour), 10) + " h ago"
	}
	return amount(int64(d/(24*time.Hour))) + " days ago"
}

// percent writes part of whole; it is 100 % only if nothing is missing, and 0 % only
// if there is nothing.
func percent(part, whole uint64) string {
	if whole == 0 {
		return ""
	}
	p := 100 * float64(part) / float64(whole)
	switch {
	case part == whole:
		return "100" + nbsp + "%"
	case p > 99.99:
		return ">" + nbsp + "99.99" + nbsp + "%"
	case part > 0 && p < 0.01:
		return "<" + nbsp + "0.01" + nbsp + "%"
	}
	return decimal(p, 2) + nbsp + "%"
}

// plural is one or many of something.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return amount(n) + " " + many
}

// moment is a time for people, in UTC like everything else.
func moment(t time.Time) string { return t.UTC().Format("15:04:05") }

// machine is a time for programs.
func machine(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
