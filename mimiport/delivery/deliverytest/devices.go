package deliverytest

import (
	"context"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// Devices are the devices of all users, as their homeservers list them for every server. A device that no test has
// changed publishes the key of its leaf.
type Devices struct {
	mu     sync.Mutex
	said   map[device]published
	silent map[string]bool
	asked  []string // the servers that have been asked, in order
}

type device struct{ user, id string }

type published struct {
	finding delivery.Finding // of any key but this
	key     string
}

// Delete deletes a device.
func (d *Devices) Delete(user, id string) {
	d.set(user, id, published{finding: delivery.DeviceUnlisted})
}

// Bare makes a device publish no key.
func (d *Devices) Bare(user, id string) { d.set(user, id, published{finding: delivery.KeyMissing}) }

// Publish makes a device publish a key.
func (d *Devices) Publish(user, id string, key []byte) {
	d.set(user, id, published{finding: delivery.KeyOther, key: string(key)})
}

func (d *Devices) set(user, id string, p published) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said[device{user, id}] = p
}

// Trust makes a device publish the key of its leaf again.
func (d *Devices) Trust(user, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.said, device{user, id})
}

// Silence sets whether a homeserver is silent.
func (d *Devices) Silence(server string, silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent[server] = silent
}

// Asked lists the servers that were asked so far, in order.
func (d *Devices) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// Look implements delivery.Devices.
func (d *Devices) Look(_ context.Context, _, server string, leaves []delivery.LeafKey) ([]delivery.Finding, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, server)
	if d.silent[server] {
		return nil, mimiport.Errorf("ask for devices", mimiport.KindPeer, "%s does not answer", server)
	}
	found := make([]delivery.Finding, len(leaves))
	for i, l := range leaves {
		p, ok := d.said[device{l.UserID, l.DeviceID}]
		if found[i] = p.finding; !ok || p.finding == delivery.KeyOther && p.key == l.Key {
			found[i] = delivery.KeyPublished
		}
	}
	return found, nil
}
