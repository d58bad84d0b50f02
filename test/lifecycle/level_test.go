package lifecycle

import (
	"os"
	"strconv"
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
		// Where there is no kill, as in the image.
		out, err := command(t, ctx, world.oldBin, "debug", strconv.Itoa(p.Pid()))
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		says(t, ctx, p, before, `"to":"info"`)
		if !strings.Contains(before, "log level changed") {
			t.Errorf("%s did not say so", p.Name)
		}
	}
	all.end(t, "while the level changed")
	// The signal would end anything else, this test among it.
	for _, pid := range []int{os.Getpid(), os.Getppid()} {
		if out, err := command(t, ctx, world.oldBin, "debug", strconv.Itoa(pid)); err == nil || !strings.Contains(out, "is no sidecar or relay") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
