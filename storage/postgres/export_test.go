package postgres

// TakeTurn is takeTurn, for tests.
var TakeTurn = takeTurn
