package lifecycle

import (
	"strings"
	"syscall"
	"testing"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// Whoever looks for a fault in production cannot restart what shows it.
func TestTheLogLevelCannotBeChangedWithoutARestart(t *testing.T) {
	ctx := begin(t)
	all := ask(ctx, "nobody", cluster.Code("unknown_key"), world.sidecars...)
	for _, p := range []*cluster.Process{world.sidecars[0].Process, world.relay.Process} {
		for _, want := range []string{`"from":"info","to":"debug"`, `"from":"debug","to":"info"`, `"from":"info","to":"debug"`} {
			before := p.Log()
			must(t, p.Signal(syscall.SIGUSR1))
			says(t, ctx, p, before, want)
		}
		before := p.Log()
		must(t, p.Signal(syscall.SIGUSR1))
		says(t, ctx, p, before, `"to":"info"`)
		if !strings.Contains(before, "log level changed") {
			t.Errorf("%s did not say so", p.Name)
		}
	}
	all.end(t, "while the level changed")
}
