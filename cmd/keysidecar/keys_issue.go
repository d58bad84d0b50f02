package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keysidecar/keysidecar/internal/config"
	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

// newKey are the flags that describe a key to be made.
type newKey struct {
	keyID, owner, algorithm string
	publicKey               string
	secret                  string
	prefix                  string
	scopes                  []string
	notBefore, expiresAt    string
	expiresIn               time.Duration
	attributes              string
	note                    string
}

// secretGenerate is --secret without a value.
const secretGenerate = "generate"

// secretBytes of randomness are in a generated secret.
const secretBytes = 32

// maxInputBytes bounds keys and secrets read from a file or standard input.
const maxInputBytes = 64 << 10

// addMaterial adds the flags that say what the key is made of.
func (n *newKey) addMaterial(flags *pflag.FlagSet) {
	flags.StringVar(&n.keyID, "key-id", "", "identifier of the key (default: the kid of a JWK, else the RFC 7638 thumbprint)")
	flags.StringVar(&n.algorithm, "algorithm", "", "name of the algorithm (default: by the public key; opaque without one)")
	flags.StringVar(&n.publicKey, "public-key", "", "file with the public key (PEM, DER, JWK, OpenSSH or certificate); - for standard input")
	flags.StringVar(&n.secret, "secret", "", "make a secret key: generates a secret and prints it once; --secret=- reads one from standard input")
	flags.Lookup("secret").NoOptDefVal = secretGenerate
	flags.StringVar(&n.prefix, "prefix", "ks_", "what a generated secret begins with")
	flags.StringVar(&n.note, "note", "", "a note for people")
}

func (c *cli) keysIssueCommand() *cobra.Command {
	var n newKey
	cmd := &cobra.Command{
		Use:   "issue --owner OWNER [--public-key FILE | --secret]",
		Short: "Issue a key",
		Long: `Issues a key of an owner, which is made if it does not exist. The key is one of:

  --public-key FILE   a public key; its private half stays with its owner
  --secret            an API secret: it is printed once, and only its hash is kept
  --key-id ID         an opaque name, without anything secret or public behind it`,
		Example: `  keysidecar keys issue --owner m_books --public-key merchant.pem --scopes pay,refund
  keysidecar keys issue --owner m_books --secret --prefix sk_live_ --expires-in 720h
  keysidecar keys issue --owner m_books --key-id pk_live_1 --attributes '{"env":"live"}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.inStore(cmd, func(ctx context.Context, cfg *config.Config, s keyStore) error {
				k, secret, err := n.make(cfg, c.in)
				if err != nil {
					return err
				}
				if err := s.Issue(ctx, k); err != nil {
					return err
				}
				return c.printIssued(ctx, s, k.KeyID, secret)
			})
		},
	}
	flags := cmd.Flags()
	n.addMaterial(flags)
	flags.StringVar(&n.owner, "owner", "", "whose key it is (required)")
	flags.StringSliceVar(&n.scopes, "scopes", nil, "what it may be used for, by comma or repeated")
	flags.StringVar(&n.notBefore, "not-before", "", "first moment of its life, as 2027-01-31T12:00:00Z")
	flags.StringVar(&n.expiresAt, "expires-at", "", "end of its life, as 2027-01-31T12:00:00Z")
	flags.DurationVar(&n.expiresIn, "expires-in", 0, "end of its life from now, as 720h")
	flags.StringVar(&n.attributes, "attributes", "", `a JSON object, as {"env":"live"}`)
	if err := cmd.MarkFlagRequired("owner"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// make returns the key that the flags describe, and the secret if one was
// generated.
func (n *newKey) make(cfg *config.Config, stdin io.Reader) (k keystore.FileKey, secret string, err error) {
	k = keystore.FileKey{KeyID: n.keyID, OwnerID: n.owner, Algorithm: n.algorithm, Scopes: n.scopes, Note: n.note}
	switch {
	case n.publicKey != "" && n.secret != "":
		return k, "", errors.New("--public-key and --secret: a key has one or the other")
	case n.publicKey != "":
		err = n.readPublicKey(&k, stdin)
	case n.secret != "":
		secret, err = n.makeSecret(&k, cfg, stdin)
	case n.keyID == "":
		return k, "", errors.New("say what the key is: --public-key FILE, --secret, or --key-id for an opaque one")
	}
	if err != nil {
		return k, "", err
	}
	if k.Algorithm == "" {
		k.Algorithm = "opaque"
	}
	if err := n.life(&k); err != nil {
		return k, "", err
	}
	if n.attributes != "" {
		if err := json.Unmarshal([]byte(n.attributes), &k.Attributes); err != nil {
			return k, "", fmt.Errorf("--attributes: not a JSON object: %w", err)
		}
	}
	return k, secret, nil
}

func (n *newKey) readPublicKey(k *keystore.FileKey, stdin io.Reader) error {
	data, err := readInput(n.publicKey, stdin)
	if err != nil {
		return fmt.Errorf("--public-key: %w", err)
	}
	public, err := publickey.ParseAny(data)
	if err != nil {
		return fmt.Errorf("--public-key: %s: %w", n.publicKey, err)
	}
	k.PublicKey = base64.StdEncoding.EncodeToString(public.SPKI)
	if k.KeyID == "" {
		if k.KeyID = public.KeyID; k.KeyID == "" {
			k.KeyID = public.Thumbprint()
		}
	}
	if k.Algorithm == "" {
		k.Algorithm = public.Algorithm
	}
	return nil
}

// makeSecret turns k into a secret key: its key_id is the secret's hash.
func (n *newKey) makeSecret(k *keystore.FileKey, cfg *config.Config, stdin io.Reader) (generated string, err error) {
	if n.keyID != "" {
		return "", errors.New("--key-id and --secret: a secret key's identifier is the hash of the secret")
	}
	var secret []byte
	switch n.secret {
	case secretGenerate:
		random := make([]byte, secretBytes)
		if _, err := rand.Read(random); err != nil {
			return "", fmt.Errorf("generate a secret: %w", err)
		}
		generated = n.prefix + base64.RawURLEncoding.EncodeToString(random)
		secret = []byte(generated)
	case "-":
		if secret, err = readSecret(stdin); err != nil {
			return "", err
		}
	default:
		return "", errors.New("--secret: a secret is never an argument, where every user can see it: use --secret=- and standard input")
	}
	pepper, err := cfg.Pepper()
	if err != nil {
		return "", err
	}
	k.KeyID = keystore.HashSecret(pepper, secret)
	return generated, nil
}

// readSecret reads one line from standard input, without its line end.
func readSecret(stdin io.Reader) ([]byte, error) {
	data, err := readInput("-", stdin)
	if err != nil {
		return nil, err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return nil, errors.New("standard input must hold the secret on one line")
	}
	return []byte(secret), nil
}

// life sets when the key begins and ends.
func (n *newKey) life(k *keystore.FileKey) (err error) {
	if k.NotBefore, err = parseTime("--not-before", n.notBefore); err != nil {
		return err
	}
	if k.ExpiresAt, err = parseTime("--expires-at", n.expiresAt); err != nil {
		return err
	}
	if n.expiresIn == 0 {
		return nil
	}
	if k.ExpiresAt != nil || n.expiresIn < 0 {
		return errors.New("--expires-in: must be positive, and not beside --expires-at")
	}
	end := time.Now().UTC().Add(n.expiresIn).Truncate(time.Second) //nolint:forbidigo // what a person means by "from now"
	k.ExpiresAt = &end
	return nil
}

func parseTime(flag, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no bound is no mistake
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: want a time such as 2027-01-31T12:00:00Z", flag, text)
	}
	t = t.UTC()
	return &t, nil
}

// printIssued shows a new key as the store has it, and a generated secret.
func (c *cli) printIssued(ctx context.Context, s keyStore, keyID, secret string) error {
	e, err := s.Get(ctx, keyID)
	if err != nil {
		// The key is there; a secret that is not shown now is lost.
		e.KeyID = keyID
		c.warn("the key was issued, but cannot be read back: " + err.Error())
	}
	shown := show(&e)
	if c.json() {
		return c.printJSON(struct {
			Secret string `json:"secret,omitempty"`
			shownEntry
		}{secret, shown})
	}
	rows := entryRows(&shown)
	if secret != "" {
		rows = append(rows, []string{"secret", secret})
	}
	if err := c.table(rows...); err != nil {
		return err
	}
	if secret != "" {
		fmt.Fprintln(c.err, "The secret is shown this once and kept nowhere.")
	}
	return nil
}
