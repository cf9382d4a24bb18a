package main

import (
	"encoding/json"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
)

// engines maps the protocols that the tool knows to their engines.
var engines = map[string]mls.Engine{
	mls.ProtocolMLS10: mls.RFC9420(mls.DefaultLimits()),
	draft09.Protocol:  draft09.New(),
}

// protocolFlag names the protocol of a group: see engineOf.
func protocolFlag() *cli.StringFlag {
	return &cli.StringFlag{
		Name: "protocol", Value: mls.ProtocolMLS10,
		Usage: "the protocol of the group is `NAME`: mls10 for RFC 9420, or mls-draft09 for github.com/cisco/go-mls",
		Validator: func(name string) error {
			if engines[name] == nil {
				return errors.New("there is no such protocol")
			}
			return nil
		},
	}
}

// engineOf returns the engine of the protocol that the flag names.
func engineOf(cmd *cli.Command) mls.Engine { return engines[cmd.String("protocol")] }

// framing has the fields of a message that every protocol has.
type framing struct {
	Protocol          string `json:"protocol"`
	Kind              string `json:"kind"`
	GroupID           []byte `json:"group_id"`
	Epoch             uint64 `json:"epoch"`
	Sender            uint32 `json:"sender"`
	AuthenticatedData []byte `json:"authenticated_data"`
}

// describeMLS describes a whole message of RFC 9420. Of a message of any other protocol it describes the framing.
func describeMLS(engine mls.Engine) func(data []byte) (json.RawMessage, error) {
	if engine.Protocol() == mls.ProtocolMLS10 {
		return describe(mls.Decode)
	}
	return describe(func(data []byte) (*framing, error) {
		m, err := engine.Parse(data)
		if err != nil {
			return nil, err
		}
		return &framing{engine.Protocol(), kinds[m.Kind], m.GroupID, m.Epoch, m.Sender.Index, m.AuthenticatedData}, nil
	})
}
