package publickey

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// looksLikeSSH reports whether text has a line as in ~/.ssh/id_ed25519.pub or
// authorized_keys: a field that names a type of key, then base64 that begins with a
// length below 64 KiB.
func looksLikeSSH(text []byte) bool {
	return bytes.Contains(text, []byte(" AAAA")) || bytes.HasPrefix(text, []byte("ssh-")) || bytes.HasPrefix(text, []byte("ecdsa-sha2-"))
}

// parseSSH reads the one key of OpenSSH's form. Options and comment are ignored.
func parseSSH(text []byte) (*Key, error) {
	var line []byte
	for l := range bytes.Lines(text) {
		if l = bytes.TrimSpace(l); len(l) == 0 || l[0] == '#' {
			continue
		}
		if line != nil {
			return nil, errors.New("it holds more than one line with a key: leave the one that is meant")
		}
		line = l
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, errors.New("damaged OpenSSH key: want one whole line, as ssh-keygen wrote it to the file that ends in .pub")
	}
	switch kind := public.Type(); {
	case strings.Contains(kind, "-cert-v01@"):
		return nil, fmt.Errorf("%w: this is an OpenSSH certificate (%s); the key without it is in the file that ends in .pub and not in -cert.pub", ErrUnfit, kind)
	case strings.HasPrefix(kind, "sk-"):
		return nil, fmt.Errorf("%w: a key of a security token (%s) signs in a form of its own; %s", ErrUnfit, kind, supported)
	}
	c, ok := public.(ssh.CryptoPublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: an OpenSSH key of type %s; %s", ErrUnfit, public.Type(), supported)
	}
	return of(c.CryptoPublicKey())
}
