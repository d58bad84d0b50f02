/*
Package signature says whether a signature is one of a message by a key. It does
not say whether the key may be used: package keystore does.

Nothing about the mathematics is left to whoever presents a signature. The key and
the name under which it is stored decide which algorithms there are (package
publickey); an Algorithm fixes hash, padding, salt and encoding; all of it is the
standard library's. Signatures are read strictly:

  - ECDSA in ASN.1 is DER: no long lengths, no padded or negative integers, nothing
    behind. In the raw form, r and s have the length of the curve's order each. Both
    must be from 1 to the order less 1.
  - RSA signatures have the length of the modulus and are less than it. PSS has a salt
    as long as its hash and MGF1 over the same hash, as RFC 7518 wants it.
  - Ed25519 signatures have a scalar less than the group's order (RFC 8032, 5.1.7).

One freedom remains that mathematics give: with (r, s), (r, -s) is an ECDSA signature
of the same message, too. Most signers make either, and no standard of those that
people use here forbids one, so that both are accepted: a signature is no name for a
message, and who wants to know a message again must look at the message.

A compact JWS (RFC 7515) is parsed by go-jose, which is given the algorithms that the
key allows, and verified by the same code. VerifyJWS says what it refuses before.
*/
package signature
