package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/config"
)

// question is the body of POST /v1/verify.
type question struct {
	KeyID      string         `json:"key_id,omitempty"`
	Key        string         `json:"key,omitempty"`
	OwnerID    string         `json:"owner_id,omitempty"`
	Scopes     []string       `json:"scopes,omitempty"`
	Attributes map[string]any `json:"attributes,omitempty"`
	Algorithm  string         `json:"algorithm,omitempty"`
	Signature  []byte         `json:"signature,omitempty"` // encoding/json writes base64
	Message    []byte         `json:"message,omitempty"`
	JWS        string         `json:"jws,omitempty"`
}

// signedFiles are the flags that name what was signed, and the signature.
type signedFiles struct{ signature, message, jws string }

// read fills the question with what is in the files.
func (f *signedFiles) read(q *question, stdin io.Reader) error {
	for _, part := range []struct {
		flag, name string
		take       func([]byte)
	}{
		{"--signature", f.signature, func(b []byte) { q.Signature = b }},
		{"--message", f.message, func(b []byte) { q.Message = b }},
		{"--jws", f.jws, func(b []byte) { q.JWS = strings.TrimSpace(string(b)) }},
	} {
		if part.name == "" {
			continue
		}
		data, err := readInput(part.name, stdin)
		if err != nil {
			return fmt.Errorf("%s: %w", part.flag, err)
		}
		if len(data) == 0 {
			return fmt.Errorf("%s: %s is empty", part.flag, part.name)
		}
		part.take(data)
	}
	return nil
}

// verdict is the part of the answer that is shown.
type verdict struct {
	Valid   bool   `json:"valid"`
	Code    string `json:"code"`
	KeyID   string `json:"key_id"`
	OwnerID string `json:"owner_id"`
	Source  string `json:"source"`
	AsOf    struct {
		AgeMS float64 `json:"age_ms"`
	} `json:"as_of"`
}

func (c *cli) verifyCommand() *cobra.Command {
	var (
		q          question
		key        string
		attributes []string
		timeout    time.Duration
		noCache    bool
		maxAge     time.Duration
		files      signedFiles
		quiet      bool
	)
	cmd := &cobra.Command{
		Use:   "verify KEY_ID | --key=-",
		Short: "Ask the running sidecar whether a key may be used",
		Long: `Asks the sidecar on this machine whether a key may be used. A secret key is read
from standard input (--key=-).

It is made for shell conditions. Exit code 0: valid; 1: not valid; 2: cannot tell, no
sidecar answered, or wrong usage. So "if keysidecar verify" lets nothing pass that is
not valid; to treat "cannot tell" otherwise than "no", look at the code. Never write
"if ! keysidecar verify": it takes cannot tell for a no. Put -- before a KEY_ID that comes
from outside; --help is answered with exit code 2 here, so that it is never a yes.

With --signature, --algorithm and --message, or with --jws, it is valid only if the
key made that signature, too. Signature and message are files as they are, without
any encoding; - is standard input.`,
		Example: `  if keysidecar verify -q --owner m_books --scopes pay -- "$key_id"; then echo pay; fi
  keysidecar verify -q -- "$key_id"; case $? in 0) echo yes ;; 1) echo no ;; *) echo try again later ;; esac
  printf %s "$secret" | keysidecar verify --key=- --attribute env=live
  keysidecar verify pk_live_1 --no-cache -o json`,
		Annotations: map[string]string{answers: "yes"},
		Args:        cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.fillQuestion(&q, args, key, attributes); err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			if err := files.read(&q, c.in); err != nil {
				return err
			}
			cfg, err := c.load(cmd, config.ForClient)
			if err != nil {
				return err
			}
			header := make(http.Header)
			switch {
			case noCache:
				header.Set("Cache-Control", "no-cache")
			case cmd.Flags().Changed("max-age"):
				header.Set("Cache-Control", fmt.Sprintf("max-age=%d", int(maxAge.Seconds())))
			}
			status, body, err := newSidecar(cfg, timeout).do(cmd.Context(), http.MethodPost, "/v1/verify", q, header)
			if err != nil {
				return err
			}
			return c.printVerdict(q, status, body, quiet)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&key, "key", "", "- to read a secret key from standard input, instead of KEY_ID")
	flags.StringVar(&q.OwnerID, "owner", "", "the owner that the key must have")
	flags.StringSliceVar(&q.Scopes, "scopes", nil, "scopes that the key must have, by comma or repeated")
	flags.StringArrayVar(&attributes, "attribute", nil, "attribute that the key must have, as name=value; may be repeated")
	flags.StringVar(&q.Algorithm, "algorithm", "", "how the signature was made, as ed25519 or rsa-pss-sha256")
	flags.StringVar(&files.signature, "signature", "", "file with a signature that the key must have made")
	flags.StringVar(&files.message, "message", "", "file with what was signed")
	flags.StringVar(&files.jws, "jws", "", "file with a JWS in compact form that the key must have made")
	flags.BoolVar(&noCache, "no-cache", false, "only by what the store says after this question")
	flags.DurationVar(&maxAge, "max-age", 0, "only by what the store said at most so long ago, in whole seconds")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print no verdict: the exit code says it (mistakes are still told)")
	flags.DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	config.AddFlags(flags, clientFlags...)
	return cmd
}

func (c *cli) fillQuestion(q *question, args []string, key string, attributes []string) error {
	switch {
	case key != "" && key != "-":
		return errors.New("--key: a secret is never an argument, where every user can see it: use --key=- and standard input")
	case (key == "") == (len(args) == 0):
		return errors.New("say which key: KEY_ID, or --key=- for a secret on standard input")
	case key == "-":
		secret, err := readSecret(c.in)
		if err != nil {
			return err
		}
		q.Key = string(secret)
	default:
		q.KeyID = args[0]
	}
	for _, a := range attributes {
		name, value, ok := strings.Cut(a, "=")
		if !ok || name == "" {
			return fmt.Errorf("--attribute: %q: want name=value", a)
		}
		if q.Attributes == nil {
			q.Attributes = make(map[string]any)
		}
		// 7 and true are what they look like; everything else is text.
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			v = value
		}
		q.Attributes[name] = v
	}
	return nil
}

// printVerdict shows the answer. It believes "valid" only of the key it asked
// about, as every client should.
func (c *cli) printVerdict(q question, status int, body []byte, quiet bool) error {
	var v verdict
	if err := json.Unmarshal(body, &v); err != nil || v.Code == "" || (status != http.StatusOK && status != http.StatusForbidden && status != http.StatusServiceUnavailable) {
		return problemError(status, body)
	}
	if v.KeyID == "" && status == http.StatusServiceUnavailable {
		return problemError(status, body)
	}
	valid := v.Valid && status == http.StatusOK && (q.KeyID == "" || q.KeyID == v.KeyID)
	var err error
	switch {
	case quiet:
	case c.json():
		_, err = fmt.Fprintf(c.out, "%s\n", strings.TrimSpace(string(body)))
	default:
		_, err = fmt.Fprintln(c.out, c.verdictText(&v, valid))
	}
	if err != nil {
		return err
	}
	switch {
	case valid:
		return nil
	case v.Code == "unavailable":
		return errSaid
	}
	return &noError{errSaid}
}

// verdictText is what people read.
func (c *cli) verdictText(v *verdict, valid bool) string {
	word, p := "not valid", red
	switch {
	case valid:
		word, p = "valid", green
	case v.Code == "unavailable":
		word, p = "cannot tell", yellow
	}
	text := fmt.Sprintf("%s %s (%s", c.paintedFor(c.out, p, word+":"), v.KeyID, v.Code)
	if v.OwnerID != "" {
		text += ", owner " + printable(v.OwnerID)
	}
	if v.Source != "" { // nothing stands behind "cannot tell"
		text += fmt.Sprintf(", from %s, %d ms old", v.Source, int(v.AsOf.AgeMS))
	}
	return text + ")"
}
