package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxSecretBytes bounds what is read from a secret's file.
const maxSecretBytes = 64 << 10

// readNamed reads the file that the setting key names. Where that is no path, it
// may be the secret itself, put there by mistake: then no error repeats it.
func readNamed(key, name string, limit int64) ([]byte, error) {
	data, err := readFile(name, limit)
	switch {
	case err == nil:
		return data, nil
	case isPath(name):
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return nil, fmt.Errorf("%s: must be the path of a file; there is no file of the name given, which is not shown because it may be a secret", key)
}

// isPath reports whether text looks like the path of a file, rather than like a
// token, a URL or a connection string.
func isPath(text string) bool {
	if strings.Contains(text, "://") || strings.Contains(text, "password=") {
		return false
	}
	return strings.ContainsAny(text, "/.")
}

// readSecret returns the trimmed content of a file, which must not be empty.
func readSecret(key, name string) (string, error) {
	data, err := readNamed(key, name, maxSecretBytes)
	if err != nil {
		return "", err
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return "", fmt.Errorf("%s: %s is empty", key, name)
	}
	return string(data), nil
}

// StoreDSN returns the connection string of the store. It reads the file anew at
// each call, so that a reconnect uses the current password.
func (c *Config) StoreDSN() (string, error) {
	p := &c.Store.Postgres
	if p.DSNFile == "" {
		return p.DSN, nil
	}
	dsn, err := readSecret("store.postgres.dsn_file", p.DSNFile)
	if err != nil {
		return "", err
	}
	if err := CheckDSN(dsn, c.allows(InsecurePostgres)); err != nil {
		return "", fmt.Errorf("store.postgres.dsn_file: %s %w", p.DSNFile, err)
	}
	return dsn, nil
}

// RelayDSN returns the connection string of the relay, by default that of the
// store, and reads its file anew at each call.
func (c *Config) RelayDSN() (string, error) {
	switch {
	case c.Relay.DSN != "":
		return c.Relay.DSN, nil
	case c.Relay.DSNFile == "":
		return c.StoreDSN()
	}
	dsn, err := readSecret("relay.dsn_file", c.Relay.DSNFile)
	if err != nil {
		return "", err
	}
	if err := CheckDSN(dsn, c.allows(InsecurePostgres)); err != nil {
		return "", fmt.Errorf("relay.dsn_file: %s %w", c.Relay.DSNFile, err)
	}
	return dsn, nil
}

// HasBroker reports whether a broker is configured.
func (c *Config) HasBroker() bool { return len(c.AMQP.URL) > 0 || c.AMQP.URLFile != "" }

// BrokerURLs returns the broker's URLs and reads their file anew at each call.
func (c *Config) BrokerURLs() ([]string, error) {
	if c.AMQP.URLFile == "" {
		return c.AMQP.URL, nil
	}
	text, err := readSecret("amqp.url_file", c.AMQP.URLFile)
	if err != nil {
		return nil, err
	}
	urls := splitList(text)
	for i, u := range urls {
		if err := CheckURL(u, c.allows(InsecureAMQP)); err != nil {
			return nil, fmt.Errorf("amqp.url_file: %s: URL %d %w", c.AMQP.URLFile, i+1, err)
		}
	}
	return urls, nil
}

// TCPToken returns the function that reads the bearer token of the TCP listener,
// or nil if callers need none.
func (c *Config) TCPToken() func() (string, error) {
	if c.Listen.TCP.TokenFile == "" {
		return nil
	}
	return func() (string, error) { return readSecret("listen.tcp.token_file", c.Listen.TCP.TokenFile) }
}

// minPepperBytes is half of what HMAC-SHA-256 can use, and too much to guess.
const minPepperBytes = 16

// Pepper returns the pepper for secret keys, or nil if there is none. White space
// around it does not count.
func (c *Config) Pepper() ([]byte, error) {
	if c.Keys.PepperFile == "" {
		return nil, nil
	}
	pepper, err := readSecret("keys.pepper_file", c.Keys.PepperFile)
	if err != nil {
		return nil, err
	}
	if len(pepper) < minPepperBytes {
		return nil, fmt.Errorf("keys.pepper_file: %s holds %d bytes; a pepper needs at least %d: openssl rand -hex 32",
			c.Keys.PepperFile, len(pepper), minPepperBytes)
	}
	return []byte(pepper), nil
}

func (c *Config) allows(transport string) bool {
	return slices.Contains(c.AllowInsecure, transport)
}

// CheckFiles reports every file that c names for role and that is not there,
// cannot be read, or holds what cannot work. The error joins all of them and
// wraps ErrInvalid.
func (c *Config) CheckFiles(role Role) error {
	var mistakes []error
	check := func(err error) {
		if err != nil {
			mistakes = append(mistakes, c.aboutFile(err))
		}
	}
	if c.Store.Kind == StorePostgres && role != ForClient {
		_, err := c.StoreDSN()
		if role == ForRelay {
			_, err = c.RelayDSN()
		}
		check(err)
	}
	if role == ForSidecar || role == ForRelay {
		_, err := c.BrokerURLs()
		check(err)
		_, err = c.BrokerTLS()
		check(err)
	}
	if role == ForSidecar {
		_, err := c.Pepper()
		check(err)
		if token := c.TCPToken(); token != nil {
			_, err := token()
			check(err)
		}
		check(c.checkKeyFile())
		check(c.checkSocketDirectory())
	}
	return invalid(mistakes)
}

func (c *Config) checkKeyFile() error {
	if c.Store.Kind != StoreFile {
		return nil
	}
	if _, err := os.Stat(c.Store.File.Path); err != nil {
		return fmt.Errorf("store.file.path: %w", err)
	}
	return nil
}

// checkSocketDirectory finds the usual mistakes with the socket's directory
// before bind(2) reports them in fewer words.
func (c *Config) checkSocketDirectory() error {
	path := c.Listen.Socket.Path
	if path == "" {
		return nil
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("listen.socket.path: the directory %s does not exist: create it, or mount a volume there", dir)
	case err != nil:
		return fmt.Errorf("listen.socket.path: %w", err)
	case !info.IsDir():
		return fmt.Errorf("listen.socket.path: %s is not a directory", dir)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("listen.socket.path: %s exists and is not a socket: remove it, or choose another path", path)
	}
	return nil
}
