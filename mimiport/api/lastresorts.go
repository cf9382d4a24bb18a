package api

import (
	"context"
	"encoding/json"
)

// LastResorts is what concerns KeyPackages of last resort (profile, section 12).
type LastResorts interface {
	// PutLastResort publishes the KeyPackage of last resort of the caller's device, in the place of an earlier one. The
	// value is that of a fallback key of Matrix. The caller must have come with the device's access token.
	PutLastResort(ctx context.Context, c Caller, value *json.RawMessage) (*PutLastResortResponse, error)

	// ClaimLastResorts gets the KeyPackages of last resort of devices of this server, for any user. A device that has
	// none is not in the answer.
	ClaimLastResorts(ctx context.Context, c Caller, req *ClaimLastResortsRequest) (*ClaimLastResortsResponse, error)
}

// MaxClaimed is the largest number of devices in a ClaimLastResortsRequest.
const MaxClaimed = 128

// PutLastResortResponse says nothing but that the value is stored.
type PutLastResortResponse struct{}

// ClaimLastResortsRequest names devices by user.
type ClaimLastResortsRequest struct {
	Devices map[string][]string `json:"devices"`
}

// ClaimLastResortsResponse has the values, as they were published, by user and device.
type ClaimLastResortsResponse struct {
	KeyPackages map[string]map[string]json.RawMessage `json:"key_packages"`
}
