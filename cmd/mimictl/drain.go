package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// The columns of the lists about a drain. A group has a row for each obstacle.
const (
	planColumns = "GROUP group_id MEMBERS members TARGET move.target MOVERS move.total FIRST move.users " +
		"OBSTACLE why.rule AT why.target REMEDY why.remedy ROOM room_id"
	leftColumns = "GROUP group_id STATE state ASKED asked.user_id TRIED asked.tried OBSTACLE why.rule AT why.target " +
		"REMEDY why.remedy ROOM room_id"
)

func drainCommand(std stdio) *cli.Command {
	return group("drain", "empty this server: its members move its groups away",
		drainStartCommand(std), drainStatusCommand(std),
		leaf(cli.Command{
			Name: "stop", Usage: "stop the drain; the groups that have moved stay away", Flags: serverFlags(),
			Action: func(ctx context.Context, cmd *cli.Command) error {
				return request(ctx, cmd, http.MethodDelete, "/drain", nil, std)
			},
		}, "mimictl drain stop"),
		drainReportCommand(std),
	)
}

func drainStartCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "start", Usage: "ask the members of each group to move it away",
		Description: `The server takes nothing new from now on, and goes on by itself, also after a restart.
Started again, it replaces the targets, the deadline and the rate of the drain that runs.
With -dry-run it asks the targets alone, changes nothing, and prints for each group who
can move it where, or why nobody can: then the exit status is 3 if some group cannot go.`,
		Flags: serverFlags(
			&cli.StringSliceFlag{Name: "to", Required: true, Usage: "the servers `NAME,NAME` that take the groups, the first " +
				"choice first"},
			&cli.StringFlag{Name: "deadline", Usage: "ask nobody any more after `TIME` from now, such as 30d or 12h"},
			&cli.StringFlag{Name: "rate", Value: strconv.Itoa(api.DefaultDrainRate) + "/m", Usage: "the most groups in a " +
				"minute: `N/m`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what could move, and start nothing"},
		),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			req, err := drainRequest(cmd)
			if err != nil {
				return misuse(ctx, cmd, err, true)
			}
			if cmd.Bool("dry-run") {
				return planDrain(ctx, cmd, req.Targets, std)
			}
			if err := request(ctx, cmd, http.MethodPut, "/drain", req, std); err != nil {
				return err
			}
			fmt.Fprintln(std.notes, "mimictl: note: the server goes on by itself: mimictl drain status -follow shows how far")
			return nil
		},
	}, "mimictl drain start -to b.example,c.example -dry-run\n"+
		"mimictl drain start -to b.example,c.example -deadline 30d -rate 60/m")
}

func drainRequest(cmd *cli.Command) (*api.DrainRequest, error) {
	deadline, err := parseDays(cmd.String("deadline"))
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutSuffix(cmd.String("rate"), "/m")
	rate, err := strconv.Atoi(text)
	if err != nil || !ok || rate < 1 || rate > api.MaxDrainRate {
		return nil, fmt.Errorf("-rate: %q is not of the form N/m, with 1 to %d groups a minute", cmd.String("rate"),
			api.MaxDrainRate)
	}
	return &api.DrainRequest{Targets: cmd.StringSlice("to"), Deadline: deadline.Milliseconds(), Rate: rate}, nil
}

// maxDays is the most days of a deadline: a time.Duration has no more than 292 years.
const maxDays = 36500

// parseDays reads a time in days, such as 30d, or as package time has it. Nothing is 0.
func parseDays(text string) (d time.Duration, err error) {
	if text == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && n > 0 && n <= maxDays {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err = time.ParseDuration(text); err == nil && d >= time.Millisecond {
		return d, nil
	}
	return 0, fmt.Errorf("-deadline: %q is not a time: write a number with a unit, such as 30d or 12h", text)
}

// planDrain prints the dry run of a drain.
func planDrain(ctx context.Context, cmd *cli.Command, targets []string, std stdio) error {
	s, err := serverOf(cmd)
	if err != nil {
		return err
	}
	found, err := s.all(ctx, "/drain/plan", url.Values{"target": targets})
	if err != nil {
		return err
	}
	plans, err := decodeItems[api.DrainPlan](found.Items)
	if err != nil {
		return err
	}
	stuck := 0
	for _, p := range plans {
		if len(p.Moves) == 0 {
			stuck++
		}
	}
	if cmd.Bool("json") {
		err = json.NewEncoder(std.out).Encode(found)
	} else if err = writeTable(std.out, columnsOf(planColumns), planRows(plans)); err == nil {
		fmt.Fprintf(std.out, "%d of %s can move\n", len(plans)-stuck, count(len(plans), "group"))
	}
	if err == nil && stuck > 0 {
		err = &failure{errors.New("nobody can move " + count(stuck, "group") + " now"), statusGap, nil}
	}
	return err
}

func decodeItems[T any](items []json.RawMessage) ([]T, error) {
	all := make([]T, len(items))
	for i := range items {
		if err := readAnswer(items[i], &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// planRows has a row for the first target of each group, or one for each obstacle of a group that cannot move.
func planRows(plans []api.DrainPlan) (rows []json.RawMessage) {
	for _, p := range plans {
		row := map[string]any{"group_id": p.GroupID, "room_id": p.RoomID, "members": p.Members}
		if len(p.Moves) > 0 {
			m := p.Moves[0]
			row["move"] = map[string]any{"target": m.Target, "total": m.Total, "users": m.Users[:min(1, len(m.Users))]}
			rows = append(rows, encode(row))
			continue
		}
		rows = append(rows, obstacles(row, p.Why)...)
	}
	return rows
}

// obstacles has a copy of a row for each reason, or the row alone.
func obstacles(row map[string]any, why []api.DrainReason) (rows []json.RawMessage) {
	for _, reason := range why {
		more := maps.Clone(row)
		more["why"] = reason
		rows = append(rows, encode(more))
	}
	if len(rows) == 0 {
		return []json.RawMessage{encode(row)}
	}
	return rows
}

// encode encodes a row of a table. It never fails: the row came as JSON.
func encode(row map[string]any) json.RawMessage {
	text, _ := json.Marshal(row)
	return text
}

func drainStatusCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "status", Usage: "say how far the drain is",
		Description: `With -follow it shows each change until the drain ends, and then the report: with a bar
in a terminal, and with a line for each change elsewhere. It may be interrupted: the
drain goes on. The exit status is then that of the report.`,
		Flags: serverFlags(&cli.BoolFlag{Name: "follow", Usage: "show each change until the drain ends"}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if !cmd.Bool("follow") {
				return request(ctx, cmd, http.MethodGet, "/drain", nil, std)
			}
			return followDrain(ctx, cmd, std)
		},
	}, "mimictl drain status -follow")
}

// pollEvery is the time between two questions about a drain.
const pollEvery = time.Second

// followDrain shows a drain until it ends, and then the report. It goes on while the homeserver restarts.
func followDrain(ctx context.Context, cmd *cli.Command, std stdio) error {
	s, err := serverOf(cmd)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	p := &progress{std: std, asJSON: cmd.Bool("json"), bar: isTerminal(std.out)}
	for {
		d := new(api.Drain)
		err := s.get(ctx, "/drain", d)
		var f *failure
		switch {
		case ctx.Err() != nil:
			p.end()
			fmt.Fprintln(std.notes, "mimictl: note: the drain goes on without this command")
			return nil
		case errors.As(err, &f) && f.status == statusAway && p.shown != "":
			p.note("the homeserver does not answer: trying again")
		case err != nil:
			p.end()
			return err
		default:
			p.show(d)
			if d.State != api.DrainRunning {
				p.end()
				return reportDrain(ctx, cmd, std)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// progress shows how far a drain is: in one line of a terminal, or in a new line for each change.
type progress struct {
	std    stdio
	asJSON bool
	bar    bool
	shown  string // the last line
}

func (p *progress) show(d *api.Drain) {
	switch {
	case p.asJSON:
		text, _ := json.Marshal(d) // it came as JSON
		p.line(string(text))
	case p.bar:
		p.shown = drainBar(d) + " " + drainLine(d)
		fmt.Fprintf(p.std.out, "\r%s\x1b[K", p.shown)
	default:
		p.line(drainLine(d))
	}
}

func (p *progress) line(text string) {
	if text != p.shown {
		p.shown = text
		fmt.Fprintln(p.std.out, text)
	}
}

// note says something once.
func (p *progress) note(text string) {
	if p.shown == text {
		return
	}
	p.end()
	p.shown = text
	fmt.Fprintln(p.std.notes, "mimictl: note: "+text)
}

// end ends the line of a bar.
func (p *progress) end() {
	if p.bar && p.shown != "" {
		fmt.Fprintln(p.std.out)
	}
}

// isTerminal reports whether an output is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// barWidth is the number of characters in a bar.
const barWidth = 30

// drainBar draws the part of the groups that are no longer here.
func drainBar(d *api.Drain) string {
	full := barWidth
	if d.Total > 0 {
		full = barWidth * (d.Total - d.Left) / d.Total
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "]"
}

// drainLine says how far a drain is.
func drainLine(d *api.Drain) string {
	parts := []string{fmt.Sprintf("%s: %d of %s no longer here", d.State, d.Total-d.Left, count(d.Total, "group"))}
	for _, state := range api.DrainGroupStates {
		if n := d.Groups[state]; n > 0 && state != api.DrainMoved && state != api.DrainGone {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	for _, away := range d.Away {
		parts = append(parts, scalar(away.Server)+" does not answer")
	}
	return strings.Join(parts, ", ")
}

func drainReportCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "report", Usage: "say what has moved where, what has not, and why",
		Description: `Groups that are still here have a line for each obstacle, with its remedy. The exit
status is 3 if there are any.`,
		Flags: serverFlags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return reportDrain(ctx, cmd, std)
		},
	}, "mimictl drain report -json | jq '.items[] | select(.state == \"stuck\")'")
}

func reportDrain(ctx context.Context, cmd *cli.Command, std stdio) error {
	s, err := serverOf(cmd)
	if err != nil {
		return err
	}
	found, err := s.all(ctx, "/drain/groups", url.Values{})
	if err != nil {
		return err
	}
	groups, err := decodeItems[api.DrainGroup](found.Items)
	if err != nil {
		return err
	}
	left := leftRows(groups)
	if cmd.Bool("json") {
		err = json.NewEncoder(std.out).Encode(found)
	} else if writeWhereabouts(std.out, groups); len(left) > 0 {
		err = writeTable(std.out, columnsOf(leftColumns), slices.Concat(left...))
	}
	if err == nil && len(left) > 0 {
		err = &failure{errors.New("still here: " + count(len(left), "group")), statusGap, nil}
	}
	return err
}

// leftRows has the rows of each group that is still here.
func leftRows(groups []api.DrainGroup) (left [][]json.RawMessage) {
	for _, g := range groups {
		if g.State == api.DrainMoved || g.State == api.DrainGone {
			continue
		}
		row := map[string]any{"group_id": g.GroupID, "room_id": g.RoomID, "state": g.State}
		if g.Asked != nil {
			row["asked"] = g.Asked
		}
		left = append(left, obstacles(row, g.Why))
	}
	return left
}

// writeWhereabouts writes how many groups have gone where.
func writeWhereabouts(w io.Writer, groups []api.DrainGroup) {
	moved, gone := make(map[string]int), 0
	for _, g := range groups {
		switch {
		case g.State == api.DrainMoved && g.MovedTo != nil:
			moved[g.MovedTo.Server]++
		case g.State == api.DrainMoved || g.State == api.DrainGone:
			gone++
		}
	}
	for _, server := range slices.Sorted(maps.Keys(moved)) {
		fmt.Fprintf(w, "moved to %s: %s\n", scalar(server), count(moved[server], "group"))
	}
	if gone > 0 {
		fmt.Fprintf(w, "closed, or gone in another way: %s\n", count(gone, "group"))
	}
}
