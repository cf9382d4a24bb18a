package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// requestFile is the content of the file of whole content requests, as a target receives them.
type requestFile struct {
	Destination string          `json:"destination"`
	Origin      string          `json:"origin"`
	PublicKey   string          `json:"public_key"` // of the origin's key ed25519:a
	Cases       []contentOnWire `json:"cases"`
}

// contentOnWire is one content request, and its outcome before the target decodes the content.
type contentOnWire struct {
	Name          string `json:"name"`
	Outcome       string `json:"outcome"`
	Method        string `json:"method"`
	URI           string `json:"uri"`
	Authorization string `json:"authorization"`
	ContentType   string `json:"content_type"`
	Body          string `json:"body"`
}

// xMatrix has the parts of a request that an X-Matrix signature covers. It makes the header with the signature.
type xMatrix struct{ destination, method, origin, uri, body string }

func (x xMatrix) header(key ed25519.PrivateKey) string {
	content := ""
	if x.body != "" {
		content = `"content":` + x.body + `,`
	}
	signed := fmt.Sprintf(
		`{%s"destination":%q,"method":%q,"origin":%q,"uri":%q}`, content, x.destination, x.method, x.origin, x.uri,
	)
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
	return fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="ed25519:a",sig="%s"`, x.origin, x.destination, sig)
}

const (
	federationPrefix = "/_matrix/federation/unstable/io.github.mimiport.v0"
	decideBy         = "1700000060000"
)

func contentRequests(s *samples) *requestFile {
	f := &requestFile{Destination: targetName, Origin: sourceName, PublicKey: publicKey("source")}
	data := mustMarshal(&s.content)
	sum := sha256.Sum256(data)
	digest := base64.RawURLEncoding.EncodeToString(sum[:])
	path := federationPrefix + "/migrations/" + s.response.ID().String() + "/content"
	rest := "&key_id=ed25519%3Aa&decide_by=" + decideBy
	uri := path + "?sha256=" + digest + rest
	good := xMatrix{targetName, "PUT", sourceName, uri, ""}
	add := func(name, outcome, uri, authorization string, body []byte) {
		f.Cases = append(f.Cases, contentOnWire{
			name, outcome, "PUT", uri, authorization, "application/octet-stream", hex.EncodeToString(body),
		})
	}
	key := keyOf("source")
	add("valid", "valid", uri, good.header(key), data)
	add("signed by another", "bad-signature", uri, good.header(keyOf("stranger")), data)
	for _, c := range []struct {
		name   string
		change func(*xMatrix)
	}{
		{"another destination", func(x *xMatrix) { x.destination = thirdName }},
		{"another method", func(x *xMatrix) { x.method = "POST" }},
		{"another decide_by", func(x *xMatrix) { x.uri = strings.Replace(uri, decideBy, "1700000060001", 1) }},
		{"another path", func(x *xMatrix) { x.uri = strings.Replace(uri, "/content", "/abort", 1) }},
		{"a body in JSON", func(x *xMatrix) { x.body = "{}" }},
	} {
		other := good
		c.change(&other)
		header := strings.Replace(other.header(key), thirdName, targetName, 1) // the header still names the target
		add("signed for "+c.name, "bad-signature", uri, header, data)
	}
	signed := func(name, outcome, uri string, body []byte) {
		add(name, outcome, uri, xMatrix{targetName, "PUT", sourceName, uri, ""}.header(key), body)
	}
	reordered := path + "?decide_by=" + decideBy + "&sha256=" + digest + "&key_id=ed25519%3Aa"
	signed("parameters in another order", "valid", reordered, data)
	signed("another body", "other-body", uri, append([]byte{0}, data[1:]...))
	signed("a byte less", "other-body", uri, data[:len(data)-1])
	signed("no body", "other-body", uri, nil)
	for _, c := range [][2]string{
		{"no sha256", path + "?" + rest[1:]},
		{"two sha256", uri + "&sha256=" + digest},
		{"sha256 with padding", path + "?sha256=" + digest + "%3D" + rest},
		{"sha256 in hexadecimal", path + "?sha256=" + hex.EncodeToString(sum[:]) + rest},
		{"no key_id", path + "?sha256=" + digest + "&decide_by=" + decideBy},
		{"key_id is not UTF-8", path + "?sha256=" + digest + "&key_id=%ff&decide_by=" + decideBy},
		{"no decide_by", path + "?sha256=" + digest + "&key_id=ed25519%3Aa"},
		{"decide_by is no number", strings.Replace(uri, decideBy, "soon", 1)},
		{"decide_by of 2^53", strings.Replace(uri, decideBy, "9007199254740992", 1)},
		{"a migration id of 42 characters", strings.Replace(uri, s.response.ID().String(), s.response.ID().String()[1:], 1)},
	} {
		signed(c[0], "malformed", c[1], data)
	}
	return f
}
