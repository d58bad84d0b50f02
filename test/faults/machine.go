package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"
)

// machine says what a run ran on.
func (w *World) machine(ctx context.Context, version string) []string {
	var u unix.Utsname
	_ = unix.Uname(&u) // it cannot fail for a valid address
	lines := []string{
		version,
		fmt.Sprintf("%d cores (%s), Linux %s, %s", runtime.NumCPU(), cpuModel(), unix.ByteSliceToString(u.Release[:]), runtime.Version()),
	}
	var postgres string
	err := w.onPrimary(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, `SHOW server_version`).Scan(&postgres) })
	if err != nil {
		postgres = err.Error()
	}
	return append(lines, "PostgreSQL "+postgres, "RabbitMQ "+w.brokerVersion())
}

func (w *World) brokerVersion() string {
	conn, err := amqp.Dial(w.MQ.URL())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	return fmt.Sprint(conn.Properties["version"])
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// revision names the commit that the program was built from, as git knows it.
func revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
