package mimiport

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what is wrong, in the terms a client or a peer can act on. The HTTP edge maps each kind to one status and one
// error code.
type Kind int

// The kinds of error. The zero value is an internal fault, told to nobody in detail.
const (
	KindInternal         Kind = iota
	KindBadMessage            // does not decode, or breaks a syntactic rule
	KindTooLarge              // larger than a configured limit
	KindUnsupported           // protocol, cipher suite or section this server does not speak
	KindInvalid               // well-formed, but breaks a rule of MLS or of the profile
	KindBadSignature          // a signature does not verify, or its key is not acceptable
	KindForbidden             // policy, room membership or power level says no
	KindQuota                 // a quota of this server is used up for now: Info.RetryAfter
	KindUnknownGroup          // no such group here
	KindUnknownMigration      // no such migration here
	KindWrongEpoch            // not the group's current epoch; Info.Epoch tells it
	KindConflict              // the thing already exists, or another request won
	KindInProgress            // frozen or staged: try again after Info.RetryAfter
	KindMoved                 // the group is at Info.Moved.Server
	KindStopped               // this server is behind the group's members and accepts nothing until its operator decides
	KindClosed                // the group's members have closed it: its room may bind another
	KindOfferExpired          // the offer is past its time, or used
	KindEnded                 // the migration has ended with another outcome
	KindUnrecognized          // another server has no such route: it lacks this module now, or speaks only the draft
	KindPeer                  // another server cannot be reached or answers nonsense
)

// Error is the error every package of this module returns for what its callers can act on.
type Error struct {
	Op    string // what was attempted, lower case: "submit", "verify MigrationResponse"
	Kind  Kind
	Group []byte // the group concerned, or nil
	Info  Info
	Err   error // why
}

// Info is what a kind tells the caller besides its name.
type Info struct {
	Epoch      *uint64       // KindWrongEpoch
	RetryAfter time.Duration // KindInProgress, KindQuota
	Moved      *Moved        // KindMoved
	Now        time.Time     // KindBadSignature: this server's time, where a request was signed at another
	Rule       string        // KindInvalid: which rule, e.g. "ValSem201"; KindForbidden, KindQuota: which quota
}

// Moved is a redirect: where the group went, and the source's word for it (profile, section 6).
type Moved struct {
	Server       string // the target
	Term         uint64 // the term that began there
	Response     []byte // MigrationResponse
	Confirmation []byte // MigrationConfirmation, signed by the source
	Claim        []byte // instead of both: LineageClaim, signed by Server
	KeyID        string // the key that the confirmation or claim is signed with
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if len(e.Group) > 0 {
		fmt.Fprintf(&b, " (group %s)", base64.RawURLEncoding.EncodeToString(e.Group))
	}
	if e.Info.Rule != "" {
		b.WriteString(": " + e.Info.Rule)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the first *Error in err's chain, KindInternal where there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Errorf makes an Error of the given kind; the text may wrap with %w.
func Errorf(op string, kind Kind, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}
