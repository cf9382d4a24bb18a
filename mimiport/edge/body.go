package edge

import (
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

const (
	patience    = 30 * time.Second // how far a body may fall behind the pace
	pace        = 64 << 10         // bytes a second
	firstPiece  = 4 << 10          // bytes reserved for a body before it arrives
	maxPiece    = 1 << 20          // most bytes reserved for a body at a time
	signedJSON  = 20               // memory to check the signature of a JSON body, in multiples of its size
	bodiesRetry = 5 * time.Second  // the time to wait when the memory for bodies is in use
)

// Bodies is the memory that the bodies of all requests share. A body takes memory as it arrives, for any
// Content-Length, and gives it back after the answer to its request. A request is refused with KindQuota when the
// memory is in use, or when its body comes too slowly.
type Bodies struct {
	total, share int64
	patience     time.Duration

	mu   sync.Mutex
	used int64
	by   map[string]int64 // by user, by server, or by address until the caller is known
}

// NewBodies makes the memory for bodies, of total bytes.
func NewBodies(total int64) *Bodies {
	return &Bodies{total: total, share: total / 2, patience: patience, by: make(map[string]int64)}
}

// Share returns the most memory that one user, one server or one address can have, in bytes. It is half of the total,
// so that none of them can use up all of it. No body can be larger.
func (b *Bodies) Share() int64 { return b.share }

// fits reports whether an owner can have n more bytes.
func (b *Bodies) fits(owner string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return n <= b.left(owner)
}

func (b *Bodies) left(owner string) int64 { return min(b.total-b.used, b.share-b.by[owner]) }

// take counts n more bytes for an owner. It returns false when that is more than the owner can have.
func (b *Bodies) take(owner string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left(owner) {
		return false
	}
	b.used += n
	b.by[owner] += n
	return true
}

func (b *Bodies) give(owner string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.by[owner] -= n; b.by[owner] == 0 {
		delete(b.by, owner)
	}
}

// emptyObject is a body that says nothing.
const emptyObject = "{}"

// open makes a request's body and reads nothing of it. The caller must call its release.
func (b *Bodies) open(w http.ResponseWriter, r *http.Request, limit int64) *body {
	return &body{
		Bodies: b, stated: r.ContentLength, from: http.MaxBytesReader(w, r.Body, limit),
		answer: w.Header(), control: http.NewResponseController(w), owner: address(r.RemoteAddr),
	}
}

// address names the sender of a request until the caller is known: by its IPv4 address, or by the /64 prefix of its
// IPv6 address, since one IPv6 subscriber has a whole prefix.
func address(remote string) string {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		ip := a.Addr().Unmap()
		prefix, _ := ip.Prefix(min(ip.BitLen(), 64)) // it cannot fail: no prefix is longer than the address
		remote = prefix.String()
	}
	return "address " + remote
}

// owner names the owner of the memory for a caller's body: a user of this server, or another server with all its users.
func owner(c api.Caller, federation bool) string {
	if federation || c.DeviceID != "" {
		return c.Server
	}
	return c.UserID
}

// body is a request's body. Its first use reads it as a whole.
type body struct {
	*Bodies
	from    io.ReadCloser
	answer  http.Header
	control *http.ResponseController
	stated  int64 // the Content-Length; -1 for none
	owner   string
	held    int64 // bytes taken of the memory for bodies

	want *[sha256.Size]byte // the hash that the sender has signed; nil for none

	asked bool // the whole body has been read, or that has failed
	begun bool // reading has begun
	data  []byte
	err   error
	seen  int // bytes that Read has returned
}

// ExpectBody sets the SHA-256 that the body of a request must have. An Authenticate function calls it. The route
// refuses another body with KindBadSignature when it reads the body, or at once when the route takes no body.
func ExpectBody(r *http.Request, sum [sha256.Size]byte) {
	if b, ok := r.Body.(*body); ok {
		b.want = &sum
	}
}

// bytes reads the whole body. The error is KindQuota, KindTooLarge, KindBadMessage or KindBadSignature.
func (b *body) bytes() ([]byte, error) {
	if !b.asked {
		b.asked = true
		b.data, b.err = b.receive()
		if b.err == nil && b.want != nil && sha256.Sum256(b.data) != *b.want {
			b.err = mimiport.Errorf("read body", mimiport.KindBadSignature, "the body is not the one that was signed")
		}
	}
	return b.data, b.err
}

// requireNone refuses a body that says anything with KindBadMessage. Many clients send an empty object in place of no
// body.
func (b *body) requireNone() error {
	if b.stated == 0 && b.want == nil {
		return nil
	}
	data, err := b.bytes()
	if err == nil && len(data) > 0 && string(data) != emptyObject {
		err = mimiport.Errorf("read body", mimiport.KindBadMessage, "the route takes no body")
	}
	return err
}

// Read implements io.Reader for the check of a signature over the body. It reserves memory for that check.
func (b *body) Read(p []byte) (int, error) {
	first := !b.asked
	data, err := b.bytes()
	if err == nil && first {
		b.err = b.charge(min(signedJSON*int64(len(data)), b.share-b.held))
		err = b.err
	}
	if err != nil {
		return 0, err
	}
	n := copy(p, data[b.seen:])
	b.seen += n
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close implements io.Closer. It does nothing: the handler calls release.
func (b *body) Close() error { return nil }

// receive reads to the end. The deadline moves on with each byte that comes, but is never further away than patience.
// So a sender that was fast at first may not be silent for longer.
func (b *body) receive() ([]byte, error) {
	if !b.fits(b.owner, b.stated) { // refuse before reading a body that cannot fit
		return nil, noRoom()
	}
	due := time.Now().Add(b.patience)
	var pieces [][]byte
	for got := 0; ; {
		last, err := b.room(&pieces, got)
		if err != nil {
			return nil, err
		}
		n, err := b.read((*last)[len(*last):cap(*last)], due)
		*last = (*last)[:len(*last)+n]
		got += n
		if due = due.Add(time.Duration(n) * time.Second / pace); time.Until(due) > b.patience {
			due = time.Now().Add(b.patience)
		}
		switch {
		case err == io.EOF:
			_ = b.control.SetReadDeadline(time.Time{}) // otherwise the server would think that the caller has gone
			return join(pieces), nil
		case err != nil:
			return nil, bodyError(err)
		}
	}
}

// room returns the piece that the next bytes go to. A new piece is as large as all bytes so far, but not larger than
// the rest of the body.
func (b *body) room(pieces *[][]byte, got int) (last *[]byte, err error) {
	if n := len(*pieces); n > 0 && len((*pieces)[n-1]) < cap((*pieces)[n-1]) {
		return &(*pieces)[n-1], nil
	}
	size := min(max(int64(got), firstPiece), maxPiece)
	if rest := b.stated + 1 - int64(got); rest > 0 { // one more byte, to see the end
		size = min(size, rest)
	}
	if err := b.charge(size); err != nil {
		return nil, err
	}
	*pieces = append(*pieces, make([]byte, 0, size))
	return &(*pieces)[len(*pieces)-1], nil
}

func join(pieces [][]byte) []byte {
	if len(pieces) == 1 {
		return pieces[0]
	}
	return slices.Concat(pieces...)
}

// read reads some bytes, or fails at the deadline. When the server supports no deadlines, read waits in another
// goroutine. A sender that stays silent then keeps a small buffer, and read asks the server to close the connection.
func (b *body) read(p []byte, due time.Time) (int, error) {
	b.begun = true
	if b.control.SetReadDeadline(due) == nil {
		return b.from.Read(p)
	}
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data := make([]byte, min(len(p), 32<<10))
		n, err := b.from.Read(data)
		done <- result{data[:n], err}
	}()
	late := time.NewTimer(time.Until(due))
	defer late.Stop()
	select {
	case r := <-done:
		return copy(p, r.data), r.err
	case <-late.C:
		b.answer.Set("Connection", "close")
		return 0, os.ErrDeadlineExceeded
	}
}

func (b *body) charge(n int64) error {
	if !b.take(b.owner, n) {
		return noRoom()
	}
	b.held += n
	return nil
}

// assign counts the memory of the body for another owner from now on.
func (b *body) assign(owner string) error {
	b.release()
	b.owner = owner
	return b.charge(int64(cap(b.data)))
}

// release gives the memory back. A second call does nothing.
func (b *body) release() {
	b.give(b.owner, b.held)
	b.held = 0
}

// leave limits the time for which the server reads an unread body before it sends the answer.
func (b *body) leave() {
	if !b.begun && b.stated != 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(b.patience))
	}
}

// bodyError makes the typed error of a failed read.
func bodyError(err error) error {
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return tooLarge(over.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return tryAgain("the body came too slowly")
	}
	return mimiport.Errorf("read body", mimiport.KindBadMessage, "%w", err)
}

func tooLarge(limit int64) error {
	return mimiport.Errorf("read body", mimiport.KindTooLarge, "the limit is %d bytes", limit)
}

func noRoom() error { return tryAgain("the memory for requests is in use") }

func tryAgain(why string) error {
	return &mimiport.Error{
		Op: "read body", Kind: mimiport.KindQuota, Info: mimiport.Info{RetryAfter: bodiesRetry}, Err: errors.New(why),
	}
}
