/*
Package client asks a keysidecar on the same machine whether a key may be used.

	sidecar, err := client.New("unix:///run/keysidecar/keysidecar.sock", client.Options{})
	...
	key, err := sidecar.Verify(ctx, client.Question{KeyID: id, Scopes: []string{"pay"}})
	switch {
	case err == nil:
		// The key may be used; it is key.OwnerID's.
	case errors.Is(err, client.ErrRefused):
		// It must not be used. ErrRevoked and ErrUnknownKey, or RefusedError.Code, say why.
	default:
		// Nobody can tell: fail the request with "try again". Do not let it pass, and
		// do not treat the key as revoked.
	}

# What an error means

A key is returned only with a nil error, and a nil error only with a key that may be
used. There is no answer whose zero value, or whose neglect, reads as "valid".

  - ErrRefused: the sidecar said no, or what was asked cannot be a key at all
    (ErrMalformedKey; nothing was sent then).
  - ErrUnavailable: nobody can tell. The sidecar said so, or there is none, or it did
    not answer in time, or what it answered is not beyond doubt: another key than the
    one asked for, an answer that breaks off, a redirect, anything unexpected.
  - ErrBadQuestion: the question itself is wrong, by a mistake of the program.

The three exclude one another.

# What is sent

Ids are checked before anything is sent, so that none of them can become another path.
Requests go to the given address and nowhere else: no proxy, no redirect, no
compression, no host but this machine. A request is sent a second time only if it went
over a kept-alive connection that turned out to be closed, before any byte of an answer
arrived; asking twice changes nothing at the sidecar. An answer, of whatever status, is
never a reason to ask again.

A Client keeps connections open and is safe for concurrent use. Make one and share it.
*/
package client
