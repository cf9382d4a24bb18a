package outbox

// SetBatch makes a worker send at most n messages at a time.
func SetBatch(w *Worker, n int) { w.batch = n }
