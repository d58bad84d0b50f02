package subscriber

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/internal/rabbit"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

func TestEventsReachTheStoreInOrder(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	f := start(t, nil, vhost)
	f.untilConnected(t)
	dialAdmin(t, vhost).send(numbered(1, 1000)...)
	f.store.untilSeq(t, 1000)
	for i, seq := range f.store.seqs() {
		if seq != int64(i)+1 {
			t.Fatalf("event %d came as number %d", seq, i+1)
		}
	}
	st := f.Status()
	if !st.Connected || st.Queue != "keysidecar.q.pod-1" || st.Host != broker.Addr() || st.LastError != rabbit.None {
		t.Errorf("status %+v", st)
	}
	f.stop()
	if f.store.fences["gap"] != 0 || f.value(t, "messages_total", "applied") != 1000 || f.value(t, "delivery_lag_seconds") != 1000 {
		t.Errorf("fences %v, applied %v", f.store.fences, f.value(t, "messages_total", "applied"))
	}
	if st := f.Status(); st.Connected || f.value(t, "connected") != 0 {
		t.Errorf("after the end: %+v", st)
	}
}

// Whatever is published after the fence was asked for must find the queue bound
// and consumed, or it falls between the two.
func TestFenceIsAskedForOnlyOnceTheQueueReceives(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	a := dialAdmin(t, vhost)
	r := newRecorder()
	r.onFence = func(string) {
		q, err := a.ch.QueueDeclarePassive("keysidecar.q.pod-1", true, false, false, false, nil)
		if err != nil || q.Consumers != 1 {
			t.Errorf("queue %+v, %v", q, err)
			return
		}
		a.send(numbered(7, 7)...)
	}
	f := start(t, func(o *Options) { o.Store = r }, vhost)
	f.store.untilSeq(t, 7)
}

func TestMessageIsAcknowledgedOnlyAfterItWasApplied(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	r := newRecorder()
	applying, release := make(chan struct{}), make(chan struct{})
	first := true
	r.onEvict = func(event.Event) {
		if first {
			first = false
			close(applying)
			<-release
		}
	}
	f := start(t, func(o *Options) { o.Store = r }, testenv.Via(vhost, proxy.Addr()))
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	a.send(numbered(1, 3)...)
	<-applying
	if out, err := broker.Ctl("list_queues", "--vhost", vhostName(t, vhost), "--no-table-headers", "messages_unacknowledged"); err != nil || strings.TrimSpace(out) != "3" {
		t.Errorf("while the first is being applied %q are not acknowledged, %v", out, err)
	}
	proxy.Cut()
	close(release)
	// All three come again: 1 was applied (others may have been), but there was no
	// connection left to acknowledge it on.
	f.store.until(t, "redelivery", func() bool {
		seqs := r.seqs()
		return len(seqs) > 3 && slices.Equal(seqs[len(seqs)-3:], []int64{1, 2, 3})
	})
	a.send(numbered(4, 4)...)
	f.store.untilSeq(t, 4)
	f.stop()
	q, err := a.ch.QueueDeclarePassive("keysidecar.q.pod-1", true, false, false, false, nil)
	if err != nil || q.Messages != 0 {
		t.Errorf("left in the queue: %+v, %v", q, err)
	}
}

func TestMessagesOfADisconnectionWaitInTheQueue(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := start(t, nil, testenv.Via(vhost, proxy.Addr()))
	f.untilConnected(t)
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	dialAdmin(t, vhost).send(numbered(1, 200)...)
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	f.store.untilSeq(t, 200)
	f.store.untilFence(t, "reconnect", 2)
	if n := f.value(t, "reconnects_total", string(rabbit.Lost)); n != 1 {
		t.Errorf("%v reconnects", n)
	}
}

func TestHalfOpenConnectionIsLeftAndItsQueueNotWaitedFor(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := start(t, nil, testenv.Via(vhost, proxy.Addr()), vhost)
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	if host := f.Status().Host; host != proxy.Addr() {
		t.Fatalf("connected to %s", host)
	}
	proxy.Freeze()
	// The broker still holds the old connection, so the queue's name is taken (403).
	f.store.untilFence(t, "reconnect", 2)
	st := f.Status()
	if !st.Connected || !strings.HasPrefix(st.Queue, "keysidecar.q.pod-1.") || st.Host != broker.Addr() {
		t.Fatalf("status %+v", st)
	}
	if f.value(t, "fallback_queue") != 1 {
		t.Error("the metric does not show the fallback")
	}
	a.send(numbered(1, 1)...)
	f.store.untilSeq(t, 1)
	fallback := st.Queue
	f.stop()
	if _, err := a.ch.QueueDeclarePassive(fallback, false, false, false, false, nil); err == nil {
		t.Errorf("%s outlived its connection", fallback)
	}
}

func TestQueueBehindEndsASilentConnectionBeforeTheHeartbeatDoes(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := prepare(t, nil, testenv.Via(vhost, proxy.Addr()))
	f.dial.Heartbeat = time.Hour
	f.run(t)
	f.untilConnected(t)
	proxy.Freeze()
	f.QueueBehind()
	eventually(t, "the end of the connection", func() bool { return !f.Status().Connected })
	proxy.Thaw()
	f.store.untilFence(t, "reconnect", 2)
}

func TestQueueIsMadeAgainWhenSomebodyDeletesIt(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	f := start(t, nil, vhost)
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	if _, err := a.ch.QueueDelete("keysidecar.q.pod-1", false, false, false); err != nil {
		t.Fatal(err)
	}
	f.store.untilFence(t, "reconnect", 2)
	a.send(numbered(1, 1)...)
	f.store.untilSeq(t, 1)
	if n := f.value(t, "reconnects_total", queueLost); n != 1 {
		t.Errorf("%v reconnects for a lost queue", n)
	}
}

func TestPurgedQueueShowsAsAGap(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := start(t, nil, testenv.Via(vhost, proxy.Addr()))
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	a.send(numbered(1, 1)...)
	f.store.untilSeq(t, 1)
	// Messages that were lost while nobody was connected are the reconnection's
	// business; this one is lost under the consumer's eyes.
	if err := a.ch.QueueUnbind("keysidecar.q.pod-1", "", "keysidecar.events", nil); err != nil {
		t.Fatal(err)
	}
	a.send(numbered(2, 3)...)
	f.QueueBehind()
	f.untilRebound(t, 1)
	if f.store.fencesFor("gap") != 0 {
		t.Fatal("a gap before anything showed it")
	}
	a.send(numbered(4, 4)...)
	f.store.untilSeq(t, 4)
	f.store.untilFence(t, "gap", 1)
}

// untilRebound waits until n requests to bind again were answered.
func (f *fixture) untilRebound(t *testing.T, n float64) {
	t.Helper()
	eventually(t, "a request to bind", func() bool { return f.value(t, "rebinds_total") >= n })
	// The counter comes before the request: when the next is counted, this one was
	// answered.
	f.QueueBehind()
	eventually(t, "another one", func() bool { return f.value(t, "rebinds_total") >= n+1 })
}

func TestRemovedBindingAndDeletedExchangeAreRestored(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*admin) error{
		"binding":  func(a *admin) error { return a.ch.QueueUnbind("keysidecar.q.pod-1", "", "keysidecar.events", nil) },
		"exchange": func(a *admin) error { return a.ch.ExchangeDelete("keysidecar.events", false, false) },
	} {
		for _, cause := range []string{"timer", "behind"} {
			t.Run(name+" by "+cause, func(t *testing.T) {
				t.Parallel()
				vhost := broker.NewVhost(t)
				f := prepare(t, nil, vhost)
				if cause == "timer" {
					f.rebind = 10 * time.Millisecond
				}
				f.run(t)
				f.untilConnected(t)
				a := dialAdmin(t, vhost)
				if err := harm(a); err != nil {
					t.Fatal(err)
				}
				if cause == "behind" {
					f.QueueBehind()
				}
				before := f.value(t, "rebinds_total", cause)
				eventually(t, "binding again", func() bool {
					if cause == "behind" {
						f.QueueBehind()
					}
					return f.value(t, "rebinds_total", cause) >= before+2
				})
				a.send(numbered(1, 1)...)
				f.store.untilSeq(t, 1)
				// Binding to an exchange that is gone is refused with 404, which costs the
				// connection: the next one declares it.
				allowed := 0.0
				if name == "exchange" {
					allowed = 1
				}
				if f.store.fencesFor("reconnect") > 1+int(allowed) || f.value(t, "reconnects_total") > allowed {
					t.Error("it took a new connection")
				}
			})
		}
	}
}

func TestRefusedQueueIsReplacedAtOnceAndTriedAgainLater(t *testing.T) {
	t.Parallel()
	args := amqp.Table{"x-queue-type": "classic", "x-expires": time.Minute.Milliseconds(), "x-max-length": int64(10000), "x-overflow": "drop-head"}
	const queue = "keysidecar.q.pod-1"
	for name, c := range map[string]struct {
		code       int
		take, free func(a *admin, vhost string) error
	}{
		"consumed by another process": {403, func(a *admin, _ string) error {
			if _, err := a.ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
				return err
			}
			_, err := a.ch.Consume(queue, "thief", false, true, false, false, nil)
			return err
		}, func(a *admin, _ string) error { return a.ch.Cancel("thief", false) }},
		"declared with other arguments": {406, func(a *admin, _ string) error {
			_, err := a.ch.QueueDeclare(queue, true, false, false, false, nil)
			return err
		}, func(a *admin, _ string) error {
			_, err := a.ch.QueueDelete(queue, false, false, false)
			return err
		}},
		"exclusive to another connection": {405, func(a *admin, _ string) error {
			_, err := a.ch.QueueDeclare(queue, false, false, true, false, nil)
			return err
		}, func(a *admin, _ string) error {
			_, err := a.ch.QueueDelete(queue, false, false, false)
			return err
		}},
		"on a node that is down": {404, func(a *admin, vhost string) error {
			if _, err := a.ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
				return err
			}
			return errors.Join(a.ch.Close(), moveToDeadNode(a.t, vhost, queue))
		}, func(a *admin, vhost string) error {
			a.reopen()
			_, err := broker.Eval(fmt.Sprintf(`rabbit_amqqueue:internal_delete(rabbit_misc:r(<<%q>>, queue, <<%q>>), <<"test">>)`, vhost, queue))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vhost := broker.NewVhost(t)
			proxy := testenv.NewProxy(t, broker.Addr())
			a := dialAdmin(t, vhost)
			if err := c.take(a, vhostName(t, vhost)); err != nil {
				t.Fatal(err)
			}
			f := start(t, nil, testenv.Via(vhost, proxy.Addr()))
			f.untilConnected(t)
			if q := f.Status().Queue; !strings.HasPrefix(q, queue+".") {
				t.Fatalf("it uses %s", q)
			}
			if logged := f.logs.FilterField(zap.Int("code", c.code)).Len(); logged != 1 {
				t.Errorf("the refusal (%d) was logged %d times", c.code, logged)
			}
			sender := dialAdmin(t, vhost)
			sender.send(numbered(1, 1)...)
			f.store.untilSeq(t, 1)
			if err := c.free(a, vhostName(t, vhost)); err != nil {
				t.Fatal(err)
			}
			proxy.Cut()
			f.store.untilFence(t, "reconnect", 2)
			if q := f.Status().Queue; q != queue {
				t.Errorf("afterwards it uses %s", q)
			}
			sender.send(numbered(2, 2)...)
			f.store.untilSeq(t, 2)
		})
	}
}

// moveToDeadNode rewrites the broker's record of a queue so that its process
// seems to live on a node that is not there.
func moveToDeadNode(t *testing.T, vhost, queue string) error {
	t.Helper()
	_, err := broker.Eval(fmt.Sprintf(`
		Pid = binary_to_term(<<131,88,119,14,"dead@localhost",0,0,1,0,0,0,0,0,0,0,0,1>>),
		Name = rabbit_misc:r(<<%q>>, queue, <<%q>>),
		rabbit_misc:execute_mnesia_transaction(fun() ->
			[Q] = mnesia:wread({rabbit_durable_queue, Name}),
			mnesia:write(rabbit_durable_queue, amqqueue:set_pid(Q, Pid), write),
			mnesia:delete({rabbit_queue, Name})
		end)`, vhost, queue))
	return err
}

func TestDuplicatesReplaysAndHolesAreNoGaps(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	f := start(t, nil, vhost)
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	all := numbered(1, 20)
	a.send(all[:10]...)        // 1-10
	a.send(all[9], all[9])     // 10 twice again
	a.send(all[3:15]...)       // a relay that starts over from 4
	all[17].Prev = all[14].Seq // 16 and 17 were never used
	a.send(all[17], all[18])   // 18, 19
	a.send(all[0])             // an old one, late
	all[19].Prev = all[18].Seq // 20
	a.send(all[18:]...)        // 19, 20
	f.store.untilSeq(t, 20)
	f.stop()
	if n := f.store.fences["gap"]; n != 1 {
		// 1 then 19: what follows a late message looks like a gap, and costs a fence.
		t.Errorf("%d gaps", n)
	}
	if n := len(f.store.events); n != 10+2+12+2+1+2 {
		t.Errorf("%d evictions", n)
	}
}

func TestForgedNumberDoesNotHideLaterGaps(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	f := start(t, nil, vhost)
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	events := numbered(1, 5)
	forged := event.Event{Seq: 1 << 62, Prev: 0, ID: uuid.New(), Kind: event.Issued, KeyID: "pk_forged", OccurredAt: time.Now()}
	a.send(events[0], forged, events[1], events[4]) // 3 and 4 are lost
	f.store.untilFence(t, "gap", 1)
	f.store.untilSeq(t, 5)
}

func TestFloodOfBadMessagesIsSurvivedAndForgotten(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	f := start(t, nil, vhost)
	f.untilConnected(t)
	a := dialAdmin(t, vhost)
	good, err := event.Encode(numbered(500, 500)[0])
	if err != nil {
		t.Fatal(err)
	}
	oversized := []byte(strings.Repeat("x", 100<<10))
	altered := []byte(strings.Replace(string(good), "pk_500", "pk_another", 1))
	unknown := []byte(strings.Replace(string(good), ".v1", ".v9", 1))
	const rounds = 1250
	for i := range rounds {
		for _, body := range [][]byte{nil, []byte("{"), good[:len(good)-1-i%100], unknown, []byte("\xff\xfe"), good, altered} {
			a.publish(body)
		}
		if i%10 == 0 {
			a.publish(oversized)
		} else {
			a.publish([]byte(`{"specversion":"1.0"}`))
		}
	}
	a.send(numbered(501, 501)...)
	f.store.untilSeq(t, 501)
	f.stop()
	if got := f.value(t, "messages_total", "unreadable"); got != 6*rounds {
		t.Errorf("%v unreadable, want %d", got, 6*rounds)
	}
	if got := f.store.fences["unreadable"]; got != 6*rounds {
		t.Errorf("%d fences asked for", got)
	}
	if n := f.logs.FilterMessage("unreadable message").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
	if n := f.value(t, "reconnects_total"); n != 0 {
		t.Errorf("%v reconnects", n)
	}
	q, err := a.ch.QueueDeclarePassive("keysidecar.q.pod-1", true, false, false, false, nil)
	if err != nil || q.Messages != 0 {
		t.Errorf("left in the queue: %+v, %v", q, err)
	}
}

func TestBrokerStoppedKilledPausedAndBack(t *testing.T) {
	t.Parallel()
	own := testenv.StartRabbitMQ(t)
	f := start(t, nil, own.URL())
	f.untilConnected(t)
	seq, lives := int64(0), 1
	for _, c := range []struct {
		name     string
		do, undo func() error
	}{{"stop", own.Stop, own.Start}, {"kill", own.Kill, own.Start}, {"pause", own.Pause, own.Resume}} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		eventually(t, "the end of the connection after "+c.name, func() bool { return !f.Status().Connected })
		if err := c.undo(); err != nil {
			t.Fatalf("after %s: %v", c.name, err)
		}
		lives++
		begin := time.Now()
		f.store.untilFence(t, "reconnect", lives)
		t.Logf("%s: back %v after the broker was", c.name, time.Since(begin).Round(time.Millisecond))
		seq++
		dialAdmin(t, own.URL()).send(numbered(seq, seq)...)
		f.store.untilSeq(t, seq)
	}
}

func TestWithoutABrokerItWaitsAndStops(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	eventually(t, "a reason to show", func() bool { return f.Status().LastError == rabbit.NotSet })
	f.stop()
	if f.value(t, "reconnects_total") != 0 || len(f.store.fences) != 0 {
		t.Errorf("fences %v", f.store.fences)
	}
}

func TestUnreachableBrokerIsNamedOnceAndLeftAtOnce(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, broker.Addr())
	proxy.Freeze()
	f := start(t, nil, testenv.Via(broker.URL(), proxy.Addr()), "amqp://guest:guest@:x")
	eventually(t, "three attempts", func() bool { return f.Status().LastError != rabbit.None && proxy.Accepted() >= 3 })
	begin := time.Now()
	f.stop()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	if n := f.logs.FilterMessage("broker not reached").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
}

func TestSilentBrokerDoesNotDelayTheEnd(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	proxy := testenv.NewProxy(t, broker.Addr())
	f := prepare(t, nil, testenv.Via(vhost, proxy.Addr()))
	f.dial.RPCTimeout, f.dial.Heartbeat = time.Hour, time.Hour
	f.run(t)
	f.untilConnected(t)
	proxy.Freeze()
	f.QueueBehind() // a request that will have no answer
	eventually(t, "the request", func() bool { return f.value(t, "rebinds_total") == 1 })
	begin := time.Now()
	f.stop()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

func TestUnreadableListOfURLsIsRetried(t *testing.T) {
	t.Parallel()
	vhost := broker.NewVhost(t)
	tries := 0
	f := start(t, func(o *Options) {
		o.URLs = func() ([]string, error) {
			if tries++; tries < 3 {
				return nil, os.ErrNotExist
			}
			return []string{vhost}, nil
		}
	})
	f.untilConnected(t)
}

func TestQueueNamesAreValidAndDistinct(t *testing.T) {
	long := strings.Repeat("n", 300)
	seen := map[string]string{}
	for _, instance := range []string{"pod-1", "pod_1", "a/b", "a b", "a-b", "ü", "\x00", long, long + "x", strings.Repeat("/", 300)} {
		name := queueName("keysidecar.q.", instance)
		if other, ok := seen[name]; ok {
			t.Errorf("%q and %q share %s", instance, other, name)
		}
		seen[name] = instance
		if len(name)+1+2*suffixBytes > maxNameBytes || cleanName(name) != name {
			t.Errorf("%q gives %q of %d bytes", instance, name, len(name))
		}
	}
	if name := queueName("keysidecar.q.", "6f2c6f0e-3f3b"); name != "keysidecar.q.6f2c6f0e-3f3b" {
		t.Errorf("an ordinary name became %q", name)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, harm := range map[string]func(*Options){
		"no instance":       func(o *Options) { o.Instance = "" },
		"no store":          func(o *Options) { o.Store = nil },
		"no exchange":       func(o *Options) { o.Exchange = "" },
		"reserved exchange": func(o *Options) { o.Exchange = "amq.fanout" },
		"reserved queue":    func(o *Options) { o.QueuePrefix = "amq." },
		"prefix too long":   func(o *Options) { o.QueuePrefix = strings.Repeat("p", 200) },
		"blank in prefix":   func(o *Options) { o.QueuePrefix = "a b" },
		"no expiry":         func(o *Options) { o.QueueExpires = 0 },
		"no length":         func(o *Options) { o.QueueMaxLength = 0 },
	} {
		opts := Options{
			URLs: func() ([]string, error) { return nil, nil }, Instance: "i", Exchange: "e", QueuePrefix: "q.", QueueExpires: time.Minute, QueueMaxLength: 1,
			Store: newRecorder(), Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		}
		if _, err := New(opts); err != nil {
			t.Fatalf("the sound options: %v", err)
		}
		opts.Registerer = prometheus.NewRegistry()
		harm(&opts)
		if _, err := New(opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
