package sqlstore

import (
	"bytes"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// The types below write fields to columns and read them back, where database/sql cannot do so by itself. Each is used
// through a pointer into the stored struct, as an argument and as a destination.

// blob is bytes. An empty column is read as nil.
type blob []byte

func (b *blob) Value() (driver.Value, error) { return notNull(*b), nil }

func (b *blob) Scan(src any) error {
	data, err := bytesOf(src)
	*b = bytes.Clone(data) // the driver reuses its memory
	return err
}

// notNull returns the bytes for a column that cannot be null: nil becomes empty.
func notNull(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// bytesOf returns the bytes of a column, nil for none.
func bytesOf(src any) ([]byte, error) {
	data, ok := src.([]byte)
	if !ok && src != nil {
		return nil, errors.New("a column does not hold bytes")
	}
	if len(data) == 0 {
		return nil, nil
	}
	return data, nil
}

// hash is 32 bytes: a SHA-256 or a migration id.
type hash [32]byte

func (h *hash) Value() (driver.Value, error) { return h[:], nil }

func (h *hash) Scan(src any) error {
	data, err := bytesOf(src)
	if err == nil && len(data) != len(h) {
		err = fmt.Errorf("a column has %d bytes, want %d", len(data), len(h))
	}
	copy(h[:], data)
	return err
}

// auditID is the id of an entry of the audit log.
type auditID storage.AuditID

func (a *auditID) Value() (driver.Value, error) { return a[:], nil }

func (a *auditID) Scan(src any) error {
	data, err := bytesOf(src)
	if err == nil && len(data) != len(a) {
		err = fmt.Errorf("a column has %d bytes, want %d", len(data), len(a))
	}
	copy(a[:], data)
	return err
}

// optionalID is a migration id that may be absent. An absent one is null.
type optionalID struct{ id **mimiport.MigrationID }

func (o optionalID) Value() (driver.Value, error) {
	if *o.id == nil {
		return nil, nil
	}
	return (*o.id)[:], nil
}

func (o optionalID) Scan(src any) error {
	if src == nil {
		*o.id = nil
		return nil
	}
	*o.id = new(mimiport.MigrationID)
	return (*hash)(*o.id).Scan(src)
}

// millis is a time, stored as storage.Millis returns it.
type millis time.Time

func (m *millis) Value() (driver.Value, error) { return storage.Millis(time.Time(*m)), nil }

func (m *millis) Scan(src any) error {
	ms, ok := src.(int64)
	if !ok {
		return errors.New("a column does not hold a time")
	}
	*m = millis(storage.Time(ms))
	return nil
}

// names is a list of server names, one a line. No server name has a line break.
type names []string

func (l *names) Value() (driver.Value, error) { return []byte(strings.Join(*l, "\n")), nil }

func (l *names) Scan(src any) error {
	data, err := bytesOf(src)
	if *l = nil; len(data) > 0 {
		*l = strings.Split(string(data), "\n")
	}
	return err
}

// identities is a list of leaf identities. Each is a user id and a device id, as vectors.
type identities []mimiport.LeafIdentity

func (l *identities) Value() (driver.Value, error) {
	var b cryptobyte.Builder
	for _, identity := range *l {
		wire.AddOpaque(&b, []byte(identity.UserID))
		wire.AddOpaque(&b, []byte(identity.DeviceID))
	}
	data, err := b.Bytes()
	return notNull(data), err
}

func (l *identities) Scan(src any) error {
	data, err := bytesOf(src)
	if err != nil {
		return err
	}
	*l = nil
	for s := cryptobyte.String(data); !s.Empty(); {
		var userID, deviceID []byte
		if !wire.ReadOpaque(&s, &userID) || !wire.ReadOpaque(&s, &deviceID) {
			return errors.New("a column has a truncated list of identities")
		}
		*l = append(*l, mimiport.LeafIdentity{UserID: string(userID), DeviceID: string(deviceID)})
	}
	return nil
}
