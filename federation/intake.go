package federation

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// maxRoomID is the largest size of a Matrix identifier in bytes (Matrix specification, appendices).
const maxRoomID = 255

// intakeRoute says what this server, as a target, would take of a room's groups (profile, section 8).
func intakeRoute(svc Service) edge.Route {
	return edge.Route{Route: api.GetIntake, Serve: func(ctx context.Context, r *edge.Request) (any, error) {
		const op = "read query"
		room, err := edge.Param(r, "room_id")
		if err != nil {
			return nil, err
		}
		if room == "" || len(room) > maxRoomID {
			return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "room_id has %d bytes", len(room))
		}
		servers := r.Query["server"]
		if len(servers) == 0 || len(servers) > api.MaxIntakeServers {
			return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%d servers: name 1 to %d", len(servers),
				api.MaxIntakeServers)
		}
		for _, name := range servers {
			if err := mimiport.ValidateServerName(name); err != nil {
				return nil, err
			}
		}
		return svc.Intake(ctx, r.Caller.Server, r.Caller.To, room, servers)
	}}
}
