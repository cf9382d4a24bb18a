package explore

// budget is the faults that may still happen, at most 3 of each kind.
type budget struct{ crashes, losses, duplicates int8 }

// after is what is left after a step, if there was enough.
func (b budget) after(f fate) (budget, bool) {
	switch f {
	case repeated:
		b.duplicates--
	case lost:
		b.losses--
	case crashBefore, crashAfter:
		b.crashes--
	}
	return b, min(b.crashes, b.losses, b.duplicates) >= 0
}

func (b budget) sum() int { return int(b.crashes + b.losses + b.duplicates) }

// bit is the budget as one bit of 64, below those of all budgets that are no larger in anything.
func (b budget) bit() uint64 { return 1 << (b.crashes<<4 | b.losses<<2 | b.duplicates) }

func (b budget) below() uint64 {
	var set uint64
	for crashes := range b.crashes + 1 {
		for losses := range b.losses + 1 {
			for duplicates := range b.duplicates + 1 {
				set |= budget{crashes, losses, duplicates}.bit()
			}
		}
	}
	return set
}
