package storage

// A store keeps of one user at most MaxLastResorts.
const MaxLastResorts = 128

// QuotaLastResorts is the quota of a *LimitError for a user who has MaxLastResorts.
const QuotaLastResorts = "last_resorts"

// LastResort is the KeyPackage that a device of this server gives out when its one-time KeyPackages are used up.
type LastResort struct {
	UserID, DeviceID string
	Value            []byte // JSON
}
