package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func loadText(t *testing.T, text string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(file, nil)
	return c, err
}

const gatewayFile = `
store: {kind: file, file: {path: keys.yaml}}
authz:
  credential: secret
  header: [X-Merchant-Key]
  scopes: [pay]
  attributes: {env: live, tier: 3, beta: true, "n": "3"}
  policies:
    Refunds:
      owner_id: m_1
      scopes: [refund, "pay all"]
      attributes:
        env: live
    read-only: {scopes: read}
`

// A policy must mean the same however it is written, and what is printed must be
// readable again.
func TestPoliciesFromFileEnvironmentAndPrint(t *testing.T) {
	clearEnv(t)
	c, err := loadText(t, gatewayFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(ForSidecar); err != nil {
		t.Fatal(err)
	}
	want := Authz{
		Credential: "secret", Header: []string{"X-Merchant-Key"}, Scopes: []string{"pay"}, Attributes: `{"env":"live","tier":3,"beta":true,"n":"3"}`,
		Policies: Policies{
			"Refunds":   {OwnerID: "m_1", Scopes: []string{"refund", "pay all"}, Attributes: `{"env":"live"}`},
			"read-only": {Scopes: []string{"read"}},
		},
	}
	if !reflect.DeepEqual(c.Authz, want) {
		t.Errorf("%+v", c.Authz)
	}
	var printed strings.Builder
	if err := WriteYAML(&printed, c.Redacted()); err != nil {
		t.Fatal(err)
	}
	again, err := loadText(t, printed.String())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Authz, want) {
		t.Errorf("printed and read again: %+v", again.Authz)
	}
	t.Setenv("KEYSIDECAR_AUTHZ_CREDENTIAL", "secret")
	t.Setenv("KEYSIDECAR_AUTHZ_HEADER", "X-Merchant-Key")
	t.Setenv("KEYSIDECAR_AUTHZ_SCOPES", "pay")
	t.Setenv("KEYSIDECAR_AUTHZ_ATTRIBUTES", string(want.Attributes))
	t.Setenv("KEYSIDECAR_AUTHZ_POLICIES", want.Policies.String())
	fromEnv, _, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromEnv.Authz, want) {
		t.Errorf("from the environment: %+v", fromEnv.Authz)
	}
}

// A check that is silently dropped would let requests pass.
func TestMistakesInPoliciesAreNamed(t *testing.T) {
	clearEnv(t)
	for text, want := range map[string]string{
		"attributes: {env: null}":                        "authz.attributes.env must be a text",
		"attributes: {env: [live]}":                      "authz.attributes.env must be a text",
		"attributes: {env: {a: b}}":                      "authz.attributes.env must be a text",
		"attributes: {n: 0x10}":                          "authz.attributes.n must be",
		"attributes: {n: .inf}":                          "authz.attributes.n must be",
		"attributes: {a: 1, a: 2}":                       `"a" is no name, or there twice`,
		"attributes: {}":                                 "authz.attributes is empty",
		"attributes: [a]":                                "want a group of values, not a list",
		"attributes: env=live":                           "must hold names and values",
		`attributes: "{"`:                                "want a JSON object",
		"policies: {p: {ownerid: m}}":                    "there is no setting authz.policies.p.ownerid; did you mean owner_id?",
		"policies: {p: {color: m}}":                      "there is no setting authz.policies.p.color; a policy has owner_id, scopes, attributes",
		"policies: {p: {}}":                              "authz.policies.p asks nothing",
		"policies: {p: pay}":                             "authz.policies.p must hold names and values",
		"policies: {p: {scopes: []}}":                    "authz.policies.p.scopes must be a list, and not empty",
		"policies: {p: {scopes: [a, null]}}":             "authz.policies.p.scopes must be a text",
		"policies: {p: {owner_id: ''}}":                  "authz.policies.p.owner_id must be a text",
		"policies: {a/b: {scopes: [x]}}":                 "the name of a policy is part of a path",
		"policies: {p: {scopes: [x]}, p: {scopes: [y]}}": `"p" is no name, or there twice`,
		"policies: {p: {scopes: [x], attributes: {}}}":   "authz.policies.p.attributes is empty",
		`policies: '{"p":{"scope":["x"]}}'`:              "did you mean scopes?",
		"polices: {p: {scopes: [x]}}":                    "there is no setting authz.polices; did you mean authz.policies?",
		"scope: [x]":                                     "there is no setting authz.scope; did you mean authz.scopes?",
	} {
		_, err := loadText(t, "authz:\n  credential: secret\n  "+text+"\n")
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"credential: secrets":                                 "did you mean secret?",
		"scopes: [pay]":                                       "has no effect without authz.credential",
		"policies: {p: {scopes: [x]}}":                        "has no effect without authz.credential",
		"{credential: secret, header: [X Key]}":               "is not the name of a header field",
		"{credential: secret, header: [Host]}":                "has a meaning of its own",
		"{credential: secret, header: [X-Keysidecar-Key-Id]}": "has a meaning of its own",
		"{credential: secret, header: [X-Key, x-key]}":        "is named twice",
		`{credential: secret, owner_id: "a\tb"}`:              "no control characters",
		"{credential: secret, policies: {p: {scopes: [" + strings.Repeat("x", 257) + "]}}}": "authz.policies.p.scopes must be",
	} {
		c, err := loadText(t, "store: {kind: file, file: {path: k}}\nauthz:\n  "+text+"\n")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := c.Validate(ForSidecar); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
