package hooks

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
)

// The most requests about devices that run at a time, to one server and in all. Memory must hold as many answers.
const (
	placesEach = 4
	placesAll  = 64
)

// places bounds the current requests to other servers.
type places struct {
	all  *slots.Slots[struct{}]
	each *slots.Slots[string] // by server
}

func newPlaces() *places {
	return &places{all: slots.New[struct{}](placesAll), each: slots.New[string](placesEach)}
}

// take waits for a place to ask a server. It fails if the context ends first.
func (p *places) take(ctx context.Context, server string) (leave func(), err error) {
	free, err := p.each.Wait(ctx, server)
	if err != nil {
		return nil, err
	}
	freeOfAll, err := p.all.Wait(ctx, struct{}{})
	if err != nil {
		free()
		return nil, err
	}
	return func() {
		freeOfAll()
		free()
	}, nil
}
