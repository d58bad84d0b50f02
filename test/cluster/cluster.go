package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// Database is the name of the database that a cluster's keys live in.
const Database = "keys"

// Cluster is one Postgres, one RabbitMQ, and whatever was started on them.
type Cluster struct {
	// Servers is what it runs on.
	Servers Servers
	// PG and MQ are the private servers that Start started; nil on others.
	PG *testenv.Postgres
	MQ *testenv.RabbitMQ
	// SQL is an application's own way to the database, past keysidecar.
	SQL *pgxpool.Pool
	// Bin is the program.
	Bin string

	dir string
	mu  sync.Mutex
	all []*Process
	// reserved frees the addresses that processes listen on.
	reserved []func() error
}

// Build compiles the program of the module in the working directory's tree into
// dir, with the build tags given, and returns its path. Race instruments it.
func Build(ctx context.Context, dir string, race bool, tags ...string) (string, error) {
	bin := filepath.Join(dir, strings.Join(append([]string{"keysidecar"}, tags...), "-"))
	args := []string{"build", "-o", bin, "-tags", strings.Join(tags, ",")}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/keysidecar/keysidecar/cmd/keysidecar")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build keysidecar: %w\n%s", err, out)
	}
	return bin, nil
}

// Start starts private servers and migrates the database. bin is the program, as
// Build made it.
func Start(ctx context.Context, bin string, opts ...testenv.PostgresOption) (*Cluster, error) {
	servers, err := StartPrivate(opts...)
	if err != nil {
		return nil, err
	}
	c, err := StartOn(ctx, bin, servers)
	if err != nil {
		return nil, err
	}
	c.PG, c.MQ = servers.PG, servers.MQ
	return c, nil
}

// StartOn migrates the database of servers that run already. It takes them over:
// they end with the cluster, and also if this fails.
func StartOn(ctx context.Context, bin string, servers Servers) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "ks")
	if err != nil {
		return nil, errors.Join(err, servers.Close())
	}
	c := &Cluster{Servers: servers, Bin: bin, dir: dir}
	if out, err := c.Command(ctx, "migrate"); err != nil {
		return nil, errors.Join(fmt.Errorf("migrate: %w\n%s", err, out), c.Close())
	}
	if c.SQL, err = pgxpool.New(ctx, c.DSN()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// DSN is the database's URL for its superuser.
func (c *Cluster) DSN() string { return c.Servers.DSN() }

// environment is what every command of the program gets.
func (c *Cluster) environment(more ...string) []string {
	return append([]string{
		"KEYSIDECAR_STORE_POSTGRES_DSN=" + c.DSN(),
		"KEYSIDECAR_AMQP_URL=" + c.Servers.AMQP(),
	}, more...)
}

// Command runs the program once and returns what it printed.
func (c *Cluster) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Bin, args...)
	cmd.Env = append(os.Environ(), c.environment()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *Cluster) process(bin, name string, args []string, env ...string) (*Process, error) {
	p := &Process{Name: name, bin: bin, args: args, env: c.environment(env...), log: filepath.Join(c.dir, name+".log")}
	c.mu.Lock()
	c.all = append(c.all, p)
	c.mu.Unlock()
	return p, p.Start()
}

// Program starts another program, which ends with the cluster: a gateway in front
// of a sidecar, say.
func (c *Cluster) Program(name, path string, args ...string) (*Process, error) {
	return c.process(path, name, args)
}

// Relay starts a relay. env adds to or overrides its settings ("KEYSIDECAR_...=").
func (c *Cluster) Relay(name string, env ...string) (*Relay, error) {
	return c.RelayOf(c.Bin, name, env...)
}

// RelayOf starts a relay of another build of the program.
func (c *Cluster) RelayOf(bin, name string, env ...string) (*Relay, error) {
	admin, err := c.reserve()
	if err != nil {
		return nil, err
	}
	p, err := c.process(bin, name, []string{"relay"}, append([]string{
		"KEYSIDECAR_LISTEN_ADMIN_ADDRESS=" + admin, "KEYSIDECAR_INSTANCE=" + name,
	}, env...)...)
	return &Relay{Process: p, Admin: admin}, err
}

// Sidecar starts a sidecar. env adds to or overrides its settings.
func (c *Cluster) Sidecar(name string, env ...string) (*Sidecar, error) {
	return c.SidecarOf(c.Bin, name, env...)
}

// SidecarOf starts a sidecar of another build of the program.
func (c *Cluster) SidecarOf(bin, name string, env ...string) (*Sidecar, error) {
	admin, err := c.reserve()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(c.dir, name+".sock")
	p, err := c.process(bin, name, []string{"serve"}, append([]string{
		"KEYSIDECAR_INSTANCE=" + name, "KEYSIDECAR_LISTEN_SOCKET_PATH=" + socket, "KEYSIDECAR_LISTEN_ADMIN_ADDRESS=" + admin,
	}, env...)...)
	if err != nil {
		return nil, err
	}
	return &Sidecar{Process: p, Socket: socket, Admin: admin, client: unixClient(socket)}, nil
}

// reserve returns a loopback address that is the cluster's until Close.
func (c *Cluster) reserve() (string, error) {
	addr, release, err := testenv.ReserveAddress()
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved = append(c.reserved, release)
	return addr, nil
}

// Exec runs one statement as the application would, in a transaction of its own,
// and returns when Postgres acknowledged the commit.
func (c *Cluster) Exec(ctx context.Context, sql string, args ...any) (time.Time, error) {
	_, err := c.SQL.Exec(ctx, sql, args...)
	return time.Now(), err
}

// Logs returns the end of every process's log, for a failed test.
func (c *Cluster) Logs() string {
	var b strings.Builder
	for _, p := range c.all {
		text := p.Log()
		if len(text) > 4000 {
			text = "..." + text[len(text)-4000:]
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", p.Name, text)
	}
	return b.String()
}

// Close ends every process and server, and removes the folder.
func (c *Cluster) Close() error {
	var errs []error
	c.mu.Lock()
	all := c.all
	c.mu.Unlock()
	for _, p := range all {
		if p.Running() {
			errs = append(errs, p.Kill())
		}
	}
	if c.SQL != nil {
		c.SQL.Close()
	}
	for _, release := range c.reserved {
		errs = append(errs, release())
	}
	return errors.Join(append(errs, c.Servers.Close(), os.RemoveAll(c.dir))...)
}

// Sleep returns after d, or with ctx's error when that ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
