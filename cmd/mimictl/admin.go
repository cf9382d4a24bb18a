package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
)

// The columns of each list.
const (
	groupColumns = "GROUP group_id STATE state TERM term EPOCH epoch MEMBERS hosted.members " +
		"MOVABLE hosted.moves.movable WHY hosted.moves.why.rule MOVED-TO moved_to.server ROOM room_id CREATOR creator"
	migrationColumns = "MIGRATION migration_id ROLE role STATE state SOURCE source TARGET target USER user " +
		"GROUP group_id"
	evidenceColumns = "AT at KIND kind MIGRATION migration_id KEY key_id"
	reportColumns   = "AT at TERM term EPOCH epoch SEQ seq USER user_id REASON reason"
	auditColumns    = "AT at ACTOR actor ACTION action GROUP group_id MIGRATION migration_id"
	peerColumns     = "SERVER server SINCE since ATTEMPTS attempts ERROR error REMEDY remedy"
	outboxColumns   = "DESTINATION destination ROWS rows OLDEST oldest_at ATTEMPTS attempts"
)

// adminCommands are the verbs on a running homeserver, by its admin API.
func adminCommands(std stdio) []*cli.Command {
	return []*cli.Command{
		show(std, "status", "what is here and under way", "", "/status", "mimictl status -server https://example.org"),
		group("policy", "which groups may come and go",
			show(std, "show", "print the policy in force", "", "/policy", "mimictl policy show"),
			policySetCommand(std),
		),
		group("groups", "the groups that this server knows",
			groupsListCommand(std),
			show(std, "show", "print a group", "GROUP", "/groups/%s", "mimictl groups show $GROUP"),
			listed(std, "reports", "Commits that members cannot process, as they say", "GROUP", "/groups/%s/reports",
				reportColumns, nil, "mimictl groups reports $GROUP"),
			show(std, "drift", "how leaves differ from the room and from devices", "GROUP", "/groups/%s/drift",
				"mimictl groups drift $GROUP"),
			act(std, http.MethodPost, "remove-leaves", "let the leaves go that wait for an operator", "/groups/%s/removals",
				nil, nil, "mimictl groups remove-leaves $GROUP"),
			reclaimCommand(std), recoverCommand(std),
			act(std, http.MethodPost, "yield", "give a group up to another server's claim", "/groups/%s/yield",
				[]cli.Flag{lineageFlag(true)}, func(cmd *cli.Command) (any, error) { return lineageBody(cmd, std) },
				"mimictl groups yield -lineage contested.b64 $GROUP"),
		),
		group("migrations", "moves of groups from and to this server",
			migrationsListCommand(std),
			show(std, "show", "print a migration", "MIGRATION", "/migrations/%s", "mimictl migrations show $MIGRATION"),
			act(std, http.MethodDelete, "drop", "give up a staged migration whose source is lost for good", "/migrations/%s",
				nil, nil, "mimictl migrations drop $MIGRATION"),
		),
		listed(std, "evidence", "signatures that another server should not have given", "GROUP", "/groups/%s/evidence",
			evidenceColumns, nil, "mimictl evidence -json $GROUP | jq -r .items[0].data | mimictl decode -"),
		listed(std, "audit", "what operators have changed, the latest first", "", "/audit", auditColumns, nil,
			"mimictl audit -json | jq '.items[] | select(.action == \"policy\")'"),
		peersCommand(std), drainCommand(std),
	}
}

// pathOf puts the argument of a command, if it has one, into its path.
func pathOf(path string, cmd *cli.Command) string {
	if cmd.NArg() == 0 {
		return path
	}
	return fmt.Sprintf(path, url.PathEscape(cmd.Args().First()))
}

// show makes a command that prints one answer.
func show(std stdio, name, usage, args, path, example string) *cli.Command {
	return leaf(cli.Command{
		Name: name, Usage: usage, ArgsUsage: args, Flags: serverFlags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return request(ctx, cmd, http.MethodGet, pathOf(path, cmd), nil, std)
		},
	}, example)
}

// request sends a request and prints its answer.
func request(ctx context.Context, cmd *cli.Command, method, path string, body any, std stdio) error {
	s, err := serverOf(cmd)
	if err != nil {
		return err
	}
	answer, err := s.ask(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	if cmd.Bool("json") {
		_, err = fmt.Fprintf(std.out, "%s\n", answer)
		return err
	}
	return writeObject(std.out, answer)
}

// listed makes a command that prints a list. filter reads the query from flags of its own; nil is none.
func listed(
	std stdio, name, usage, args, path, columns string, filter *filter, example string,
) *cli.Command {
	flags := serverFlags()
	if filter != nil {
		flags = append(flags, filter.flags...)
	}
	return leaf(cli.Command{
		Name: name, Usage: usage, ArgsUsage: args, Flags: flags,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			s, err := serverOf(cmd)
			if err != nil {
				return err
			}
			query := url.Values{}
			if filter != nil {
				query = filter.query(cmd)
			}
			found, err := s.all(ctx, pathOf(path, cmd), query)
			if err != nil {
				return err
			}
			return found.write(std, columns, cmd.Bool("json"))
		},
	}, example)
}

func (l *list) write(std stdio, columns string, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(std.out).Encode(l)
	}
	return writeTable(std.out, columnsOf(columns), l.Items)
}

// filter has the flags that select items of a list, and the query that they make.
type filter struct {
	flags []cli.Flag
	query func(cmd *cli.Command) url.Values
}

// texts makes the query of flags with texts: names has the parameter of each flag. A flag may come several times.
func texts(cmd *cli.Command, names map[string]string) url.Values {
	query := url.Values{}
	for flag, parameter := range names {
		for _, value := range cmd.StringSlice(flag) {
			query.Add(parameter, value)
		}
	}
	return query
}

func groupsListCommand(std stdio) *cli.Command {
	return listed(std, "list", "list groups, and whether somebody may move them", "", "/groups", groupColumns, &filter{
		flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "state", Usage: "only groups in `STATE`; may come several times"},
			&cli.StringSliceFlag{Name: "room", Usage: "only groups of `ROOM`"},
			&cli.StringSliceFlag{Name: "group-server", Usage: "only groups whose server is `NAME`: a local server name"},
		},
		query: func(cmd *cli.Command) url.Values {
			return texts(cmd, map[string]string{"state": "state", "room": "room", "group-server": "server"})
		},
	}, "mimictl groups list -state active -state frozen")
}

func migrationsListCommand(std stdio) *cli.Command {
	return listed(std, "list", "list migrations", "", "/migrations", migrationColumns, &filter{
		flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "state", Usage: "only migrations in `STATE`; may come several times"},
			&cli.StringSliceFlag{Name: "role", Usage: "only migrations in which this server is `ROLE`: source or target"},
			&cli.StringSliceFlag{Name: "user", Usage: "only migrations that `USER` has begun"},
			&cli.StringSliceFlag{Name: "group", Usage: "only migrations of `GROUP`"},
			&cli.TimestampFlag{Name: "since", Usage: "only migrations that have changed since `TIME`, in the form of RFC 3339",
				Config: cli.TimestampConfig{Layouts: []string{time.RFC3339}}},
		},
		query: func(cmd *cli.Command) url.Values {
			query := texts(cmd, map[string]string{"state": "state", "role": "role", "user": "user", "group": "group_id"})
			if since := cmd.Timestamp("since"); !since.IsZero() {
				query.Set("since", strconv.FormatInt(since.UnixMilli(), 10))
			}
			return query
		},
	}, "mimictl migrations list -state frozen -state staged -since 2026-11-29T00:00:00Z")
}

// act makes a command that changes a group or a migration, and prints what comes of it.
func act(
	std stdio, method, name, usage, path string, flags []cli.Flag, body func(*cli.Command) (any, error), example string,
) *cli.Command {
	argument := "GROUP"
	if strings.HasPrefix(path, "/migrations") {
		argument = "MIGRATION"
	}
	return leaf(cli.Command{
		Name: name, Usage: usage, ArgsUsage: argument, Flags: serverFlags(flags...),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			var content any
			if body != nil {
				var err error
				if content, err = body(cmd); err != nil {
					return err
				}
			}
			return request(ctx, cmd, method, pathOf(path, cmd), content, std)
		},
	}, example)
}

func policySetCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "set", Usage: "change fields of the policy", ArgsUsage: "JSON",
		Description: `Fields that the JSON does not name stay. {"preset": "default"} goes back to the defaults.
It prints the policy in force then.`,
		Flags: serverFlags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			patch := json.RawMessage(cmd.Args().First())
			if !json.Valid(patch) {
				return misuse(ctx, cmd, fmt.Errorf("%q is not JSON", cmd.Args().First()), true)
			}
			return request(ctx, cmd, http.MethodPut, "/policy", patch, std)
		},
	}, `mimictl policy set '{"target": "nobody", "quotas": {"groups": 1}}'`)
}

// lineageFlag names a file with a lineage.
func lineageFlag(required bool) cli.Flag {
	return &cli.StringFlag{Name: "lineage", Required: required,
		Usage: "the lineage in `FILE`, in any encoding, which ends with another server's claim"}
}

func lineageBody(cmd *cli.Command, std stdio) (map[string]any, error) {
	body := map[string]any{}
	if file := cmd.String("lineage"); file != "" {
		text, err := read(file, std)
		if err != nil {
			return nil, err
		}
		lineage, _ := fromText(string(text))
		body["lineage"] = base64.RawStdEncoding.EncodeToString(lineage)
	}
	return body, nil
}

// although is the flag for a server that answers.
func although() cli.Flag {
	return &cli.BoolFlag{Name: "although-it-answers",
		Usage: "it is lost although it answers, because it has lost its data or is hostile"}
}

func reclaimCommand(std stdio) *cli.Command {
	return act(std, http.MethodPost, "reclaim", "take a group back from a target that is lost for good",
		"/groups/%s/reclaim",
		[]cli.Flag{
			&cli.BoolFlag{Name: "target-is-lost", Usage: "the target is lost for good"}, although(), lineageFlag(false),
		},
		func(cmd *cli.Command) (any, error) {
			body, err := lineageBody(cmd, std)
			if err != nil {
				return nil, err
			}
			body["target_is_lost"], body["although_it_answers"] = cmd.Bool("target-is-lost"), cmd.Bool("although-it-answers")
			return body, nil
		}, "mimictl groups reclaim -target-is-lost $GROUP")
}

func recoverCommand(std stdio) *cli.Command {
	return act(std, http.MethodPost, "recover", "take a group on from what a member holds", "/groups/%s/recover",
		[]cli.Flag{
			&cli.StringFlag{Name: "export", Required: true, Usage: "the JSON in `FILE` that a member's client has exported"},
			&cli.BoolFlag{Name: "host-is-lost", Usage: "the group's host is lost for good"}, although(),
		},
		func(cmd *cli.Command) (any, error) {
			text, err := read(cmd.String("export"), std)
			if err != nil {
				return nil, err
			}
			var body map[string]any
			if err := plainjson.Unmarshal(text, &body); err != nil {
				return nil, fmt.Errorf("%s: %w", cmd.String("export"), err)
			}
			body["host_is_lost"], body["although_it_answers"] = cmd.Bool("host-is-lost"), cmd.Bool("although-it-answers")
			return body, nil
		}, "mimictl groups recover -export group.json -host-is-lost $GROUP")
}

func peersCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "peers", Usage: "servers to which this one cannot deliver, and what waits for whom",
		Flags: serverFlags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			s, err := serverOf(cmd)
			if err != nil {
				return err
			}
			answer, err := s.ask(ctx, http.MethodGet, "/status", nil, nil)
			if err != nil {
				return err
			}
			status := struct {
				Peers  []json.RawMessage `json:"peers"`
				Outbox []json.RawMessage `json:"outbox"`
			}{[]json.RawMessage{}, []json.RawMessage{}}
			if err := readAnswer(answer, &status); err != nil {
				return err
			}
			if cmd.Bool("json") {
				return json.NewEncoder(std.out).Encode(status)
			}
			if err := writeTable(std.out, columnsOf(peerColumns), status.Peers); err != nil {
				return err
			}
			fmt.Fprintln(std.out)
			return writeTable(std.out, columnsOf(outboxColumns), status.Outbox)
		},
	}, "mimictl peers -json | jq '.peers[].server'")
}
