package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// report is the output of mls verify for a group that passes every check.
type report struct {
	GroupID                 []byte         `json:"group_id"`
	Epoch                   uint64         `json:"epoch"`
	CipherSuite             uint16         `json:"cipher_suite"`
	TreeHash                []byte         `json:"tree_hash"`
	ConfirmedTranscriptHash []byte         `json:"confirmed_transcript_hash"`
	ExternalSenders         []senderReport `json:"external_senders"`
	Expired                 uint64         `json:"expired_leaves"`
	Members                 []memberReport `json:"members"`
}

type senderReport struct {
	Identity     string `json:"identity"`
	SignatureKey []byte `json:"signature_key"`
}

type memberReport struct {
	Leaf         uint32 `json:"leaf"`
	UserID       string `json:"user_id"` // empty when the credential names no Matrix device
	DeviceID     string `json:"device_id"`
	SignatureKey []byte `json:"signature_key"`
	Lifetime     string `json:"lifetime"`
}

func verifyCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "verify", Usage: "check a group as a Delivery Service does", ArgsUsage: "FILE|-",
		Description: `It reports the members and the number of expired key packages. The input is as for
mls replay, or a GroupInfo that holds its tree. Of a MigrationContent or a group
state it also checks the proposals and the Commit, and reports the epoch after the
Commit. Bytes are hexadecimal.`,
		Flags: []cli.Flag{jsonFlag(), protocolFlag()},
		Action: func(_ context.Context, cmd *cli.Command) error {
			return verifyFile(engineOf(cmd), cmd.Bool("json"), cmd.Args().First(), std)
		},
	}, "mimictl mls verify -json group_info.b64 | jq .value.members")
}

func verifyFile(engine mls.Engine, asJSON bool, file string, std stdio) error {
	group, r, err := openGroup(engine, file, std)
	if err == nil && r.next != nil {
		group, err = move(group, r)
	}
	if err != nil {
		return err
	}
	value, err := hexjson.Marshal(reportOn(group, uint64(std.now.Unix())))
	if err != nil {
		return err
	}
	return (&decoded{"Group", value}).write(std.out, asJSON)
}

// move applies the proposals and the migration Commit of a recording.
func move(group mls.Group, r *recording) (mls.Group, error) {
	last := len(r.Messages) - 1
	for _, proposal := range r.Messages[:last] {
		var err error
		if group, _, err = group.Propose(proposal); err != nil {
			return nil, err
		}
	}
	next, _, err := group.Commit(r.Messages[last], r.next)
	return next, err
}

// reportOn describes a group at a time in seconds since 1970.
func reportOn(group mls.Group, now uint64) *report {
	r := &report{
		GroupID:                 group.ID(),
		Epoch:                   group.Epoch(),
		CipherSuite:             group.CipherSuite(),
		TreeHash:                group.TreeHash(),
		ConfirmedTranscriptHash: group.ConfirmedTranscriptHash(),
	}
	for _, s := range group.ExternalSenders() {
		r.ExternalSenders = append(r.ExternalSenders, senderReport{string(s.Identity), s.SignatureKey})
	}
	for m := range group.Members() {
		member := memberReport{Leaf: m.Leaf, SignatureKey: m.SignatureKey, Lifetime: lifetime(&m, now)}
		if id, err := mimiport.UnmarshalLeafIdentity(m.Identity); err == nil {
			member.UserID, member.DeviceID = id.UserID, id.DeviceID
		}
		if member.Lifetime == expired {
			r.Expired++
		}
		r.Members = append(r.Members, member)
	}
	return r
}

const expired = "expired"

// lifetime describes the lifetime of a leaf. Only a leaf of source key_package has one (RFC 9420, section 7.2).
func lifetime(m *mls.Member, now uint64) string {
	switch {
	case m.NotBefore == 0 && m.NotAfter == 0:
		return "updated"
	case now > m.NotAfter:
		return expired
	case now < m.NotBefore:
		return "not yet valid"
	}
	return "current"
}
