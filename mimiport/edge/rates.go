package edge

import (
	"errors"
	"net/http"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Rates limits how many requests a second users and servers may send. It counts a request as soon as its sender is
// known, before any further work.
type Rates struct {
	users, servers *buckets
}

// NewRates allows perUser requests a second to each user of this server, and perServer to each other server with all
// its users. It allows burstSeconds times as many at once. A rate of 0 or less means no limit. now returns the time.
func NewRates(perUser, perServer int, now func() time.Time) *Rates {
	return &Rates{users: newBuckets(perUser, now), servers: newBuckets(perServer, now)}
}

// Users wraps auth for routes for users of this server. It refuses a user who sends too many requests with KindQuota.
func (r *Rates) Users(auth Authenticate) Authenticate {
	return r.users.after(auth, func(c api.Caller) string { return c.UserID })
}

// Servers wraps auth for routes for other servers. It refuses a server that sends too many requests, for its users or
// for itself, with KindQuota.
func (r *Rates) Servers(auth Authenticate) Authenticate {
	return r.servers.after(auth, func(c api.Caller) string { return c.Server })
}

// TakeDirect counts a request that a device of another server has signed, for the device and for its server. The limit
// of a device is that of a user of this server. TakeDirect returns a KindQuota error for too many requests.
func (r *Rates) TakeDirect(c api.Caller) error {
	if err := r.users.take(c.UserID + "\x00" + c.DeviceID); err != nil {
		return err
	}
	return r.servers.take(c.Server)
}

const (
	burstSeconds = 10     // the requests of so many seconds may come at once
	maxSenders   = 10_000 // the senders that are remembered: those that sent a request last
	ruleRate     = "requests_per_second"
)

// buckets counts the requests of senders by name.
type buckets struct {
	perSecond int
	now       func() time.Time
	senders   *lru.Cache[string, *rate.Limiter]
}

func newBuckets(perSecond int, now func() time.Time) *buckets {
	senders, _ := lru.New[string, *rate.Limiter](maxSenders) // it fails only for a size of 0 or less
	return &buckets{perSecond: perSecond, now: now, senders: senders}
}

// after wraps auth and counts the requests that it accepts.
func (b *buckets) after(auth Authenticate, sender func(api.Caller) string) Authenticate {
	return func(r *http.Request) (api.Caller, error) {
		caller, err := auth(r)
		if err != nil {
			return caller, err
		}
		return caller, b.take(sender(caller))
	}
}

// take counts one request. It fails for a sender that has sent too many. The error has the time to wait.
func (b *buckets) take(sender string) error {
	if b.perSecond <= 0 {
		return nil
	}
	limiter, ok := b.senders.Get(sender)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(b.perSecond), burstSeconds*b.perSecond)
		if limiter, ok, _ = b.senders.PeekOrAdd(sender, fresh); !ok {
			limiter = fresh
		}
	}
	now := b.now()
	turn := limiter.ReserveN(now, 1)
	wait := turn.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	turn.CancelAt(now)
	return &mimiport.Error{
		Op: "authenticate", Kind: mimiport.KindQuota, Err: errors.New("too many requests"),
		Info: mimiport.Info{RetryAfter: wait.Round(time.Millisecond) + time.Millisecond, Rule: ruleRate},
	}
}
