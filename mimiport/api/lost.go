package api

// Lost is an operator's word that another server is lost for good.
type Lost struct {
	Said              bool // the server is lost
	AlthoughItAnswers bool // it is lost although it answers: it has lost its data, or is hostile
}
