package federation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// SenderID returns the reserved user in whose name a Delivery Service sends to devices (profile, section 7).
func SenderID(server string) string { return "@_mimiport:" + server }

// The bounds of an EDU and of a transaction: the bytes of the messages in an EDU, the bytes of the EDUs in a
// transaction, and the number of these EDUs (Matrix specification, server-server API, "Transactions").
const (
	maxMessages    = 60 << 10
	maxTransaction = 512 << 10
	maxEDUs        = 100
)

// ToDevice delivers events to devices of another server, in order, in as few transactions as possible. It returns the
// number of events that arrived before the first one that did not. A repeated call sends the same transactions. If the
// server refuses a transaction, ToDevice sends its halves, until it knows which EDU the server refuses. The error is
// then KindInvalid.
func (c *Client) ToDevice(
	ctx context.Context, from, server string, events []api.DeviceEvent,
) (arrived int, err error) {
	var edus []gomatrixserverlib.EDU
	var ends []int // of each event: the number of EDUs up to its last one
	for i := range events {
		more, err := toDeviceEDUs(from, server, &events[i])
		if err != nil {
			return 0, err
		}
		edus = append(edus, more...)
		ends = append(ends, len(edus))
	}
	sent := 0
	for _, txn := range transactions(edus) {
		n, err := c.sendEDUs(ctx, from, server, txn)
		if sent += n; err != nil {
			arrived, _ = slices.BinarySearch(ends, sent+1)
			return arrived, err
		}
	}
	return len(events), nil
}

// sendEDUs sends a transaction, and its halves if the server refuses it. It returns the number of EDUs before the first
// one that the server did not accept.
func (c *Client) sendEDUs(
	ctx context.Context, from, server string, edus []gomatrixserverlib.EDU,
) (sent int, err error) {
	err = c.sendTransaction(ctx, from, server, edus)
	if err == nil {
		return len(edus), nil
	}
	if mimiport.KindOf(err) != mimiport.KindInvalid || len(edus) == 1 {
		return 0, err
	}
	half := len(edus) / 2
	if sent, err = c.sendEDUs(ctx, from, server, edus[:half]); err != nil {
		return sent, err
	}
	sent, err = c.sendEDUs(ctx, from, server, edus[half:])
	return half + sent, err
}

// sendTransaction sends a transaction. Its id is a hash of its EDUs. A receiver drops a transaction with a known id.
// When a device has gone, the devices are split in another way, and the new transactions must have new ids. The error
// is KindInvalid if the server refuses the very bytes, by 400 or 413.
func (c *Client) sendTransaction(ctx context.Context, from, server string, edus []gomatrixserverlib.EDU) error {
	h := sha256.New()
	for _, edu := range edus {
		h.Write(edu.Content)
	}
	q := request{
		from: from, to: server, op: "send to devices", limit: maxSmallAnswer,
		method: http.MethodPut,
		uri:    "/_matrix/federation/v1/send/mimiport-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil)),
		content: gomatrixserverlib.Transaction{
			Origin:         spec.ServerName(from),
			OriginServerTS: spec.AsTimestamp(c.now()),
			PDUs:           []json.RawMessage{},
			EDUs:           edus,
		},
	}
	status, body, err := c.do(ctx, q)
	switch {
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge:
		return mimiport.Errorf(q.op, mimiport.KindInvalid, "%s refuses the transaction: %w", server, err)
	case err != nil:
		return err
	case status != http.StatusOK:
		return q.failed(fmt.Errorf("answered %d", status))
	}
	_, err = decodeAnswer[struct{}](q, body)
	return err
}

// transactions splits EDUs into transactions.
func transactions(edus []gomatrixserverlib.EDU) (txns [][]gomatrixserverlib.EDU) {
	start, size := 0, 0
	for i, edu := range edus {
		if i > start && (size+len(edu.Content) > maxTransaction || i-start == maxEDUs) {
			txns, start, size = append(txns, edus[start:i]), i, 0
		}
		size += len(edu.Content)
	}
	if start == len(edus) {
		return txns
	}
	return append(txns, edus[start:])
}

func toDeviceEDUs(from, server string, event *api.DeviceEvent) ([]gomatrixserverlib.EDU, error) {
	var edus []gomatrixserverlib.EDU
	for _, m := range split(event.Devices, event.Content) {
		payload, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(gomatrixserverlib.ToDeviceMessage{
			Sender:    SenderID(from),
			Type:      event.Type,
			MessageID: messageID(event.ID, payload),
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
func messageID(eventID string, payload []byte) string {
	sum := sha256.Sum256(append([]byte(eventID+"\x00"), payload...))
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
