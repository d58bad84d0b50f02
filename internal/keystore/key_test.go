package keystore

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPackingLosesAPart(t *testing.T) {
	text := rapid.StringMatching(`[a-z0-9]{1,40}`)
	maybe := func(t *rapid.T, name string) time.Time {
		if !rapid.Bool().Draw(t, name+" set") {
			return time.Time{}
		}
		return time.UnixMicro(rapid.Int64Range(-1<<50, 1<<50).Draw(t, name)).UTC()
	}
	rapid.Check(t, func(t *rapid.T) {
		k := Key{
			ID: text.Draw(t, "id"), OwnerID: text.Draw(t, "owner"), Algorithm: text.Draw(t, "algorithm"),
			NotBefore: maybe(t, "not before"), ExpiresAt: maybe(t, "expires at"), Revoked: rapid.Bool().Draw(t, "revoked"),
			Attributes: rapid.SampledFrom([]string{"", `{"a":1}`}).Draw(t, "attributes"),
		}
		if rapid.Bool().Draw(t, "has key") {
			k.PublicKey = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "public key")
		}
		if n := rapid.IntRange(0, MaxScopes).Draw(t, "scopes"); n > 0 {
			k.Scopes = rapid.SliceOfN(text, n, n).Draw(t, "scope")
		}
		r := NewRecord(&k)
		if got := r.Key(); !reflect.DeepEqual(got, k) {
			t.Fatalf("packed %+v, got %+v", k, got)
		}
		for _, s := range k.Scopes {
			if !r.HasScope(s) {
				t.Fatalf("scope %q is gone", s)
			}
		}
		if r.HasScope("not there!") {
			t.Fatal("a scope nobody gave")
		}
		if back := r.filled(); back != 0 {
			t.Fatalf("filled at %v", back)
		}
	})
}

func TestKeyIDsThatPathsOrLogsWouldMangleAreAccepted(t *testing.T) {
	for _, id := range []string{"", ".", "..", "a/b", "a b", "a?b", "a%2Fb", "a\x00", "ä", "a#b", "a\n", string(make([]byte, 257))} {
		if CheckKeyID(id) == nil {
			t.Errorf("%q is accepted", id)
		}
	}
	for _, id := range []string{"a", "pk_live_1", "...", "a.b~c+d=e:f-g_H", "sha256:-_=", string(make256())} {
		if err := CheckKeyID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func make256() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestSecretsHashDependsOnThePepper(t *testing.T) {
	// SHA-256("abc") and HMAC-SHA-256(key "Jefe", "what do ya want for nothing?"), RFC 4231, 4.3.
	if got := HashSecret(nil, []byte("abc")); got != "sha256:ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0" {
		t.Error(got)
	}
	if got := HashSecret([]byte("Jefe"), []byte("what do ya want for nothing?")); got != "sha256:W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM" {
		t.Error(got)
	}
}
