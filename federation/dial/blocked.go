package dial

// Blocked is in the chain of an error for a destination that this server's own configuration rules out.
type Blocked struct {
	text, remedy string
}

func (b *Blocked) Error() string { return b.text }

// Remedy says which key of the configuration permits the destination.
func (b *Blocked) Remedy() string { return b.remedy }

var (
	errDenied = &Blocked{
		"the operator permits no connections to this network",
		"if this server is one of yours, look at its network in allow_networks and deny_networks",
	}
	errPrivate = &Blocked{
		"not a public address, and the operator has not allowed its network",
		"if this server is one of yours, name its network in allow_networks",
	}
	errLiteral = &Blocked{
		"the server name is an IP address",
		"if this server is one of yours, set federation.allow_ip_literals: true in the section mimi_portability",
	}
)
