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

// Rates bound how many requests a second users and servers may send. They are counted when their sender is known, and
// before anything is done for them.
type Rates struct {
	users, servers *buckets
}

// NewRates allows so many requests a second to each user of this server and to each other server with all its users,
// and burstSeconds times as many at once. 0 or less is no bound. now is the time.
func NewRates(perUser, perServer int, now func() time.Time) *Rates {
	return &Rates{users: newBuckets(perUser, now), servers: newBuckets(perServer, now)}
}

// Users is auth for routes that users of this server ask. A user who asks too often is refused with KindQuota.
func (r *Rates) Users(auth Authenticate) Authenticate {
	return r.users.after(auth, func(c api.Caller) string { return c.UserID })
}

// Servers is auth for routes that other servers ask. A server that asks too often, whether for a user or for itself, is
// refused with KindQuota.
func (r *Rates) Servers(auth Authenticate) Authenticate {
	return r.servers.after(auth, func(c api.Caller) string { return c.Server })
}

// TakeDirect counts a request that a device of another server has signed: for the device, as for a user of this server,
// and for its server. Too many are KindQuota.
func (r *Rates) TakeDirect(c api.Caller) error {
	if err := r.users.take(c.UserID + "\x00" + c.DeviceID); err != nil {
		return err
	}
	return r.servers.take(c.Server)
}

const (
	burstSeconds = 10     // whose requests may come at once
	maxSenders   = 10_000 // that are remembered; of more, those that asked last
	ruleRate     = "requests_per_second"
)

// buckets count the requests of senders by name.
type buckets struct {
	perSecond int
	now       func() time.Time
	senders   *lru.Cache[string, *rate.Limiter]
}

func newBuckets(perSecond int, now func() time.Time) *buckets {
	senders, _ := lru.New[string, *rate.Limiter](maxSenders) // it fails for a size of 0 or less only
	return &buckets{perSecond: perSecond, now: now, senders: senders}
}

// after counts the requests that auth lets pass.
func (b *buckets) after(auth Authenticate, sender func(api.Caller) string) Authenticate {
	return func(r *http.Request) (api.Caller, error) {
		caller, err := auth(r)
		if err != nil {
			return caller, err
		}
		return caller, b.take(sender(caller))
	}
}

// take fails for a sender that has sent too much, with the time after which one more request is welcome.
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
