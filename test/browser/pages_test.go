package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/keysidecar/keysidecar/internal/event"
	"github.com/keysidecar/keysidecar/test/cluster"
)

// site is a small fleet.
type site struct {
	t        *testing.T
	c        *cluster.Cluster
	relays   []*cluster.Relay
	sidecars []*cluster.Sidecar
	revoked  int
}

const keys = 500

func newSite(t *testing.T, ctx context.Context) *site {
	t.Helper()
	bin, err := cluster.Build(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(ctx, bin)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, c: c}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	s.exec(ctx, "INSERT INTO keysidecar.owners (owner_id) VALUES ('m_1')")
	s.exec(ctx, "INSERT INTO keysidecar.public_keys (key_id, owner_id, algorithm) SELECT 'pk_live_' || i, 'm_1', 'opaque' FROM generate_series(1, $1::int) i", keys)
	for _, name := range []string{"relay-58f7-k2qzx", "relay-58f7-w8d4m"} {
		r, err := c.Relay(name)
		if err != nil {
			t.Fatal(err)
		}
		s.relays = append(s.relays, r)
	}
	for _, name := range []string{"checkout-7f9c6d5b4-x2v1q", "checkout-7f9c6d5b4-m8lzp", "payouts-66c4b8-h5tkn", "webhooks-5d8f-2c9rw"} {
		sidecar, err := c.Sidecar(name, "KEYSIDECAR_CACHE_CAPACITY=1000")
		if err != nil {
			t.Fatal(err)
		}
		s.sidecars = append(s.sidecars, sidecar)
	}
	for _, sidecar := range s.sidecars {
		if err := sidecar.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) exec(ctx context.Context, sql string, args ...any) {
	s.t.Helper()
	if _, err := s.c.Exec(ctx, sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// revoke revokes the next key and returns it.
func (s *site) revoke(ctx context.Context) string {
	s.t.Helper()
	s.revoked++
	key := fmt.Sprintf("pk_live_%d", s.revoked)
	s.exec(ctx, "UPDATE keysidecar.public_keys SET revoked_at = now() WHERE key_id = $1", key)
	return key
}

// ask looks n keys up.
func (s *site) ask(ctx context.Context, n int) {
	s.t.Helper()
	for i := range n {
		for _, sidecar := range s.sidecars {
			if !sidecar.Running() {
				continue
			}
			if _, err := sidecar.Get(ctx, fmt.Sprintf("pk_live_%d", 100+i%300)); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// leader returns the address of the relay that leads, and of one that does not.
func (s *site) leader(ctx context.Context) (leads, standsBy string) {
	s.t.Helper()
	for ctx.Err() == nil {
		for i, r := range s.relays {
			if v, err := r.Metric(ctx, "keysidecar_relay_leader"); err == nil && v == 1 {
				return r.Admin, s.relays[1-i].Admin
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatal("no relay leads")
	return "", ""
}

func page(admin string) string { return "http://" + admin + "/statusz" }

// views are how people look at a page.
var views = []struct {
	width  int64
	scheme string
}{{400, "light"}, {400, "dark"}, {1200, "light"}, {1200, "dark"}}

// pictures is the folder for screenshots, from the root of the repository; empty for
// none.
func pictures() string { return os.Getenv("SCREENSHOTS") }

// shoot takes a picture if they are wanted.
func (p *tab) shoot(name string) {
	p.t.Helper()
	if pictures() == "" {
		return
	}
	picture, err := smaller(get(p, chromedp.FullScreenshot(100)))
	if err == nil {
		err = os.WriteFile(filepath.Join(pictures(), "status-"+name+".png"), picture, 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// What people see must be whole, at any width and in any light, follow what happens
// without being loaded again, and say in words what is wrong.
func TestStatusPagesDoNotShowWhatHappens(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	t.Chdir("../..") // the program is built there, by its own go.mod
	browser := startBrowser(t)
	s := newSite(t, ctx)
	if pictures() != "" {
		s.live(ctx)
	}
	leads, standsBy := s.leader(ctx)
	s.ask(ctx, 20)
	for range 4 {
		s.revoke(ctx)
	}
	s.exec(ctx, "UPDATE keysidecar.owners SET suspended_at = now() WHERE owner_id = 'm_1'")
	s.exec(ctx, "UPDATE keysidecar.owners SET suspended_at = NULL WHERE owner_id = 'm_1'")
	if _, status, err := s.sidecars[0].Receipt(ctx, s.revoke(ctx), 3*time.Second); err != nil || status != 200 {
		t.Fatalf("receipt: %d %v", status, err)
	}
	sidecar := page(s.sidecars[0].Admin)

	for _, v := range views {
		name := fmt.Sprintf("%d-%s", v.width, v.scheme)
		p := open(t, browser, sidecar, v.width, v.scheme)
		p.until("state", "Fresh")
		p.until("connections", "connected")
		p.until("changes", "Key revoked")
		p.until("receipts", "complete")
		p.until("freshness", "5 min ago")
		p.fits()
		p.shoot("sidecar-" + name)
		p.content()
		p.close()

		f := open(t, browser, page(leads), v.width, v.scheme)
		f.until("state", "All sidecars follow")
		f.until("leadership", "leads")
		f.until("instances", s.sidecars[3].Name)
		f.until("changes", "all 4")
		f.fits()
		f.shoot("fleet-" + name)
		f.content()
		f.close()
	}

	p := open(t, browser, sidecar, 400, "light")
	f := open(t, browser, page(leads), 1200, "dark")
	b := open(t, browser, page(standsBy), 400, "dark")
	for _, tab := range []*tab{p, f, b} {
		eval[int](tab, "window.sameDocument = 1")
	}
	b.until("leadership", "stands by")
	b.fits()

	// A key is revoked while somebody looks.
	hash := event.Pseudonym(s.revoke(ctx))
	p.until("changes", hash)
	p.until("changes", "queue")
	f.until("changes", hash)
	b.until("changes", hash)

	// Somebody types a name: what is typed stays while the page follows.
	f.do(chromedp.SendKeys(chromedp.ID("q"), "payouts"))
	hash = event.Pseudonym(s.revoke(ctx))
	f.until("changes", hash)
	if typed := eval[string](f, "document.getElementById('q').value"); typed != "payouts" {
		t.Errorf("what was typed has become %q", typed)
	}
	for _, tab := range []*tab{p, f, b} {
		if eval[int](tab, "window.sameDocument || 0") != 1 {
			t.Errorf("%s was loaded again", tab.url)
		}
		tab.content()
	}
	f.do(chromedp.Submit(chromedp.ID("q")))
	f.until("instances", "payouts-66c4b8-h5tkn")
	if list := eval[string](f, "document.getElementById('instances').textContent"); len(list) == 0 || containsAny(list, "checkout", "webhooks") {
		t.Errorf("searching finds: %s", list)
	}
	f.content()

	// A sidecar stops where it stands.
	if err := s.sidecars[3].Pause(); err != nil {
		t.Fatal(err)
	}
	s.revoke(ctx)
	f.close()
	f = open(t, browser, page(leads), 1200, "light")
	f.until("changes", "3 of 4")
	f.until("state", "1 sidecar is behind")
	f.until("notes", "KeysidecarSidecarsBehind")
	f.fits()
	f.shoot("fleet-behind")
	if err := s.sidecars[3].Resume(); err != nil {
		t.Fatal(err)
	}
	f.until("state", "All sidecars follow")
	f.content()

	// Postgres stops where it stands, and the pages say so.
	if err := s.c.PG.Pause(); err != nil {
		t.Fatal(err)
	}
	p.until("state", "Unavailable")
	p.until("notes", "KeysidecarFreshnessLapsed")
	p.fits()
	p.resize(1200)
	p.shoot("unavailable")
	f.until("state", "No database")
	f.until("notes", "KeysidecarNoLeader")
	f.fits()
	if err := s.c.PG.Resume(); err != nil {
		t.Fatal(err)
	}
	p.until("state", "Fresh")
	f.until("state", "All sidecars follow")
	p.content()
	f.content()

	// Nobody leads.
	for _, r := range s.relays {
		if r.Admin == leads {
			p.ignoreFromNow()
			f.ignoreFromNow()
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.until("lost", "No answer since")
	b.until("leadership", "leads")
	b.content()
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// live lets some minutes pass as they do, so that charts have something to show: keys
// are asked for and revoked, and once Postgres does not answer for a while.
func (s *site) live(ctx context.Context) {
	s.t.Helper()
	begun := time.Now()
	paused := false
	for next := 15 * time.Second; time.Since(begun) < 5*time.Minute; {
		s.ask(ctx, 5)
		if time.Since(begun) > next {
			next += 25 * time.Second
			s.revoke(ctx)
		}
		if !paused && time.Since(begun) > 3*time.Minute {
			paused = true
			if err := s.c.PG.Pause(); err != nil {
				s.t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			if err := s.c.PG.Resume(); err != nil {
				s.t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}
