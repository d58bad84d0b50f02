package testenv_test

import (
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/keysidecar/keysidecar/internal/testenv"
)

// publish declares a durable queue and confirms one persistent message into it.
func publish(brokerURL string) error {
	return withChannel(brokerURL, func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
			return err
		}
		if err := ch.Confirm(false); err != nil {
			return err
		}
		dc, err := ch.PublishWithDeferredConfirm("", "q", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("x")})
		if err != nil {
			return err
		}
		dc.Wait()
		return nil
	})
}

func messages(brokerURL string) (n int, err error) {
	err = withChannel(brokerURL, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n, err
}

func withChannel(brokerURL string, do func(*amqp.Channel) error) error {
	conn, err := amqp.DialConfig(brokerURL, amqp.Config{Dial: amqp.DefaultDial(2 * time.Second)})
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	return do(ch)
}

func TestRabbitMQStopsKillsPausesAndComesBackWithItsData(t *testing.T) {
	t.Parallel()
	mq := testenv.StartRabbitMQ(t)
	vhost := mq.NewVhost(t)
	for i, s := range []struct {
		name     string
		do, undo func() error
	}{
		{"stop", mq.Stop, mq.Start},
		{"pause", mq.Pause, mq.Resume},
		{"kill", mq.Kill, mq.Start},
	} {
		if err := publish(vhost); err != nil {
			t.Fatalf("before %s: %v", s.name, err)
		}
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if err := publish(vhost); err == nil {
			t.Fatalf("the broker answers after %s", s.name)
		}
		if err := s.undo(); err != nil {
			t.Fatalf("after %s: %v", s.name, err)
		}
		if n, err := messages(vhost); err != nil || n != i+1 {
			t.Fatalf("after %s the queue holds %d messages, %v", s.name, n, err)
		}
	}
	if out, err := mq.Ctl("list_vhosts"); err != nil || !strings.Contains(out, "t_") {
		t.Errorf("rabbitmqctl list_vhosts: %q, %v", out, err)
	}
	if err := publish(mq.URL()); err != nil {
		t.Errorf("the default vhost: %v", err)
	}
	if out, err := mq.Eval(`{badmatch, 1} = 2`); err == nil {
		t.Errorf("a failing expression gave %q", out)
	}
}

func TestNothingOfRabbitMQIsLeftBehindOrOpenToOthers(t *testing.T) {
	t.Parallel()
	mq, err := testenv.StartRabbitMQMain()
	if err != nil {
		t.Fatal(err)
	}
	dir := mq.Dir()
	if len(testenv.ProcessesIn(dir)) == 0 {
		t.Error("the broker's processes are not found")
	}
	u, err := url.Parse(mq.URL())
	if err != nil || u.Hostname() != "127.0.0.1" {
		t.Errorf("URL %v, %v", u, err)
	}
	for _, other := range otherAddresses(t) {
		if conn, err := net.DialTimeout("tcp", net.JoinHostPort(other, u.Port()), time.Second); err == nil {
			conn.Close()
			t.Errorf("the broker listens on %s", other)
		}
	}
	if err := mq.Close(); err != nil {
		t.Fatal(err)
	}
	if left := testenv.ProcessesIn(dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// otherAddresses returns this machine's IPv4 addresses that are not loopback.
func otherAddresses(t *testing.T) (found []string) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			found = append(found, ip.IP.String())
		}
	}
	return found
}
