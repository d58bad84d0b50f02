package recipes

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

var (
	shell  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")
	expect = regexp.MustCompile(`(?m)^(curl) -i (.*?) +# (\d{3})$`)
)

// clone is a folder that stands for the reader's clone.
type clone struct {
	dir     string
	replace *strings.Replacer
}

// newClone copies what the page uses. The program is built already: `make run` is
// what comes after building.
func newClone(t *testing.T, places ...string) clone {
	t.Helper()
	c := clone{t.TempDir(), strings.NewReplacer(places...)}
	for _, folder := range []string{"scripts", "configs", "examples"} {
		if err := os.CopyFS(filepath.Join(c.dir, folder), os.DirFS("../../"+folder)); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(c.dir, "examples/gateways/nginx.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	put(conf, c.replace.Replace(string(text)), 0o600)
	for _, folder := range []string{"bin", "shim"} {
		if err := os.Mkdir(filepath.Join(c.dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(world.Bin, filepath.Join(c.dir, "bin/keysidecar")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(world.Bin, filepath.Join(c.dir, "shim/keysidecar")); err != nil {
		t.Fatal(err)
	}
	put(filepath.Join(c.dir, "shim/make"), "#!/bin/sh\n[ \"$*\" = run ] && exec bash scripts/run.sh\n", 0o700)
	return c
}

// terminal runs blocks of the page in one shell.
func (c clone) terminal(t *testing.T, blocks ...string) *exec.Cmd {
	t.Helper()
	script := "set -euo pipefail\n" + c.replace.Replace(strings.Join(blocks, "\n"))
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PATH="+c.dir+"/shim:"+os.Getenv("PATH"), "KEYSIDECAR_LISTEN_ADMIN_ADDRESS=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// stays runs blocks that go on until the test ends, or until end is called.
func (c clone) stays(t *testing.T, blocks ...string) (end func()) {
	t.Helper()
	cmd := c.terminal(t, blocks...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) // Ctrl-C
			time.AfterFunc(10*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
			_ = cmd.Wait()
		}
	}
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("%s\n%s", blocks, &out)
		}
	})
	return end
}

// asks runs blocks to their end. Each curl must come to the status behind it, in
// the time that a reader would give it.
func (c clone) asks(t *testing.T, blocks ...string) {
	t.Helper()
	const sees = `sees() {
	local want=$1 got=; shift
	for _ in $(seq 100); do
		got=$(curl -s -o /dev/null -w '%{http_code}' "$@" || true)
		[ "$got" = "$want" ] && return
		sleep 0.1
	done
	echo "$got instead of $want: $*"
	exit 1
}
`
	script := expect.ReplaceAllString(strings.Join(blocks, "\n"), "sees $3 $2")
	if strings.Count(script, "curl -i") > 0 {
		t.Fatalf("a curl without a status behind it:\n%s", script)
	}
	if out, err := c.terminal(t, sees+script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
}

// freeAddress returns an address that nothing else on this machine is given.
func freeAddress(t *testing.T) (address, port string) {
	t.Helper()
	address, release, err := testenv.ReserveAddress()
	if err == nil {
		err = release()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, port, err = net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return address, port
}

func TestTheQuickStartWorksAsWritten(t *testing.T) {
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, b := range shell.FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, b[1])
	}
	if len(blocks) != 9 {
		t.Fatalf("%d blocks; the test must follow the page", len(blocks))
	}
	app, appPort := freeAddress(t)
	gateway, port := freeAddress(t)
	c := newClone(t, "127.0.0.1:3000", app, "http.server 3000", "http.server "+appPort,
		"listen 8080;", "listen 127.0.0.1:"+port+";", "127.0.0.1:8080", gateway,
		"postgres://keysidecar:local-trial-only@127.0.0.1:5432/keys", world.PG.NewDatabase(t),
		"amqp://keysidecar:local-trial-only@127.0.0.1:5672/", world.MQ.NewVhost(t))

	end := c.stays(t, blocks[0])
	// run/ is made by the first terminal.
	if err := until(t.Context(), "the sidecar listens", func() bool {
		_, err := os.Stat(filepath.Join(c.dir, "run/keysidecar.sock"))
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	c.stays(t, blocks[1])
	c.stays(t, blocks[2])
	c.asks(t, blocks[3], blocks[4])
	end()
	c.asks(t, blocks[5])

	c.stays(t, blocks[6], blocks[7])
	// Nobody is told before the sidecar is there; a reader sees it start.
	c.asks(t, "curl -i http://127.0.0.1:8080/ # 401")
	c.asks(t, blocks[6], blocks[8])
}
