package hooks

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// deviceKeys is delivery.Devices. It asks Dendrite for the devices of local users, and sends its own requests to other
// homeservers. It does not use Dendrite's QueryKeys, which does not tell current answers of a server from earlier ones.
type deviceKeys struct {
	client  *federation.Client
	users   userapi.UserInternalAPI
	isLocal func(server string) bool
	silent  *silences
	now     func() time.Time
	places  *places

	mu        sync.Mutex
	confirmed *simplelru.LRU[delivery.LeafKey, time.Time] // keys that another homeserver confirmed, and when
	published *simplelru.LRU[api.DirectKey, published]    // the same keys by their names
	asking    *slots.Slots[string]                        // current requests for published keys, by homeserver
	askingAll *slots.Slots[struct{}]                      // the same requests to all homeservers
}

// published is a key that another homeserver confirmed, and the time.
type published struct {
	key []byte
	at  time.Time
}

var _ delivery.Devices = (*deviceKeys)(nil)

const (
	confirmedFor = time.Minute
	maxConfirmed = 16384 // each takes some hundred bytes
	maxAsking    = 8     // questions for published keys that one homeserver has not answered yet
	maxAskingAll = placesAll / 2
)

func newDeviceKeys(
	client *federation.Client, users userapi.UserInternalAPI, isLocal func(string) bool, silent *silences,
) *deviceKeys {
	confirmed, _ := simplelru.NewLRU[delivery.LeafKey, time.Time](maxConfirmed, nil) // it fails only for a size below 1
	byName, _ := simplelru.NewLRU[api.DirectKey, published](maxConfirmed, nil)
	return &deviceKeys{
		client: client, users: users, isLocal: isLocal, silent: silent, now: silent.now, places: newPlaces(),
		confirmed: confirmed, published: byName,
		asking: slots.New[string](maxAsking), askingAll: slots.New[struct{}](maxAskingAll),
	}
}

// Look implements delivery.Devices.
func (d *deviceKeys) Look(
	ctx context.Context, from, server string, leaves []delivery.LeafKey,
) ([]delivery.Finding, error) {
	var users []string
	for _, l := range leaves {
		if !d.isConfirmed(l) {
			users = append(users, l.UserID)
		}
	}
	slices.Sort(users)
	devices, err := d.devices(ctx, from, server, slices.Compact(users))
	if err != nil {
		return nil, err
	}
	found := make([]delivery.Finding, len(leaves))
	for i, l := range leaves {
		found[i] = delivery.KeyPublished
		if asked, ok := devices[l.UserID]; ok {
			found[i] = find(asked, l)
			d.note(server, l, found[i])
		}
	}
	return found, nil
}

// key is the Key of clientapi.Direct. Anybody can make this server ask a homeserver by naming one of its users. So at
// most maxAsking requests to one homeserver run at a time, and maxAskingAll to all. That leaves places for Look.
func (d *deviceKeys) key(ctx context.Context, from string, of api.DirectKey) ([]byte, error) {
	const op = "look up device key"
	if key, ok := d.isPublished(of); ok {
		return key, nil
	}
	_, server, err := gomatrixserverlib.SplitID('@', of.UserID)
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	free, ok := d.asking.Take(string(server))
	if !ok {
		return nil, tooMany(op, "%s is being asked for other devices", server)
	}
	defer free()
	freeAll, ok := d.askingAll.Take(struct{}{})
	if !ok {
		return nil, tooMany(op, "too many homeservers are being asked for devices")
	}
	defer freeAll()
	devices, err := d.devices(ctx, from, string(server), []string{of.UserID})
	if err != nil {
		return nil, err
	}
	key, err := devices.Published(of)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.published.Add(of, published{key, d.now()})
	return key, nil
}

func tooMany(op, why string, args ...any) error {
	err := mimiport.Errorf(op, mimiport.KindQuota, why, args...)
	err.Info.RetryAfter = time.Second
	return err
}

func (d *deviceKeys) isPublished(of api.DirectKey) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.published.Get(of)
	return p.key, ok && d.now().Before(p.at.Add(confirmedFor))
}

// devices asks a server, or this one, for the devices of users.
func (d *deviceKeys) devices(
	ctx context.Context, from, server string, users []string,
) (federation.DeviceKeys, error) {
	switch {
	case d.isLocal(server):
		return d.own(ctx, users)
	case len(users) == 0:
		return nil, nil
	case d.silent.isSilent(server):
		const why = "%s could not be asked less than %v ago"
		return nil, mimiport.Errorf("ask for devices", mimiport.KindPeer, why, server, silence)
	}
	leave, err := d.places.take(ctx, server)
	if err != nil {
		const why = "%s has too many questions to answer: %w"
		return nil, mimiport.Errorf("ask for devices", mimiport.KindPeer, why, server, err)
	}
	defer leave()
	devices, err := d.client.DeviceKeys(ctx, from, server, users)
	// A user with many devices can make the answer too long, and a client can stop waiting. Neither says anything about
	// the server.
	if err != nil && !errors.Is(err, federation.ErrTooLong) && !errors.Is(ctx.Err(), context.Canceled) {
		d.silent.fell(server)
	}
	return devices, err
}

// own lists the devices of local users. Unlike the answer of another server, the list has devices that publish nothing.
func (d *deviceKeys) own(ctx context.Context, users []string) (federation.DeviceKeys, error) {
	all := make(federation.DeviceKeys)
	for _, user := range users {
		ids, err := d.ownDevices(ctx, user)
		if err != nil {
			return nil, err
		}
		var published userapi.QueryDeviceMessagesResponse
		err = d.users.QueryDeviceMessages(ctx, &userapi.QueryDeviceMessagesRequest{UserID: user}, &published)
		if err != nil {
			return nil, err
		}
		if published.Error != nil {
			return nil, errors.New(published.Error.Err)
		}
		all[user] = make(map[string]map[string]string)
		for id := range ids {
			all[user][id] = nil
		}
		for _, m := range published.Devices {
			if ids[m.DeviceID] { // else the device is deleted, or about to be
				all[user][m.DeviceID] = federation.ParseDeviceKeys(user, m.DeviceID, m.KeyJSON)
			}
		}
	}
	return all, nil
}

// ownDevices returns the ids of a local user's devices.
func (d *deviceKeys) ownDevices(ctx context.Context, userID string) (map[string]bool, error) {
	var answer userapi.QueryDevicesResponse
	if err := d.users.QueryDevices(ctx, &userapi.QueryDevicesRequest{UserID: userID}, &answer); err != nil {
		return nil, err
	}
	ids := make(map[string]bool)
	for _, device := range answer.Devices {
		ids[device.ID] = true
	}
	return ids, nil
}

// find compares a leaf's key with the keys that the devices of its user publish.
func find(devices map[string]map[string]string, l delivery.LeafKey) delivery.Finding {
	keys, listed := devices[l.DeviceID]
	if !listed {
		return delivery.DeviceUnlisted
	}
	key, ok := keys[api.DeviceKeyName(l.Scheme, l.DeviceID)]
	switch {
	case !ok:
		return delivery.KeyMissing
	case key != base64.RawStdEncoding.EncodeToString([]byte(l.Key)):
		return delivery.KeyOther
	}
	return delivery.KeyPublished
}

func (d *deviceKeys) isConfirmed(l delivery.LeafKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.confirmed.Get(l)
	return ok && d.now().Before(at.Add(confirmedFor))
}

// note remembers a key that another server confirmed.
func (d *deviceKeys) note(server string, l delivery.LeafKey, found delivery.Finding) {
	if found != delivery.KeyPublished || d.isLocal(server) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.confirmed.Add(l, d.now())
}

// forget drops the confirmed keys of a user's devices, so that the next check asks again.
func (d *deviceKeys) forget(userID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.confirmed.Keys() {
		if l.UserID == userID {
			d.confirmed.Remove(l)
		}
	}
	for _, k := range d.published.Keys() {
		if k.UserID == userID {
			d.published.Remove(k)
		}
	}
}
