package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keysidecar/keysidecar/client"
	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/schema/schematest"
	"github.com/keysidecar/keysidecar/internal/testenv"
)

// A revocation in Postgres, and the receipt that a sidecar gives for it.
func TestReceiptOfARevocationIsNotUnderstood(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t)
	dsn := schematest.NewDatabase(t, pg)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO keysidecar.owners VALUES ('m_1')`)
	exec(`INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) VALUES ('pk_1', 'm_1', 'opaque'), ('pk_2', 'm_1', 'opaque')`)
	c, _, stop, err := realSidecar(func(c *config.Config) {
		c.Store.Kind, c.Store.Postgres.DSN, c.Store.File.Path = config.StorePostgres, dsn, ""
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	sidecar := (&target{address: "unix://" + c.Listen.Socket.Path}).client(t)

	if _, err := sidecar.Lookup(t.Context(), "pk_1"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"pk_1", "pk_none"} {
		if _, err := sidecar.Wait(t.Context(), id, time.Second); !errors.Is(err, client.ErrNoEvent) {
			t.Errorf("%s, which was never revoked: %v", id, err)
		}
	}
	exec(`UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = 'pk_1'`)
	r, err := sidecar.Wait(t.Context(), "pk_1", 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Complete || r.Kind != "revoked" || r.KeyID != "pk_1" || r.OwnerID != "m_1" || r.EventID == "" || r.Superseded || r.OccurredAt.IsZero() ||
		!slices.Equal(r.Acknowledged.Names, []string{"test"}) || r.Awaited.Count != 0 || r.Left != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := sidecar.Lookup(t.Context(), "pk_1"); !errors.Is(err, client.ErrRevoked) {
		t.Errorf("after the receipt: %v", err)
	}
}

func receiptJSON(complete bool, more string) string {
	text := fmt.Sprintf(`{"complete":%v,"seq":7,"event_id":"e","kind":"revoked","key_id":"pk_live","superseded":false,"actor":"a","occurred_at":"2026-11-21T10:15:30.123Z",`+
		`"acknowledged":{"count":0,"names":[]},"expired":{"count":0,"names":[]},"awaited":{"count":%d,"names":[]},"elapsed_ms":1,"left_ms":2}`, complete, map[bool]int{false: 2}[complete])
	if more != "" {
		from, to, _ := strings.Cut(more, "=>")
		text = strings.Replace(text, from, to, 1)
	}
	return text
}

func TestHostileReceiptIsBelieved(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer string
		want   error
	}{
		"not complete":          {httpAnswer(202, jsonType, receiptJSON(false, "")), client.ErrPending},
		"complete with 202":     {httpAnswer(202, jsonType, receiptJSON(true, "")), client.ErrUnavailable},
		"not complete with 200": {httpAnswer(200, jsonType, receiptJSON(false, "")), client.ErrUnavailable},
		"somebody is awaited":   {httpAnswer(200, jsonType, receiptJSON(true, `"awaited":{"count":0=>"awaited":{"count":1`)), client.ErrUnavailable},
		"another key":           {httpAnswer(200, jsonType, receiptJSON(true, `pk_live=>pk_other`)), client.ErrUnavailable},
		"no key":                {httpAnswer(200, jsonType, receiptJSON(true, `"key_id":"pk_live",=>`)), client.ErrUnavailable},
		"no event":              {httpAnswer(200, jsonType, receiptJSON(true, `"event_id":"e",=>`)), client.ErrUnavailable},
		"says nothing":          {httpAnswer(200, jsonType, receiptJSON(true, `"complete":true,=>`)), client.ErrUnavailable},
		"a verdict":             {httpAnswer(200, jsonType, good), client.ErrUnavailable},
		"garbage":               {httpAnswer(200, jsonType, `{"complete":true`), client.ErrUnavailable},
		"HTML":                  {httpAnswer(200, "text/html", receiptJSON(true, "")), client.ErrUnavailable},
		"no such event":         {problem(404, "no_event"), client.ErrNoEvent},
		"no such route":         {problem(404, "no_such_route"), client.ErrUnavailable},
		"lost":                  {problem(409, "event_lost"), client.ErrEventLost},
		"too many":              {problem(429, "too_many_waits"), client.ErrUnavailable},
		"no registry":           {problem(501, "no_registry"), client.ErrNoRegistry},
		"unavailable":           {problem(503, "unavailable"), client.ErrUnavailable},
		"a bad wait":            {problem(400, "bad_wait"), client.ErrBadQuestion},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scripted(t, func(_ int, c net.Conn, read func() bool) {
				if read() {
					_, _ = io.WriteString(c, tt.answer)
				}
			})
			r, err := s.client(t, client.Options{}).Wait(t.Context(), "pk_live", time.Second)
			if r != nil || !errors.Is(err, tt.want) {
				t.Errorf("%v %v", r, err)
			}
			var p *client.PendingError
			if errors.As(err, &p) && (p.Receipt.Awaited.Count != 2 || p.Receipt.Left != 2*time.Millisecond) {
				t.Errorf("%+v", p)
			}
			if _, requests := s.counts(); requests != 1 {
				t.Errorf("%d requests", requests)
			}
		})
	}
	for _, kind := range []string{"reset", "owner_changed"} { // which are of no one key
		s := scripted(t, func(_ int, c net.Conn, read func() bool) {
			read()
			_, _ = io.WriteString(c, httpAnswer(200, jsonType, strings.Replace(receiptJSON(true, `"key_id":"pk_live",=>`), "revoked", kind, 1)))
		})
		if r, err := s.client(t, client.Options{}).Wait(t.Context(), "pk_live", 0); err != nil || r.Kind != kind {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// The sidecar lets one request wait 30 s at most.
func TestLongWaitIsRefused(t *testing.T) {
	t.Parallel()
	var asked []string
	address := serveUnix(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.RequestURI)
		w.Header().Set("Content-Type", jsonType)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, receiptJSON(false, ""))
	}))
	c := (&target{address: address}).client(t)
	_, err := c.Wait(t.Context(), "pk_live", 65*time.Second+500*time.Microsecond)
	if want := []string{"30000ms", "30000ms", "5000ms"}; !errors.Is(err, client.ErrPending) || len(asked) != len(want) {
		t.Errorf("%v %v", asked, err)
	} else {
		for i := range want {
			if asked[i] != "/v1/receipts/pk_live?wait="+want[i] {
				t.Errorf("%v", asked)
			}
		}
	}
	asked = nil
	if _, err := c.Wait(t.Context(), "pk_live", 0); !errors.Is(err, client.ErrPending) || !slices.Equal(asked, []string{"/v1/receipts/pk_live"}) {
		t.Errorf("%v %v", asked, err)
	}
}
