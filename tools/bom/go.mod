module github.com/keysidecar/keysidecar/tools/bom

go 1.26.0

require (
	github.com/CycloneDX/cyclonedx-go v0.12.0
	github.com/davecgh/go-spew v1.1.1
	github.com/google/licenseclassifier/v2 v2.0.0
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	github.com/sergi/go-diff v1.1.0
	golang.org/x/text v0.14.0
)
