package api

// Drift lists the differences of a group's leaves from its room and from the devices of its users (profile, section 7).
type Drift struct {
	Epoch       uint64      `json:"epoch"`
	Leaves      []DriftLeaf `json:"leaves"`       // the leaves with a fault, in order
	WithoutLeaf []string    `json:"without_leaf"` // users who are joined to the room and have no leaf
	Unasked     []string    `json:"unasked"`      // homeservers without an answer: their devices are not checked
}

// DriftLeaf is a leaf with all its faults.
type DriftLeaf struct {
	Leaf     uint32  `json:"leaf"`
	UserID   string  `json:"user_id"`
	DeviceID string  `json:"device_id"`
	Faults   []Fault `json:"faults"`
}

// Fault is a fault of a leaf.
type Fault string

// The faults.
const (
	FaultNotJoined Fault = "not_joined" // the user is not joined to the room
	FaultNoDevice  Fault = "no_device"  // the user's homeserver lists no such device
	FaultNoKey     Fault = "no_key"     // the device publishes no MLS key
	FaultOtherKey  Fault = "other_key"  // the device publishes another MLS key
	FaultDuplicate Fault = "duplicate"  // a leaf with a lower index is of the same device
)

// Expelled lists the removals that this server has proposed for an operator.
type Expelled struct {
	Leaves  int      `json:"leaves"`  // the number of leaves whose removal is proposed
	Unasked []string `json:"unasked"` // homeservers that have not answered: the leaves of their users' devices stay
}
