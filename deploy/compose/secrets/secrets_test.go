package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func folders(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, f := range []string{"postgres", "rabbitmq", "migrate", "relay", "sidecar", "shop", "grafana"} {
		if err := os.Mkdir(filepath.Join(root, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// files returns the text of each file below root.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		found[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestASecondStartLocksOutWhatTheFirstSetUp(t *testing.T) {
	root := folders(t)
	if err := run(root); err != nil {
		t.Fatal(err)
	}
	first := files(t, root)
	if len(first) != 16 {
		t.Errorf("%d files: %v", len(first), first)
	}
	// What a crash left behind.
	if err := os.WriteFile(filepath.Join(root, "shop/dsn.next"), []byte("post"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := run(root); err != nil {
		t.Fatal(err)
	}
	for name, text := range files(t, root) {
		if text != first[name] {
			t.Errorf("%s has changed", name)
		}
	}
	other := folders(t)
	if err := run(other); err != nil {
		t.Fatal(err)
	}
	for name, text := range files(t, other) {
		if text == first[name] {
			t.Errorf("%s is the same everywhere", name)
		}
	}
}

func TestAServiceFindsAnothersPassword(t *testing.T) {
	root := folders(t)
	if err := run(root); err != nil {
		t.Fatal(err)
	}
	all := files(t, root)
	secrets := make(map[string]string) // password -> the folder it is for
	for name, text := range all {
		folder := filepath.Dir(name)
		if base := filepath.Base(name); base != "dsn" && base != "amqp" {
			continue
		}
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := u.User.Password()
		if len(p) < 26 || secrets[p] != "" {
			t.Errorf("%s: a short password, or that of %s", name, secrets[p])
		}
		secrets[p] = folder
	}
	for name, text := range all {
		for p, folder := range secrets {
			home := filepath.Dir(name)
			if strings.Contains(text, p) && home != folder && home != "postgres" { // which makes the roles
				t.Errorf("%s holds a password of %s", name, folder)
			}
		}
	}
}

func TestTheBrokerRefusesThePasswordThatAServiceHas(t *testing.T) {
	root := folders(t)
	if err := run(root); err != nil {
		t.Fatal(err)
	}
	all := files(t, root)
	var d struct {
		Users []struct {
			Name string
			Hash string `json:"password_hash"`
		}
	}
	if err := json.Unmarshal([]byte(all["rabbitmq/definitions.json"]), &d); err != nil || len(d.Users) != 3 {
		t.Fatalf("%v, %v", d, err)
	}
	for _, u := range d.Users {
		secret := all["rabbitmq/"+u.Name]
		if u.Name != "admin" {
			address, err := url.Parse(all[u.Name+"/amqp"])
			if err != nil || address.User.Username() != u.Name {
				t.Fatalf("%v, %v", address, err)
			}
			secret, _ = address.User.Password()
		}
		have, err := base64.StdEncoding.DecodeString(u.Hash)
		if err != nil || len(have) != 4+sha256.Size {
			t.Fatalf("%s: %s, %v", u.Name, u.Hash, err)
		}
		if sum := sha256.Sum256(append(have[:4:4], secret...)); string(sum[:]) != string(have[4:]) {
			t.Errorf("%s: another password's hash", u.Name)
		}
	}
}

func TestAFolderThatIsNotAVolumeIsFilled(t *testing.T) {
	if err := run(t.TempDir()); err == nil {
		t.Error("it made the folders by itself: the services' volumes are not mounted there")
	}
}
