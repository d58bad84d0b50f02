package server

import (
	_ "embed"
	"net/http"
)

// openAPIDocument is the data plane's contract (OpenAPI 3.1). The tests hold
// every answer they provoke against it.
//
//go:embed openapi.yaml
var openAPIDocument []byte

// openAPI answers GET /openapi.yaml.
func (*Data) openAPI(x *exchange) error {
	if _, ok := x.headers.negotiate(setOf(mediaYAML)); !ok {
		return errNotAcceptable
	}
	return x.answer(http.StatusOK, mediaYAML.String(), append(x.out[:0], openAPIDocument...))
}
