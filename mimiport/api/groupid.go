package api

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport"

// GroupID is the id of a group. It is text in unpadded base64url in paths, bodies and events, so that people can copy
// it between them (profile, section 1).
type GroupID []byte

// ParseGroupID reads 1 to 255 bytes in unpadded base64url. Anything else is a KindBadMessage error.
func ParseGroupID(s string) (GroupID, error) {
	id, err := mimiport.ParseBase64URL(s)
	if err != nil || len(id) == 0 || len(id) > mimiport.MaxGroupID {
		return nil, mimiport.Errorf("read group id", mimiport.KindBadMessage,
			"not 1 to %d bytes in unpadded base64url", mimiport.MaxGroupID)
	}
	return id, nil
}

// String returns the id in unpadded base64url.
func (id GroupID) String() string { return mimiport.IDText(id) }

// MarshalText is String.
func (id GroupID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseGroupID.
func (id *GroupID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseGroupID(string(text))
	return err
}
