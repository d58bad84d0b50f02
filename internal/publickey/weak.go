package publickey

import (
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
	"sync"
)

// Bounds on RSA keys. The upper ones keep a verification below a millisecond or so.
const (
	MinRSABits = 2048
	MaxRSABits = 8192

	minRSAExponent = 1<<16 + 1
	maxRSAExponent = 1<<31 - 1
)

const newRSA = "have a new pair made: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out private.pem"

func fitRSA(k *rsa.PublicKey) error {
	bits := k.N.BitLen()
	switch {
	case bits < MinRSABits:
		return fmt.Errorf("%w: RSA with %d bits can be broken, at least %d are needed; %s", ErrUnfit, bits, MinRSABits, newRSA)
	case bits > MaxRSABits:
		return fmt.Errorf("%w: RSA with %d bits, at most %d are supported", ErrUnfit, bits, MaxRSABits)
	case k.E&1 == 0:
		return fmt.Errorf("%w: its public exponent %d is even, so that it is no RSA key; %s", ErrUnfit, k.E, newRSA)
	case k.E < minRSAExponent || k.E > maxRSAExponent:
		return fmt.Errorf("%w: its public exponent is %d, and must be from %d to %d; %s", ErrUnfit, k.E, minRSAExponent, maxRSAExponent, newRSA)
	case k.N.Bit(0) == 0 || new(big.Int).GCD(nil, nil, k.N, smallPrimes()).BitLen() > 1:
		return fmt.Errorf("%w: its modulus has a small factor, so that it is damaged or no RSA key; %s", ErrUnfit, newRSA)
	case fingerprinted(k.N):
		return fmt.Errorf("%w: its primes come from a faulty generator and can be found (ROCA, CVE-2017-15361); have a new pair made, outside the smart card or TPM that made this one", ErrUnfit)
	}
	return nil
}

// smallPrimes is the product of the odd primes up to 751, which SP 800-89, 5.3.3
// looks for. Read-only; made when it is first needed, and not at each start.
var smallPrimes = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for _, p := range oddPrimes(751) {
		product.Mul(product, big.NewInt(p))
	}
	return product
})

func oddPrimes(most int64) (primes []int64) {
	for n := int64(3); n <= most; n += 2 {
		if !slices.ContainsFunc(primes, func(p int64) bool { return n%p == 0 }) {
			primes = append(primes, n)
		}
	}
	return primes
}

// rocaMarks holds, for each odd prime p up to 167, the powers of 65537 modulo p. A
// modulus made by the faulty library is such a power for every one of them; of
// others it is one in 2^27 (Nemec et al., "The Return of Coppersmith's Attack", 2017).
// Read-only; made when it is first needed.
var rocaMarks = sync.OnceValue(func() map[int64]map[int64]bool {
	marks := make(map[int64]map[int64]bool)
	for _, p := range oddPrimes(167) {
		marks[p] = make(map[int64]bool)
		for power := int64(1); !marks[p][power]; power = power * 65537 % p {
			marks[p][power] = true
		}
	}
	return marks
})

func fingerprinted(n *big.Int) bool {
	var rest, prime big.Int
	for p, marks := range rocaMarks() {
		if !marks[rest.Mod(n, prime.SetInt64(p)).Int64()] {
			return false
		}
	}
	return true
}

// The field of Curve25519 and the constant of its Edwards form (RFC 8032, 5.1), and
// the y of a point of order 8: its double has the y 0, which is d*y^4 + 2*y^2 = 1.
// Read-only.
var (
	fieldP = fromDecimal("57896044618658097711785492504343953926634992332820282019728792003956564819949")
	edD    = fromDecimal("37095705934669439343138083508754565189542113879843219016388785533085940283555")
	order8 = fromDecimal("2707385501144840649318225287225658788936804267575313519463743609750303402022")
)

func fromDecimal(text string) *big.Int {
	n, _ := new(big.Int).SetString(text, 10)
	return n
}

func fitEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: an Ed25519 key has %d bytes, this one %d", ErrUnfit, ed25519.PublicKeySize, len(k))
	}
	b := slices.Clone(k)
	b[31] &^= 0x80 // the sign of x
	slices.Reverse(b)
	y := new(big.Int).SetBytes(b)
	minus := new(big.Int).Sub(fieldP, y)
	switch {
	case y.Cmp(fieldP) >= 0:
		return fmt.Errorf("%w: it is not written in the canonical way (RFC 8032, 5.1.3), so that it is damaged or forged", ErrUnfit)
	case y.BitLen() <= 1, minus.Cmp(big.NewInt(1)) == 0, y.Cmp(order8) == 0, minus.Cmp(order8) == 0:
		return fmt.Errorf("%w: it is a point of small order, under which anybody can make signatures", ErrUnfit)
	case !onEdwards(y):
		return fmt.Errorf("%w: it is no point of the curve, so that it is damaged", ErrUnfit)
	}
	return nil
}

// onEdwards reports whether a point with this y is on the curve: whether
// x^2 = (y^2-1) / (d*y^2+1) has a root. The quotient is a square if the product is.
func onEdwards(y *big.Int) bool {
	y2 := new(big.Int).Mul(y, y)
	v := new(big.Int).Mul(edD, y2)
	v.Add(v, big.NewInt(1))
	u := y2.Sub(y2, big.NewInt(1))
	u.Mul(u, v).Mod(u, fieldP)
	return big.Jacobi(u, fieldP) >= 0
}
