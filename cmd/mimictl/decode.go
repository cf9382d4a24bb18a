package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// structure is a structure that decode knows. When an encoding fits two structures, likely chooses between them.
type structure struct {
	name     string
	describe func(data []byte) (json.RawMessage, error)
	likely   func(data []byte) bool
}

// structuresOf lists all structures that decode knows, in the order in which it tries them.
func structuresOf(engine mls.Engine) []structure {
	return append(slices.Clip(structures), structure{"MLSMessage", describeMLS(engine), nil})
}

// structures lists the structures that do not depend on the protocol.
var structures = []structure{
	{"MigrationRequest", describe(mimiport.UnmarshalMigrationRequest), nil},
	{"MigrationResponse", describe(mimiport.UnmarshalMigrationResponse), nil},
	{"MigrationInit", describe(mimiport.UnmarshalMigrationInit), nil},
	{"MigrationCommitAAD", describe(mimiport.UnmarshalMigrationCommitAAD), nil},
	{"MigrationContent", describe(mimiport.UnmarshalMigrationContent), nil},
	{"TargetMigrationComplete", describe(mimiport.UnmarshalTargetMigrationComplete), nil},
	{"MigrationVote", describe(mimiport.UnmarshalMigrationVote), nil},
	{"MigrationConfirmation", describe(mimiport.UnmarshalMigrationConfirmation), nil},
	{"MigrationAbort", describe(mimiport.UnmarshalMigrationAbort), namesServer},
	{"GroupState", describe(mimiport.UnmarshalGroupState), nil},
	{"Lineage", describe(mimiport.UnmarshalLineage), nil},
	{"LineageStep", describe(mimiport.UnmarshalLineageStep), nil},
	{"LineageClaim", describe(mimiport.UnmarshalLineageClaim), nil},
	{"CommitReceipt", describe(mimiport.UnmarshalCommitReceipt), nil},
	{"DirectRequest", describe(mimiport.UnmarshalDirectRequest), nil},
	{"MoveRequest", describe(mimiport.UnmarshalMoveRequest), nil},
	{"ExternalSenderOffer", describe(mimiport.UnmarshalExternalSenderOffer), namesNoServer},
}

// namesServer reports whether data is a MigrationAbort with a server name as its source. An ExternalSenderOffer has
// the same form, with a key in that place.
func namesServer(data []byte) bool {
	m, err := mimiport.UnmarshalMigrationAbort(data)
	return err == nil && mimiport.ValidateServerName(m.SourceDomain) == nil
}

func namesNoServer(data []byte) bool { return !namesServer(data) }

func typeNames() (names []string) {
	for _, s := range structuresOf(engines[mls.ProtocolMLS10]) {
		names = append(names, s.name)
	}
	return names
}

func describe[M any](unmarshal func([]byte) (*M, error)) func([]byte) (json.RawMessage, error) {
	return func(data []byte) (json.RawMessage, error) {
		m, err := unmarshal(data)
		if err != nil {
			return nil, err
		}
		return hexjson.Marshal(m)
	}
}

// decoded is an input, decoded as one structure.
type decoded struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

func decodeCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "decode", Usage: "print a message of MIMI Portability or of MLS", ArgsUsage: "FILE|-",
		Description: `The input is binary, hexadecimal or base64 of any kind. Of a message of mls-draft09,
decode prints only the framing. Bytes are hexadecimal.`,
		Flags: []cli.Flag{jsonFlag(), protocolFlag(), typeFlag()},
		Action: func(_ context.Context, cmd *cli.Command) error {
			input, err := read(cmd.Args().First(), std)
			if err != nil {
				return err
			}
			d, err := decode(input, cmd.String("type"), structuresOf(engineOf(cmd)))
			if err != nil {
				return err
			}
			return d.write(std.out, cmd.Bool("json"))
		},
	}, "get /groups/$GROUP/evidence | jq -r .items[0].data | mimictl decode -")
}

// typeFlag names a structure.
func typeFlag() *cli.StringFlag {
	names := typeNames()
	return &cli.StringFlag{
		Name: "type", Usage: "decode as the structure `NAME`; the default is to try all: " + strings.Join(names, " "),
		Validator: func(name string) error {
			if !slices.Contains(names, name) {
				return errors.New("there is no such structure")
			}
			return nil
		},
	}
}

func (d *decoded) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(d)
	}
	return writeText(w, d)
}

// decode finds the structure of the input. It reads the input as text first: a binary message rarely looks like
// hexadecimal or base64.
func decode(input []byte, only string, structures []structure) (*decoded, error) {
	data, encoded := fromText(string(input))
	matches, err := match(data, only, structures)
	if len(matches) == 0 && encoded {
		matches, err = match(input, only, structures)
	}
	switch {
	case len(matches) == 1:
		return &matches[0], nil
	case len(matches) > 1:
		var names []string
		for _, m := range matches {
			names = append(names, m.Type)
		}
		err = fmt.Errorf("the input can be any of: %s", strings.Join(names, " "))
		return nil, &failure{err, statusMisuse, []string{"choose one with -type"}}
	case only != "":
		return nil, err
	}
	err = fmt.Errorf("%d bytes of no known structure", len(input))
	return nil, &failure{err, statusRefused, []string{"-type NAME prints why the input is not that structure"}}
}

// match lists the structures as which the data decodes. The error is that of the last structure.
func match(data []byte, only string, structures []structure) (matches []decoded, err error) {
	for _, s := range structures {
		if only != "" && only != s.name || only == "" && s.likely != nil && !s.likely(data) {
			continue
		}
		var value json.RawMessage
		if value, err = s.describe(data); err == nil {
			matches = append(matches, decoded{s.name, value})
		}
	}
	return matches, err
}

// fromText reads hexadecimal or base64. It accepts both alphabets of base64, with and without padding, and white space
// anywhere. It returns any other text as it is, and false.
func fromText(text string) ([]byte, bool) {
	compact := strings.Join(strings.Fields(text), "")
	if data, err := hex.DecodeString(compact); err == nil && compact != "" {
		return data, true
	}
	alphabet := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(compact, "="))
	if data, err := base64.RawStdEncoding.DecodeString(alphabet); err == nil && compact != "" {
		return data, true
	}
	return []byte(text), false
}

// binary holds bytes, which JSON has as a text that fromText reads.
type binary []byte

func (b *binary) UnmarshalText(text []byte) error {
	data, ok := fromText(string(text))
	if !ok && len(bytes.TrimSpace(text)) > 0 {
		return fmt.Errorf("%.20q is neither hexadecimal nor base64", text)
	}
	*b = data
	return nil
}
