package mimiport

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind classifies an error so that a client or a peer can act on it. The HTTP edge maps each kind to one status and one
// error code.
type Kind int

// The kinds of error. The zero value is an internal fault. Its details go only to the log.
const (
	KindInternal         Kind = iota
	KindBadMessage            // the input does not decode, or breaks a rule of syntax
	KindTooLarge              // the input is larger than a configured limit
	KindUnsupported           // this server does not support the protocol, the cipher suite or a section
	KindInvalid               // the input is well-formed but breaks a rule of MLS or of the profile
	KindBadSignature          // a signature does not verify, or its key is not acceptable
	KindForbidden             // policy, room membership or power level forbid the request
	KindQuota                 // a quota of this server is used up: try again after Info.RetryAfter
	KindUnknownGroup          // this server does not have the group
	KindUnknownMigration      // this server does not have the migration
	KindWrongEpoch            // the input is not of the group's current epoch, which is Info.Epoch
	KindConflict              // the object already exists, or another request was faster
	KindInProgress            // the group is frozen or staged: try again after Info.RetryAfter
	KindMoved                 // the group is at Info.Moved.Server
	KindStopped               // this server is behind the members and accepts nothing until its operator decides
	KindClosed                // the members have closed the group: its room may bind another
	KindOfferExpired          // the offer has expired, or was used
	KindEnded                 // the migration has ended with another result
	KindUnrecognized          // another server has no such route: it lacks this module now, or supports only the draft
	KindPeer                  // another server cannot be reached or gave a malformed answer
)

// Error is the error that every package of this module returns when its callers can act on the error.
type Error struct {
	Op    string // the operation, in lower case: "submit", "verify MigrationResponse"
	Kind  Kind
	Group []byte // the group's ID, or nil
	Info  Info
	Err   error // the cause

	Remote bool // another server has refused
}

// Info has details that depend on the kind of an error.
type Info struct {
	Epoch      *uint64       // KindWrongEpoch: the group's epoch
	RetryAfter time.Duration // KindInProgress, KindQuota: the time to wait
	Moved      *Moved        // KindMoved: the redirect
	Now        time.Time     // KindBadSignature: this server's time, when the time of a signed request differs from it
	Rule       string        // KindInvalid: the broken rule, such as "ValSem201"; KindForbidden, KindQuota: the quota
}

// Moved is a redirect: the group's new server, and the signed proof of the move (profile, section 6).
type Moved struct {
	Server       string // the target
	Term         uint64 // the term that began at the target
	Response     []byte // MigrationResponse
	Confirmation []byte // MigrationConfirmation, signed by the source
	Claim        []byte // LineageClaim, signed by Server; it replaces Response and Confirmation
	KeyID        string // the key that signed the confirmation or the claim
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

// KindOf returns the kind of the first *Error in err's chain, KindInternal when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// Errorf makes an Error of a kind. The format may wrap an error with %w.
func Errorf(op string, kind Kind, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}
