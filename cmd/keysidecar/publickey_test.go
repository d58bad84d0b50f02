package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Whatever is accepted as a public key is one that a sidecar can read back, under
// a name that a key can have.
func FuzzParsePublicKey(f *testing.F) {
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","kid":"2026-a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PUBLIC KEY-----\nMAA=\n-----END RSA PUBLIC KEY-----\n"))
	f.Add([]byte("0*0\x05\x06\x03+ep\x03!\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePublicKey(data)
		if err != nil {
			return
		}
		if algorithm, err := keystore.PublicKeyAlgorithm(p.der); err != nil || algorithm != p.algorithm {
			t.Errorf("accepted as %s, read back as %s, %v", p.algorithm, algorithm, err)
		}
	})
}

func TestInputThatIsTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, make([]byte, maxInputBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readInput(name, nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("have %v", err)
	}
}
