package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/keysidecar/keysidecar/internal/keystore"
	"github.com/keysidecar/keysidecar/internal/publickey"
)

func TestTheContractIsValid(t *testing.T) {
	t.Parallel()
	if contract.doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi: %s", contract.doc.OpenAPI)
	}
	// Examples are held against their schemas, too.
	if err := contract.doc.Validate(context.Background(), openapi3.EnableExamplesValidation(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
}

// Every route of the server is in the contract, and the other way round.
func TestTheContractHasExactlyTheRoutes(t *testing.T) {
	t.Parallel()
	served := map[string]bool{}
	for _, r := range routes {
		path := r.path
		switch {
		case r.suffix != "":
			path += "{owner_id}" + r.suffix
		case r.rest:
			path += "{key_id}"
		case r.id == routeAuthzPolicy:
			path += "/{policy}"
		}
		if r.gateway { // any method; the document shows one
			served["GET "+path] = true
			continue
		}
		served[r.method+" "+path] = true
	}
	documented := map[string]bool{}
	for path, item := range contract.doc.Paths.Map() {
		for method := range item.Operations() {
			documented[method+" "+path] = true
		}
	}
	if !maps.Equal(served, documented) {
		t.Errorf("served %v\ndocumented %v", served, documented)
	}
}

// The check of the other tests must be able to fail.
func TestTheContractCheckBites(t *testing.T) {
	t.Parallel()
	item := contract.doc.Paths.Value("/v1/keys/{key_id}")
	good := `{"valid":false,"code":"revoked","key_id":"k","as_of":null,"source":"cache"}`
	for body, want := range map[string]bool{
		good: true,
		strings.Replace(good, `"valid":false`, `"valid":true`, 1):                         false,
		strings.Replace(good, `"source":"cache"`, `"source":"cache","public_key":"x"`, 1): false,
		strings.Replace(good, `"source":"cache"`, `"source":7`, 1):                        false,
		strings.Replace(good, `,"as_of":null`, ``, 1):                                     false,
		strings.Replace(good, `"key_id":"k"`, `"key_id":"a/b"`, 1):                        false,
	} {
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/v1/keys/k", http.NoBody)
		err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: &routers.Route{
				Spec: contract.doc, Path: "/v1/keys/{key_id}", PathItem: item, Method: http.MethodGet, Operation: item.Get,
			}},
			Status: 410, Header: http.Header{"Content-Type": {typeJSON}, "Cache-Control": {"no-store"}}, Body: io.NopCloser(bytes.NewReader([]byte(body))),
		})
		if (err == nil) != want {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// Every answer that the contract documents, for every operation, is one that the
// server gives, in the form that is documented.
func TestEveryDocumentedAnswerIsGiven(t *testing.T) {
	t.Parallel()
	seen := loadContract()
	s := start(t, func(o *DataOptions) {
		o.ReadTimeout = 200 * time.Millisecond
		o.TCP.Token = func() (string, error) { return "s3cret-token", nil }
		o.Gateway = testGateway()
	})
	s.contract = seen
	full := start(t, func(o *DataOptions) { o.MaxConnections = 1; o.Gateway = testGateway() })
	full.contract = seen
	full.do("GET", "/v1/status", "") // and stays connected
	tcp := s.data.TCPAddr().String()

	for _, op := range []struct{ method, target, body string }{
		{"GET", "/v1/keys/pk_live_1", ""},
		{"POST", "/v1/verify", `{"key_id":"pk_live_1"}`},
		{"POST", "/v1/verify", signedBody(t, "x", `"key_id":"pk_live_1"`)},
		{"POST", "/v1/verify", `{"key_id":"pk_live_1","jws":"` + liveJWS(t, `{"alg":"EdDSA"}`, "x") + `"}`},
		{"POST", "/v1/verify/batch", `{"requests":[{"key_id":"pk_live_1"}]}`},
		{"GET", "/v1/receipts/pk_revoked?wait=1ms", ""},
		{"GET", "/v1/owners/m_1/jwks.json", ""},
		{"POST", "/v1/introspect", "token=pk_live_1"},
		{"POST", "/v1/audit", ""},
		{"GET", "/v1/status", ""},
		{"GET", "/openapi.yaml", ""},
	} {
		media := typeJSON
		if strings.HasPrefix(op.body, "token=") {
			media = typeForm
		}
		post, ofType := "Content-Type: "+media+"\r\n", func(r *http.Request) { r.Header.Set("Content-Type", media) }
		if a := s.do(op.method, op.target, op.body, ofType); a.status != 200 {
			t.Errorf("%s %s: %d", op.method, op.target, a.status)
		}
		line, length := op.method+" "+op.target+" HTTP/1.1\r\n", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(op.body), op.body)
		for _, tt := range []struct {
			network, sent string
			status        int
		}{
			{"unix", line + "Host: x\r\nHost: y\r\n" + post + length, 400},
			{"tcp", line + "Host: localhost\r\n" + post + length, 401},
			{"tcp", line + "Host: localhost\r\nOrigin: http://localhost\r\n" + post + length, 403},
			{"unix", line + "Host: x\r\nAccept: image/png\r\n" + post + length, 406},
			{"unix", line + "Host: x\r\n", 408},
			{"unix", line + "Host: x\r\nContent-Length: 2000000\r\n\r\n", 413},
			{"unix", op.method + " " + op.target + strings.Repeat("x", 9000) + " HTTP/1.1\r\n", 414},
			{"unix", line + "Host: x\r\nExpect: x\r\n\r\n", 417},
			{"tcp", line + "Host: x\r\n\r\n", 421},
			{"unix", line + "Host: x\r\nA: " + strings.Repeat("x", 9000) + "\r\n\r\n", 431},
			{"unix", op.method + " " + op.target + " HTTP/3.0\r\n\r\n", 505},
		} {
			address := s.path
			if tt.network == "tcp" {
				address = tcp
			}
			c := s.dialTo(tt.network, address)
			if got := s.exchangeFor(c, tt.sent, op.method, op.target); got.status != tt.status {
				t.Errorf("%s %s: %d, want %d", op.method, op.target, got.status, tt.status)
			}
			_ = c.Close()
		}
		c := full.dial()
		if got := full.exchangeFor(c, line+"Host: x\r\n\r\n", op.method, op.target); got.status != 503 {
			t.Errorf("%s %s: %d, want 503", op.method, op.target, got.status)
		}
		_ = c.Close()
		if op.body != "" {
			if a := s.do(op.method, op.target, op.body, noContentType); a.status != 415 {
				t.Errorf("%s %s: %d, want 415", op.method, op.target, a.status)
			}
		}
		if op.target != "/openapi.yaml" {
			s.keys.set(func(f *fakeKeys) { f.panics = "x" })
			if a := s.do(op.method, op.target, op.body, ofType); a.status != 500 {
				t.Errorf("%s %s: %d, want 500", op.method, op.target, a.status)
			}
			s.keys.set(func(f *fakeKeys) { f.panics = nil })
		}
		if strings.Contains(op.target, "pk_live_1") || op.body != "" {
			s.keys.set(func(f *fakeKeys) { f.remote["pk_live_1"] = true })
			if a := s.do(op.method, op.target, op.body, ofType, header("Cache-Control", "only-if-cached")); a.status != 504 {
				t.Errorf("%s %s: %d, want 504", op.method, op.target, a.status)
			}
			s.keys.set(func(f *fakeKeys) { clear(f.remote); f.reason = keystore.ReasonLeaseOver })
			if a := s.do(op.method, op.target, op.body, ofType); a.status != 503 {
				t.Errorf("%s %s: %d, want 503", op.method, op.target, a.status)
			}
			s.keys.set(func(f *fakeKeys) { f.reason = "" })
		}
	}
	s.keys.set(func(f *fakeKeys) { f.auditError = keystore.ErrAuditRunning })
	s.do("POST", "/v1/audit", "")
	s.do("GET", "/v1/keys/pk_suspended", "")
	s.do("GET", "/v1/keys/pk_none", "")
	s.do("GET", "/v1/keys/pk_revoked", "")
	s.do("POST", "/v1/verify", `{"key_id":"pk_revoked"}`)
	for _, tt := range []struct {
		body   string
		status int
	}{
		{strings.Replace(signedBody(t, "x", `"key_id":"pk_live_1"`), "eA==", "eQ==", 1), 403},
		{`{"key_id":"opaque~+=:-._1","jws":"a.b.c"}`, 403},
		{`{"key_id":"pk_live_1","jws":"a.b.c","digest":"AAAA"}`, 400},
	} {
		if a := s.do("POST", "/v1/verify", tt.body); a.status != tt.status {
			t.Errorf("%s: %d %s", tt.body, a.status, a.body)
		}
	}
	provokeReceipts(s)
	provokeKeySets(s)
	for _, target := range []string{"/v1/authz", "/v1/authz-policy/refunds"} {
		s.do("GET", target, "")
		s.do("GET", target, "", header("X-Api-Key", "pk_revoked"))
		s.do("GET", target, "", header("X-Api-Key", "pk_live_1"))
		s.keys.set(func(f *fakeKeys) { f.reason = keystore.ReasonLeaseOver })
		s.do("GET", target, "", header("X-Api-Key", "pk_live_1"))
		s.keys.set(func(f *fakeKeys) { f.reason = "" })
	}

	for _, item := range contract.doc.Paths.Map() {
		for _, op := range item.Operations() {
			for _, status := range slices.Sorted(maps.Keys(op.Responses.Map())) {
				if !seen.seen[op.OperationID+" "+status] {
					t.Errorf("%s: %s is documented and was never given", op.OperationID, status)
				}
			}
		}
	}
}

// exchangeFor sends raw bytes and holds the one answer against an operation.
func (s *service) exchangeFor(c io.ReadWriter, sent, method, target string) *answer {
	s.t.Helper()
	_, _ = io.WriteString(c, sent)
	a, err := readAnswer(bufio.NewReader(c), method)
	if err != nil {
		s.t.Fatalf("%s %s: %v after %.60q", method, target, err, sent)
	}
	s.check(method, target, a)
	return a
}

// The document says of a question what the server says of it: the same ones are taken.
func TestTheContractTakesWhatTheServerTakes(t *testing.T) {
	t.Parallel()
	schema := contract.doc.Components.Schemas["SignedQuestion"].Value
	names := contract.doc.Components.Schemas["Algorithm"].Value.Enum
	if len(names) != len(publickey.Algorithms) {
		t.Errorf("%d algorithms are documented, %d are there", len(names), len(publickey.Algorithms))
	}
	taken := func(body string) bool {
		var r bodyReader
		var q question
		r.reset([]byte(body), nil)
		return r.verify(&q) == nil
	}
	bodies := []string{
		`{"key_id":"k"}`, `{"key":"k"}`, signedBody(t, "x", `"key_id":"k"`), `{"key_id":"k","jws":"a.b.c"}`, `{"key_id":"k","jws":"a..c","message":"AAAA"}`,
		`{"key_id":"k","algorithm":"rsa-pss-sha256","signature":"AAAA","digest":"` + strings.Repeat("A", 43) + `="}`,
		signedBody(t, "x"), signedBody(t, "x", `"key":"k"`), `{"key":"k","jws":"a.b.c"}`,
	}
	for _, a := range publickey.Algorithms {
		bodies = append(bodies, `{"key_id":"k","algorithm":"`+a.Name+`","signature":"AAAA","message":"AAAA"}`)
	}
	for _, b := range badSignedBodies {
		bodies = append(bodies, `{"key_id":"k",`+b.members+`}`)
	}
	agreed := 0
	for _, body := range bodies {
		var value any
		if err := json.Unmarshal([]byte(body), &value); err != nil {
			continue
		}
		err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020())
		switch {
		case err != nil && taken(body):
			t.Errorf("%.200s: taken, and not documented: %v", body, err)
		case (err == nil) == taken(body):
			agreed++
		}
	}
	if agreed < len(bodies)*2/3 { // lengths, and what is inside of base64, are not in the document
		t.Errorf("%d of %d", agreed, len(bodies))
	}
}

// Every code of a verdict and a problem stands in the contract's text.
func TestTheContractNamesEveryVerdict(t *testing.T) {
	t.Parallel()
	text := contract.doc.Components.Schemas["Code"].Value.Description
	for c := range numCodes {
		if !strings.Contains(text, "`"+code(c).String()+"`") {
			t.Errorf("%s is not named", code(c))
		}
	}
}
