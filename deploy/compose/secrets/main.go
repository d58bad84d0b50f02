// Command secrets makes the passwords of the compose stack, once, and the files in
// which each of its services finds its own and no other's.
//
// It is given a folder with one folder for each kind of service, each the volume that
// is mounted in that service alone, and writes:
//
//	postgres/  superuser, owner, relay, sidecar, shop: passwords of the roles
//	rabbitmq/  admin: a person's password; definitions.json: users and their rights
//	migrate/   dsn: the role that owns the schema
//	relay/     dsn, amqp
//	sidecar/   dsn, amqp
//	shop/      dsn: the application that issues and revokes keys
//	grafana/   admin: a person's password
//
// A password that is there already stays, so it may run at every start.
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: secrets FOLDER")
		os.Exit(2) //nolint:forbidigo // main ends the process
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "secrets:", err)
		os.Exit(1) //nolint:forbidigo // main ends the process
	}
}

// The services as others reach them, and the database.
const (
	postgres = "postgres:5432"
	rabbitmq = "rabbitmq:5672"
	database = "keys"
)

// login is a role of Postgres and the folder of the service that uses it.
type login struct{ folder, role string }

// logins are the roles that services connect as; postgres/roles.sql makes them.
func logins() []login {
	return []login{{"migrate", "owner"}, {"relay", "relay"}, {"sidecar", "sidecar"}, {"shop", "shop"}}
}

// user is one of RabbitMQ's, with the folder of the service that uses it (none for a
// person's) and its rights: docs/operations.md says why these.
type user struct {
	folder, name, tag      string
	configure, write, read string
}

func users() []user {
	return []user{
		{folder: "", name: "admin", tag: "administrator", configure: ".*", write: ".*", read: ".*"},
		{folder: "relay", name: "relay", configure: `^keysidecar\.events$`, write: `^keysidecar\.events$`, read: `^$`},
		{folder: "sidecar", name: "sidecar", configure: `^keysidecar\.q\.`, write: `^keysidecar\.q\.`, read: `^keysidecar\.(q\..*|events)$`},
	}
}

func run(folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	return errors.Join(write(root), root.Close())
}

func write(root *os.Root) error {
	if _, err := password(root, "postgres/superuser"); err != nil {
		return err
	}
	if _, err := password(root, "grafana/admin"); err != nil {
		return err
	}
	for _, l := range logins() {
		secret, err := password(root, "postgres/"+l.role)
		if err != nil {
			return err
		}
		dsn := url.URL{Scheme: "postgres", User: url.UserPassword(l.role, secret), Host: postgres, Path: database, RawQuery: "sslmode=disable"}
		if err := put(root, l.folder+"/dsn", dsn.String()); err != nil {
			return err
		}
	}
	return writeBroker(root)
}

// writeBroker writes what RabbitMQ imports when it starts, and its users' addresses.
func writeBroker(root *os.Root) error {
	type account struct {
		Name      string   `json:"name"`
		Hash      string   `json:"password_hash"`
		Algorithm string   `json:"hashing_algorithm"`
		Tags      []string `json:"tags"`
	}
	type permission struct {
		User      string `json:"user"`
		VHost     string `json:"vhost"`
		Configure string `json:"configure"`
		Write     string `json:"write"`
		Read      string `json:"read"`
	}
	var accounts []account
	var permissions []permission
	for _, u := range users() {
		// Services' passwords are in their own folders; RabbitMQ gets hashes.
		file := u.folder + "/amqp-password"
		if u.folder == "" {
			file = "rabbitmq/" + u.name
		}
		secret, err := password(root, file)
		if err != nil {
			return err
		}
		tags := []string{}
		if u.tag != "" {
			tags = append(tags, u.tag)
		}
		accounts = append(accounts, account{u.name, hash(secret), "rabbit_password_hashing_sha256", tags})
		permissions = append(permissions, permission{u.name, "/", u.configure, u.write, u.read})
		if u.folder == "" {
			continue
		}
		broker := url.URL{Scheme: "amqp", User: url.UserPassword(u.name, secret), Host: rabbitmq, Path: "//", RawPath: "/%2F"}
		if err := put(root, u.folder+"/amqp", broker.String()); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(map[string]any{"vhosts": []map[string]string{{"name": "/"}}, "users": accounts, "permissions": permissions}, "", "  ")
	if err != nil {
		return err
	}
	return put(root, "rabbitmq/definitions.json", string(text)+"\n")
}

// hash is RabbitMQ's form of a password: four bytes of salt, then SHA-256 of salt and
// password. The salt follows from the password, which is random enough to need none:
// so the same password always gives the same file.
func hash(secret string) string {
	first := sha256.Sum256([]byte("salt of " + secret))
	salt := first[:4]
	sum := sha256.Sum256(append(append([]byte{}, salt...), secret...))
	return base64.StdEncoding.EncodeToString(append(append([]byte{}, salt...), sum[:]...))
}

// password returns the one that the file holds, after making it if there is none.
func password(root *os.Root, name string) (string, error) {
	text, err := root.ReadFile(name)
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	secret := rand.Text() // 26 letters and digits, 128 bits
	return secret, put(root, name, secret)
}

// put writes a file whole or not at all. Everybody may read it: a service runs as
// whatever user its image has, and sees no other service's volume.
func put(root *os.Root, name, text string) error {
	next := name + ".next"
	if err := root.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.WriteFile(next, []byte(text), 0o444); err != nil {
		return err
	}
	return root.Rename(next, name)
}
