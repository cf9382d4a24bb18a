package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// recording is a group in one epoch, and the messages that follow.
type recording struct {
	GroupInfo   binary   `json:"group_info"`
	RatchetTree binary   `json:"ratchet_tree"`
	Messages    []binary `json:"messages"`

	next []byte // the GroupInfo of the epoch after the messages; nil when it is not known
}

// recordState makes a recording of the group in a MigrationContent or a group state. Its last message is the migration
// Commit. recordState returns nil for any other input.
func recordState(data []byte) *recording {
	if content, err := mimiport.UnmarshalMigrationContent(data); err == nil {
		data = content.GroupState
	}
	state, err := mimiport.UnmarshalGroupState(data)
	if err != nil {
		return nil
	}
	r := &recording{GroupInfo: state.Base.GroupInfo, RatchetTree: state.Base.RatchetTree, next: state.Commit.GroupInfo}
	for _, m := range append(state.Proposals, state.Commit.Commit) {
		r.Messages = append(r.Messages, m)
	}
	return r
}

// readRecording reads a file: a recording in JSON, a MigrationContent, a group state, or a GroupInfo.
func readRecording(file string, std stdio) (*recording, error) {
	input, err := read(file, std)
	if err != nil {
		return nil, err
	}
	r := new(recording)
	if text := bytes.TrimSpace(input); len(text) == 0 || text[0] != '{' {
		data, _ := fromText(string(input))
		if moving := recordState(data); moving != nil {
			return moving, nil
		}
		r.GroupInfo = data
		return r, nil
	}
	if err := plainjson.Unmarshal(input, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return r, nil
}

// openGroup reads a recording, and opens the group at its beginning.
func openGroup(engine mls.Engine, file string, std stdio) (mls.Group, *recording, error) {
	r, err := readRecording(file, std)
	if err != nil {
		return nil, nil, err
	}
	group, err := engine.Open(r.GroupInfo, r.RatchetTree)
	return group, r, err
}

// replayed is the line for one message: its kind, and the group after it.
type replayed struct {
	Index                   int    `json:"i"`
	Kind                    string `json:"kind"`
	Epoch                   uint64 `json:"epoch"`
	TreeHash                string `json:"tree_hash"`
	ConfirmedTranscriptHash string `json:"confirmed_transcript_hash"`
	Members                 int    `json:"members"`
	Error                   string `json:"error"`
}

func replayCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "replay", Usage: "follow a group through its messages", ArgsUsage: "FILE|-",
		Description: `It sees the messages as a Delivery Service does. The input is JSON, bytes in base64 or
hexadecimal:

    {"group_info": MLSMESSAGE, "ratchet_tree": TREE, "messages": [MLSMESSAGE, ...]}

ratchet_tree may be absent when group_info holds the tree. Or the input is a
MigrationContent or a group state: its proposals and its Commit are the messages,
and its signature is not checked. It prints one line of JSON for each message. A
refused message leaves the group as it was.
It does not check lifetimes. It cannot follow a Commit with an AppDataUpdate: only
the GroupInfo of the next epoch has the new data.`,
		Flags: []cli.Flag{protocolFlag()},
		Action: func(_ context.Context, cmd *cli.Command) error {
			return replayFile(engineOf(cmd), cmd.Args().First(), std)
		},
	}, "mimictl mls replay recording.json")
}

func replayFile(engine mls.Engine, file string, std stdio) error {
	group, r, err := openGroup(engine, file, std)
	if err != nil {
		return err
	}
	out := json.NewEncoder(std.out)
	for i, message := range r.Messages {
		kind, next, err := follow(engine, group, message)
		line := replayed{Index: i, Kind: kind}
		if err != nil {
			line.Error = err.Error()
		} else {
			group = next
		}
		line.Epoch, line.Members = group.Epoch(), group.NumMembers()
		line.TreeHash = hex.EncodeToString(group.TreeHash())
		line.ConfirmedTranscriptHash = hex.EncodeToString(group.ConfirmedTranscriptHash())
		if err := out.Encode(&line); err != nil {
			return err
		}
	}
	return nil
}

// kinds names the kinds of messages.
var kinds = map[mls.Kind]string{
	mls.KindProposal:    "proposal",
	mls.KindCommit:      "commit",
	mls.KindApplication: "application",
	mls.KindWelcome:     "welcome",
	mls.KindGroupInfo:   "group_info",
	mls.KindKeyPackage:  "key_package",
}

// follow returns the kind of a message, and the group after it.
func follow(engine mls.Engine, group mls.Group, message []byte) (kind string, next mls.Group, err error) {
	m, err := engine.Parse(message)
	if err != nil {
		return "unknown", nil, err
	}
	switch next = group; m.Kind {
	case mls.KindProposal:
		next, _, err = group.Propose(message)
	case mls.KindCommit:
		follower, ok := group.(mls.Follower)
		if !ok {
			return kinds[m.Kind], nil, errors.New("this engine cannot follow a group without GroupInfos")
		}
		next, _, err = follower.Follow(message)
	case mls.KindApplication:
		err = requireEpoch(group, m)
	}
	return kinds[m.Kind], next, err
}

// requireEpoch fails unless an encrypted message is of the group and its epoch, and the group is open.
func requireEpoch(group mls.Group, m *mls.Message) error {
	const op = "receive application message"
	if err := mls.RequireOpen(group); err != nil {
		return err
	}
	if string(m.GroupID) != string(group.ID()) {
		return mimiport.Errorf(op, mimiport.KindInvalid, "the message is of another group")
	}
	if m.Epoch != group.Epoch() {
		return mimiport.Errorf(op, mimiport.KindWrongEpoch,
			"the group is at epoch %d, the message at %d", group.Epoch(), m.Epoch)
	}
	return nil
}
