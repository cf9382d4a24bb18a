package hooks

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// The most requests about devices that run at a time, to one server and in all. Memory must hold as many answers.
const (
	placesEach = 4
	placesAll  = 64
)

// places bounds the current requests to other servers.
type places struct {
	mu   sync.Mutex
	all  *semaphore.Weighted
	each map[string]*queue // by server, while a request runs or waits
}

// queue has the requests to one server.
type queue struct {
	*semaphore.Weighted
	wanted int // number of requests, running and waiting
}

// take waits for a place to ask a server. It fails if the context ends first.
func (p *places) take(ctx context.Context, server string) (leave func(), err error) {
	q := p.enter(server)
	if err := q.Acquire(ctx, 1); err != nil {
		p.leave(server, q)
		return nil, err
	}
	if err := p.all.Acquire(ctx, 1); err != nil {
		q.Release(1)
		p.leave(server, q)
		return nil, err
	}
	return func() {
		p.all.Release(1)
		q.Release(1)
		p.leave(server, q)
	}, nil
}

func (p *places) enter(server string) *queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.each == nil {
		p.all, p.each = semaphore.NewWeighted(placesAll), make(map[string]*queue)
	}
	q := p.each[server]
	if q == nil {
		q = &queue{Weighted: semaphore.NewWeighted(placesEach)}
		p.each[server] = q
	}
	q.wanted++
	return q
}

func (p *places) leave(server string, q *queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.wanted--; q.wanted == 0 {
		delete(p.each, server)
	}
}
