package hosts

// Bug is a mistake put into the model, to see that an invariant catches it. The empty one is none.
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
)
