package hosts

// Bug is a mistake that a test puts into the model: an invariant must catch it. The empty Bug is no mistake.
type Bug string

// The bugs.
const (
	FollowsAnyClaim  Bug = "a host follows a claim that the room does not support"
	FollowsSuccessor Bug = "a host follows a successor though it was in service"
	HasNoTies        Bug = "chains that part have no order"
	GoesOnContested  Bug = "a recover goes on though the host contests it"
	ForgetsReturn    Bug = "a server that redirects takes no note of a lineage that leads back"
	CountsOldOffers  Bug = "a server stops for an old offer of its own"
	IgnoresReceipts  Bug = "a host goes on against its own receipts"
	YieldsToItself   Bug = "a server yields to a lineage that leads to itself"
	ForgetsVotes     Bug = "a server takes the record of an offer for that of the vote"
	HeedsOneStep     Bug = "a server heeds only the claim with which lineages part"
	NeverDrops       Bug = "what waits for a source that lies can never be dropped"
	KeepsNothing     Bug = "a server keeps no evidence of what it contests"
	StopsSilently    Bug = "a server that stops keeps no evidence"
	DatabaseFirst    Bug = "a restored server believes its database rather than its signature"
	TakesOneStep     Bug = "a server takes only the first step that it is shown"
	StaysFrozen      Bug = "a server that stops leaves a migration frozen"
	YieldsToLower    Bug = "a server yields to a lower term"
	ClaimsSameTerm   Bug = "a reclaim begins no term"
	TellsOnce        Bug = "a reclaim is not told again to a target that does not know the group"
	HidesReclaim     Bug = "a reclaim is not told to the target"
	RecoversBehind   Bug = "a server recovers a group from before it confirmed it away"
	RevivesDropped   Bug = "a claim leaves what was dropped in its term"
	ClosesFrozen     Bug = "a group is closed while a migration waits for its decision"
)
