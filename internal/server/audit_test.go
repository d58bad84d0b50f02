package server

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

const audit = "POST /v1/audit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"

func TestAuditReportIsNotToldAsItIs(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) {
		f.report = keystore.AuditReport{
			Compared: 7, Newer: 2, Unclaimed: 1, Complete: true, Listed: 9,
			Differences: map[keystore.Difference]int{keystore.DiffRevoked: 2},
			Keys:        []keystore.AuditedDifference{{KeyID: "pk_1", Kind: keystore.DiffRevoked}},
			OldestEntry: time.Minute, LeaseAge: time.Second, Duration: 3 * time.Second,
		}
	})
	a := s.do("POST", "/v1/audit", "")
	want := `{"differences":2,"kinds":{"revoked":2},"keys":[{"key_id":"pk_1","kind":"revoked"}],"compared":7,"newer":2,"unclaimed":1,` +
		`"complete":true,"listed":9,"oldest_entry_ms":60000,"lease_age_ms":1000,"duration_ms":3000}`
	if a.status != 200 || string(a.body) != want {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for problem, tt := range map[string]struct {
		err    error
		status int
	}{"audit_running": {keystore.ErrAuditRunning, 409}, "unavailable": {keystore.ErrAuditUnavailable, 503}} {
		s.keys.set(func(f *fakeKeys) { f.auditError = tt.err })
		if a := s.do("POST", "/v1/audit", ""); a.status != tt.status || a.json(t)["code"] != problem {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func TestAuditGoesOnWithoutItsClient(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.keys.set(func(f *fakeKeys) { f.hang = true })
			address := s.path
			if network == "tcp" {
				address = s.data.TCPAddr().String()
			}
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, audit); err != nil {
				t.Fatal(err)
			}
			<-s.keys.entered
			_ = c.Close()
			eventually(t, "the audit ends", func() bool {
				s.keys.mu.Lock()
				defer s.keys.mu.Unlock()
				return s.keys.auditsEnded == 1
			})
		})
	}
}

func TestAuditKeepsTheDaemonFromStopping(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.keys.set(func(f *fakeKeys) { f.hang = true })
	if _, err := io.WriteString(s.dial(), audit); err != nil {
		t.Fatal(err)
	}
	<-s.keys.entered
	began := time.Now()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > graceTime {
		t.Errorf("stopping took %v", took)
	}
}
