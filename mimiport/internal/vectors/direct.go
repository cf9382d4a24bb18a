package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// headers is the content of the file of whole direct requests.
type headers struct {
	Cases []headerCase `json:"cases"`
}

// headerCase is a request, as a service receives it, and the key that the device publishes.
type headerCase struct {
	Name          string `json:"name"`
	Outcome       string `json:"outcome"`
	Service       string `json:"service"` // the server name of the receiving service
	Method        string `json:"method"`
	URI           string `json:"uri"`
	Body          string `json:"body"`
	Authorization string `json:"authorization"`
	PublicKey     string `json:"public_key"`
}

const (
	directURI  = "/_matrix/client/unstable/io.github.mimiport.v0/ds/source.example%3A8448/groups/AAAA/messages?from=1"
	directBody = `{"message":"AAEC"}`
	directTime = 1_700_000_000_000
)

func directRequest() mimiport.DirectRequest {
	return mimiport.DirectRequest{
		Service: sourceName, Method: "POST", URI: directURI, BodyHash: sha256.Sum256([]byte(directBody)),
		UserID: "@carol:third.example", DeviceID: "CAROLPHONE", Time: directTime, Nonce: derive("direct nonce"),
	}
}

// directSuite describes the structure alone, signed with an Ed25519 key.
func directSuite(s *samples) *suite {
	suite := serverSuite("direct_request.json", "DirectRequest", "client", &s.direct, "CommitReceipt")
	for _, c := range directChanges {
		other := s.direct
		c.change(&other)
		changed := newCase("signed for another "+c.name, "bad-signature", mustMarshal(&other))
		changed.PublicKey = publicKey("client")
		suite.more = append(suite.more, changed)
	}
	late := s.direct
	late.Time = 1 << 63
	suite.more = append(suite.more, newCase("time 2^63", "epoch-too-large", mustMarshal(&late)))
	nobodys := s.direct
	nobodys.DeviceID = notUTF8
	suite.more = append(suite.more, notText("device", &nobodys))
	suite.more = append(suite.more, wrongLengths("nonce", &s.direct, s.direct.Nonce)...)
	return suite
}

// directChanges has one change for each part that the signature of a request covers.
var directChanges = []struct {
	name   string
	change func(*mimiport.DirectRequest)
}{
	{"service", func(r *mimiport.DirectRequest) { r.Service = targetName }},
	{"method", func(r *mimiport.DirectRequest) { r.Method = "PUT" }},
	{"URI", func(r *mimiport.DirectRequest) { r.URI = strings.Replace(directURI, "from=1", "from=2", 1) }},
	{"body", func(r *mimiport.DirectRequest) { r.BodyHash = sha256.Sum256(nil) }},
	{"user", func(r *mimiport.DirectRequest) { r.UserID = "@dave:third.example" }},
	{"device", func(r *mimiport.DirectRequest) { r.DeviceID = "CAROLTABLET" }},
	{"time", func(r *mimiport.DirectRequest) { r.Time++ }},
	{"nonce", func(r *mimiport.DirectRequest) { r.Nonce = derive("another nonce") }},
}

// directHeaders makes requests with all signature schemes, requests that were signed for something else, and malformed
// headers.
func directHeaders(s *samples) *headers {
	f := new(headers)
	add := func(name, outcome, authorization string, k *directKey) {
		f.Cases = append(f.Cases, headerCase{
			name, outcome, sourceName, "POST", directURI, directBody, authorization, hex.EncodeToString(k.public),
		})
	}
	keys := directKeys()
	for _, k := range keys {
		r := s.direct
		r.Signature = k.sign(directContent(&r))
		add(k.scheme, "valid", authorization(&r, k.scheme), &k)
	}
	device := &keys[0]
	odd := s.direct
	odd.DeviceID = `a "device\`
	odd.Signature = device.sign(directContent(&odd))
	add("ids to be escaped", "valid", authorization(&odd, device.scheme), device)
	for _, c := range directChanges {
		signed := s.direct
		c.change(&signed)
		claimed := s.direct
		claimed.Signature = device.sign(directContent(&signed))
		add("signed for another "+c.name, "bad-signature", authorization(&claimed, device.scheme), device)
	}
	valid := s.direct
	valid.Signature = device.sign(directContent(&valid))
	add("another scheme", "bad-signature", authorization(&valid, "ed448"), device)
	add("an unknown scheme", "bad-signature", authorization(&valid, "rot13"), device)
	whole := authorization(&valid, device.scheme)
	for _, m := range []struct{ name, before, after string }{
		{"a space after a comma", ",device", ", device"},
		{"another order", `time="1700000000000",nonce`, `nonce`},
		{"a zero before the time", `time="1`, `time="01`},
		{"a time above 2^53-1", `time="1700000000000"`, `time="9007199254740992"`},
		{"padding", `",sha256`, `=",sha256`},
		{"an escape that is not needed", "CAROLPHONE\",key", "CAROL\\PHONE\",key"},
		{"a key of another device", ":CAROLPHONE", ":OTHER"},
		{"no user", "@carol:third.example", ""},
		{"a field more", `sig="`, `more="",sig="`},
		{"text after it", `sig="`, `sig="",x="`},
		{"another case of the scheme", "MimiDevice", "mimidevice"},
	} {
		if strings.Count(whole, m.before) != 1 {
			panic("the part to replace must occur once: " + m.before)
		}
		add(m.name, "malformed", strings.Replace(whole, m.before, m.after, 1), device)
	}
	return f
}

// authorization makes the header without package api, so that the vectors can check that package.
func authorization(r *mimiport.DirectRequest, scheme string) string {
	quoted := func(s string) string {
		return `"` + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`) + `"`
	}
	b64 := base64.RawStdEncoding.EncodeToString
	return "MimiDevice user=" + quoted(r.UserID) + ",device=" + quoted(r.DeviceID) +
		",key=" + quoted("io.github.mimiport."+scheme+":"+r.DeviceID) + fmt.Sprintf(`,time="%d"`, r.Time) +
		`,nonce="` + b64(r.Nonce[:]) + `",sha256="` + b64(r.BodyHash[:]) + `",sig="` + b64(r.Signature) + `"`
}

func directContent(r *mimiport.DirectRequest) []byte {
	unsigned := *r
	unsigned.Signature = nil
	encoded := mustMarshal(&unsigned)
	return signedContent(portabilityPrefix+"DirectRequest", encoded[:len(encoded)-1])
}

// directKey is a device's key of one scheme.
type directKey struct {
	scheme string
	public []byte
	sign   func(content []byte) []byte
}

func directKeys() []directKey {
	key := keyOf("client")
	long := derive("key client ed448")
	seed := append(long[:], long[:ed448.SeedSize-len(long)]...)
	goldilocks := ed448.NewKeyFromSeed(seed)
	return []directKey{
		{"ed25519", key.Public().(ed25519.PublicKey), func(m []byte) []byte { return ed25519.Sign(key, m) }},
		{"ed448", goldilocks.Public().(ed448.PublicKey), func(m []byte) []byte { return ed448.Sign(goldilocks, m, "") }},
		ecdsaKey("ecdsa_secp256r1_sha256", elliptic.P256(), crypto.SHA256),
		ecdsaKey("ecdsa_secp384r1_sha384", elliptic.P384(), crypto.SHA384),
		ecdsaKey("ecdsa_secp521r1_sha512", elliptic.P521(), crypto.SHA512),
	}
}

// ecdsaKey makes a key that signs deterministically (RFC 6979).
func ecdsaKey(scheme string, curve elliptic.Curve, hash crypto.Hash) directKey {
	seed := derive("key client " + scheme)
	scalar := make([]byte, (curve.Params().BitSize+7)/8)
	copy(scalar[1:], seed[1:])
	key, err := ecdsa.ParseRawPrivateKey(curve, scalar)
	if err != nil {
		panic(err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	return directKey{scheme, public, func(content []byte) []byte {
		h := hash.New()
		h.Write(content)
		signature, err := key.Sign(nil, h.Sum(nil), hash)
		if err != nil {
			panic(err)
		}
		return signature
	}}
}
