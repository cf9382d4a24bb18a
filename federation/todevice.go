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

// SenderID returns the reserved user in whose name a Delivery Service sends to devices (profile, section 7).
func SenderID(server string) string { return "@_mimiport:" + server }

// The largest sizes of the messages in an EDU and of the EDUs in a transaction, in bytes. At least one of two
// neighbouring EDUs is half full, so a transaction has far fewer EDUs than the limit of 100 (Matrix specification,
// server-server API, "Transactions").
const (
	maxMessages    = 60 << 10
	maxTransaction = 512 << 10
)

// ToDevice delivers one event to devices of another server, in one or more transactions. It returns nil when the
// server has answered all of them. A repeated call sends the same transactions.
func (c *Client) ToDevice(
	ctx context.Context, from, server, txnID string, devices map[string][]string, content json.RawMessage,
) error {
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

// sendTransaction sends a transaction. Its id is a hash of its EDUs. A receiver drops a transaction with a known id.
// When a device has gone, the devices are split in another way, and the new transactions must have new ids.
func (c *Client) sendTransaction(ctx context.Context, from, server string, edus []gomatrixserverlib.EDU) error {
	h := sha256.New()
	for _, edu := range edus {
		h.Write(edu.Content)
	}
	_, err := ask[struct{}](ctx, c, request{
		from: from, to: server, op: "send to devices", limit: maxSmallAnswer,
		method: http.MethodPut,
		uri:    "/_matrix/federation/v1/send/mimiport-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil)),
		content: gomatrixserverlib.Transaction{
			Origin:         spec.ServerName(from),
			OriginServerTS: spec.AsTimestamp(c.now()),
			PDUs:           []json.RawMessage{},
			EDUs:           edus,
		},
	})
	return err
}

// transactions splits EDUs into transactions.
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

func toDeviceEDUs(
	from, server, txnID string, devices map[string][]string, content json.RawMessage,
) ([]gomatrixserverlib.EDU, error) {
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
		edus = append(edus, gomatrixserverlib.EDU{
			Type: spec.MDirectToDevice, Origin: from, Destination: server, Content: data,
		})
	}
	return edus, nil
}

// messageID makes an id of 32 characters, the largest allowed length (Matrix specification, "m.direct_to_device").
func messageID(txnID string, payload []byte) string {
	sum := sha256.Sum256(append([]byte(txnID+"\x00"), payload...))
	return base64.RawURLEncoding.EncodeToString(sum[:24])
}

// messages is the payload of one EDU: the content by user id and device id.
type messages = map[string]map[string]json.RawMessage

// split assigns the devices to EDUs in the order of their ids, so the same devices always make the same EDUs.
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

// quoted returns the size of s as a JSON string, in bytes.
func quoted(s string) int {
	q, _ := json.Marshal(s) // strings always encode
	return len(q)
}
