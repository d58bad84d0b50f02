package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	rabbitStart = 60 * time.Second
	rabbitStop  = 30 * time.Second
	rabbitAsk   = 30 * time.Second
)

// RabbitMQ is a private single-node broker without plugins, with an Erlang port
// mapper (epmd), a cookie and a node name of its own. Its methods must not be
// called concurrently, except URL, Addr, Eval, Ctl and those that make vhosts.
type RabbitMQ struct {
	ws      *workspace
	bin     string
	node    string
	amqp    *port
	amqps   *port // nil without TLS
	dist    *port
	mapper  *port
	conf    map[string]string
	epmd    *process
	process *process
}

// RabbitMQOption changes how a broker is set up, before its first start.
type RabbitMQOption func(*RabbitMQ) error

// WithRabbitMQSetting sets a line of rabbitmq.conf.
func WithRabbitMQSetting(name, value string) RabbitMQOption {
	return func(r *RabbitMQ) error { r.conf[name] = value; return nil }
}

// WithRabbitMQTLS adds a TLS listener that shows the given certificate (PEM).
func WithRabbitMQTLS(certificate, key []byte) RabbitMQOption {
	return func(r *RabbitMQ) error {
		var err error
		if r.amqps, err = reservePort(); err != nil {
			return err
		}
		r.conf["listeners.ssl.1"] = r.amqps.addr()
		r.conf["ssl_options.certfile"] = r.ws.path("server.pem")
		r.conf["ssl_options.keyfile"] = r.ws.path("server.key")
		r.conf["ssl_options.cacertfile"] = r.ws.path("server.pem") // required by the broker, used for clients' certificates only
		return errors.Join(r.ws.write("server.pem", certificate), r.ws.write("server.key", key))
	}
}

// WithRabbitMQClientCertificates makes the TLS listener ask for a certificate by
// one of the authorities given (PEM), and turn away who has none. It comes after
// WithRabbitMQTLS.
func WithRabbitMQClientCertificates(authorities []byte) RabbitMQOption {
	return func(r *RabbitMQ) error {
		r.conf["ssl_options.cacertfile"] = r.ws.path("clients.pem")
		r.conf["ssl_options.verify"] = "verify_peer"
		r.conf["ssl_options.fail_if_no_peer_cert"] = "true"
		return r.ws.write("clients.pem", authorities)
	}
}

// UseTLS replaces the TLS listener's certificate and the authorities of clients'
// certificates without a restart. Connections that exist stay as they are.
func (r *RabbitMQ) UseTLS(server Pair, clients []byte) error {
	for name, content := range map[string][]byte{"server.pem": server.Certificate, "server.key": server.Key, "clients.pem": clients} {
		if err := r.ws.write(name, content); err != nil {
			return err
		}
	}
	_, err := r.Eval("ok = ssl:clear_pem_cache()") // else it keeps what it read for two minutes
	return err
}

// Disconnect ends every connection of a user, as an administrator does.
func (r *RabbitMQ) Disconnect(user string) error {
	_, err := r.Eval(fmt.Sprintf(`rabbit_networking:close_all_user_connections(<<%q>>, <<"closed by the test">>)`, user))
	return err
}

// WholeLog returns everything the broker printed.
func (r *RabbitMQ) WholeLog() (string, error) { return r.ws.read("rabbitmq.log") }

// StartRabbitMQMain starts a broker for callers without a testing.TB, such as
// TestMain. Close ends it; if the process ends first, so does the broker.
func StartRabbitMQMain(opts ...RabbitMQOption) (*RabbitMQ, error) {
	bin, err := rabbitBin()
	if err != nil {
		return nil, err
	}
	r, err := newRabbitMQ(bin)
	if err != nil {
		return nil, err
	}
	for _, opt := range opts {
		if err := opt(r); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if err := errors.Join(r.configure(), r.Start()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func newRabbitMQ(bin string) (*RabbitMQ, error) {
	ws, err := newWorkspace("mq", "rabbitmq", "nobody")
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{ws: ws, bin: bin, conf: map[string]string{
		"loopback_users":             "none",
		"log.file":                   "false",
		"log.console":                "true",
		"log.console.level":          "warning",
		"disk_free_limit.absolute":   "1MB",
		"num_acceptors.tcp":          "4",
		"default_user":               "guest",
		"default_pass":               "guest",
		"tcp_listen_options.nodelay": "true",
	}}
	for _, p := range []**port{&r.amqp, &r.dist, &r.mapper} {
		if *p, err = reservePort(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	r.node = fmt.Sprintf("keysidecar-%d@localhost", r.dist.number)
	r.conf["listeners.tcp.1"] = r.amqp.addr()
	return r, nil
}

// rabbitBin finds the directory of the broker's own scripts. The wrappers in
// /usr/sbin insist on being root or the user rabbitmq.
func rabbitBin() (string, error) {
	candidates := []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"}
	if path, err := exec.LookPath("rabbitmq-server"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, path)
		}
	}
	for _, path := range candidates {
		dir := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(dir, "rabbitmq-env")); err != nil {
			continue // a wrapper
		}
		if _, err := exec.LookPath("epmd"); err != nil {
			return "", fmt.Errorf("RabbitMQ is in %s but Erlang's epmd is not in PATH: %w", dir, err)
		}
		return dir, nil
	}
	return "", errors.New("no RabbitMQ found in /usr/lib/rabbitmq/bin or PATH: run `make deps`, or install the package rabbitmq-server")
}

func (r *RabbitMQ) configure() error {
	var b strings.Builder
	for name, value := range r.conf {
		fmt.Fprintf(&b, "%s = %s\n", name, value)
	}
	return r.ws.write("rabbitmq.conf", []byte(b.String()))
}

// write puts a file into the workspace that only its user may read.
func (w *workspace) write(name string, content []byte) error {
	if err := os.WriteFile(w.path(name), content, 0o600); err != nil {
		return err
	}
	if w.cred == nil {
		return nil
	}
	return os.Chown(w.path(name), int(w.cred.Uid), int(w.cred.Gid))
}

// read returns a file of the workspace.
func (w *workspace) read(name string) (string, error) {
	text, err := os.ReadFile(w.path(name))
	return string(text), err
}

// env is the environment of the broker and of every tool that talks to it. No
// file of the system's own installation is read.
func (r *RabbitMQ) env() []string {
	mapper := strconv.Itoa(r.mapper.number)
	dist := strconv.Itoa(r.dist.number)
	return []string{
		"ERL_EPMD_PORT=" + mapper,
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + r.node,
		"RABBITMQ_DIST_PORT=" + dist,
		"RABBITMQ_CONF_ENV_FILE=" + r.ws.path("none"),
		"RABBITMQ_CONFIG_FILE=" + r.ws.path("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + r.ws.path("none.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + r.ws.path("no-plugins"),
		"RABBITMQ_MNESIA_BASE=" + r.ws.path("data"),
		"RABBITMQ_LOG_BASE=" + r.ws.path("log"),
		"RABBITMQ_PID_FILE=" + r.ws.path("pid"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CTL_ERL_ARGS=-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CTL_DIST_PORT_MIN=32001",
		"RABBITMQ_CTL_DIST_PORT_MAX=32700",
		"detached=1", // the script then becomes the Erlang machine instead of waiting for it
	}
}

// Start starts the broker after Stop or Kill, with its data, on the same port,
// and waits until it answers.
func (r *RabbitMQ) Start() error {
	if r.process != nil && r.process.running() {
		return errors.New("rabbitmq is running already")
	}
	if r.epmd == nil || !r.epmd.running() {
		epmd, err := r.ws.start(command{
			path: "epmd", args: []string{"-port", strconv.Itoa(r.mapper.number), "-address", "127.0.0.1"},
			env: r.env(), log: "epmd.log",
		})
		if err != nil {
			return err
		}
		r.epmd = epmd
		if err := epmd.ready(rabbitStart, func() error { return dialProbe(r.mapper.addr()) }); err != nil {
			return err
		}
	}
	proc, err := r.ws.start(command{path: filepath.Join(r.bin, "rabbitmq-server"), env: r.env(), log: "rabbitmq.log"})
	if err != nil {
		return err
	}
	r.process = proc
	return proc.ready(rabbitStart, func() error { return amqpProbe(r.Addr()) })
}

func dialProbe(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// amqpProbe begins an AMQP 0-9-1 handshake and waits for the broker's first byte.
func amqpProbe(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, err = conn.Write([]byte("AMQP\x00\x00\x09\x01"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Join(err, conn.Close())
}

// Stop shuts the broker down in order: it flushes what it holds and tells its
// clients.
func (r *RabbitMQ) Stop() error {
	if r.process == nil {
		return nil
	}
	if err := r.ws.resume(); err != nil {
		return err
	}
	return r.process.stop(syscall.SIGTERM, rabbitStop)
}

// Kill ends every process of the broker by SIGKILL, as a crash does.
func (r *RabbitMQ) Kill() error {
	if err := r.ws.killAll(); err != nil {
		return fmt.Errorf("kill rabbitmq: %w", err)
	}
	for _, p := range []*process{r.process, r.epmd} {
		if p != nil {
			<-p.done
		}
	}
	return nil
}

// Pause stops every process of the broker (SIGSTOP): connections stay open,
// nothing answers.
func (r *RabbitMQ) Pause() error { return r.ws.pause() }

// Resume undoes Pause.
func (r *RabbitMQ) Resume() error { return r.ws.resume() }

// Close kills the broker and removes its files.
func (r *RabbitMQ) Close() error {
	errs := []error{r.ws.close()}
	for _, p := range []*port{r.amqp, r.amqps, r.dist, r.mapper} {
		if p != nil {
			errs = append(errs, p.release())
		}
	}
	return errors.Join(errs...)
}

// Running reports whether the broker's main process has not ended.
func (r *RabbitMQ) Running() bool { return r.process != nil && r.process.running() }

// Addr returns the broker's TCP address, 127.0.0.1:port.
func (r *RabbitMQ) Addr() string { return r.amqp.addr() }

// TLSAddr returns the address of the listener that WithRabbitMQTLS added.
func (r *RabbitMQ) TLSAddr() string { return r.amqps.addr() }

// URL returns the amqp URL of the vhost "/", or of the named one.
func (r *RabbitMQ) URL(vhost ...string) string {
	u := url.URL{Scheme: "amqp", User: url.UserPassword("guest", "guest"), Host: r.Addr(), Path: "/" + oneOr(vhost, "/")}
	if len(vhost) == 0 {
		u.RawPath = "/%2F"
	}
	return u.String()
}

// Via returns the URL of a server with the address replaced, to reach it by way
// of a Proxy.
func Via(serverURL, addr string) string {
	u, err := url.Parse(serverURL)
	if err != nil {
		return serverURL // a test will see that it is not reached by way of addr
	}
	u.Host = addr
	return u.String()
}

// Dir returns the directory the broker lives in.
func (r *RabbitMQ) Dir() string { return r.ws.dir }

// Log returns the last lines the broker printed.
func (r *RabbitMQ) Log() string { return r.process.logTail() }

// Ctl runs rabbitmqctl and returns what it printed (about half a second).
func (r *RabbitMQ) Ctl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), rabbitAsk)
	defer cancel()
	return r.ws.run(ctx, command{
		path: filepath.Join(r.bin, "rabbitmqctl"),
		args: append([]string{"--quiet", "--node", r.node}, args...),
		env:  r.env(),
	})
}

// Eval evaluates an Erlang expression on the broker and returns the result as
// Erlang prints it. Faster than Ctl (about 0.15 s).
func (r *RabbitMQ) Eval(expression string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), rabbitAsk)
	defer cancel()
	return r.ws.run(ctx, command{
		path: "erl",
		args: []string{
			"-noshell", "-hidden", "-start_epmd", "false", "-boot", "start_clean", "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
			"-sname", "ask-" + strings.ToLower(rand.Text()[:12]) + "@localhost", "-eval", evalScript, "-extra", r.node, strings.TrimSuffix(strings.TrimSpace(expression), ".") + ".",
		},
		env: r.env(),
	})
}

// evalScript sends the expression's text to the node and prints the value.
const evalScript = `
[Node, Text] = init:get_plain_arguments(),
{ok, Tokens, _} = erl_scan:string(Text),
{ok, Exprs} = erl_parse:parse_exprs(Tokens),
case rpc:call(list_to_atom(Node), erl_eval, exprs, [Exprs, []]) of
	{value, Value, _} -> io:format("~tp~n", [Value]), halt(0);
	Other -> io:format(standard_error, "~tp~n", [Other]), halt(1)
end.`

// CreateVhost makes a vhost in which guest may do everything.
func (r *RabbitMQ) CreateVhost(name string) error {
	_, err := r.Eval(fmt.Sprintf(
		`ok = rabbit_vhost:add(<<%[1]q>>, <<"testenv">>), ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<%[1]q>>, <<".*">>, <<".*">>, <<".*">>, <<"testenv">>)`, name))
	if err != nil {
		return fmt.Errorf("create the vhost %s: %w", name, err)
	}
	return nil
}
