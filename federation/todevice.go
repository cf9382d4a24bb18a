package federation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// SenderID is the reserved user who sends to devices for a Delivery Service (profile, section 7).
func SenderID(server string) string { return "@_mimiport:" + server }

// What is sent at once, in bytes: the messages of an EDU, and the EDUs of a transaction. Of two neighbouring EDUs at least one
// is half full, so a transaction has far fewer than the 100 that it may have (Matrix specification, server-server API, "Transactions").
const (
	maxMessages    = 60 << 10
	maxTransaction = 512 << 10
)

// ToDevice delivers one event to devices of another server, in as many transactions as it takes; it is delivered when all of
// them have been answered. Repeating it repeats the same transactions.
func (c *Client) ToDevice(ctx context.Context, from, server, txnID string, devices map[string][]string, content json.RawMessage) error {
	edus, err := toDeviceEDUs(from, server, txnID, devices, content)
	if err != nil {
		return err
	}
	for _, txn := range transactions(edus) {
		if err := c.sendTransaction(ctx, from, server, txn); err != nil {
			return err
		}
	}
	return nil
}

// sendTransaction names the transaction by its EDUs: a receiver drops a transaction whose id it has seen, so another split of
// the devices, after one of them has gone, must not come under an old id.
func (c *Client) sendTransaction(ctx context.Context, from, server string, edus []gomatrixserverlib.EDU) error {
	h := sha256.New()
	for _, edu := range edus {
		h.Write(edu.Content)
	}
	_, err := ask[struct{}](ctx, c, request{
		from: from, to: server, op: "send to devices", limit: maxSmallAnswer,
		method: http.MethodPut, uri: "/_matrix/federation/v1/send/mimiport-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil)),
		content: gomatrixserverlib.Transaction{
			Origin:         spec.ServerName(from),
			OriginServerTS: spec.AsTimestamp(c.now()),
			PDUs:           []json.RawMessage{},
			EDUs:           edus,
		},
	})
	return err
}

// transactions fills one transaction after the other.
func transactions(edus []gomatrixserverlib.EDU) (txns [][]gomatrixserverlib.EDU) {
	start, size := 0, 0
	for i, edu := range edus {
		if i > start && size+len(edu.Content) > maxTransaction {
			txns, start, size = append(txns, edus[start:i]), i, 0
		}
		size += len(edu.Content)
	}
	if start == len(edus) {
		return txns
	}
	return append(txns, edus[start:])
}

func toDeviceEDUs(from, server, txnID string, devices map[string][]string, content json.RawMessage) ([]gomatrixserverlib.EDU, error) {
	var edus []gomatrixserverlib.EDU
	for _, m := range split(devices, content) {
		payload, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(gomatrixserverlib.ToDeviceMessage{
			Sender:    SenderID(from),
			Type:      api.EventMessage,
			MessageID: messageID(txnID, payload),
			Messages:  m,
		})
		if err != nil {
			return nil, err
		}
		edus = append(edus, gomatrixserverlib.EDU{Type: spec.MDirectToDevice, Origin: from, Destination: server, Content: data})
	}
	return edus, nil
}

// messageID is 32 characters, the most there may be (Matrix specification, "m.direct_to_device").
func messageID(txnID string, payload []byte) string {
	sum := sha256.Sum256(append([]byte(txnID+"\x00"), payload...))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// messages is the payload of one EDU: user id → device id → content.
type messages = map[string]map[string]json.RawMessage

// split puts the devices into EDUs in the order of their names, so that the same devices always make the same EDUs.
func split(devices map[string][]string, content json.RawMessage) (edus []messages) {
	size := 0
	for _, user := range slices.Sorted(maps.Keys(devices)) {
		for _, device := range slices.Compact(slices.Sorted(slices.Values(devices[user]))) {
			more := quoted(user) + quoted(device) + len(content) + len(`:{:},`)
			if size += more; len(edus) == 0 || size > maxMessages {
				edus, size = append(edus, messages{}), more
			}
			edu := edus[len(edus)-1]
			if edu[user] == nil {
				edu[user] = make(map[string]json.RawMessage)
			}
			edu[user][device] = content
		}
	}
	return edus
}

// quoted is the length in bytes of s as a JSON string.
func quoted(s string) int {
	q, _ := json.Marshal(s) // strings always encode
	return len(q)
}
