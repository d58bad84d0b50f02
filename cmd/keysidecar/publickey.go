package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// publicKey is a public key as it is stored.
type publicKey struct {
	der       []byte // SubjectPublicKeyInfo
	algorithm string
	// keyID is the kid of a JWK, else the RFC 7638 thumbprint.
	keyID string
}

// parsePublicKey reads PEM (a public key, PKCS #1 or a certificate), a JWK, or a
// SubjectPublicKeyInfo in DER.
func parsePublicKey(data []byte) (*publicKey, error) {
	text := bytes.TrimSpace(data)
	switch {
	case bytes.HasPrefix(text, []byte("{")):
		return parseJWK(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return parsePEM(text)
	case bytes.HasPrefix(text, []byte("ssh-")) || bytes.HasPrefix(text, []byte("ecdsa-sha2-")):
		return nil, errors.New("this is an OpenSSH key: convert it with ssh-keygen -e -m PKCS8 -f FILE")
	}
	key, err := x509.ParsePKIXPublicKey(data)
	if err != nil {
		return nil, errors.New("neither PEM nor a JWK nor a SubjectPublicKeyInfo in DER")
	}
	return fromKey(key, "")
}

func parsePEM(text []byte) (*publicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("damaged PEM")
	}
	switch block.Type {
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %s: %w", block.Type, err)
		}
		return fromKey(key, "")
	case "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %s: %w", block.Type, err)
		}
		return fromKey(key, "")
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %s: %w", block.Type, err)
		}
		return fromKey(cert.PublicKey, "")
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, errors.New("this is a private key, which must stay with its owner: openssl pkey -in FILE -pubout makes its public half")
	}
	return nil, fmt.Errorf("PEM block %q is no public key", block.Type)
}

func parseJWK(text []byte) (*publicKey, error) {
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(text, &jwk); err != nil {
		return nil, fmt.Errorf("not a JWK: %w", err)
	}
	if !jwk.IsPublic() {
		return nil, errors.New("this JWK holds a private or symmetric key, which must stay with its owner")
	}
	return fromKey(jwk.Key, jwk.KeyID)
}

func fromKey(key crypto.PublicKey, kid string) (*publicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	algorithm, err := keystore.PublicKeyAlgorithm(der)
	if err != nil {
		return nil, err
	}
	if kid == "" {
		thumbprint, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, err
		}
		kid = base64.RawURLEncoding.EncodeToString(thumbprint)
	}
	return &publicKey{der: der, algorithm: algorithm, keyID: kid}, nil
}

// readInput returns what a file holds, or standard input for "-".
func readInput(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInputBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInputBytes {
		return nil, fmt.Errorf("more than %d bytes", maxInputBytes)
	}
	return data, nil
}
