package client

import (
	"errors"
	"fmt"
)

// What an error is, for errors.Is. ErrRefused, ErrUnavailable and ErrBadQuestion
// exclude one another.
var (
	// ErrRefused: the key must not be used, or not for this. The error is a
	// *RefusedError.
	ErrRefused = errors.New("keysidecar: the key must not be used for this")
	// ErrRevoked, ErrUnknownKey and ErrMalformedKey are refusals. Other reasons are
	// told by RefusedError.Code.
	ErrRevoked    = errors.New("keysidecar: the key was revoked")
	ErrUnknownKey = errors.New("keysidecar: there is no such key")
	// ErrMalformedKey: what was presented cannot be a key, so that nothing was asked.
	ErrMalformedKey = errors.New("keysidecar: this cannot be a key")

	// ErrUnavailable: whether the key may be used cannot be told now. It says nothing
	// about the key: neither let it pass nor treat it as revoked. The error is an
	// *UnavailableError.
	ErrUnavailable = errors.New("keysidecar: cannot tell now")

	// ErrBadQuestion: the question is none that the sidecar takes. The error is a
	// *QuestionError.
	ErrBadQuestion = errors.New("keysidecar: the question is wrong")
)

// Code says why a key is refused. New codes may come, so treat those that you do not
// know as refusals, too.
type Code string

// The codes of refusals.
const (
	CodeUnknownKey        Code = "unknown_key"
	CodeRevoked           Code = "revoked"
	CodeExpired           Code = "expired"
	CodeNotYetValid       Code = "not_yet_valid"
	CodeOwnerSuspended    Code = "owner_suspended"
	CodeOwnerMismatch     Code = "owner_mismatch"
	CodeScopeMissing      Code = "scope_missing"
	CodeAttributeMismatch Code = "attribute_mismatch"
	// CodeMalformedKey is this package's own: nothing was sent.
	CodeMalformedKey Code = "malformed_key"
)

// RefusedError is a definite no.
type RefusedError struct {
	Code Code
	// KeyID is the key that was asked about, empty if that is malformed. A secret is
	// named by its hash.
	KeyID string
	// AsOf is the state of the log that the refusal reflects.
	AsOf AsOf
	// Detail says what is malformed.
	Detail string
}

func (e *RefusedError) Error() string {
	if e.Detail != "" {
		return fmt.Sprintf("keysidecar: the key is refused: %s: %s", e.Code, e.Detail)
	}
	return fmt.Sprintf("keysidecar: the key is refused: %s", e.Code)
}

// Is makes errors.Is find ErrRefused, and the reason where that has a name.
func (e *RefusedError) Is(target error) bool {
	switch target {
	case ErrRefused:
		return true
	case ErrRevoked:
		return e.Code == CodeRevoked
	case ErrUnknownKey:
		return e.Code == CodeUnknownKey
	case ErrMalformedKey:
		return e.Code == CodeMalformedKey
	}
	return false
}

// UnavailableError says that nobody can tell, and why. It matches ErrUnavailable and
// whatever Err matches, such as context.DeadlineExceeded.
type UnavailableError struct {
	// Status is the HTTP status of the answer, 0 if there was none.
	Status int
	// Code is what the sidecar said, such as "unavailable", "not_cached" or
	// "unauthorized"; empty if it said nothing that can be believed.
	Code string
	// Err is what went wrong, nil if the sidecar itself said that it cannot tell.
	Err error
}

func (e *UnavailableError) Error() string {
	text := "keysidecar: cannot tell"
	if e.Status != 0 {
		text += fmt.Sprintf(": status %d", e.Status)
	}
	if e.Code != "" {
		text += fmt.Sprintf(", code %.64q", e.Code)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Is makes errors.Is find ErrUnavailable.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

// QuestionError says what is wrong with a question.
type QuestionError struct {
	// Code is the sidecar's, or "bad_member" if this package found it.
	Code string
	// Member is the place: "owner_id", "scopes".
	Member string
	Detail string
}

func (e *QuestionError) Error() string {
	return fmt.Sprintf("keysidecar: the question is wrong: %.64q %.64q: %.200q", e.Code, e.Member, e.Detail)
}

// Is makes errors.Is find ErrBadQuestion.
func (e *QuestionError) Is(target error) bool { return target == ErrBadQuestion }

// What an answer can be that nobody should believe.
var (
	errNoVerdict    = errors.New("the answer is no verdict")
	errContradicts  = errors.New("the answer contradicts itself")
	errOtherKey     = errors.New("the answer is about another key than the one asked for")
	errOtherAnswer  = errors.New("the answer does not have what the question asked for")
	errAnswerTooBig = errors.New("the answer is larger than any the sidecar gives")
	errCount        = errors.New("the answer does not have one verdict for each question")
)
