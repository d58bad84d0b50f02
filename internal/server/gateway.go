package server

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/keysidecar/keysidecar/internal/keystore"
)

// Credential is what the clients of gateways, and the tokens of introspection, are.
type Credential uint8

const (
	// NoCredential switches the routes for gateways, and introspection, off.
	NoCredential Credential = iota
	// CredentialSecret is a secret key. It is hashed at once; see keystore.HashSecret.
	CredentialSecret
	// CredentialKeyID is a key_id. It identifies and does not authenticate: whoever
	// knows it passes.
	CredentialKeyID
)

// Gateway says how gateways ask whether a request of one of their clients may
// pass: what such a request presents and what the key must have.
type Gateway struct {
	Credential Credential
	// Headers are the names of the header fields that may hold the credential; one
	// of them must, once. Authorization stands for its scheme Bearer. Empty means
	// X-Api-Key and Authorization.
	Headers []string
	// Policy is asked of every key at /v1/authz, and the one of Policies with the
	// name at /v1/authz-policy/{name}.
	Policy   Policy
	Policies map[string]Policy
}

// Policy is what a key must have besides being active. Whatever is empty is not
// asked.
type Policy struct {
	OwnerID string
	Scopes  []string
	// Attributes is a JSON object of strings, numbers and truth values.
	Attributes string
}

// question is p in the form in which it is asked. It is read-only from then on.
func (p *Policy) question() (*question, error) {
	q := &question{ownerID: []byte(p.OwnerID)}
	if p.OwnerID != "" {
		if err := keystore.CheckOwnerID(p.OwnerID); err != nil {
			return nil, err
		}
	}
	for _, s := range p.Scopes {
		if s == "" || len(s) > keystore.MaxScopeBytes {
			return nil, fmt.Errorf("scope %q must have 1 to %d bytes", s, keystore.MaxScopeBytes)
		}
		q.scopes = append(q.scopes, []byte(s))
	}
	if p.Attributes != "" {
		var r bodyReader
		r.reset([]byte(p.Attributes), nil)
		if r.kind() != kindObject {
			return nil, fmt.Errorf("attributes: %w", errMalformedJSON)
		}
		if err := r.attributes("attributes", q); err != nil {
			return nil, err
		}
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// gateway is a Gateway ready for use. Read-only.
type gateway struct {
	credential Credential
	headers    []credentialHeader
	policy     *question
	policies   map[string]*question
}

// credentialHeader is a header field that may hold a credential.
type credentialHeader struct {
	name  string // as it was configured
	lower string
	// bearer: the field is Authorization.
	bearer bool
}

// defaultCredentialHeaders are the fields looked at if none are configured. Read-only.
var defaultCredentialHeaders = []string{"X-Api-Key", "Authorization"}

// maxCredentialHeaders bounds the fields that may hold a credential.
const maxCredentialHeaders = 8

// newGateway checks g. It returns nil if gateways cannot ask.
func newGateway(g *Gateway) (*gateway, error) {
	if g.Credential == NoCredential {
		return nil, nil
	}
	ready := &gateway{credential: g.Credential, policies: make(map[string]*question)}
	names := g.Headers
	if len(names) == 0 {
		names = defaultCredentialHeaders
	}
	for _, name := range names {
		lower := strings.ToLower(name)
		if !isToken([]byte(name)) || slices.ContainsFunc(ready.headers, func(h credentialHeader) bool { return h.lower == lower }) {
			return nil, fmt.Errorf("header %q for credentials: not a field name, or named twice", name)
		}
		ready.headers = append(ready.headers, credentialHeader{name, lower, lower == "authorization"})
	}
	if len(names) > maxCredentialHeaders {
		return nil, fmt.Errorf("%d headers for credentials, at most %d", len(names), maxCredentialHeaders)
	}
	var err error
	if ready.policy, err = g.Policy.question(); err != nil {
		return nil, fmt.Errorf("policy for gateways: %w", err)
	}
	for name, p := range g.Policies {
		if ready.policies[name], err = p.question(); err != nil {
			return nil, fmt.Errorf("policy %s for gateways: %w", name, err)
		}
	}
	return ready, nil
}

// authz answers /v1/authz and everything below: may the request pass that a
// gateway asks about?
func (d *Data) authz(x *exchange) error { return d.authorize(x, d.gateway.policy) }

// authzPolicy answers /v1/authz-policy/{name} and everything below.
func (d *Data) authzPolicy(x *exchange) error {
	_, name, _ := bytes.Cut(x.rest, []byte{'/'})
	name, _, _ = bytes.Cut(name, []byte{'/'})
	policy, ok := d.gateway.policies[string(name)]
	if !ok {
		return errNoPolicy
	}
	return d.authorize(x, policy)
}

// authorize answers 200, 401, 403 or 503 and nothing else: what other statuses
// mean differs between gateways. The refusals do not say what is wrong with a key,
// because gateways hand them on.
func (d *Data) authorize(x *exchange, policy *question) error {
	if err := d.presented(x); err != nil {
		return err
	}
	v, err := d.lookup(x.ctx, stringOf(x.id), keystore.Bounds{})
	if err != nil {
		return err
	}
	if v.code == active {
		v.code = policy.check(v.answer.Record)
	}
	d.told(&v)
	switch v.code {
	case active:
		x.identify(&v)
		return x.answer(http.StatusOK, "", x.out[:0])
	case unavailable:
		return errCannotTell
	default:
		return x.answer(errRefused.status, typeProblem, appendProblem(x.out[:0], errRefused))
	}
}

// presented sets x.id to the key_id of the credential that the request presents.
// A secret is wiped wherever the request was kept.
func (d *Data) presented(x *exchange) error {
	raw := x.req.Request.Header.RawHeaders()
	value, err := d.gateway.find(raw, x.listener.asksToken())
	if err != nil {
		return err
	}
	if d.gateway.credential == CredentialKeyID {
		x.id = append(x.id[:0], value...)
		if keystore.CheckKeyID(stringOf(x.id)) != nil {
			return errBadCredential
		}
		return nil
	}
	d.hashSecret(x, value)
	for i := range d.gateway.headers {
		clear(x.req.Request.Header.Peek(d.gateway.headers[i].name))
	}
	clear(raw)
	x.req.Conn().(*conn).forget() //nolint:forcetypeassert // every connection is made by listener.serve
	return nil
}

// hashSecret sets x.id to the key_id that the secret hashes to.
func (d *Data) hashSecret(x *exchange, secret []byte) {
	if x.hasher == nil {
		x.hasher = keystore.NewSecretHasher(d.opts.Pepper)
	}
	x.id = x.hasher.AppendKeyID(x.id[:0], secret)
}

// find returns the one credential in raw, a header section that the framer has
// found well-formed. With tokenAsked, Authorization belongs to the listener.
//
// Two credentials, or two fields of one name, are refused: what stands behind the
// gateway may take the other one.
func (g *gateway) find(raw []byte, tokenAsked bool) (credential []byte, err error) {
	var seen uint32
	found := 0
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end <= 1 { // the empty line
			break
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		for i := range g.headers {
			h := &g.headers[i]
			value, ok := valueOf(line, h.lower)
			if !ok || h.bearer && tokenAsked {
				continue
			}
			if seen&(1<<i) != 0 {
				return nil, errTwoCredentials
			}
			seen |= 1 << i
			if h.bearer {
				value, ok = bearer(value)
			} else {
				ok = len(value) > 0
			}
			if ok {
				credential = value
				found++
			}
		}
	}
	switch {
	case found == 0:
		return nil, errNoCredential
	case found > 1:
		return nil, errTwoCredentials
	case len(credential) == 0 || len(credential) > maxSecretBytes:
		return nil, errBadCredential
	}
	return credential, nil
}

// bearer returns the token of an Authorization field, which may be empty; ok is
// false if the field has another scheme, which is no matter of ours.
func bearer(value []byte) (token []byte, ok bool) {
	const scheme = len("bearer")
	if len(value) < scheme || !equalFold(value[:scheme], "bearer") || len(value) > scheme && value[scheme] != ' ' && value[scheme] != '\t' {
		return nil, false
	}
	return trimBlanks(value[scheme:]), true
}

// The header fields that tell a gateway, and what stands behind it, whose request
// it is. They are set on every 200, empty if need be, so that a gateway which
// copies them overwrites what its client sent under these names. Read-only.
var (
	headerIdentityKey    = []byte("X-Keysidecar-Key-Id")
	headerIdentityOwner  = []byte("X-Keysidecar-Owner-Id")
	headerIdentityScopes = []byte("X-Keysidecar-Scopes")
)

// identify sets the identity header fields for an active key.
func (x *exchange) identify(v *verdict) {
	h := &x.req.Response.Header
	r := v.answer.Record
	h.SetCanonical(headerIdentityKey, x.id)
	x.out = appendEncoded(x.out[:0], r.OwnerID())
	h.SetCanonical(headerIdentityOwner, x.out)
	x.out = appendScopes(x.out[:0], r)
	h.SetCanonical(headerIdentityScopes, x.out)
}

// appendScopes appends r's scopes, encoded, with a space between.
func appendScopes(b []byte, r keystore.Record) []byte {
	first := true
	for s := range r.Scopes {
		if !first {
			b = append(b, ' ')
		}
		first = false
		b = appendEncoded(b, s)
	}
	return b
}

// appendEncoded appends s with every byte percent-encoded that is no printable
// ASCII, or that would make the result ambiguous: space, which separates scopes and
// is trimmed from fields, the percent sign, and " and \, which a scope must not have
// (RFC 6749, 3.3).
func appendEncoded(b []byte, s string) []byte {
	const upperHex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '%' || c == '"' || c == '\\' {
			b = append(b, '%', upperHex[c>>4], upperHex[c&0xf])
		} else {
			b = append(b, c)
		}
	}
	return b
}
