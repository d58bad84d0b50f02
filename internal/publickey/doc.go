/*
Package publickey reads public keys in the forms in which people have them, makes
one canonical form of each, and refuses those that are not fit to verify a
signature with.

	PEM, DER, JWK, OpenSSH, base64 ──► ParseAny ──┐
	JWK Set ───────────────────────► ParseJWKS ──┼──► Parse ──► Key
	the store's SubjectPublicKeyInfo ────────────┘      │
	                                                    └ fit: what is refused, and why

Whatever the form, a key becomes a SubjectPublicKeyInfo (RFC 5280, 4.1) and passes
through Parse: there is one place that decides what a good key is, and it decides
the same when a key is issued as when a signature is verified with it.

What is refused (weak.go), because signatures by such a key prove nothing or little:

  - RSA below 2048 bits (NIST SP 800-131A) or above 8192, where one verification
    would cost too much; an even or small public exponent (FIPS 186-5, 5.4: above
    2^16); a modulus with a small factor (SP 800-89, 5.3.3) or with the fingerprint
    of the Infineon library that made guessable primes (CVE-2017-15361, "ROCA").
  - Ed25519 points that are not on the curve, are not written in the one canonical
    way, or are of small order, under which anybody can make signatures.
  - Curves other than P-256, P-384, P-521 and Ed25519; points not on their curve.
  - Private and symmetric keys, whatever their form: they must stay with their owner.

An Algorithm is what a key may be used for (algorithm.go). The key decides it, and
never whoever presents a signature.
*/
package publickey
