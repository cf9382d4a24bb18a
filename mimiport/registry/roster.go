package registry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// Roster counts the leaves of each device, by server, user and device. The fan-out goes to these servers and devices.
type Roster map[string]map[string]map[string]int

// NewRoster counts a group's leaves. It returns the errors of Identity.
func NewRoster(g mls.Group) (Roster, error) {
	r := make(Roster)
	for m := range g.Members() {
		id, err := Identity(m)
		if err != nil {
			return nil, err
		}
		r.Add(id)
	}
	return r, nil
}

// Add counts a leaf.
func (r Roster) Add(id *mimiport.LeafIdentity) {
	server := ServerOf(id.UserID)
	if r[server] == nil {
		r[server] = make(map[string]map[string]int)
	}
	if r[server][id.UserID] == nil {
		r[server][id.UserID] = make(map[string]int)
	}
	r[server][id.UserID][id.DeviceID]++
}

// Remove takes back one call of Add.
func (r Roster) Remove(id *mimiport.LeafIdentity) {
	server := ServerOf(id.UserID)
	devices := r[server][id.UserID]
	if devices[id.DeviceID]--; devices[id.DeviceID] > 0 {
		return
	}
	delete(devices, id.DeviceID)
	if len(devices) == 0 {
		delete(r[server], id.UserID)
	}
	if len(r[server]) == 0 {
		delete(r, server)
	}
}

// Has reports whether a user has a leaf.
func (r Roster) Has(userID string) bool { return len(r[ServerOf(userID)][userID]) > 0 }

// Users lists the users, in no order.
func (r Roster) Users() (users []string) {
	for _, byUser := range r {
		users = slices.AppendSeq(users, maps.Keys(byUser))
	}
	return users
}

// Servers lists the servers of the users, sorted.
func (r Roster) Servers() []string { return slices.Sorted(maps.Keys(r)) }

// At copies the roster of one server: the number of leaves by user and device.
func (r Roster) At(server string) map[string]map[string]int {
	users := make(map[string]map[string]int, len(r[server]))
	for user, devices := range r[server] {
		users[user] = maps.Clone(devices)
	}
	return users
}

// ruleIdentity is the name of the profile's rule on credentials in errors.
const ruleIdentity = "leaf-identity"

// Identity reads the Matrix user and device in a member's credential (profile, section 7). It returns a KindInvalid
// error for a credential that is not basic or names no Matrix device, and a KindBadMessage error for one that does not
// decode.
func Identity(m mls.Member) (*mimiport.LeafIdentity, error) {
	fail := func(kind mimiport.Kind, why error) error {
		return &mimiport.Error{
			Op: "read credential", Kind: kind, Info: mimiport.Info{Rule: ruleIdentity},
			Err: fmt.Errorf("leaf %d: %w", m.Leaf, why),
		}
	}
	if m.Identity == nil {
		return nil, fail(mimiport.KindInvalid, errors.New("the credential is not basic"))
	}
	id, err := mimiport.UnmarshalLeafIdentity(m.Identity)
	if err != nil {
		return nil, fail(mimiport.KindBadMessage, err)
	}
	if _, err := mimiport.ParseDevice(id.UserID, id.DeviceID); err != nil {
		return nil, fail(mimiport.KindInvalid, fmt.Errorf("the credential names no Matrix device: %w", err))
	}
	return id, nil
}

// ServerOf returns the server part of a user id, which Identity or the edge has checked.
func ServerOf(userID string) string {
	_, domain, _ := strings.Cut(userID, ":")
	return domain
}
