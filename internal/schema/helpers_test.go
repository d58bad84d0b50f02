package schema_test

import (
	"testing"
)

func TestHelpersTellWhetherSomethingChanged(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	tell := func(call string) string {
		return one[string](s, `SELECT coalesce((keysidecar.`+call+`)::text, 'null')`)
	}
	for _, c := range []struct {
		call, want string
		events     []string
	}{
		{`revoke_key('a', 'leaked')`, "true", []string{"revoked a m_1"}},
		{`revoke_key('a', 'again')`, "false", nil},
		{`revoke_key('nope')`, "null", nil},
		{`revoke_key(NULL)`, "null", nil},
		{`suspend_owner('m_1')`, "true", []string{"owner_changed - m_1"}},
		{`suspend_owner('m_1')`, "false", nil},
		{`suspend_owner('nope')`, "null", nil},
		{`reactivate_owner('m_1')`, "true", []string{"owner_changed - m_1"}},
		{`reactivate_owner('m_1')`, "false", nil},
		{`reactivate_owner('nope')`, "null", nil},
	} {
		head := s.head()
		if got := tell(c.call); got != c.want {
			t.Errorf("%s: %s, want %s", c.call, got, c.want)
		}
		s.wantSince(head, c.events...)
	}
	if reason := one[string](s, `SELECT revoked_reason FROM keysidecar.public_keys WHERE key_id = 'a'`); reason != "leaked" {
		t.Errorf("reason %q", reason)
	}
}

// Two who revoke at once must not both be told that it was done before, while it
// was not.
func TestHelpersWaitForEachOther(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.do(cast)
	other, watcher := s.another(), s.another()
	s.do(`BEGIN; SELECT keysidecar.revoke_key('a')`)
	told := make(chan bool, 1)
	pid := other.PgConn().PID()
	go func() { told <- one[bool](other, `SELECT keysidecar.revoke_key('a')`) }()
	eventually(t, "the second waits", func() bool {
		return one[bool](watcher, `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)`, pid)
	})
	s.do(`ROLLBACK`)
	if !<-told {
		t.Error("told that the key had been revoked, by a transaction that was rolled back")
	}
}
