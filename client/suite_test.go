package client_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keysidecar/keysidecar/client"
)

// The same questions to the daemon over both transports and to the fake that other
// tests are built on: where they differ, one of them is wrong.
func TestAnswersAreMisread(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *target{
		"daemon over a socket":   func(t testing.TB) *target { return startReal(t, false) },
		"daemon over a loopback": func(t testing.TB) *target { return startReal(t, true) },
		"fake":                   startFake,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			c := s.client(t)
			t.Run("key", func(t *testing.T) { keyIsReadWhole(t, c) })
			t.Run("refusals", func(t *testing.T) { refusalsHaveTheirReason(t, c) })
			t.Run("checks", func(t *testing.T) { checksAreAsked(t, c) })
			t.Run("secret", func(t *testing.T) { secretsAreAsked(t, c) })
			t.Run("batch", func(t *testing.T) { batchKeepsItsOrder(t, c) })
			t.Run("bounds", func(t *testing.T) { boundsAreAsked(t, c) })
			s.change(revoked(sampleKeys(), "pk_live"))
			if _, err := c.Within(client.Bounds{NoCache: true}).Lookup(t.Context(), "pk_live"); !errors.Is(err, client.ErrRevoked) {
				t.Errorf("a revoked key: %v", err)
			}
			s.silence()
			t.Run("unavailable", func(t *testing.T) { cannotTell(t, c) })
		})
	}
}

func keyIsReadWhole(t *testing.T, c *client.Client) {
	for name, ask := range askers(c) {
		k, err := ask(t.Context(), "pk_live")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		public, err := k.Public()
		if err != nil || len(public.(ed25519.PublicKey)) != 32 {
			t.Errorf("%s: the public key: %v %v", name, public, err)
		}
		if k.ID != "pk_live" || k.OwnerID != "m_1" || k.Algorithm != "ed25519" || !slices.Equal(k.Scopes, []string{"pay", "refund"}) ||
			!k.NotBefore.IsZero() || k.ExpiresAt.Year() != 2100 || string(k.Attributes) != `{"env":"live"}` || k.AsOf.History == "" || k.Source == "" {
			t.Errorf("%s: %+v", name, k)
		}
		if !k.HasScopes("refund", "pay") || k.HasScopes("pay", "read") {
			t.Errorf("%s: scopes", name)
		}
		k, err = ask(t.Context(), oddID)
		if err != nil || k.ID != oddID || k.OwnerID != `Ünï "q" <b>` || k.PublicKey != nil || len(k.Scopes) != 0 {
			t.Fatalf("%s: an odd key: %+v %v", name, k, err)
		}
		if _, err := k.Public(); !errors.Is(err, client.ErrOpaque) {
			t.Errorf("%s: an opaque key: %v", name, err)
		}
	}
}

// askers are the three ways to ask for one key.
func askers(c *client.Client) map[string]func(context.Context, string) (*client.Key, error) {
	return map[string]func(context.Context, string) (*client.Key, error){
		"Lookup": c.Lookup,
		"Verify": func(ctx context.Context, id string) (*client.Key, error) {
			return c.Verify(ctx, client.Question{KeyID: id})
		},
		"VerifyBatch": func(ctx context.Context, id string) (*client.Key, error) {
			results, err := c.VerifyBatch(ctx, []client.Question{{KeyID: id}})
			if err != nil {
				return nil, err
			}
			return results[0].Key()
		},
	}
}

// mustBe fails unless err is exactly one kind of error, and no key comes with it.
func mustBe(t *testing.T, what string, k *client.Key, err, kind error) {
	t.Helper()
	if k != nil {
		t.Errorf("%s: a key comes with the error %v", what, err)
	}
	for _, other := range []error{client.ErrRefused, client.ErrUnavailable, client.ErrBadQuestion} {
		if errors.Is(err, other) != errors.Is(kind, other) {
			t.Errorf("%s: %v (%T), want only %v", what, err, err, kind)
		}
	}
}

func refusalsHaveTheirReason(t *testing.T, c *client.Client) {
	for id, code := range map[string]client.Code{
		"pk_none": client.CodeUnknownKey, "pk_revoked": client.CodeRevoked, "pk_expired": client.CodeExpired,
		"pk_future": client.CodeNotYetValid, "pk_suspended": client.CodeOwnerSuspended,
	} {
		for name, ask := range askers(c) {
			k, err := ask(t.Context(), id)
			mustBe(t, name+" "+id, k, err, client.ErrRefused)
			var refused *client.RefusedError
			if !errors.As(err, &refused) || refused.Code != code || refused.KeyID != id || refused.AsOf.History == "" {
				t.Errorf("%s %s: %+v", name, id, refused)
			}
			if errors.Is(err, client.ErrRevoked) != (code == client.CodeRevoked) || errors.Is(err, client.ErrUnknownKey) != (code == client.CodeUnknownKey) || errors.Is(err, client.ErrMalformedKey) {
				t.Errorf("%s %s: %v", name, id, err)
			}
		}
	}
}

func checksAreAsked(t *testing.T, c *client.Client) {
	for code, q := range map[client.Code]client.Question{
		"":                           {OwnerID: "m_1", Scopes: []string{"refund", "pay"}, Attributes: map[string]any{"env": "live"}},
		client.CodeOwnerMismatch:     {OwnerID: "m_2"},
		client.CodeScopeMissing:      {Scopes: []string{"pay", "<admin> & \u2028 \"x\""}},
		client.CodeAttributeMismatch: {Attributes: map[string]any{"env": "test"}},
	} {
		q.KeyID = "pk_live"
		k, err := c.Verify(t.Context(), q)
		var refused *client.RefusedError
		switch {
		case code == "" && (err != nil || k.ID != "pk_live"):
			t.Errorf("all checks pass: %v", err)
		case code != "" && (!errors.As(err, &refused) || refused.Code != code || k != nil):
			t.Errorf("%s: %v %v", code, k, err)
		}
	}
}

func secretsAreAsked(t *testing.T, c *client.Client) {
	k, err := c.Verify(t.Context(), client.Question{Secret: secret, Scopes: []string{"read"}})
	if err != nil || k.ID != secretID {
		t.Errorf("%+v %v", k, err)
	}
	_, err = c.Verify(t.Context(), client.Question{Secret: secret + "x"})
	if !errors.Is(err, client.ErrUnknownKey) || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
		t.Errorf("another secret: %#v", err)
	}
}

func batchKeepsItsOrder(t *testing.T, c *client.Client) {
	var questions []client.Question
	var want []error
	for i := range client.MaxBatch {
		switch i % 5 {
		case 0:
			questions, want = append(questions, client.Question{KeyID: "pk_live"}), append(want, nil)
		case 1:
			questions, want = append(questions, client.Question{KeyID: "pk_revoked"}), append(want, client.ErrRevoked)
		case 2: // never sent, and moves nobody else's result
			questions, want = append(questions, client.Question{KeyID: "../status"}), append(want, client.ErrMalformedKey)
		case 3:
			questions, want = append(questions, client.Question{Secret: secret}), append(want, nil)
		case 4:
			questions, want = append(questions, client.Question{KeyID: "pk_live", Scopes: []string{}}), append(want, client.ErrBadQuestion)
		}
	}
	results, err := c.VerifyBatch(t.Context(), questions)
	if err != nil || len(results) != len(questions) {
		t.Fatalf("%d results: %v", len(results), err)
	}
	for i, r := range results {
		k, err := r.Key()
		switch {
		case want[i] == nil && (err != nil || k.ID != "pk_live" && k.ID != secretID || (k.ID == secretID) != (i%5 == 3)):
			t.Fatalf("%d: %+v %v", i, k, err)
		case want[i] != nil && (k != nil || !errors.Is(err, want[i])):
			t.Fatalf("%d: %+v %v, want %v", i, k, err, want[i])
		}
	}
	_, err = c.VerifyBatch(t.Context(), append(questions, client.Question{KeyID: "a"}))
	mustBe(t, "one too many", nil, err, client.ErrBadQuestion)
	for _, none := range [][]client.Question{nil, {{KeyID: "a/b"}}} {
		if results, err := c.VerifyBatch(t.Context(), none); err != nil || len(results) != len(none) {
			t.Errorf("nothing to send: %v %v", results, err)
		}
	}
}

func boundsAreAsked(t *testing.T, c *client.Client) {
	for _, b := range []client.Bounds{{}, {NoCache: true}, {MaxAge: 500 * time.Millisecond}, {MaxAge: 1500 * time.Millisecond}, {MaxAge: -1}, {OnlyIfCached: true}, {MaxAge: time.Minute, OnlyIfCached: true}} {
		if _, err := c.Within(b).Lookup(t.Context(), "pk_live"); err != nil {
			t.Errorf("%+v: %v", b, err)
		}
	}
}

func cannotTell(t *testing.T, c *client.Client) {
	// What is in memory may be told until the lease is over.
	eventually(t, "nobody can tell", func() bool {
		_, err := c.Lookup(t.Context(), oddID)
		return errors.Is(err, client.ErrUnavailable)
	})
	for name, ask := range askers(c) {
		for _, id := range []string{"pk_live", "pk_revoked", "pk_none"} {
			k, err := ask(t.Context(), id)
			mustBe(t, name+" "+id, k, err, client.ErrUnavailable)
			var u *client.UnavailableError
			if !errors.As(err, &u) || u.Code != "unavailable" {
				t.Errorf("%s %s: %#v", name, id, err)
			}
		}
	}
}
