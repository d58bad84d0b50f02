package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Credential says what requests present.
type Credential uint8

const (
	// CredentialSecret is a secret key.
	CredentialSecret Credential = iota + 1
	// CredentialKeyID is a key_id. It identifies and does not authenticate: whoever
	// knows it passes. Something else must show that the key is the caller's.
	CredentialKeyID
)

// MiddlewareOptions say what a request must present and what its key must have.
type MiddlewareOptions struct {
	// Credential must be set.
	Credential Credential
	// Headers are the names of the header fields that may hold the credential; one of
	// them must, once. Authorization stands for its scheme Bearer. Empty means
	// X-Api-Key and Authorization.
	Headers []string
	// OwnerID, Scopes and Attributes are what the key must have, as in a Question.
	OwnerID    string
	Scopes     []string
	Attributes map[string]any
	// KeepCredential leaves the credential in the request for the handler. Otherwise
	// the field that held it is taken out.
	KeepCredential bool
	// Refused, if not nil, hears of each request that did not pass, with the status it
	// was answered with and the reason: for logs and metrics. The client is not told
	// the reason of a 403.
	Refused func(r *http.Request, status int, reason error)
}

// Middleware returns a wrapper for handlers, which lets a request pass only if its
// credential may be used, and answers others as the sidecar's route for gateways does:
// 401 if there is no credential, or two, or what cannot be one; 403 for every other
// no, without the reason; 503 with Retry-After if nobody can tell. KeyFromContext
// tells the handler whose request it is.
//
// Fields of the names X-Keysidecar-Key-Id, -Owner-Id and -Scopes, which a gateway
// would set, are taken out of the request: here they can only be the client's.
func (c *Client) Middleware(o MiddlewareOptions) (func(http.Handler) http.Handler, error) {
	g, err := newGuard(c, o)
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			field, credential, err := g.find(r.Header)
			if err != nil {
				g.refuse(w, r, err)
				return
			}
			key, err := g.client.Verify(r.Context(), *g.question(credential))
			if err != nil {
				g.refuse(w, r, err)
				return
			}
			next.ServeHTTP(w, g.identified(r, field, key))
		})
	}, nil
}

// keyOfRequest is where Middleware keeps the key in a request's context.
type keyOfRequest struct{}

// KeyFromContext returns the key that Middleware let a request pass with. ok is false,
// and the key nil, if the request did not come through one.
func KeyFromContext(ctx context.Context) (key *Key, ok bool) {
	key, ok = ctx.Value(keyOfRequest{}).(*Key)
	return key, ok
}

// guard is a Middleware ready for use. Read-only.
type guard struct {
	client  *Client
	options MiddlewareOptions
	// headers are the names of the fields for credentials, as net/http writes them.
	headers []string
}

const headerAuthorization = "Authorization"

// identityHeaders are what a gateway tells. Read-only.
var identityHeaders = []string{"X-Keysidecar-Key-Id", "X-Keysidecar-Owner-Id", "X-Keysidecar-Scopes"}

func newGuard(c *Client, o MiddlewareOptions) (*guard, error) {
	if o.Credential != CredentialSecret && o.Credential != CredentialKeyID {
		return nil, errors.New("keysidecar: MiddlewareOptions.Credential must say what requests present")
	}
	g := &guard{client: c, options: o}
	names := o.Headers
	if len(names) == 0 {
		names = []string{"X-Api-Key", headerAuthorization}
	}
	for _, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		if name == "" || strings.ContainsAny(name, " :\t\r\n") || slices.Contains(g.headers, canonical) {
			return nil, fmt.Errorf("keysidecar: header %q for credentials: not a field name, or named twice", name)
		}
		g.headers = append(g.headers, canonical)
	}
	g.options.Scopes, g.options.Attributes = slices.Clone(o.Scopes), maps.Clone(o.Attributes)
	if err := g.question("x").check(); err != nil { // what is asked of every key
		return nil, err
	}
	return g, nil
}

// question is what is asked of the sidecar for a credential.
func (g *guard) question(credential string) *Question {
	q := &Question{OwnerID: g.options.OwnerID, Scopes: g.options.Scopes, Attributes: g.options.Attributes}
	if g.options.Credential == CredentialKeyID {
		q.KeyID = credential
	} else {
		q.Secret = Secret(credential)
	}
	return q
}

// Why a request has no credential that could be asked about.
var (
	errNoCredential   = errors.New("keysidecar: the request presents no credential")
	errTwoCredentials = errors.New("keysidecar: the request presents more than one credential, or a header field for one twice")
)

// find returns the one credential among the header fields, and the name of its field.
// Two, or two fields of one name, are refused: the handler may take the other one.
func (g *guard) find(h http.Header) (field, credential string, err error) {
	found := 0
	for _, name := range g.headers {
		values := h[name]
		if len(values) > 1 {
			return "", "", errTwoCredentials
		}
		if len(values) == 0 {
			continue
		}
		value, ok := values[0], values[0] != ""
		if name == headerAuthorization {
			value, ok = bearer(value)
		}
		if ok {
			field, credential = name, value
			found++
		}
	}
	switch {
	case found == 0:
		return "", "", errNoCredential
	case found > 1:
		return "", "", errTwoCredentials
	case credential == "":
		return "", "", malformed("the credential is empty")
	}
	return field, credential, nil
}

// bearer returns the token of an Authorization field, which may be empty; ok is false
// if the field has another scheme, which is no matter of ours.
func bearer(value string) (token string, ok bool) {
	scheme, token, _ := strings.Cut(strings.ReplaceAll(value, "\t", " "), " ")
	return strings.Trim(token, " "), strings.EqualFold(scheme, "bearer")
}

// identified is r as the handler gets it; field held the credential.
func (g *guard) identified(r *http.Request, field string, key *Key) *http.Request {
	r = r.WithContext(context.WithValue(r.Context(), keyOfRequest{}, key))
	r.Header = r.Header.Clone()
	for _, name := range identityHeaders {
		delete(r.Header, name)
	}
	if !g.options.KeepCredential {
		delete(r.Header, field)
	}
	return r
}

// refuse answers a request that may not pass. Whatever is no definite no is 503.
func (g *guard) refuse(w http.ResponseWriter, r *http.Request, reason error) {
	status, code, detail := http.StatusServiceUnavailable, codeUnavailable, "whether the credential may be used cannot be told now"
	h := w.Header()
	switch {
	case errors.Is(reason, errNoCredential):
		status, code, detail = http.StatusUnauthorized, "no_credential", "the request presents no credential"
	case errors.Is(reason, errTwoCredentials):
		status, code, detail = http.StatusUnauthorized, "ambiguous_credential", "the request presents more than one credential, or a header field for one twice"
	case errors.Is(reason, ErrMalformedKey):
		status, code, detail = http.StatusUnauthorized, "bad_credential", "what is presented cannot be a credential"
	case errors.Is(reason, ErrRefused):
		status, code, detail = http.StatusForbidden, "refused", "what is presented may not be used for this"
	default:
		h.Set("Retry-After", "1")
	}
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="keysidecar"`)
	}
	if g.options.Refused != nil {
		g.options.Refused(r, status, reason)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, code, detail})
	if err == nil && r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
