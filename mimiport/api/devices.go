package api

// DeviceKeyName is the name under which a device publishes its MLS signature key among the keys of its Matrix device
// keys, in unpadded standard base64 (profile, section 7). The scheme is a value of mls.SignatureScheme.
func DeviceKeyName(scheme, deviceID string) string {
	return "io.github.mimiport." + scheme + ":" + deviceID
}
