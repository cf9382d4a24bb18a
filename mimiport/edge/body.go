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
	firstPiece  = 4 << 10          // bytes that are set aside for a body before any of it has come
	maxPiece    = 1 << 20          // bytes that are set aside for it at a time
	signedJSON  = 20               // times its size in memory takes a JSON body while its signature is checked
	bodiesRetry = 5 * time.Second  // when to try again where the memory for bodies is in use
)

// Bodies is the memory that the bodies of all requests share. A body takes of it as it arrives, whatever length it
// states, and gives it back when its request has been answered. Whoever finds it in use, or sends too slowly, is told
// to try again (KindQuota).
type Bodies struct {
	total, share int64
	patience     time.Duration

	mu   sync.Mutex
	used int64
	by   map[string]int64 // user, server, or address of one who has not said yet
}

// NewBodies shares out total bytes.
func NewBodies(total int64) *Bodies {
	return &Bodies{total: total, share: total / 2, patience: patience, by: make(map[string]int64)}
}

// Share is what one user, one server and one address have at most, in bytes: half, so that none of them can use up all
// of it. No body can be larger.
func (b *Bodies) Share() int64 { return b.share }

// fits reports whether n bytes more would be left for an owner.
func (b *Bodies) fits(owner string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return n <= b.left(owner)
}

func (b *Bodies) left(owner string) int64 { return min(b.total-b.used, b.share-b.by[owner]) }

// take reports false when n bytes are more than is left.
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

// open gives a request's body, of which nothing has been read yet. Its release must be called.
func (b *Bodies) open(w http.ResponseWriter, r *http.Request, limit int64) *body {
	return &body{
		Bodies: b, stated: r.ContentLength, from: http.MaxBytesReader(w, r.Body, limit),
		answer: w.Header(), control: http.NewResponseController(w), owner: address(r.RemoteAddr),
	}
}

// address is who sends, as long as nothing else is known: an IPv4 address, or what an IPv6 subscriber has many of.
func address(remote string) string {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		ip := a.Addr().Unmap()
		prefix, _ := ip.Prefix(min(ip.BitLen(), 64)) // no more than there are
		remote = prefix.String()
	}
	return "address " + remote
}

// owner is whom the memory for a caller's body is counted for: a user of this server, or another server with all its
// users.
func owner(c api.Caller, federation bool) string {
	if federation || c.DeviceID != "" {
		return c.Server
	}
	return c.UserID
}

// body is a request's body. It is read, as a whole, when it is first asked for.
type body struct {
	*Bodies
	from    io.ReadCloser
	answer  http.Header
	control *http.ResponseController
	stated  int64 // length; -1 for none
	owner   string
	held    int64 // bytes of the memory for bodies

	want *[sha256.Size]byte // the hash of what the sender has signed; nil for none

	asked bool
	begun bool // to read
	data  []byte
	err   error
	seen  int // bytes that Read has given
}

// ExpectBody tells the SHA-256 of the body of a request that is being authenticated. Another body is refused with
// KindBadSignature when it is read, or at once where the route has no body.
func ExpectBody(r *http.Request, sum [sha256.Size]byte) {
	if b, ok := r.Body.(*body); ok {
		b.want = &sum
	}
}

// bytes is the whole body. The error is of KindQuota, KindTooLarge, KindBadMessage or KindBadSignature.
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

// Read gives the body to whoever checks a signature over it, and sets memory aside for that.
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

// Close implements io.Closer. The handler's release does the work.
func (b *body) Close() error { return nil }

// receive reads to the end. The deadline moves on with what comes, though it is never further away than at first: what
// came faster gives no right to be silent.
func (b *body) receive() ([]byte, error) {
	if !b.fits(b.owner, b.stated) { // no use in reading some of it
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
			_ = b.control.SetReadDeadline(time.Time{}) // or the server takes the caller for gone
			return join(pieces), nil
		case err != nil:
			return nil, bodyError(err)
		}
	}
}

// room is the piece that the next bytes go to. A new one is as large as what has come, though not larger than what is
// to come.
func (b *body) room(pieces *[][]byte, got int) (last *[]byte, err error) {
	if n := len(*pieces); n > 0 && len((*pieces)[n-1]) < cap((*pieces)[n-1]) {
		return &(*pieces)[n-1], nil
	}
	size := min(max(int64(got), firstPiece), maxPiece)
	if rest := b.stated + 1 - int64(got); rest > 0 { // one more, to see the end
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

// read reads some bytes, or fails at the deadline. Where the server has no deadlines, one who sends nothing keeps a
// small piece and is asked to go.
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

// assign counts the body for another owner from now on.
func (b *body) assign(owner string) error {
	b.release()
	b.owner = owner
	return b.charge(int64(cap(b.data)))
}

// release gives the memory back. It may be called again.
func (b *body) release() {
	b.give(b.owner, b.held)
	b.held = 0
}

// leave bounds how long the server reads of a body that was refused unread, before it sends the answer.
func (b *body) leave() {
	if !b.begun && b.stated != 0 {
		_ = b.control.SetReadDeadline(time.Now().Add(b.patience))
	}
}

// bodyError is the typed error for a failed read of a body.
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
