package mimiport

import (
	"strings"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// ParseUserID returns the server of a Matrix user. The id may have any character that Matrix has ever permitted (Matrix
// specification, appendices, "Historical User IDs") but those that JSON escapes. ParseUserID returns a KindBadMessage
// error for any other string (profile, section 7, "Names in what a server signs").
func ParseUserID(id string) (server string, err error) {
	user, err := spec.NewUserID(id, true)
	if err != nil {
		return "", Errorf("parse user id", KindBadMessage, "%w", err)
	}
	return string(user.Domain()), ValidateFieldName(id)
}

// ParseDevice returns the server of a Matrix device. The id of its user is one for ParseUserID. The id of the device is
// not empty, and has no character that JSON escapes. ParseDevice returns a KindBadMessage error for any other strings.
func ParseDevice(userID, deviceID string) (server string, err error) {
	server, err = ParseUserID(userID)
	if err == nil && deviceID == "" {
		err = Errorf("parse device", KindBadMessage, "the id of the device is empty")
	}
	if err == nil {
		err = ValidateFieldName(deviceID)
	}
	return server, err
}

// ValidateFieldName checks that a JSON string of the name has no escape. It returns a KindBadMessage error for any
// other name. Users and devices name fields in what a server signs, and there are homeservers whose Canonical JSON
// writes the names of fields without their escapes: such a name could end its field, and say anything after that.
func ValidateFieldName(name string) error {
	escaped := func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }
	if !utf8.ValidString(name) || strings.ContainsFunc(name, escaped) {
		return Errorf("validate name", KindBadMessage, "%q has a character that JSON escapes", Clip(name))
	}
	return nil
}
