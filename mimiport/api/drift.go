package api

// Drift is how the leaves of a group differ from its room and from the devices of its users (profile, section 7).
type Drift struct {
	Epoch       uint64      `json:"epoch"`
	Leaves      []DriftLeaf `json:"leaves"`       // that something is wrong with, in order
	WithoutLeaf []string    `json:"without_leaf"` // users who are joined to the room and have no leaf
	Unasked     []string    `json:"unasked"`      // homeservers that have not answered: nothing is said of their devices
}

// DriftLeaf is a leaf, and each thing that is wrong with it.
type DriftLeaf struct {
	Leaf     uint32  `json:"leaf"`
	UserID   string  `json:"user_id"`
	DeviceID string  `json:"device_id"`
	Faults   []Fault `json:"faults"`
}

// Fault is what is wrong with a leaf.
type Fault string

// The faults.
const (
	FaultNotJoined Fault = "not_joined" // the user is not joined to the room
	FaultNoDevice  Fault = "no_device"  // the user's homeserver lists no such device
	FaultNoKey     Fault = "no_key"     // the device publishes no MLS key
	FaultOtherKey  Fault = "other_key"  // the device publishes another MLS key
	FaultDuplicate Fault = "duplicate"  // a leaf before it is of the same device
)

// Expelled is what this server has proposed when an operator let it.
type Expelled struct {
	Leaves  int      `json:"leaves"`  // whose removal is proposed
	Unasked []string `json:"unasked"` // homeservers that have not answered: the leaves of their users' devices stay
}
