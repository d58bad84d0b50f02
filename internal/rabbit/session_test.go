package rabbit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

func declareQueue(s *Session, ch *amqp.Channel, name string) error {
	return s.Call("declare queue", func() error {
		_, err := ch.QueueDeclare(name, false, true, true, false, nil)
		return err
	})
}

func TestDialTriesEveryBrokerAndReadsTheURLsAgain(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	dead := testenv.NewProxy(t, broker.Addr())
	if err := dead.Refuse(true); err != nil {
		t.Fatal(err)
	}
	rotated := []string{testenv.Via(vhost, dead.Addr()), strings.Replace(vhost, "guest:guest", "guest:stale", 1)}
	d := NewDialer(Options{URLs: func() ([]string, error) { return rotated, nil }, Name: "keysidecar test"})
	_, err := d.Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), dead.Addr()) || !strings.Contains(err.Error(), broker.Addr()) {
		t.Fatalf("the error does not name both brokers: %v", err)
	}
	rotated[1] = vhost
	s, err := d.Dial(t.Context())
	if err != nil {
		t.Fatalf("with the new password: %v", err)
	}
	defer s.Close()
	if s.Host() != broker.Addr() {
		t.Errorf("connected to %s", s.Host())
	}
	names, err := broker.Ctl("list_connections", "client_properties")
	if err != nil || !strings.Contains(names, "keysidecar test") {
		t.Errorf("the connection has no name: %q, %v", names, err)
	}
}

func TestFailedAttemptsAreNamedAndNeverShowCredentials(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	const user, password = "s3cretuser", "p4ssw0rd"
	creds := user + ":" + password + "@"
	good, _ := url.Parse(broker.URL())
	for name, c := range map[string]struct {
		urls []string
		want Category
	}{
		"none":                      {nil, NotSet},
		"not a URL":                 {[]string{"amqp://" + creds + "host:port"}, BadURL},
		"bad escape":                {[]string{"amqp://" + user + ":%zz" + password + "@host"}, BadURL},
		"slash in the password":     {[]string{"amqp://" + user + ":/" + password + "@host"}, BadURL},
		"slash behind a port":       {[]string{"amqp://" + user + ":1/" + password + "@host"}, BadURL},
		"hash in the password":      {[]string{"amqp://" + user + ":#" + password + "@host"}, BadURL},
		"space":                     {[]string{"amqp://" + creds + "host /"}, BadURL},
		"other scheme":              {[]string{"http://" + creds + "host"}, BadURL},
		"control character":         {[]string{"amqp://" + creds + "host\x7f"}, BadURL},
		"port out of range":         {[]string{"amqp://" + creds + "host:99999"}, BadURL},
		"bad heartbeat":             {[]string{"amqp://" + creds + "host?heartbeat=" + password}, BadURL},
		"unknown mechanism":         {[]string{"amqp://" + creds + nobody + "?auth_mechanism=" + password}, Internal},
		"nobody listens":            {[]string{"amqp://" + creds + nobody}, Unreachable},
		"no such host":              {[]string{"amqp://" + creds + "no-such-host.invalid"}, Unreachable},
		"wrong password":            {[]string{"amqp://" + creds + good.Host}, Refused},
		"no such vhost":             {[]string{"amqp://guest:guest@" + good.Host + "/nowhere"}, NoVhost},
		"plain text on a TLS port":  {[]string{"amqp://" + creds + broker.TLSAddr()}, Internal},
		"TLS on a plain port":       {[]string{"amqps://" + creds + good.Host}, BadTLS},
		"untrusted certificate":     {[]string{"amqps://" + creds + broker.TLSAddr()}, BadTLS},
		"missing certificate file":  {[]string{"amqps://" + creds + good.Host + "?cacertfile=/nowhere/ca.pem"}, Internal},
		"first good then malformed": {[]string{"amqp://" + creds + nobody, "amqp://" + creds + "host:port"}, BadURL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := NewDialer(Options{URLs: list(c.urls...)}).Dial(t.Context())
			if err == nil {
				s.Close()
				t.Fatal("it connected")
			}
			if got := Categorise(err); got != c.want && c.want != Internal {
				t.Errorf("category %q, want %q: %v", got, c.want, err)
			}
			for _, secret := range []string{user, password, "guest:guest"} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err.Error()), secret) {
					t.Errorf("the error shows %s: %v", secret, err)
				}
			}
		})
	}
	_, err = NewDialer(Options{URLs: func() ([]string, error) { return nil, os.ErrPermission }}).Dial(t.Context())
	if !errors.Is(err, os.ErrPermission) {
		t.Errorf("an unreadable list of URLs: %v", err)
	}
}

func TestTLSChecksTheNameAndTheIssuer(t *testing.T) {
	t.Parallel()
	secure := "amqps://guest:guest@" + broker.TLSAddr()
	for _, name := range []string{"", "broker.test"} {
		s, err := NewDialer(Options{URLs: list(secure), TLS: trusting(name)}).Dial(t.Context())
		if err != nil {
			t.Fatalf("ServerName %q: %v", name, err)
		}
		ch, err := s.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := declareQueue(s, ch, "tls-"+name); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	if _, err := NewDialer(Options{URLs: list(secure), TLS: trusting("other.test")}).Dial(t.Context()); Categorise(err) != BadTLS {
		t.Errorf("a certificate for another name: %v", err)
	}
}

func TestSilentBrokerCannotHoldTheHandshake(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"amqp", "amqps"} {
		proxy := testenv.NewProxy(t, broker.Addr())
		proxy.Freeze()
		dialer := NewDialer(Options{URLs: list(scheme + "://guest:guest@" + proxy.Addr()), TLS: trusting(""), DialTimeout: 300 * time.Millisecond})
		var err error
		within(t, 5*time.Second, begun(func() { _, err = dialer.Dial(t.Context()) }), scheme+" handshake")
		if Categorise(err) != TimedOut {
			t.Errorf("%s: %v", scheme, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		dialer.opts.DialTimeout = time.Hour
		attempt := begun(func() { _, err = dialer.Dial(ctx) })
		cancel()
		within(t, 5*time.Second, attempt, scheme+" cancelled handshake")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestRequestWithoutAnswerEndsTheSession(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, broker.Addr())
	s := open(t, Options{URLs: list(testenv.Via(broker.URL(), proxy.Addr())), RPCTimeout: 200 * time.Millisecond})
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	proxy.Freeze()
	within(t, 5*time.Second, begun(func() { err = declareQueue(s, ch, "q") }), "declare queue")
	if !errors.Is(err, ErrTimeout) || !errors.Is(s.Err(), ErrTimeout) {
		t.Errorf("%v; session: %v", err, s.Err())
	}
	within(t, 5*time.Second, begun(s.Close), "close")
}

func TestRequestUnderWayDoesNotOutliveItsContext(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, broker.Addr())
	s := open(t, Options{URLs: list(testenv.Via(broker.URL(), proxy.Addr())), RPCTimeout: time.Hour})
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.EndWith(ctx, 50*time.Millisecond)
	proxy.Freeze()
	asking := begun(func() { err = declareQueue(s, ch, "q") })
	cancel()
	within(t, 5*time.Second, asking, "declare queue")
	if err == nil || !errors.Is(s.Err(), context.Canceled) {
		t.Errorf("%v; session: %v", err, s.Err())
	}
}

// The library's publisher holds a lock while it waits for the socket, and its
// shutdown waits for that lock.
func TestPublisherStuckInAHalfOpenConnectionIsFreed(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, broker.Addr())
	for name, end := range map[string]func(*Session){
		"by the heartbeat": func(*Session) {},
		"by Close":         (*Session).Close,
		"by Fail":          func(s *Session) { s.Fail(errors.New("enough")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{URLs: list(testenv.Via(broker.URL(), proxy.Addr())), Heartbeat: time.Second, RPCTimeout: time.Hour})
			ch, err := s.Channel()
			if err != nil {
				t.Fatal(err)
			}
			proxy.Freeze()
			defer proxy.Thaw()
			publishing := begun(func() {
				for err == nil {
					err = ch.Publish("", "nowhere", false, false, amqp.Publishing{Body: make([]byte, 1<<20)})
				}
			})
			end(s)
			within(t, 10*time.Second, s.Done(), "session")
			within(t, 10*time.Second, publishing, "publisher")
			within(t, 10*time.Second, begun(s.Close), "close")
		})
	}
}

func TestLostConnectionEndsTheSession(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, broker.Addr())
	s := open(t, Options{URLs: list(testenv.Via(broker.URL(), proxy.Addr()))})
	proxy.Cut()
	within(t, 5*time.Second, s.Done(), "session")
	if Categorise(s.Err()) != Lost {
		t.Errorf("%q: %v", Categorise(s.Err()), s.Err())
	}
}

func TestConnectionClosedByAnAdministratorIsNamed(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	u, _ := url.Parse(vhost)
	s := open(t, Options{URLs: list(vhost)})
	if _, err := broker.Ctl("close_all_connections", "--vhost", u.Path[1:], "maintenance"); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, s.Done(), "session")
	if Categorise(s.Err()) != BrokerClosed {
		t.Errorf("%q: %v", Categorise(s.Err()), s.Err())
	}
}

func TestCloseIsAnOrderlyEndAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	s := open(t, Options{URLs: list(broker.URL())})
	within(t, 5*time.Second, begun(s.Close), "close")
	within(t, 5*time.Second, begun(s.Close), "second close")
	if !errors.Is(s.Err(), ErrClosed) {
		t.Error(s.Err())
	}
	if _, err := s.Channel(); err == nil {
		t.Error("a closed session opened a channel")
	}
}

func TestRefusalClosesOnlyTheChannel(t *testing.T) {
	t.Parallel()
	s := open(t, Options{URLs: list(broker.NewVhost(t))})
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	err = s.Call("inspect", func() error {
		_, err := ch.QueueDeclarePassive("nothing", true, false, false, false, nil)
		return err
	})
	if c, ok := Refusal(err); !ok || c != amqp.NotFound || Categorise(err) != NotFound {
		t.Errorf("%d %v: %v", c, ok, err)
	}
	if s.Err() != nil {
		t.Fatalf("the session ended: %v", s.Err())
	}
	if _, err := s.Channel(); err != nil {
		t.Errorf("no other channel: %v", err)
	}
}

func TestExchangeMayBelongToSomebodyElse(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	u, _ := url.Parse(vhost)
	s := open(t, Options{URLs: list(vhost)})
	for range 2 {
		if err := s.EnsureExchange("events"); err != nil {
			t.Fatal(err)
		}
	}
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare("topical", amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureExchange("topical"); err != nil {
		t.Errorf("an exchange of another type: %v", err)
	}

	user := strings.ToLower(u.Path[1:])
	for _, args := range [][]string{{"add_user", user, "pw"}, {"set_permissions", "--vhost", u.Path[1:], user, "^mine", "^mine", ".*"}} {
		if _, err := broker.Ctl(args...); err != nil {
			t.Fatal(err)
		}
	}
	u.User = url.UserPassword(user, "pw")
	restricted := open(t, Options{URLs: list(u.String())})
	if err := restricted.EnsureExchange("events"); err != nil {
		t.Errorf("without the right to declare it: %v", err)
	}
	if err := restricted.EnsureExchange("missing"); Categorise(err) != NoRight {
		t.Errorf("missing and not allowed to declare it: %v", err)
	}
}

func TestMessageTooLargeToHoldArrivesEmpty(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	s := open(t, Options{URLs: list(vhost), MaxMessageBytes: 1000})
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := declareQueue(s, ch, "q"); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume("q", "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{1000, 1001, 8 << 20, 0, 999}
	for _, size := range sizes {
		if err := ch.Publish("", "q", false, false, amqp.Publishing{Body: bytes.Repeat([]byte("x"), size)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range sizes {
		want := size
		if size > 1000 {
			want = 0
		}
		select {
		case d := <-deliveries:
			if len(d.Body) != want {
				t.Errorf("of %d bytes %d arrived, want %d", size, len(d.Body), want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no delivery")
		}
	}
}

func TestMemoryAlarmIsSeenAndItsEndToo(t *testing.T) {
	alarm := func(watermark string) {
		if _, err := broker.Ctl("set_vm_memory_high_watermark", watermark); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Options{URLs: list(broker.URL())})
	within(t, time.Second, s.Unblocked(), "a fresh session")
	ch, err := s.Channel()
	if err != nil {
		t.Fatal(err)
	}
	alarm("0.00001")
	defer alarm("0.4")
	if err := ch.Publish("", "nowhere", false, false, amqp.Publishing{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for blocked := false; !blocked; {
		select {
		case <-s.Unblocked():
		default:
			blocked = true
		}
		select {
		case <-deadline:
			t.Fatal("the session never learned of the alarm")
		case <-time.After(time.Millisecond):
		}
	}
	alarm("0.4")
	within(t, 10*time.Second, s.Unblocked(), "the alarm's end")
}

func TestBackoffGrowsIsCappedAndSpread(t *testing.T) {
	b := Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	seen := map[time.Duration]bool{}
	for range 50 {
		b.Reset()
		for i, ms := range []int{100, 200, 400, 800, 1000, 1000, 1000} {
			limit := time.Duration(ms) * time.Millisecond
			pause := b.Next()
			if pause < limit/2 || pause > limit {
				t.Fatalf("pause %d is %v, want %v to %v", i+1, pause, limit/2, limit)
			}
			seen[pause] = true
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d different pauses of 350", len(seen))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if (&Backoff{Min: time.Hour, Max: time.Hour}).Wait(ctx) {
		t.Error("it waited on")
	}
}

func TestEveryErrorHasACategory(t *testing.T) {
	for want, errs := range map[Category][]error{
		None:         {nil},
		NotSet:       {ErrNoURLs},
		BadURL:       {errURL},
		Unreachable:  {&net.OpError{Op: "dial", Err: errors.New("no route")}, &net.DNSError{}},
		BadTLS:       {fmt.Errorf("%w: x", errTLS)},
		Refused:      {fmt.Errorf("%w: %w", errAuth, amqp.ErrCredentials)},
		NoVhost:      {&amqp.Error{Code: amqp.NotAllowed}},
		NoRight:      {&amqp.Error{Code: amqp.AccessRefused}},
		NotFound:     {&amqp.Error{Code: amqp.NotFound}},
		Other:        {&amqp.Error{Code: amqp.PreconditionFailed}, &amqp.Error{Code: amqp.ResourceLocked}},
		TimedOut:     {ErrTimeout, context.DeadlineExceeded, os.ErrDeadlineExceeded},
		BrokerClosed: {&amqp.Error{Code: amqp.ConnectionForced}},
		Lost:         {ErrClosed, amqp.ErrClosed, net.ErrClosed},
		Internal:     {errors.New("anything")},
	} {
		for _, err := range errs {
			if got := Categorise(err); got != want {
				t.Errorf("%v: %q, want %q", err, got, want)
			}
			if err != nil {
				if got := Categorise(fmt.Errorf("wrapped: %w", err)); got != want {
					t.Errorf("wrapped %v: %q, want %q", err, got, want)
				}
			}
		}
	}
}
