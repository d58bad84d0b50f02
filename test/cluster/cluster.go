package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	PG *testenv.Postgres
	MQ *testenv.RabbitMQ
	// SQL is an application's own way to the database, past keysidecar.
	SQL *pgxpool.Pool
	// Bin is the program.
	Bin string

	dir string
	mu  sync.Mutex
	all []*Process
}

// Build compiles the program of the module in the working directory's tree into
// dir and returns its path. Race instruments it.
func Build(ctx context.Context, dir string, race bool) (string, error) {
	bin := filepath.Join(dir, "keysidecar")
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/keysidecar/keysidecar/cmd/keysidecar")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build keysidecar: %w\n%s", err, out)
	}
	return bin, nil
}

// Start starts both servers and migrates the database. bin is the program, as
// Build made it.
func Start(ctx context.Context, bin string, opts ...testenv.PostgresOption) (c *Cluster, err error) {
	dir, err := os.MkdirTemp("", "ks")
	if err != nil {
		return nil, err
	}
	c = &Cluster{Bin: bin, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	var pgErr, mqErr error
	var servers sync.WaitGroup
	servers.Go(func() { c.PG, pgErr = testenv.StartPostgresMain(opts...) })
	servers.Go(func() { c.MQ, mqErr = testenv.StartRabbitMQMain() })
	servers.Wait()
	if err := errors.Join(pgErr, mqErr); err != nil {
		return nil, err
	}
	if err := c.PG.CreateDatabase(Database, ""); err != nil {
		return nil, err
	}
	if out, err := c.Command(ctx, "migrate"); err != nil {
		return nil, fmt.Errorf("migrate: %w\n%s", err, out)
	}
	c.SQL, err = pgxpool.New(ctx, c.DSN())
	return c, err
}

// DSN is the database's URL for its superuser.
func (c *Cluster) DSN() string { return c.PG.DSN(Database) }

// environment is what every command of the program gets.
func (c *Cluster) environment(more ...string) []string {
	return append([]string{
		"KEYSIDECAR_STORE_POSTGRES_DSN=" + c.DSN(),
		"KEYSIDECAR_AMQP_URL=" + c.MQ.URL(),
	}, more...)
}

// Command runs the program once and returns what it printed.
func (c *Cluster) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Bin, args...)
	cmd.Env = append(os.Environ(), c.environment()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *Cluster) process(name string, args []string, env ...string) (*Process, error) {
	p := &Process{Name: name, bin: c.Bin, args: args, env: c.environment(env...), log: filepath.Join(c.dir, name+".log")}
	c.mu.Lock()
	c.all = append(c.all, p)
	c.mu.Unlock()
	return p, p.Start()
}

// Relay starts a relay. env adds to or overrides its settings ("KEYSIDECAR_...=").
func (c *Cluster) Relay(name string, env ...string) (*Relay, error) {
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := c.process(name, []string{"relay"}, append([]string{
		"KEYSIDECAR_LISTEN_ADMIN_ADDRESS=" + admin, "KEYSIDECAR_INSTANCE=" + name,
	}, env...)...)
	return &Relay{Process: p, Admin: admin}, err
}

// Sidecar starts a sidecar. env adds to or overrides its settings.
func (c *Cluster) Sidecar(name string, env ...string) (*Sidecar, error) {
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(c.dir, name+".sock")
	p, err := c.process(name, []string{"serve"}, append([]string{
		"KEYSIDECAR_INSTANCE=" + name, "KEYSIDECAR_LISTEN_SOCKET_PATH=" + socket, "KEYSIDECAR_LISTEN_ADMIN_ADDRESS=" + admin,
	}, env...)...)
	if err != nil {
		return nil, err
	}
	return &Sidecar{Process: p, Socket: socket, Admin: admin, client: unixClient(socket)}, nil
}

// freeAddress finds a loopback port that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
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
	if c.MQ != nil {
		errs = append(errs, c.MQ.Close())
	}
	if c.PG != nil {
		errs = append(errs, c.PG.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}
