package keystore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rsa512 is a key that nobody should use.
const rsa512 = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALKRURlCnWj2yr1jA2gpHfK/CmdfIM0/QagagvAgO31/5IXXbwsqDCLdIQCeVQa32pxsRg1lc1NLlg8xZLcoRuMCAwEAAQ=="

const goodFile = `# head comment
owners:
  - owner_id: m1 # the first
keys:
  # about k0
  - key_id: k0
    owner_id: m1
    algorithm: ed25519
    public_key: MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
    scopes: [pay]
    attributes: {env: live}
  - key_id: k1
    owner_id: m1
    algorithm: opaque
`

func keyFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// put writes the file anew under the name, at once or in place.
func overwrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fileBench(t *testing.T, path string, change ...func(*Options)) *bench {
	t.Helper()
	f, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return build(t, f, change...).warm()
}

// A key file may be replaced at any moment, so also while it is being read.
func TestFileReplacedWhileItIsReadFailsTheFence(t *testing.T) {
	path := keyFile(t, goodFile)
	f, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace := func() {
		next := keyFile(t, strings.ReplaceAll(goodFile, "k1", "k2"))
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	replacements := 1
	f.load = func(path string) (*KeyFile, error) {
		kf, err := LoadKeyFile(path)
		if replacements > 0 {
			replacements--
			replace()
		}
		return kf, err
	}
	replace()
	if err := f.refresh(); err != nil {
		t.Fatal(err)
	}
	if f.index.keys["k2"] == nil || f.index.keys["k1"] != nil {
		t.Errorf("%d keys", len(f.index.keys))
	}
	replace()
	replacements = 100
	if err := f.refresh(); !errors.Is(err, errFileChanged) {
		t.Errorf("a file that changes without end: %v", err)
	}
}

func TestKeyFileMistakesAreNotNamed(t *testing.T) {
	for name, tc := range map[string]struct{ content, want string }{
		"empty":               {"", "keys: []"},
		"no keys":             {"owners: []", `"keys"`},
		"half written":        {goodFile[:len(goodFile)-30], "line"},
		"not YAML":            {"keys: [", "line"},
		"unknown member":      {"keys:\n  - key_id: a\n    ownerId: m\n", "ownerId"},
		"twice":               {goodFile + "  - key_id: k1\n    owner_id: m1\n    algorithm: x\n", "twice"},
		"bad id":              {"keys:\n  - key_id: a/b\n    owner_id: m\n    algorithm: x\n", "key_id"},
		"no owner":            {"keys:\n  - key_id: a\n    algorithm: x\n", "owner_id"},
		"no algorithm":        {"keys:\n  - key_id: a\n    owner_id: m\n", "algorithm"},
		"bad base64":          {"keys:\n  - key_id: a\n    owner_id: m\n    algorithm: x\n    public_key: '%%'\n", "base64"},
		"not SPKI":            {"keys:\n  - key_id: a\n    owner_id: m\n    algorithm: x\n    public_key: AAAA\n", "SubjectPublicKeyInfo"},
		"weak key":            {"keys:\n  - key_id: a\n    owner_id: m\n    algorithm: rsa\n    public_key: " + rsa512 + "\n", "at least 2048"},
		"other algorithm":     {"keys:\n  - key_id: a\n    owner_id: m\n    algorithm: RS256\n    public_key: MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n", "one for ed25519"},
		"bad time":            {"keys:\n  - key_id: a\n    owner_id: m\n    algorithm: x\n    expires_at: soon\n", "soon"},
		"two documents":       {goodFile + "---\nkeys: []\n", "more than one"},
		"a private JWK":       {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}`, "PRIVATE key"},
		"a JWK without a kid": {`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, "key_id"},
	} {
		if _, err := ParseKeyFile([]byte(tc.content)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want it to name %q", name, err, tc.want)
		}
	}
}

func TestJWKSIsRefused(t *testing.T) {
	b := fileBench(t, keyFile(t, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","owner_id":"m7"},
		{"kty":"EC","crv":"P-256","kid":"b","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	if a := b.expect("a", Active); a.Record.OwnerID() != "m7" || a.Record.Algorithm() != "ed25519" {
		t.Fatalf("%+v", a.Record.Key())
	}
	if a := b.expect("b", Active); a.Record.OwnerID() != "default" || a.Record.Algorithm() != "ecdsa-p256" {
		t.Fatalf("%+v", a.Record.Key())
	}
}

func TestFileFaultEndsInAnythingButTheLease(t *testing.T) {
	for name, hit := range map[string]func(t *testing.T, path string){
		"broken":             func(t *testing.T, path string) { overwrite(t, path, "keys: [") },
		"half written":       func(t *testing.T, path string) { overwrite(t, path, goodFile[:len(goodFile)-30]) },
		"removed":            func(t *testing.T, path string) { mustDo(t, os.Remove(path)) },
		"writable by others": func(t *testing.T, path string) { mustDo(t, os.Chmod(path, 0o666)) },
		"a directory": func(t *testing.T, path string) {
			mustDo(t, os.Remove(path))
			mustDo(t, os.Mkdir(path, 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := keyFile(t, goodFile)
			b := fileBench(t, path)
			b.expect("k0", Active)
			hit(t, path)
			b.expect("k0", Active) // the last good list, until the lease is over
			b.lapse("file")
			b.expect("k0", Unavailable)
			b.expect("nobody", Unavailable)
			mustDo(t, os.RemoveAll(path))
			overwrite(t, path, goodFile)
			b.fenced()
			b.expect("k0", Active)
		})
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFileReplacedByRenameIsMissed(t *testing.T) {
	path := keyFile(t, goodFile)
	b := fileBench(t, path, func(o *Options) { o.FenceInterval = 2 * time.Second })
	b.expect("k1", Active)
	next := path + ".next"
	overwrite(t, next, strings.Replace(goodFile, "algorithm: opaque", "algorithm: opaque\n    revoked_at: 2026-01-01T00:00:00Z", 1))
	mustDo(t, os.Rename(next, path))
	eventually(t, "the watch tells", func() bool {
		a, err := b.store.Lookup(context.Background(), "k1", Bounds{})
		return err == nil && a.Code == Revoked
	})
}

// Two writes within one tick of the file system's clock, of the same length.
func TestSecondWriteWithinTheClockTickIsMissed(t *testing.T) {
	path := keyFile(t, goodFile)
	f, err := NewFile(path)
	mustDo(t, err)
	other := strings.Replace(goodFile, "[pay]", "[buy]", 1)
	for i := range 200 {
		content, want := goodFile, "pay"
		if i%2 == 0 {
			content, want = other, "buy"
		}
		overwrite(t, path, content)
		k, _, _ := fillOf(t, f, "k0", noCursor)
		if k.Scopes[0] != want {
			t.Fatalf("write %d: %v", i, k.Scopes)
		}
	}
}

func TestEditLosesCommentsModeOrTheFile(t *testing.T) {
	path := keyFile(t, goodFile)
	mustDo(t, os.Chmod(path, 0o640))
	now := time.Now().UTC().Truncate(time.Second)
	mustDo(t, EditKeyFile(path, func(kf *KeyFile) error {
		kf.Keys[1].RevokedAt = &now
		kf.Keys = append(kf.Keys, FileKey{KeyID: "k2", OwnerID: "m1", Algorithm: "opaque"})
		return nil
	}))
	data, err := os.ReadFile(path)
	mustDo(t, err)
	for _, kept := range []string{"# head comment", "# the first", "# about k0", "scopes: [pay]", "k2"} {
		if !strings.Contains(string(data), kept) {
			t.Errorf("%q is gone:\n%s", kept, data)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	kf, err := LoadKeyFile(path)
	if err != nil || len(kf.Keys) != 3 || !kf.Keys[1].RevokedAt.Equal(now) || kf.Keys[0].PublicKey == "" {
		t.Fatalf("%+v %v", kf, err)
	}
	stop := errors.New("no")
	if err := EditKeyFile(path, func(*KeyFile) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if err := EditKeyFile(path, func(kf *KeyFile) error { kf.Keys[0].KeyID = "a/b"; return nil }); err == nil {
		t.Error("an edit that breaks the file was written")
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(data) {
		t.Errorf("a refused edit changed the file: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".keys*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestConcurrentEditsLoseOne(t *testing.T) {
	path := keyFile(t, "keys: []\n")
	const n = 20
	done := make(chan error, n)
	for i := range n {
		go func() {
			done <- EditKeyFile(path, func(kf *KeyFile) error {
				kf.Keys = append(kf.Keys, FileKey{KeyID: key(i).ID, OwnerID: "m", Algorithm: "opaque"})
				return nil
			})
		}()
	}
	for range n {
		mustDo(t, <-done)
	}
	if kf, err := LoadKeyFile(path); err != nil || len(kf.Keys) != n {
		t.Fatalf("%d of %d keys, %v", len(kf.Keys), n, err)
	}
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`keys: [{key_id: a, owner_id: m, algorithm: x, attributes: {a: {b: [1]}}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		kf, err := ParseKeyFile(data)
		if err != nil {
			return
		}
		ix, err := kf.index()
		if err != nil {
			t.Fatalf("parsed, but cannot be used: %v", err)
		}
		for _, k := range ix.keys {
			if err := k.row().check(); err != nil {
				t.Fatalf("checked, but cannot be packed: %v", err)
			}
		}
	})
}
