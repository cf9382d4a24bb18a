package explore

// Bug is a mistake put into the model, to see that an invariant catches it. The empty one is none.
type Bug string

// The bugs.
const (
	SendsBeforeSaving Bug = "a server sends before it saves"
	NoCompareAndSet   Bug = "a server writes over what changed since it read"
	SplitsTransaction Bug = "a server saves its record and the group in two transactions"
	RowsInMemory      Bug = "a server keeps in memory what it has to do"
	AbortsBySilence   Bug = "the target takes silence for an abort"
	ExpiresStaged     Bug = "the target lets the offer expire after its vote"
	ReusesNonce       Bug = "the target uses one nonce for all its offers"
	IgnoresNonce      Bug = "the target takes a confirmation for another nonce"
	UsesNonceTwice    Bug = "the target takes content for an offer that has ended"
	ActivatesOnImport Bug = "the target activates when it has the content"
	AcksEarly         Bug = "the target acknowledges before it has activated"
	CountsLateVote    Bug = "the source counts a vote after decide_by"
	FreezesAgain      Bug = "the source freezes again for an Init that has ended"
	UndoesDecision    Bug = "the source aborts what it has decided"
	MergesEarly       Bug = "a member merges its Commit when the source freezes"

	DatabaseFirst  Bug = "a restored server believes its database rather than its signature"
	HeedsOneStep   Bug = "a server heeds only the first step that it is shown"
	StaysFrozen    Bug = "a server that stops leaves a migration frozen"
	KeepsNothing   Bug = "a server that stops keeps no evidence"
	YieldsToLower  Bug = "a server yields to a lower term"
	ClaimsSameTerm Bug = "a reclaim begins no term"
	TellsOnce      Bug = "a reclaim is not told again to a target that does not know the group"
	HidesReclaim   Bug = "a reclaim is not told to the target"
	RecoversBehind Bug = "a server recovers a group from before it confirmed it away"
	RevivesDropped Bug = "a claim leaves what was dropped in its term"
)
