package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// TestDeviceKeys: every device needs a key, unless the policy names its user or has the mode "published".
func TestDeviceKeys(t *testing.T) {
	for _, c := range []struct {
		patch, user string
		keyless     bool
	}{
		{`{}`, "@a:x", false},
		{`{"preset":"draft"}`, "@a:x", false},
		{`{"device_keys":"published"}`, "@a:x", true},
		{`{"application_services":["@a:x"]}`, "@a:x", true},
		{`{"application_services":["@a:x"]}`, "@ab:x", false},
		{`{"application_services":["@irc_*:x","@b:x"]}`, "@irc_bob:x", true},
		{`{"application_services":["@irc_*:x","@b:x"]}`, "@irc_:x", true},
		{`{"application_services":["@irc_*:x","@b:x"]}`, "@irc:x", false},
		{`{"application_services":["@irc_*:x","@b:x"]}`, "@irc_bob:y", false},
		{`{"application_services":["@a*a:x"]}`, "@a:x", false}, // the ends of the pattern would overlap
	} {
		p, err := policy.Default().Merge(json.RawMessage(c.patch))
		if err != nil || p.MayBeKeyless(c.user) != c.keyless {
			t.Errorf("%s, %s: %v, %v", c.patch, c.user, p.MayBeKeyless(c.user), err)
		}
	}
	_, err := policy.Default().Merge(json.RawMessage(`{"device_keys":"off"}`))
	if mimiport.KindOf(err) != mimiport.KindBadMessage {
		t.Errorf("an unknown mode: %v", err)
	}
}
