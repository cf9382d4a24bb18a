package draft09_test

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/enginetest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func TestEngine(t *testing.T) { enginetest.Run(t, draft09.New(), newMembers) }

// members are go-mls clients by leaf, nil for those removed.
type members struct {
	testing.TB
	clients []*draft09test.Client
	outside map[string]*draft09test.Client // by key package message
	pending *draft09test.Commit
	by      uint32
	added   []*draft09test.Client
	removed []uint32
}
