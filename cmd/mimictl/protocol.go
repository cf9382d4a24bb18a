package main

import (
	"encoding/json"
	"errors"
	"flag"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
)

// engines maps the protocols that the tool knows to their engines.
var engines = map[string]mls.Engine{
	mls.ProtocolMLS10: mls.RFC9420(mls.DefaultLimits()),
	draft09.Protocol:  draft09.New(),
}

// protocolFlag adds the flag -protocol. The result points to the chosen engine once the flags are parsed.
func protocolFlag(flags *flag.FlagSet) *mls.Engine {
	chosen := engines[mls.ProtocolMLS10]
	usage := "the protocol of the group is `NAME`: mls10, the default, for RFC 9420,\n" +
		"or mls-draft09 for github.com/cisco/go-mls"
	flags.Func("protocol", usage, func(name string) error {
		engine, ok := engines[name]
		if !ok {
			return errors.New("there is no such protocol")
		}
		chosen = engine
		return nil
	})
	return &chosen
}

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
