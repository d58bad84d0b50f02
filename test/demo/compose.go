package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/test/cluster"
)

const (
	// probeLimit bounds finding out whether an engine answers.
	probeLimit = 15 * time.Second
	// imagesLimit bounds making the containers, with the download of their images.
	imagesLimit = 10 * time.Minute
	// readyLimit bounds a server's way from its start to its first answer.
	readyLimit = 2 * time.Minute
	// downLimit bounds removing everything.
	downLimit = time.Minute
	// finishLimit is how long a command may take to end after the demo has.
	finishLimit = 30 * time.Second
)

// The names of the two services in docker-compose.yml, and of their user.
const (
	postgres = "postgres"
	rabbitmq = "rabbitmq"
	login    = "keysidecar"
)

// compose runs Postgres and RabbitMQ of docker-compose.yml, beside this file, as a project of
// its own. It is a cluster.Servers.
//
// It asks no more of the tool than docker-compose 1.29 can do: no --wait, no
// waiting for health. A server is ready when it answers over its published port.
type compose struct {
	name  string   // "docker compose" or "docker-compose"
	tool  []string // the command with the project and the file
	env   []string
	dsn   string
	amqp  string
	leash *leash
	// atWork matches what the tool prints once it works on a container.
	atWork *regexp.Regexp
}

// findCompose returns the command of a compose that reaches an engine. The error
// says for each that was tried why not.
func findCompose(ctx context.Context) ([]string, error) {
	var errs []error
	for _, tool := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		name := strings.Join(tool, " ")
		probe := &compose{name: name, tool: tool, env: os.Environ(), atWork: regexp.MustCompile(`$^`)}
		if err := probe.run(ctx, probeLimit, "version"); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // not installed
		}
		probe.tool = project(tool, "keysidecar-demo-probe")
		err := probe.run(ctx, probeLimit, "ps", "-q")
		if err == nil {
			return tool, nil
		}
		errs = append(errs, fmt.Errorf("compose reaches no engine: %w", err))
	}
	if errs == nil {
		return nil, errors.New("neither `docker compose` nor `docker-compose` is installed")
	}
	return nil, errors.Join(errs...)
}

// project adds a project's name and the file to the command.
func project(tool []string, id string) []string {
	return append(slices.Clone(tool), "--project-name", id, "--file", filepath.Join("test", "demo", "docker-compose.yml"))
}

// newCompose makes a project that holds nothing yet. Close must be called.
func newCompose(tool []string) (*compose, error) {
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	password := rand.Text()
	id := "keysidecar-demo-" + strings.ToLower(rand.Text()[:8])
	c := &compose{
		name: strings.Join(tool, " "),
		tool: project(tool, id),
		env: append(os.Environ(), "POSTGRES_PORT="+ports[0], "RABBITMQ_PORT="+ports[1], "RABBITMQ_MANAGEMENT_PORT="+ports[2],
			"POSTGRES_PASSWORD="+password, "RABBITMQ_PASSWORD="+password),
		dsn:  fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", login, password, net.JoinHostPort("127.0.0.1", ports[0]), cluster.Database),
		amqp: (&url.URL{Scheme: "amqp", User: url.UserPassword(login, password), Host: net.JoinHostPort("127.0.0.1", ports[1]), Path: "//", RawPath: "/%2F"}).String(),
		// "id_postgres_1" in docker-compose, "id-postgres-1" in docker compose.
		atWork: regexp.MustCompile(id + "[_-](" + postgres + "|" + rabbitmq + ")[_-]"),
	}
	var err error
	c.leash, err = newLeash(c.env, append(slices.Clone(c.tool), down()...))
	return c, err
}

// freePort returns a port of 127.0.0.1 that nobody listens on. It lies below the
// range that kernels take outgoing ports from (32768 and up), so that a stopped
// server finds it free again.
func freePort() (string, error) {
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(12_000))
		if err != nil {
			return "", err
		}
		port := strconv.FormatInt(20_000+n.Int64(), 10)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return "", errors.New("found no free port on 127.0.0.1")
}

// create fetches the images that the machine has not got, and makes the containers.
func (c *compose) create(ctx context.Context) error {
	return c.run(ctx, imagesLimit, "up", "--no-start", "--quiet-pull", postgres, rabbitmq)
}

// start starts the containers and returns when both servers answer.
func (c *compose) start(ctx context.Context) error {
	if err := c.run(ctx, readyLimit, "start", postgres, rabbitmq); err != nil {
		return err
	}
	if err := c.ready(ctx, postgres, c.askPostgres); err != nil {
		return err
	}
	return c.ready(ctx, rabbitmq, c.askRabbitMQ)
}

func (c *compose) askPostgres(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.dsn)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx), conn.Close(ctx))
}

func (c *compose) askRabbitMQ(context.Context) error {
	conn, err := amqp.DialConfig(c.amqp, amqp.Config{Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	return conn.Close()
}

// ready asks a server until it answers. It gives up when the container ends.
func (c *compose) ready(demo context.Context, service string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(demo, readyLimit)
	defer cancel()
	ticks := time.NewTicker(250 * time.Millisecond)
	defer ticks.Stop()
	for n := 1; ; n++ {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if n%8 == 0 && ctx.Err() == nil {
			running, psErr := c.output(ctx, probeLimit, "ps", "--services", "--filter", "status=running")
			if demo.Err() != nil {
				return demo.Err()
			}
			if psErr != nil || !slices.Contains(strings.Fields(running), service) {
				return errors.Join(fmt.Errorf("the container of %s ended\n%s", service, c.logs(service)), psErr)
			}
		}
		select {
		case <-ctx.Done():
			if demo.Err() != nil {
				return demo.Err()
			}
			return fmt.Errorf("%s does not answer over its published port: %w (last: %w)\n%s", service, ctx.Err(), err, c.logs(service))
		case <-ticks.C:
		}
	}
}

// logs returns the end of what a service printed, for an error.
func (c *compose) logs(service string) string {
	text, err := c.output(context.Background(), probeLimit, "logs", "--no-color", "--tail=20", service)
	if err != nil {
		return err.Error()
	}
	return text
}

// DSN is described with cluster.Servers.
func (c *compose) DSN() string { return c.dsn }

// AMQP is described with cluster.Servers.
func (c *compose) AMQP() string { return c.amqp }

// StopBroker is described with cluster.Servers.
func (c *compose) StopBroker(ctx context.Context) error {
	return c.run(ctx, readyLimit, "stop", "--timeout", "30", rabbitmq)
}

// StartBroker is described with cluster.Servers.
func (c *compose) StartBroker(ctx context.Context) error {
	if err := c.run(ctx, readyLimit, "start", rabbitmq); err != nil {
		return err
	}
	return c.ready(ctx, rabbitmq, c.askRabbitMQ)
}

// Close removes containers, volumes and the network, whatever there is of them.
func (c *compose) Close() error {
	if err := c.run(context.Background(), downLimit, down()...); err != nil {
		return errors.Join(err, c.leash.slip()) // to try again
	}
	return c.leash.dismiss()
}

// down is the command that removes the project.
func down() []string { return []string{"down", "--volumes", "--remove-orphans", "--timeout", "1"} }

func (c *compose) run(ctx context.Context, limit time.Duration, args ...string) error {
	_, err := c.output(ctx, limit, args...)
	return err
}

// output runs a command of the tool and returns what it printed. The command is
// out of the terminal's reach, so that a Ctrl-C comes to this program alone and
// nothing interrupts cleaning up.
//
// When the context ends the command is interrupted, unless it is at work on
// containers already: an engine finishes what it was asked for although nobody
// waits for it any more, and would make a container after all had been removed.
func (c *compose) output(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	all := append(slices.Clone(c.tool), args...)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Env = c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout bytes.Buffer
	var stderr transcript
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	brief := slices.Contains([]string{"start", "stop", "down"}, args[0])
	cmd.Cancel = func() error {
		if brief || c.atWork.MatchString(stderr.String()) {
			return nil // it ends by itself, or is killed WaitDelay later
		}
		return cmd.Process.Signal(os.Interrupt)
	}
	cmd.WaitDelay = finishLimit
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s %s: %w: %s", c.name, args[0], err, lastLine(stderr.String()))
	}
	return stdout.String(), nil
}

// transcript is what a command has printed so far.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// lastLine returns the last line that says something: there both tools put what
// went wrong, below their progress or a stack.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
