package security

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/test/cluster"
)

// What the shipped roles must not let a login do is tried by that login itself.
// schema.TestEachRoleMayDoItsWorkAndNothingElse has the whole list.
func TestPostgresLoginCanDoMoreThanItsWork(t *testing.T) {
	issue(t, "pk_rights")
	everybody := []string{
		`INSERT INTO keysidecar.events (seq, kind, key_id, actor) VALUES (1000000, 'revoked', 'pk_rights', 'x')`, // write the outbox
		`INSERT INTO keysidecar.staging (kind) VALUES ('reset')`,
		`SELECT nextval('keysidecar.seq')`,
		`UPDATE keysidecar.events SET key_id = 'x'`,
		`SELECT keysidecar.reset()`,
		`SELECT keysidecar.forget_instance('x')`,
		`SELECT keysidecar.allow_unreported('1 h')`,
		`ALTER TABLE keysidecar.public_keys DISABLE TRIGGER ALL`,
		`SET session_replication_role = replica`,
		`DROP SCHEMA keysidecar CASCADE`,
		`CREATE TABLE keysidecar.mine ()`,
		`CREATE ROLE mine`,
		`SELECT pg_read_file('/etc/hostname')`,
		`COPY keysidecar.schema_version TO PROGRAM 'cat'`,
		`SELECT rolpassword FROM pg_authid`,
	}
	writesKeys := []string{
		`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'pk_rights'`, // revoke
		`UPDATE keysidecar.public_keys SET revoked_at = NULL`,                             // and the other way round
		`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('pk_forged', 'm_1', 'opaque')`,
		`DELETE FROM keysidecar.public_keys`,
		`UPDATE keysidecar.owners SET suspended_at = now()`,
		`SELECT keysidecar.revoke_key('pk_rights')`,
		`SELECT keysidecar.suspend_owner('m_1')`,
	}
	prunes := []string{
		`DELETE FROM keysidecar.events`,
		`DELETE FROM keysidecar.instances`,
		`UPDATE keysidecar.relay SET published_seq = 1000000`,
		`UPDATE keysidecar.registry SET longest_ms = 1`,
	}
	registers := []string{
		`SELECT keysidecar.register(gen_random_uuid(), 'forged', 3600000, 3600000, 'serve_stale', 'x')`,
		`SELECT keysidecar.sign_off(gen_random_uuid())`,
		`UPDATE keysidecar.instances SET cursor_seq = 1000000`,
	}
	readsKeys := []string{`SELECT * FROM keysidecar.public_keys`, `SELECT * FROM keysidecar.owners`}
	for login, forbidden := range map[string][][]string{
		sidecarLogin: {everybody, writesKeys, prunes, {`UPDATE keysidecar.instances SET max_staleness_ms = 1, stale_limit_ms = 3600000`}},
		relayLogin:   {everybody, writesKeys, registers, readsKeys},
		appLogin:     {everybody, prunes, registers, {`SELECT * FROM keysidecar.events`, `SELECT * FROM keysidecar.instances`}},
	} {
		conn := session(t, login)
		for _, list := range forbidden {
			for _, sql := range list {
				_, err := conn.Exec(t.Context(), sql)
				var pg *pgconn.PgError
				if !errors.As(err, &pg) || pg.Code != "42501" {
					t.Errorf("%s may: %s (%v)", login, sql, err)
				}
			}
		}
	}
	var keys int
	if err := world.SQL.QueryRow(t.Context(), `SELECT count(*) FROM keysidecar.public_keys WHERE key_id = 'pk_rights' AND revoked_at IS NULL`).Scan(&keys); err != nil || keys != 1 {
		t.Errorf("the key did not survive: %d, %v", keys, err)
	}
}

// broker is a connection to RabbitMQ as a user.
func broker(t *testing.T, user, password string) *amqp.Connection {
	t.Helper()
	conn, err := dialBroker(brokerURL(user, password, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func dialBroker(url string) (*amqp.Connection, error) {
	pair, err := tls.X509KeyPair(world.client.Certificate, world.client.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(world.servers.PEM)
	return amqp.DialTLS(url, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
}

// attempt is something a user of the broker tries on a channel of its own.
type attempt struct {
	what string
	do   func(*amqp.Channel) error
}

// try returns the broker's answer: 0 if it let the attempt pass.
func (a attempt) try(t *testing.T, conn *amqp.Connection) int {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatalf("%s: %v", a.what, err)
	}
	defer func() { _ = ch.Close() }()
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	err = a.do(ch)
	if err == nil {
		// A publication is refused later; the answer to this comes after that.
		err = ch.Tx()
	}
	var reply *amqp.Error
	if err != nil { // the channel has ended, or does so now; why is said here
		select {
		case reply = <-closed:
		case <-time.After(5 * time.Second):
		}
	}
	switch {
	case err == nil:
		return 0
	case reply != nil:
		return reply.Code
	case errors.As(err, &reply):
		return reply.Code
	}
	t.Fatalf("%s: %v", a.what, err)
	return 0
}

func publish(exchange, key string) attempt {
	return attempt{fmt.Sprintf("publish to %q with key %q", exchange, key), func(ch *amqp.Channel) error {
		return ch.PublishWithContext(context.Background(), exchange, key, false, false, amqp.Publishing{Body: []byte("{}")})
	}}
}

func declareExchange(name string) attempt {
	return attempt{"declare exchange " + name, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil)
	}}
}

func declareQueue(name string, args amqp.Table) attempt {
	return attempt{fmt.Sprintf("declare queue %s %v", name, args), func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclare(name, true, false, false, false, args)
		return err
	}}
}

func bind(queue, exchange string) attempt {
	return attempt{"bind " + queue + " to " + exchange, func(ch *amqp.Channel) error { return ch.QueueBind(queue, "", exchange, false, nil) }}
}

func queueAttempts(name string) []attempt {
	return []attempt{
		{"consume " + name, func(ch *amqp.Channel) error {
			_, err := ch.Consume(name, "", false, false, false, false, nil)
			return err
		}},
		{"get from " + name, func(ch *amqp.Channel) error {
			_, _, err := ch.Get(name, false)
			return err
		}},
		{"purge " + name, func(ch *amqp.Channel) error {
			_, err := ch.QueuePurge(name, false)
			return err
		}},
		{"unbind " + name, func(ch *amqp.Channel) error { return ch.QueueUnbind(name, "", "keysidecar.events", nil) }},
		{"delete " + name, func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(name, false, false, false)
			return err
		}},
	}
}

// What the shipped permissions must not let the broker's users do.
func TestBrokerUserCanDoMoreThanItsWork(t *testing.T) {
	const own, others = "keysidecar.q.shop-1", "keysidecar.q.shop-2"
	// A user for one instance alone, as docs/operations.md describes it.
	const single, singlePassword = "keysidecar-shop-1", "mq-p4ss-single"
	if _, err := world.MQ.Eval(fmt.Sprintf(`ok = rabbit_auth_backend_internal:add_user(<<%q>>, <<%q>>, <<"test">>),
		ok = rabbit_auth_backend_internal:set_permissions(<<%[1]q>>, <<%[3]q>>, <<%[4]q>>, <<%[4]q>>, <<%[5]q>>, <<"test">>)`,
		single, singlePassword, vhost, `^keysidecar\.q\.shop-1(\.[0-9a-f]+)?$`, `^keysidecar\.(q\.shop-1(\.[0-9a-f]+)?|events)$`)); err != nil {
		t.Fatal(err)
	}
	sidecars := broker(t, sidecarUser, world.passwords[sidecarUser])
	relays := broker(t, relayUser, world.passwords[relayUser])
	one := broker(t, single, singlePassword)

	allowed := func(conn *amqp.Connection, list ...attempt) {
		t.Helper()
		for _, a := range list {
			if code := a.try(t, conn); code != 0 {
				t.Errorf("may not: %s (%d)", a.what, code)
			}
		}
	}
	refused := func(who string, conn *amqp.Connection, list ...attempt) {
		t.Helper()
		for _, a := range list {
			if code := a.try(t, conn); code != amqp.AccessRefused {
				t.Errorf("%s may: %s (%d)", who, a.what, code)
			}
		}
	}
	allowed(sidecars, declareQueue(own, nil), declareQueue(others, nil), bind(own, "keysidecar.events"), bind(others, "keysidecar.events"))
	never := []attempt{
		publish("", others), // the default exchange: into a queue directly
		publish("amq.topic", "x"),
		declareExchange("mine"), declareExchange("keysidecar.q"), declareQueue("mine", nil),
	}
	refused("a sidecar", sidecars, append(never,
		publish("keysidecar.events", ""), // a forged event
		declareExchange("keysidecar.events2"),
		attempt{"delete the exchange", func(ch *amqp.Channel) error { return ch.ExchangeDelete("keysidecar.events", false, false) }},
		attempt{"bind the exchange to another", func(ch *amqp.Channel) error {
			return ch.ExchangeBind("keysidecar.events", "", "amq.fanout", false, nil)
		}},
		attempt{"bind another exchange to it", func(ch *amqp.Channel) error {
			return ch.ExchangeBind("amq.fanout", "", "keysidecar.events", false, nil)
		}},
		bind(own, "amq.topic"),
		// A queue that hands on what it drops would be a way to publish.
		declareQueue("keysidecar.q.dead", amqp.Table{"x-dead-letter-exchange": "keysidecar.events"}),
		declareQueue("keysidecar.q.dead", amqp.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": others}),
		// Lures for whoever writes regular expressions without their anchors.
		declareQueue("xkeysidecar.q.1", nil), declareQueue("keysidecarXq.1", nil), declareQueue("keysidecar.events", nil),
	)...)
	refused("a relay", relays, append(append(never, queueAttempts(own)...),
		declareQueue("keysidecar.q.relay", nil), bind(own, "keysidecar.events"), declareExchange("xkeysidecar.events"))...)
	refused("a sidecar with a user of its own", one, append(queueAttempts(others), declareQueue("keysidecar.q.shop-10", nil), publish("keysidecar.events", ""))...)
	allowed(one, declareQueue(own, nil), bind(own, "keysidecar.events"), declareQueue("keysidecar.q.shop-1.0badcafe", nil))
	allowed(relays, declareExchange("keysidecar.events"), publish("keysidecar.events", ""))

	// What permissions cannot forbid: sidecars that share a user share their queues.
	// docs/threat-model.md says so, and TestSidecarLosesItsQueueToAnother what it costs.
	allowed(sidecars, queueAttempts(others)[3:]...)

	for _, user := range []string{sidecarUser, relayUser} {
		url := strings.TrimSuffix(brokerURL(user, world.passwords[user], "127.0.0.1"), vhost)
		if conn, err := dialBroker(url + "%2F"); err == nil {
			_ = conn.Close()
			t.Errorf("%s may use another virtual host", user)
		}
	}
	if conn, err := dialBroker(brokerURL(relayUser, "", "127.0.0.1")); err == nil {
		_ = conn.Close()
		t.Error("a user is let in without a password")
	}
}

// Whoever may declare a queue can declare one that nobody empties. The shipped
// policy bounds it, whatever its arguments say.
func TestForgottenQueueGrowsForEver(t *testing.T) {
	conn := broker(t, sidecarUser, world.passwords[sidecarUser])
	if code := declareQueue("keysidecar.q.forgotten", amqp.Table{"x-max-length": int64(1 << 40)}).try(t, conn); code != 0 {
		t.Fatal(code)
	}
	eventually(t, "the policy is in force", func() bool {
		text, err := world.MQ.Eval(fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<%q>>, queue, <<"keysidecar.q.forgotten">>)),
			[rabbit_queue_type_util:args_policy_lookup(A, fun(X, Y) -> min(X, Y) end, Q) || A <- [<<"max-length">>, <<"expires">>]]`, vhost))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(text) == "[100000,3600000]"
	})
}

// The shipped rights are enough: everything works with them, and nothing is denied
// along the way.
func TestShippedRightsAreTooFew(t *testing.T) {
	postgresSaid, brokerSaid := serverLogs(t)
	r := relay(t, append(goodPostgres(t, relayLogin), goodBroker(t, relayUser)...)...)
	env := append(goodPostgres(t, sidecarLogin), goodBroker(t, sidecarUser)...)
	a, b := sidecar(t, env...), sidecar(t, env...)
	leading(t, r)
	ready(t, a, b)

	app := goodPostgres(t, appLogin)
	run := func(want string, args ...string) {
		t.Helper()
		out, errOut, err := program(t.Context(), "", app, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v: %v\n%s\n%s", args, err, out, errOut)
		}
	}
	run("pk_end_to_end", "keys", "issue", "--owner", "m_rights", "--key-id", "pk_end_to_end", "--algorithm", "opaque")
	until(t, a, "pk_end_to_end", "active")
	until(t, b, "pk_end_to_end", "active")
	run("complete", "keys", "revoke", "pk_end_to_end", "--wait=20s", "-o", "json")
	until(t, a, "pk_end_to_end", "revoked")
	until(t, b, "pk_end_to_end", "revoked")
	run("m_rights", "owners", "suspend", "m_rights")
	run("m_rights", "owners", "show", "m_rights")
	run("pk_end_to_end", "keys", "list")
	_, status, err := a.Receipt(t.Context(), "pk_end_to_end", time.Second)
	if err != nil || status != 200 {
		t.Errorf("receipt: %d, %v", status, err)
	}
	for _, s := range []*cluster.Sidecar{a, b} {
		if n, err := s.Metric(t.Context(), "keysidecar_subscriber_fallback_queue"); err != nil || n != 0 {
			t.Errorf("%s: fallback queue %v, %v", s.Name, n, err)
		}
	}
	postgres, rabbit := serverLogs(t)
	logs := map[string]string{"Postgres": strings.TrimPrefix(postgres, postgresSaid), "RabbitMQ": strings.TrimPrefix(rabbit, brokerSaid)}
	for _, p := range []*cluster.Process{r.Process, a.Process, b.Process} {
		stop(t, p)
		logs[p.Name] = p.Log()
	}
	for name, text := range logs {
		for _, denied := range []string{"permission denied", "42501", "access_refused", "access to ", "queue refused"} {
			if strings.Contains(strings.ToLower(text), denied) {
				t.Errorf("something was denied (%s), says the log of %s:\n%s", denied, name, text)
			}
		}
	}
}

// serverLogs returns what both servers have printed so far.
func serverLogs(t *testing.T) (postgres, rabbit string) {
	t.Helper()
	postgres, err := world.PG.WholeLog()
	if err != nil {
		t.Fatal(err)
	}
	if rabbit, err = world.MQ.WholeLog(); err != nil {
		t.Fatal(err)
	}
	return postgres, rabbit
}

// A sidecar whose queue is deleted, unbound or emptied by another of the same user
// loses speed for a moment, and no revocation.
func TestSidecarLosesItsQueueToAnother(t *testing.T) {
	r := relay(t, append(goodPostgres(t, relayLogin), goodBroker(t, relayUser)...)...)
	s := sidecar(t, append(goodPostgres(t, sidecarLogin), goodBroker(t, sidecarUser)...)...)
	leading(t, r)
	ready(t, s)
	conn := broker(t, sidecarUser, world.passwords[sidecarUser])
	for n, a := range queueAttempts("keysidecar.q." + s.Name)[2:] { // not what only its consumer may do
		if code := a.try(t, conn); code != 0 {
			t.Fatalf("%s: %d", a.what, code)
		}
		keyID := fmt.Sprintf("pk_queue_%d", n)
		issue(t, keyID)
		until(t, s, keyID, "active")
		if _, err := world.Exec(t.Context(), "SELECT keysidecar.revoke_key($1)", keyID); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second+time.Second) // L, and what a loaded machine needs
		if _, err := s.Until(ctx, keyID, cluster.Code("revoked")); err != nil {
			t.Errorf("after %s: %v", a.what, err)
		}
		cancel()
		ready(t, s)
	}
}
