package publickey

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// MaxBytes bounds what ParseAny reads: far more than the largest key with its
// certificate takes.
const MaxBytes = 64 << 10

const (
	publicHalf = "only its public half belongs here: openssl pkey -in FILE -pubout"
	known      = "known are PEM, DER (SubjectPublicKeyInfo, PKCS #1, certificate) and its base64, JWK, and OpenSSH's one-line form"
)

// ParseAny reads one public key in whichever form it has: PEM or DER of a
// SubjectPublicKeyInfo, of PKCS #1 or of a certificate (of which only the key is
// looked at, not its dates or issuer), base64 of that DER, a JWK, a JWK Set of one
// key, or a line of OpenSSH. The error says what is wrong and how to mend it; it
// repeats nothing of the input's content.
func ParseAny(data []byte) (*Key, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%d bytes are more than a public key has; at most %d are read", len(data), MaxBytes)
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	switch {
	case len(text) == 0:
		return nil, errors.New("there is nothing in it: " + known)
	case text[0] == '{':
		return parseJSON(text)
	case bytes.Contains(text, []byte("-----BEGIN ")):
		return parsePEM(text)
	case bytes.HasPrefix(text, []byte("---- BEGIN SSH2 PUBLIC KEY")):
		return nil, errors.New("this is an SSH2 key (RFC 4716): ssh-keygen -i -f FILE writes it in OpenSSH's form")
	case looksLikeSSH(text):
		return parseSSH(text)
	}
	if der, ok := fromBase64(text); ok {
		return parseDER(der)
	}
	return parseDER(data)
}

// fromBase64 decodes standard base64 in lines of any length.
func fromBase64(text []byte) ([]byte, bool) {
	joined := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n", r) {
			return -1
		}
		return r
	}, string(text))
	der, err := base64.StdEncoding.Strict().DecodeString(joined)
	return der, err == nil && len(der) > 0
}

// parseDER reads whatever begins with an ASN.1 sequence.
func parseDER(der []byte) (*Key, error) {
	switch {
	case len(der) == 32:
		return nil, errors.New("32 bytes alone may be an Ed25519 key, an X25519 key or a secret: write it as a JWK, or as a SubjectPublicKeyInfo, which say what they are")
	case der[0] != 0x30:
		return nil, errors.New("this is no public key in a form known here: " + known)
	case isPrivateDER(der):
		return nil, fmt.Errorf("%w; %s", ErrPrivate, publicHalf)
	}
	key, err := Parse(der)
	if err == nil || errors.Is(err, ErrUnfit) {
		return key, err
	}
	if rsaKey, pkcs1Err := x509.ParsePKCS1PublicKey(der); pkcs1Err == nil {
		return of(rsaKey)
	}
	if cert, certErr := x509.ParseCertificate(der); certErr == nil {
		return Parse(cert.RawSubjectPublicKeyInfo)
	}
	return nil, err
}

func isPrivateDER(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParseECPrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParsePKCS1PrivateKey(der)
	return err == nil
}

// parsePEM reads the one key of a PEM text, which may have other text around it.
func parsePEM(text []byte) (*Key, error) {
	if bytes.Contains(text, []byte("PRIVATE KEY")) { // whichever block it is, and damaged or not
		return nil, fmt.Errorf("%w; %s", ErrPrivate, publicHalf)
	}
	var block *pem.Block
	for rest := text; ; {
		var next *pem.Block
		if next, rest = pem.Decode(rest); next == nil {
			break
		}
		if next.Type == "EC PARAMETERS" { // what openssl writes before a key; the key says it again
			continue
		}
		if block != nil {
			return nil, fmt.Errorf("it holds more than one block (%s, %s, ...): leave the one with the key; of a chain of certificates, the first", block.Type, next.Type)
		}
		block = next
	}
	if block == nil {
		return nil, errors.New("damaged PEM: a block needs its BEGIN and END lines, each on a line of its own, and base64 between")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return inBlock(block)(Parse(block.Bytes))
	case "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return inBlock(block)(nil, err)
		}
		return of(key)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return inBlock(block)(nil, err)
		}
		return inBlock(block)(Parse(cert.RawSubjectPublicKeyInfo))
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return nil, errors.New("this is a request for a certificate: openssl req -in FILE -noout -pubkey writes its public key")
	}
	return nil, fmt.Errorf("PEM block %q holds no public key: %s", block.Type, known)
}

// inBlock says in which PEM block an error was found.
func inBlock(block *pem.Block) func(*Key, error) (*Key, error) {
	return func(k *Key, err error) (*Key, error) {
		if err != nil && !errors.Is(err, ErrUnfit) {
			err = fmt.Errorf("PEM block %s: %w", block.Type, err)
		}
		return k, err
	}
}
