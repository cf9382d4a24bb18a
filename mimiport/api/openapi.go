package api

import _ "embed"

// OpenAPI is the document of all three APIs, OpenAPI 3.0 in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
