package main

import (
	"encoding/json"
	"sync"
)

// picture is all that the page shows of servers and network.
type picture struct {
	Servers  map[string]condition `json:"servers"` // by label
	Cut      bool                 `json:"cut"`     // nothing passes between the servers
	Messages []message            `json:"messages"`
}

// condition is the condition of a server's process.
type condition string

// The conditions.
const (
	running condition = "running"
	paused  condition = "paused"
	stopped condition = "stopped"
)

// board keeps the picture, and tells of its changes.
type board struct {
	mu      sync.Mutex
	picture picture
	changed chan struct{} // closed at the next change
}

func newBoard() *board {
	return &board{picture: picture{Servers: map[string]condition{}}, changed: make(chan struct{})}
}

func (b *board) change(f func(*picture)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.picture)
	close(b.changed)
	b.changed = make(chan struct{})
}

// show returns the picture in JSON, and a channel that closes when there is another one.
func (b *board) show() (picture []byte, changed <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	picture, err = json.Marshal(b.picture)
	return picture, b.changed, err
}
