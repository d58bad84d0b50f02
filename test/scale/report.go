package scale

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keysidecar/keysidecar/test/evidence"
)

// Report is what one run found, a row for each fleet.
type Report struct {
	Title    string
	Command  string
	Machine  []string
	Deny     []Deny
	Rest     []Rest
	Rollouts []Rollout
	Bursts   []Burst
	Memory   []Memory
}

// What is promised (L1) of 50 sidecars on one machine, and of any number up to that
// against the bare chain.
const (
	promisedFleet       = 50
	promisedMedian      = 5 * time.Millisecond  // of any one sidecar
	promised99          = 25 * time.Millisecond // of the last
	promisedMedianRatio = 1.7
	promised99Ratio     = 2.5
)

// Judge returns an error for each figure of the promise that was missed.
func (r *Report) Judge() error {
	var errs []error
	for i := range r.Deny {
		d := &r.Deny[i]
		if d.Sidecars > promisedFleet {
			continue
		}
		if got := d.ratio(0.5); got > promisedMedianRatio {
			errs = append(errs, fmt.Errorf("%d sidecars: %.2f times the bare chain at the median", d.Sidecars, got))
		}
		if got := d.ratio(0.99); got > promised99Ratio {
			errs = append(errs, fmt.Errorf("%d sidecars: %.2f times the bare chain at p99", d.Sidecars, got))
		}
		if p50 := evidence.Quantile(d.Each, 0.5); p50 > promisedMedian {
			errs = append(errs, fmt.Errorf("%d sidecars: a sidecar refuses after %v at the median", d.Sidecars, p50))
		}
		if p99 := evidence.Quantile(d.Fleet, 0.99); p99 > promised99 {
			errs = append(errs, fmt.Errorf("%d sidecars: the last refuses after %v at p99", d.Sidecars, p99))
		}
	}
	return errors.Join(errs...)
}

// ratio is how much longer the fleet takes than the bare chain.
func (d *Deny) ratio(q float64) float64 {
	return float64(evidence.Quantile(d.Fleet, q)) / float64(max(1, evidence.Quantile(d.Bare, q)))
}

// Markdown is the section for a document.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n    %s\n\n", r.Title, r.Command)
	for _, line := range r.Machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteByte('\n')
	if len(r.Deny) > 0 {
		r.deny(&b)
	}
	if len(r.Rest) > 0 {
		r.rest(&b)
	}
	if len(r.Rollouts) > 0 {
		r.rollouts(&b)
	}
	if len(r.Memory) > 0 {
		r.memory(&b)
	}
	if len(r.Bursts) > 0 {
		r.bursts(&b)
	}
	return b.String()
}

func (r *Report) deny(b *strings.Builder) {
	turns := r.Deny[0].Turns
	fmt.Fprintf(b, "%d revocations one at a time in %d rounds, reporting on, from the acknowledged commit; between the rounds the bare chain of "+
		"the same size (commit, NOTIFY, confirmed publish, delivery to as many processes) has its turn. The last column is the broker's processor time for each message in each queue, what it does at rest included.\n\n", turns.Rounds*turns.PerRound, turns.Rounds)
	b.WriteString("| sidecars | last refusal p50 | p99 | max | any one sidecar p50 | p99 | bare chain p50 | p99 | ratio p50 | ratio p99 | by a fence | broker, a queue |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Deny {
		d := &r.Deny[i]
		fleet50, fleet99 := evidence.Quantile(d.Fleet, 0.5), evidence.Quantile(d.Fleet, 0.99)
		bare50, bare99 := evidence.Quantile(d.Bare, 0.5), evidence.Quantile(d.Bare, 0.99)
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s | %s | %.2f | %.2f | %.2f %% | %d us |\n", d.Sidecars,
			ms(fleet50), ms(fleet99), ms(evidence.Quantile(d.Fleet, 1)), ms(evidence.Quantile(d.Each, 0.5)), ms(evidence.Quantile(d.Each, 0.99)), ms(bare50), ms(bare99),
			d.ratio(0.5), d.ratio(0.99), 100*float64(d.ByFence)/float64(max(1, len(d.Each))), d.Broker.Microseconds()/int64(max(1, len(d.Each))))
	}
	b.WriteByte('\n')
}

func (r *Report) rest(b *strings.Builder) {
	b.WriteString("### At rest\n\nOf each sidecar, the median and the most of any; statements are those of the whole database divided by the number of sidecars, so that the " +
		"relay's are in them. The broker's memory is what it grew by with the fleet.\n\n")
	b.WriteString("| sidecars | resident, MiB | most | processor, % of a core | most | statements/s | connections | broker, MiB | of that queues |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Rest {
		x := &r.Rest[i]
		fmt.Fprintf(b, "| %d | %.1f | %.1f | %.2f | %.2f | %.2f | %d | %.1f | %.2f |\n", x.Sidecars,
			mib(evidence.Quantile(x.Resident, 0.5)), mib(evidence.Quantile(x.Resident, 1)), 100*evidence.Quantile(x.Processor, 0.5), 100*evidence.Quantile(x.Processor, 1),
			x.Statements, x.Connections, mib(x.BrokerMemory), mib(x.QueueMemory))
	}
	b.WriteByte('\n')
}

func (r *Report) rollouts(b *strings.Builder) {
	b.WriteString("### All restarted, some at a time\n\nNo more at once than four for each core: elsewhere each has a machine of its own, and here more would only wait for each other. Unserved is the longest time between two answers that a client got who asked every 2 ms and connected again when it must. " +
		"Away is from the signal to stop until the successor is ready: it answers before and after that, first for a tenth of a second while it stops, then by reading keys one by one while it warms.\n\n")
	b.WriteString("| sidecars | at once | all back after | unserved p50 | most | away p50 | most | warm p50 | most | connections at most | stated | statements/s of all |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Rollouts {
		x := &r.Rollouts[i]
		fmt.Fprintf(b, "| %d | %d | %s | %s | %s | %s | %s | %.0f ms | %.0f ms | %d | %d | %.0f |\n", x.Sidecars, x.AtOnce, x.Took.Round(10*time.Millisecond),
			evidence.Quantile(x.Unserved, 0.5).Round(time.Millisecond), evidence.Quantile(x.Unserved, 1).Round(time.Millisecond),
			evidence.Quantile(x.Away, 0.5).Round(time.Millisecond), evidence.Quantile(x.Away, 1).Round(time.Millisecond), 1000*evidence.Quantile(x.Warm, 0.5), 1000*evidence.Quantile(x.Warm, 1), x.Connections, x.Stated, x.Statements)
	}
	b.WriteByte('\n')
}

func (r *Report) memory(b *strings.Builder) {
	b.WriteString("One sidecar, Ed25519 keys of 10,000 owners with one scope each, capacity a tenth above their number. Bytes a key are what resident memory grew by, against the " +
		"line before, for each key more. To request is the most it needed, a quarter more, rounded up to 16 MiB. COPY is the rows in binary form to a client that throws them away.\n\n")
	b.WriteString("| keys | resident, MB | most, MB | most when loaded anew, MB | bytes a key | memory to request | warm | COPY | ratio |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Memory {
		x := &r.Memory[i]
		perKey := "-"
		if i > 0 {
			before := &r.Memory[i-1]
			perKey = fmt.Sprint((x.Resident - before.Resident) / int64(x.Keys-before.Keys))
		}
		request := (int64(1.25*mib(max(x.Peak, x.Again)))/16 + 1) * 16
		fmt.Fprintf(b, "| %d | %.1f | %.1f | %.1f | %s | %d MiB | %s | %s | %.2f |\n", x.Keys, megabytes(x.Resident), megabytes(x.Peak), megabytes(x.Again), perKey, request,
			x.Warm.Round(time.Millisecond), x.Copy.Round(time.Millisecond), float64(x.Warm)/float64(x.Copy))
	}
	b.WriteByte('\n')
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

func (r *Report) bursts(b *strings.Builder) {
	fmt.Fprintf(b, "Very many keys revoked in one transaction, while each sidecar is asked %d times a second for a key that stays (due times: what a stall holds up counts). "+
		"Postgres, the broker and the relay are in the scheduler's idle class: elsewhere they have machines of their own. "+
		"Applied is from the acknowledged commit until the last sidecar's cursor is at the head and no more messages come; applied/s counts messages and fences.\n\n", burstRate)
	b.WriteString("| sidecars | keys | commit | applied | events by queue | by fences | applied/s | fences | look-up p50 before, during | p99 before, during | ratio | neither 200 nor 410 | resident before, most, after, MiB |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range r.Bursts {
		x := &r.Bursts[i]
		fmt.Fprintf(b, "| %d | %d | %s | %s | %.0f | %.0f | %.0f | %.0f | %s, %s | %s, %s | %.2f | %d | %.1f, %.1f, %.1f |\n", x.Sidecars, x.Keys,
			x.Commit.Round(time.Millisecond), x.Applied.Round(time.Millisecond), x.ByQueue, x.ByFence, (x.ByQueue+x.ByFence)/x.Applied.Seconds(), x.Fences,
			ms(x.Quiet.P50), ms(x.During.P50), ms(x.Quiet.P99), ms(x.During.P99), float64(x.During.P99)/float64(max(1, x.Quiet.P99)), x.During.Refused,
			mib(x.Before), mib(x.Peak), mib(x.After))
	}
	b.WriteByte('\n')
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }

func mib(n int64) float64 { return float64(n) / (1 << 20) }
