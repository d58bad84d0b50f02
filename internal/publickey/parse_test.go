package publickey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// derOf is the content of a PEM file.
func derOf(t testing.TB, name string) []byte {
	t.Helper()
	block, _ := pem.Decode(file(t, name))
	if block == nil {
		t.Fatalf("%s: no PEM", name)
	}
	return block.Bytes
}

// The RFC 7638 and RFC 8037 examples, with the thumbprints that stand there.
const (
	rfc7638 = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	rfc8037 = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
)

func TestEveryFormBecomesTheSameKey(t *testing.T) {
	t.Parallel()
	p256 := derOf(t, "p256.pem")
	rsaKey := derOf(t, "rsa2048.pem")
	inLines := []byte(base64.StdEncoding.EncodeToString(p256[:45]) + "\r\n" + base64.StdEncoding.EncodeToString(p256[45:]) + "\n")
	for name, tt := range map[string]struct {
		data      []byte
		algorithm string
		spki      []byte // nil: not compared
		keyID     string
	}{
		"PEM":                     {file(t, "p256.pem"), "ecdsa-p256", p256, ""},
		"PEM with text around":    {append([]byte("Bag Attributes\n"), append(file(t, "p256.pem"), "\nand more\n"...)...), "ecdsa-p256", p256, ""},
		"PEM with BOM and CRLF":   {append([]byte("\xef\xbb\xbf"), bytes.ReplaceAll(file(t, "p256.pem"), []byte("\n"), []byte("\r\n"))...), "ecdsa-p256", p256, ""},
		"DER":                     {p256, "ecdsa-p256", p256, ""},
		"base64 of DER":           {inLines, "ecdsa-p256", p256, ""},
		"certificate":             {file(t, "cert-p256.pem"), "ecdsa-p256", p256, ""},
		"certificate in DER":      {derOf(t, "cert-p256.pem"), "ecdsa-p256", p256, ""},
		"PKCS #1":                 {file(t, "rsa2048-pkcs1.pem"), "rsa", rsaKey, ""},
		"PKCS #1 in DER":          {derOf(t, "rsa2048-pkcs1.pem"), "rsa", rsaKey, ""},
		"P-384":                   {file(t, "p384.pem"), "ecdsa-p384", derOf(t, "p384.pem"), ""},
		"P-521":                   {file(t, "p521.pem"), "ecdsa-p521", derOf(t, "p521.pem"), ""},
		"OpenSSH Ed25519":         {file(t, "ssh-ed25519.pub"), "ed25519", nil, ""},
		"OpenSSH with options":    {append([]byte("# mine\nrestrict,command=\"x y\" "), file(t, "ssh-ed25519.pub")...), "ed25519", nil, ""},
		"OpenSSH ECDSA":           {file(t, "ssh-p256.pub"), "ecdsa-p256", nil, ""},
		"OpenSSH RSA":             {file(t, "ssh-rsa.pub"), "rsa", nil, ""},
		"JWK":                     {[]byte(rfc8037), "ed25519", nil, ""},
		"JWK with kid and alg":    {[]byte(rfc7638), "rsa-v1_5-sha256", nil, "2011-04-29"},
		"JWK Set of one":          {[]byte(`{"keys":[` + rfc7638 + `]}`), "rsa-v1_5-sha256", nil, "2011-04-29"},
		"JWK for signatures":      {[]byte(strings.Replace(rfc8037, `{`, `{"use":"sig","key_ops":["verify"],"alg":"EdDSA",`, 1)), "ed25519", nil, ""},
		"JWK with whitespace":     {[]byte("\n  " + rfc8037 + "\n"), "ed25519", nil, ""},
		"OpenSSH with CRLF":       {append(bytes.TrimSpace(file(t, "ssh-ed25519.pub")), "\r\n"...), "ed25519", nil, ""},
		"JWK with unknown member": {[]byte(strings.Replace(rfc8037, `{`, `{"owner_id":"m_1","x-note":[1],`, 1)), "ed25519", nil, ""},
	} {
		key, err := ParseAny(tt.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if key.Algorithm != tt.algorithm || key.KeyID != tt.keyID || tt.spki != nil && !bytes.Equal(key.SPKI, tt.spki) {
			t.Errorf("%s: %s %q %x", name, key.Algorithm, key.KeyID, key.SPKI)
		}
		again, err := ParseAny(key.SPKI)
		if err != nil || !bytes.Equal(again.SPKI, key.SPKI) || again.Thumbprint() != key.Thumbprint() {
			t.Errorf("%s: not read back: %v", name, err)
		}
	}
}

func TestThumbprintsAreThoseOfTheRFCs(t *testing.T) {
	t.Parallel()
	for jwk, want := range map[string]string{
		rfc7638: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", // RFC 7638, 3.1
		rfc8037: "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", // RFC 8037, A.3
	} {
		key, err := ParseAny([]byte(jwk))
		if err != nil {
			t.Fatal(err)
		}
		if got := key.Thumbprint(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Each refusal says what is wrong and, where there is something, how to mend it; it
// never repeats the input.
func TestWhatIsWrongWithAKeyIsSaid(t *testing.T) {
	t.Parallel()
	rsaJWK := func(e string) []byte { return []byte(strings.Replace(rfc7638, `"AQAB"`, `"`+e+`"`, 1)) }
	edJWK := func(members string) []byte { return []byte(strings.Replace(rfc8037, `{`, `{`+members+`,`, 1)) }
	for name, tt := range map[string]struct {
		data  []byte
		unfit bool
		says  string
	}{
		"nothing":                   {nil, false, "nothing in it"},
		"white space":               {[]byte(" \n"), false, "nothing in it"},
		"words":                     {[]byte("hello, world"), false, "OpenSSH's one-line form"},
		"too much":                  {make([]byte, MaxBytes+1), false, "at most 65536"},
		"RSA with 1024 bits":        {file(t, "rsa1024.pem"), true, "1024 bits can be broken, at least 2048 are needed; have a new pair made: openssl genpkey"},
		"RSA with e 3":              {file(t, "rsa-e3.pem"), true, "exponent is 3"},
		"RSA with even e":           {rsaJWK("AQAA"), true, "even"},
		"RSA with huge e":           {rsaJWK("AQAAAAAAAAAAAQ"), true, "exponent"},
		"RSA with e that is cut":    {rsaJWK("AQAAAAAAAQAB"), true, "exponent"},
		"RSA with padded e":         {rsaJWK("AAEAAQ"), true, "without leading zeros"},
		"RSA-PSS alone":             {file(t, "rsa-pss-oid.pem"), true, "rsa-pss-sha256"},
		"P-224":                     {file(t, "p224.pem"), true, "P-224 is too weak"},
		"secp256k1":                 {file(t, "secp256k1.pem"), true, "secp256k1"},
		"compressed point":          {file(t, "p256-compressed.pem"), true, "-conv_form uncompressed"},
		"explicit parameters":       {file(t, "p256-explicit.pem"), true, "-ec_param_enc named_curve"},
		"point off its curve":       {damaged(derOf(t, "p256.pem"), -1), true, "does not lie on its curve"},
		"X25519":                    {file(t, "x25519.pem"), true, "key agreement"},
		"Ed448":                     {file(t, "ed448.pem"), true, "Ed448"},
		"DSA":                       {file(t, "dsa.pem"), true, "DSA"},
		"request for a certificate": {file(t, "csr.pem"), false, "openssl req"},
		"OpenSSH certificate":       {file(t, "ssh-ed25519-cert.pub"), true, "certificate"},
		"SSH2":                      {file(t, "ssh2.pub"), false, "ssh-keygen -i"},
		"two OpenSSH keys":          {append(file(t, "ssh-ed25519.pub"), file(t, "ssh-p256.pub")...), false, "more than one line"},
		"damaged OpenSSH key":       {[]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"), false, "damaged OpenSSH"},
		"two PEM blocks":            {append(file(t, "p256.pem"), file(t, "p384.pem")...), false, "more than one block"},
		"truncated PEM":             {file(t, "p256.pem")[:80], false, "damaged PEM"},
		"PEM of another thing":      {[]byte("-----BEGIN PARAMETERS-----\nAAAA\n-----END PARAMETERS-----\n"), false, "holds no public key"},
		"truncated DER":             {derOf(t, "p256.pem")[:50], false, "SubjectPublicKeyInfo"},
		"DER and more":              {append(derOf(t, "p256.pem"), 0), false, "SubjectPublicKeyInfo"},
		"32 bytes":                  {[]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), false, "write it as a JWK"},
		"JWK for encryption":        {edJWK(`"use":"enc"`), true, `use is "enc"`},
		"JWK that may not verify":   {edJWK(`"key_ops":["sign"]`), true, "key_ops"},
		"JWK of another algorithm":  {edJWK(`"alg":"ES256"`), true, "alg is ES256, and the key is one for ed25519"},
		"JWK for none":              {edJWK(`"alg":"none"`), true, "no signature algorithm"},
		"JWK for HMAC":              {edJWK(`"alg":"HS256"`), true, "no signature algorithm"},
		"JWK of X25519":             {[]byte(strings.Replace(rfc8037, "Ed25519", "X25519", 1)), true, "X25519"},
		"JWK of short x":            {[]byte(`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`), false, "wrong"},
		"JWK with kty twice":        {edJWK(`"kty":"OKP"`), false, "duplicate"},
		"JWK without kty":           {[]byte(`{"crv":"Ed25519"}`), false, "no member kty"},
		"JWK off its curve":         {[]byte(`{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}`), false, "curve"},
		"JWK Set of two":            {[]byte(`{"keys":[` + rfc7638 + `,` + rfc8037 + `]}`), false, "keys import --format jwks"},
	} {
		key, err := ParseAny(tt.data)
		if err == nil {
			t.Errorf("%s: read as %s", name, key.Algorithm)
			continue
		}
		if !strings.Contains(err.Error(), tt.says) || errors.Is(err, ErrUnfit) != tt.unfit {
			t.Errorf("%s: %v (unfit %v), want %q", name, err, errors.Is(err, ErrUnfit), tt.says)
		}
	}
}

func damaged(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[(at+len(data))%len(data)] ^= 1
	return data
}

// A private key is refused in every form, and named as one.
func TestPrivateKeysAreRefused(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ed)
	if err != nil {
		t.Fatal(err)
	}
	inPEM := func(kind string) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: pkcs8}) }
	for name, data := range map[string][]byte{
		"PKCS #8":              inPEM("PRIVATE KEY"),
		"PKCS #8 in DER":       pkcs8,
		"PKCS #8 in base64":    []byte(base64.StdEncoding.EncodeToString(pkcs8)),
		"encrypted":            inPEM("ENCRYPTED PRIVATE KEY"),
		"PKCS #1":              inPEM("RSA PRIVATE KEY"),
		"SEC 1":                inPEM("EC PRIVATE KEY"),
		"OpenSSH":              inPEM("OPENSSH PRIVATE KEY"),
		"damaged":              inPEM("PRIVATE KEY")[:60],
		"PGP":                  inPEM("PGP PRIVATE KEY BLOCK"),
		"beside its public":    append(file(t, "p256.pem"), inPEM("PRIVATE KEY")...),
		"JWK of Ed25519":       []byte(strings.Replace(rfc8037, "{", `{"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",`, 1)),
		"JWK with d null":      []byte(strings.Replace(rfc8037, "{", `{"d":null,`, 1)),
		"JWK of RSA with qi":   []byte(strings.Replace(rfc7638, "{", `{"qi":"AQAB",`, 1)),
		"JWK, symmetric":       []byte(`{"kty":"oct","k":"AAAA"}`),
		"JWK of RSA with an k": []byte(strings.Replace(rfc7638, "{", `{"k":"AQAB",`, 1)),
	} {
		if _, err := ParseAny(data); !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "nWGx") {
			t.Errorf("%s: repeats the key", name)
		}
	}
}

// One bad key of a set is named, and the others can be used.
func TestAJWKSetIsReadKeyByKey(t *testing.T) {
	t.Parallel()
	set := `{"keys":[` + rfc7638 + `,{"kty":"OKP","crv":"X25519","kid":"x","x":"AAAA"},{"kty":"oct","k":"AAAA","kid":"s"},` +
		`7,{"kty":"NEW","kid":"n"},` + strings.Replace(rfc8037, "{", `{"kid":"e","owner_id":"m_1",`, 1) + `]}`
	keys, err := ParseJWKS([]byte(set))
	if err != nil || len(keys) != 6 {
		t.Fatal(len(keys), err)
	}
	for i, good := range []bool{true, false, false, false, false, true} {
		if (keys[i].Err == nil) != good || (keys[i].Key != nil) != good {
			t.Errorf("key %d: %v", i, keys[i].Err)
		}
	}
	if keys[5].KeyID != "e" || keys[5].OwnerID != "m_1" || keys[1].KeyID != "x" || !errors.Is(keys[2].Err, ErrPrivate) {
		t.Errorf("%+v", keys)
	}
	for _, text := range []string{``, `{}`, `[]`, `{"keys":7}`, `{"keys":null}`, `{"keys":[],"keys":[]}`} {
		if _, err := ParseJWKS([]byte(text)); err == nil {
			t.Errorf("%s: read", text)
		}
	}
}

func TestEd25519PointsThatProveNothingAreRefused(t *testing.T) {
	t.Parallel()
	prefix, _ := hex.DecodeString("302a300506032b6570032100")
	// All encodings of the eight points of small order, canonical ones and others
	// (RFC 8032, 5.1; the list of libsodium's ge25519_has_small_order).
	for _, point := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"0200000000000000000000000000000000000000000000000000000000000000", // no point
	} {
		b, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(append(bytes.Clone(prefix), b...)); !errors.Is(err, ErrUnfit) {
			t.Errorf("%s: %v", point, err)
		}
	}
}

// Whether a y is that of a point is decided as the library decides it, which says so
// only by failing to verify: here held against keys that it made, and against the
// share of all numbers that are points.
func TestGoodEd25519KeysAreAccepted(t *testing.T) {
	t.Parallel()
	for range 200 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := fitEd25519(pub); err != nil {
			t.Errorf("%x: %v", pub, err)
		}
	}
	points := 0
	for i := range 2000 {
		if onEdwards(big.NewInt(int64(i) + 1000)) {
			points++
		}
	}
	if points < 850 || points > 1150 {
		t.Errorf("%d of 2000 are points, about half should be", points)
	}
}

func TestRSAModuliThatCanBeFoundAreRefused(t *testing.T) {
	t.Parallel()
	roca, ok := new(big.Int).SetString(strings.TrimSpace(string(file(t, "roca.txt"))), 16)
	if !ok {
		t.Fatal("roca.txt")
	}
	good, err := ParseAny(file(t, "rsa2048.pem"))
	if err != nil {
		t.Fatal(err)
	}
	n := good.Public.(*rsa.PublicKey).N
	for name, tt := range map[string]struct {
		n    *big.Int
		says string
	}{
		"ROCA":            {roca, "ROCA"},
		"even":            {new(big.Int).Add(n, big.NewInt(1)), "small factor"},
		"divided by 751":  {new(big.Int).Mul(new(big.Int).Rsh(n, 8), big.NewInt(751)), "small factor"},
		"8193 bits":       {new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)), "at most 8192"},
		"2047 bits":       {new(big.Int).Rsh(n, 1), "2047 bits"},
		"divided by 3, 5": {new(big.Int).Mul(new(big.Int).Rsh(n, 3), big.NewInt(15)), "small factor"},
	} {
		if err := fitRSA(&rsa.PublicKey{N: tt.n, E: 65537}); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, e := range []int{0, 1, 2, 3, 257, 65535, 65536, 65538, 1 << 31} {
		if err := fitRSA(&rsa.PublicKey{N: n, E: e}); !errors.Is(err, ErrUnfit) {
			t.Errorf("e = %d: %v", e, err)
		}
	}
}

func TestTheAlgorithmsOfAKeyAreThoseOfItsKindAndName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind Kind
		name string
		want string
	}{
		{Ed25519, "ed25519", "ed25519"},
		{Ed25519, "EdDSA", "ed25519"},
		{Ed25519, "rsa", ""},
		{Ed25519, "opaque", ""},
		{Ed25519, "", ""},
		{P256, "ecdsa-p256", "ecdsa-p256-sha256 ecdsa-p256-sha256-asn1"},
		{P256, "ES256", "ecdsa-p256-sha256 ecdsa-p256-sha256-asn1"},
		{P256, "ecdsa-p256-sha256-asn1", "ecdsa-p256-sha256-asn1"},
		{P256, "ES384", ""},
		{P384, "ECDSA-P384", "ecdsa-p384-sha384 ecdsa-p384-sha384-asn1"},
		{P521, "ES512", "ecdsa-p521-sha512 ecdsa-p521-sha512-asn1"},
		{RSA, "RSA", "rsa-v1_5-sha256 rsa-v1_5-sha384 rsa-v1_5-sha512 rsa-pss-sha256 rsa-pss-sha384 rsa-pss-sha512"},
		{RSA, "PS256", "rsa-pss-sha256"},
		{RSA, "rsa-v1_5-sha512", "rsa-v1_5-sha512"},
		{RSA, "HS256", ""},
		{RSA, "none", ""},
	} {
		var names []string
		for _, a := range Allowed(tt.kind, tt.name) {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s called %s: %s, want %s", tt.kind, tt.name, got, tt.want)
		}
		for _, a := range Algorithms {
			if Allows(tt.kind, tt.name, a) != strings.Contains(" "+tt.want+" ", " "+a.Name+" ") {
				t.Errorf("%s called %s: %s", tt.kind, tt.name, a.Name)
			}
		}
		known := tt.name != "opaque" && tt.name != "" && tt.name != "HS256" && tt.name != "none"
		if err := CheckAlgorithm(tt.kind, tt.name); (err != nil) != (known && tt.want == "") {
			t.Errorf("%s called %s: %v", tt.kind, tt.name, err)
		}
	}
	for _, a := range Algorithms {
		if got, ok := AlgorithmNamed(a.Name); !ok || got != a || a.Kind != Ed25519 && !a.Hash.Available() {
			t.Errorf("%s: %v", a.Name, got)
		}
		if _, ok := AlgorithmNamed(strings.ToUpper(a.Name)); ok {
			t.Errorf("%s: found in another case", a.Name)
		}
	}
}

// Whatever is accepted, in whichever form, is a key that a sidecar can read back
// under the same name.
func FuzzParseAny(f *testing.F) {
	files, err := filepath.Glob("testdata/*.p*")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		if block, _ := pem.Decode(data); block != nil {
			f.Add(block.Bytes)
		}
	}
	f.Add([]byte(rfc7638))
	f.Add([]byte(rfc8037))
	f.Add([]byte(`{"keys":[` + rfc8037 + `]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParseAny(data)
		if err != nil {
			if key != nil {
				t.Fatal("a key and an error")
			}
			return
		}
		again, err := Parse(key.SPKI)
		if err != nil || again.Kind != key.Kind || !bytes.Equal(again.SPKI, key.SPKI) {
			t.Fatalf("accepted as %s, not read back: %v", key.Kind, err)
		}
		if len(Allowed(key.Kind, key.Algorithm)) == 0 || len(key.Thumbprint()) != 43 {
			t.Fatalf("%s %s: no use", key.Algorithm, key.Thumbprint())
		}
		var m map[string]any
		if json.Unmarshal(data, &m) == nil && m["d"] != nil {
			t.Fatal("a private key was accepted")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"p256.pem", "p384.pem", "p521.pem", "rsa2048.pem"} {
		der := derOf(b, name)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Parse(der); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	key, err := ParseAny([]byte(rfc8037))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ed25519", func(b *testing.B) {
		for b.Loop() {
			if _, err := Parse(key.SPKI); err != nil {
				b.Fatal(err)
			}
		}
	})
}
