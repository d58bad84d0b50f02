package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// contract is the OpenAPI document, against which every answer of every test is
// held, and a note of which documented answers were seen.
var contract = loadContract()

type contractChecker struct {
	doc *openapi3.T

	mu   sync.Mutex
	seen map[string]bool // "operationId status"
}

func loadContract() *contractChecker {
	// The decoders know no PEM, JWK, problem or YAML of their own.
	openapi3filter.RegisterBodyDecoder("application/problem+json", openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/jwk+json", openapi3filter.JSONBodyDecoder)
	openapi3filter.RegisterBodyDecoder("application/x-pem-file", openapi3filter.PlainBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromData(openAPIDocument)
	if err != nil {
		panic(fmt.Sprintf("openapi.yaml: %v", err))
	}
	return &contractChecker{doc: doc, seen: make(map[string]bool)}
}

// check holds an answer against the document: against its operation if the
// target is a documented one, and against the shared answers otherwise.
func (c *contractChecker) check(t testing.TB, method, target string, a *answer) {
	t.Helper()
	keep := "no-store"
	if strings.HasSuffix(target, "/jwks.json") && (a.status == http.StatusOK || a.status == http.StatusNotModified) {
		keep = "no-cache"
	}
	if got := a.header.Get("Cache-Control"); got != keep {
		t.Errorf("%s %s: %d with Cache-Control: %s", method, target, a.status, got)
	}
	if method == http.MethodHead {
		if len(a.body) > 0 {
			t.Errorf("HEAD %s: a body of %d bytes", target, len(a.body))
		}
		return
	}
	path, item, op := c.find(method, target)
	if op != nil {
		c.note(op, a.status)
	} else {
		path, item, op = "/", &openapi3.PathItem{}, sharedOperation(c.doc)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://localhost/", http.NoBody)
	if err != nil {
		req, _ = http.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/", http.NoBody)
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: req,
			Route:   &routers.Route{Spec: c.doc, Path: path, PathItem: item, Method: method, Operation: op},
		},
		Status: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s: the answer breaks the contract: %v\n%d %s", method, target, err, a.status, a.body)
	}
	if mt, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); mt == typeProblem {
		if m := a.json(t); int(m["status"].(float64)) != a.status || m["title"] != http.StatusText(a.status) {
			t.Errorf("%s %s: status and title of the problem are not the answer's: %s", method, target, a.body)
		}
	}
}

// find returns the documented operation for a raw target.
func (c *contractChecker) find(method, target string) (string, *openapi3.PathItem, *openapi3.Operation) {
	target, _, _ = strings.Cut(target, "?")
	for path, item := range c.doc.Paths.Map() {
		prefix, rest, isPattern := strings.Cut(path, "{")
		_, suffix, _ := strings.Cut(rest, "}")
		if path == "/v1/authz" {
			prefix, isPattern = "/v1/authz/", true
		}
		if target == path || isPattern && strings.HasPrefix(target, prefix) && strings.HasSuffix(target, suffix) {
			if gatewayTarget([]byte(target)) {
				return path, item, item.Get // which stands for any method
			}
			if op := item.GetOperation(method); op != nil {
				return path, item, op
			}
		}
	}
	return "", nil, nil
}

// note remembers that an operation answered so.
func (c *contractChecker) note(op *openapi3.Operation, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[fmt.Sprintf("%s %d", op.OperationID, status)] = true
}

// sharedOperation has the answers that do not belong to one operation.
func sharedOperation(doc *openapi3.T) *openapi3.Operation {
	op := &openapi3.Operation{Responses: openapi3.NewResponses()}
	for status, name := range map[string]string{
		"400": "BadRequest", "401": "Unauthorized", "403": "Forbidden", "404": "NoSuchRoute", "405": "MethodNotAllowed",
		"408": "RequestTimeout", "413": "BodyTooLarge", "414": "URITooLong", "417": "ExpectationFailed", "421": "MisdirectedRequest",
		"431": "HeaderTooLarge", "500": "Internal", "503": "CannotTell", "505": "Version",
	} {
		op.Responses.Set(status, doc.Components.Responses[name])
	}
	// A test that reads raw bytes does not say which operation they are for.
	op.Responses.Set("200", doc.Paths.Value("/v1/keys/{key_id}").Get.Responses.Value("200"))
	op.Responses.Set("410", doc.Paths.Value("/v1/keys/{key_id}").Get.Responses.Value("410"))
	return op
}
