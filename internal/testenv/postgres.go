package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	pgSuperuser = "postgres"
	pgStart     = 30 * time.Second
	pgStop      = 30 * time.Second
)

// Postgres is a private PostgreSQL server. Its methods must not be called
// concurrently, except DSN, Addr and those that make databases.
type Postgres struct {
	ws      *workspace
	bin     string
	port    *port
	conf    map[string]string
	process *process
}

// PostgresOption changes how a server is set up.
type PostgresOption func(conf map[string]string)

// WithFsync turns fsync on: the server then survives a crash of the machine and
// commits cost what they cost in production. It is off by default, for speed.
func WithFsync() PostgresOption {
	return func(conf map[string]string) { conf["fsync"] = "on" }
}

// WithMaxConnections sets max_connections (default 300).
func WithMaxConnections(n int) PostgresOption {
	return func(conf map[string]string) { conf["max_connections"] = strconv.Itoa(n) }
}

// WithSetting sets any server setting.
func WithSetting(name, value string) PostgresOption {
	return func(conf map[string]string) { conf[name] = value }
}

// StartPostgresMain starts a server for callers without a testing.TB, such as
// TestMain. Close ends it; if the process ends first, so does the server.
func StartPostgresMain(opts ...PostgresOption) (*Postgres, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	p, err := newPostgres(bin, opts)
	if err != nil {
		return nil, err
	}
	if err := p.initdb(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.Start(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func newPostgres(bin string, opts []PostgresOption) (*Postgres, error) {
	ws, err := newWorkspace("pg", "postgres", "nobody")
	if err != nil {
		return nil, err
	}
	port, err := reservePort()
	if err != nil {
		return nil, errors.Join(err, ws.close())
	}
	conf := map[string]string{
		"listen_addresses":                "127.0.0.1",
		"port":                            strconv.Itoa(port.number),
		"unix_socket_directories":         ws.dir,
		"fsync":                           "off",
		"wal_level":                       "logical",
		"max_connections":                 "300",
		"max_wal_senders":                 "10",
		"max_replication_slots":           "10",
		"max_logical_replication_workers": "8",
		"max_worker_processes":            "16",
		"shared_buffers":                  "128MB",
		"max_wal_size":                    "2GB",
		"log_line_prefix":                 "%m [%p] %q%u@%d ",
		"timezone":                        "UTC",
	}
	for _, opt := range opts {
		opt(conf)
	}
	return &Postgres{ws: ws, bin: bin, port: port, conf: conf}, nil
}

// postgresBin finds the directory of the newest installed server.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	version := func(path string) float64 {
		v, _ := strconv.ParseFloat(strings.Split(path, "/")[4], 64)
		return v
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) > version(found[j]) })
	if len(found) == 0 {
		path, err := exec.LookPath("postgres")
		if err != nil {
			return "", errors.New("no PostgreSQL server found in /usr/lib/postgresql/*/bin or PATH: run `make deps`, or install the package postgresql")
		}
		found = []string{path}
	}
	return filepath.Dir(found[0]), nil
}

func (p *Postgres) initdb() error {
	_, err := p.ws.run(context.Background(), command{
		path: filepath.Join(p.bin, "initdb"),
		args: []string{"--pgdata", p.dataDir(), "--username", pgSuperuser, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"},
	})
	return err
}

func (p *Postgres) dataDir() string { return p.ws.path("data") }

// Start starts the server after Stop or Kill, on the same port, and waits until
// it answers.
func (p *Postgres) Start() error {
	if p.process != nil && p.process.running() {
		return errors.New("postgres is running already")
	}
	args := []string{"-D", p.dataDir()}
	for name, value := range p.conf {
		args = append(args, "-c", name+"="+value)
	}
	proc, err := p.ws.start(command{path: filepath.Join(p.bin, "postgres"), args: args, log: "postgres.log"})
	if err != nil {
		return err
	}
	p.process = proc
	return proc.ready(pgStart, func() error { return p.exec("SELECT 1") })
}

// Stop ends the server in order, breaking off all connections ("fast" mode).
func (p *Postgres) Stop() error {
	if p.process == nil {
		return nil
	}
	if err := p.ws.resume(); err != nil {
		return err
	}
	return p.process.stop(syscall.SIGINT, pgStop)
}

// Kill ends every process of the server by SIGKILL, as a crash does.
func (p *Postgres) Kill() error {
	if err := p.ws.killAll(); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	if p.process != nil {
		<-p.process.done
	}
	return nil
}

// Pause stops every process of the server (SIGSTOP): connections stay open,
// nothing answers.
func (p *Postgres) Pause() error { return p.ws.pause() }

// Resume undoes Pause.
func (p *Postgres) Resume() error { return p.ws.resume() }

// Close kills the server and removes its files.
func (p *Postgres) Close() error {
	return errors.Join(p.ws.close(), p.port.release())
}

// Running reports whether the server's main process has not ended.
func (p *Postgres) Running() bool { return p.process != nil && p.process.running() }

// Addr returns the server's TCP address, 127.0.0.1:port.
func (p *Postgres) Addr() string { return p.port.addr() }

// SocketDir returns the directory of the server's Unix socket.
func (p *Postgres) SocketDir() string { return p.ws.dir }

// Log returns the last lines the server printed.
func (p *Postgres) Log() string {
	text, err := os.ReadFile(p.ws.path("postgres.log"))
	if err != nil {
		return err.Error()
	}
	return tail(text)
}

// DSN returns the URL of a database over TCP, for the superuser or the named user.
func (p *Postgres) DSN(database string, user ...string) string {
	return p.DSNVia(p.Addr(), database, user...)
}

// DSNVia is DSN by way of another address, such as a Proxy's.
func (p *Postgres) DSNVia(addr, database string, user ...string) string {
	u := url.URL{Scheme: "postgres", User: url.User(oneOr(user, pgSuperuser)), Host: addr, Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// SocketDSN returns the URL of a database over the server's Unix socket.
func (p *Postgres) SocketDSN(database string, user ...string) string {
	q := url.Values{"host": {p.ws.dir}, "port": {strconv.Itoa(p.port.number)}}
	u := url.URL{Scheme: "postgres", User: url.User(oneOr(user, pgSuperuser)), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

func oneOr(names []string, otherwise string) string {
	if len(names) == 0 {
		return otherwise
	}
	return names[0]
}

// CreateDatabase makes a database, as a copy of template unless that is empty.
func (p *Postgres) CreateDatabase(name, template string) error {
	sql := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		sql += " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	}
	return p.exec(sql)
}

// DropDatabase removes a database and breaks off its connections.
func (p *Postgres) DropDatabase(name string) error {
	return p.exec("DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)")
}

// exec runs one statement in database postgres, on a connection of its own.
func (p *Postgres) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), pgStart)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.DSN("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// Psql runs a script through psql, stopping at the first error, and returns what
// it printed.
func (p *Postgres) Psql(database, script string) (string, error) {
	return p.ws.run(context.Background(), command{
		path:  filepath.Join(p.bin, "psql"),
		args:  []string{"--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-", p.DSN(database)},
		stdin: script,
	})
}

// Dump returns what pg_dump writes for a database.
func (p *Postgres) Dump(database string) (string, error) {
	return p.ws.run(context.Background(), command{path: filepath.Join(p.bin, "pg_dump"), args: []string{"--dbname", p.DSN(database)}})
}
