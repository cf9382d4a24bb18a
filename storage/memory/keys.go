package memory

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// KeyObjects implements storage.Store.
func (s *Store) KeyObjects(_ context.Context, server string) ([]storage.KeyObject, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []storage.KeyObject
	for _, k := range s.latestKeys(server) {
		c := *k
		c.Object = clone(k.Object)
		found = append(found, c)
	}
	return found, nil
}

// latestKeys lists the key objects of a server, or of all servers, the last fetched first.
func (s *Store) latestKeys(server string) (found []*storage.KeyObject) {
	for _, k := range s.keys.rows {
		if server == "" || k.Server == server {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b *storage.KeyObject) int {
		byName := cmp.Or(strings.Compare(a.Server, b.Server), strings.Compare(a.KeyID, b.KeyID))
		return cmp.Or(b.FetchedAt.Compare(a.FetchedAt), byName)
	})
	return found
}

// KeepKeyObject implements storage.Store.
func (s *Store) KeepKeyObject(_ context.Context, k *storage.KeyObject) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tx transaction
	c := *k
	c.Object, c.FetchedAt = clone(k.Object), stamp(k.FetchedAt)
	put(&tx, &s.keys, s.keys.key(&c), &c)
	for server, most := range map[string]int{k.Server: storage.MaxKeyObjectsOfServer, "": storage.MaxKeyObjects} {
		if kept := s.latestKeys(server); len(kept) > most {
			put(&tx, &s.keys, s.keys.key(kept[most]), nil)
		}
	}
	return nil
}
