# Every target says what it does in its ## comment; `make` alone prints them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
BIN := bin
# Tests share the machine's cores with the servers they start.
TEST_TIMEOUT ?= 12m
FUZZ_TIME ?= 15s

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/keysidecar, static and stripped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/keysidecar ./cmd/keysidecar

.PHONY: run
run: build ## Serve sample keys from a file on a socket in ./run (needs nothing but Go)
	@scripts/run.sh

# Where the demo's Postgres and RabbitMQ run: compose (containers), private (from
# the machine's programs, after `make deps`), or auto: compose if it reaches an engine.
SERVERS ?= auto

.PHONY: demo
demo: ## Show the whole system, revocations timed (SERVERS=compose|private chooses how Postgres and RabbitMQ run)
	$(GO) build -o $(BIN)/demo ./test/demo
	@exec $(BIN)/demo -servers $(SERVERS)

.PHONY: deps
deps: ## Install what the tests and the demo need (Debian and Ubuntu, as root; else says what is missing)
	@scripts/deps.sh

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

# The tests of the manifests, the Compose file and the status pages are modules of their
# own, whose cache does not see that files outside them have changed; hence -count 1.
.PHONY: test
test: deps vet ## All tests under the race detector, on privately started Postgres and RabbitMQ
	$(GO) test -race -timeout $(TEST_TIMEOUT) ./...
	$(GO) test -C test/k8s -count 1 -timeout 5m ./...
	$(GO) test -C tools/bom -count 1 -timeout 5m ./...
	$(GO) test -C test/compose -count 1 -timeout 5m ./...
	$(GO) test -C test/browser -count 1 -timeout 5m ./...

.PHONY: image
image: ## Build the image keysidecar:VERSION with docker (BUILD_ARGS='--build-arg BUILD_IMAGE=...' for a mirror)
	docker build -t keysidecar:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD_ARGS) .

.PHONY: test-image
test-image: ## Build and run the image with a Docker engine (as root: one is started privately if none answers)
	$(GO) test -tags image -count 1 -v -timeout 30m ./test/image

# COMPOSE='docker compose' tests with Compose 2.
COMPOSE ?= docker-compose

.PHONY: test-compose
test-compose: deps ## Bring up deploy/docker-compose.yml with a Docker engine and docker-compose (as root; see deploy/compose/README.md)
	COMPOSE='$(COMPOSE)' $(GO) test -tags compose -count 1 -v -timeout 30m ./test/stack

# What a release is made for, and where. Each file is the same, byte for byte, for the
# same commit, version and compiler.
PLATFORMS ?= linux/amd64,linux/arm64,darwin/arm64
DIST ?= dist

.PHONY: release
release: sbom licences ## Build archives, checksums and the bill of materials of VERSION into dist/ (macOS: for the command line)
	$(GO) run ./scripts/release -version $(VERSION) -commit "$$(git rev-parse HEAD)" -epoch "$$(git log -1 --format=%ct)" \
	  -platforms $(PLATFORMS) -out $(DIST) \
	  -beside $(BIN)/sbom.cdx.json -within $(BIN)/third-party-licences.txt

.PHONY: release-check
release-check: ## Make the release twice with empty build caches, and compare byte for byte
	@scripts/release-check.sh $(VERSION)

.PHONY: sign
sign: ## Sign the checksums in dist/ with gpg (SIGN_KEY=fingerprint); optional
	@scripts/sign.sh $(DIST) "$(SIGN_KEY)"

.PHONY: test-short
test-short: ## Only the packages whose tests start no server, without the race detector
	$(GO) test -timeout 2m $$($(GO) list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... | grep -Ev 'internal/testenv|test/cluster' | cut -d' ' -f1)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZ_TIME (15s) each
	@scripts/fuzz.sh $(FUZZ_TIME)

.PHONY: bench
bench: bench-deps ## A look-up beside its peers (a bare loop, nginx, Redis, Postgres); writes docs/benchmarks.md (about 20 minutes)
	$(GO) run ./bench/peers/cmd -out docs/benchmarks.md

.PHONY: bench-loss
bench-loss: bench-deps ## Revocations that Redis Pub/Sub, RabbitMQ queues and keysidecar lose; writes docs/benchmarks.md
	$(GO) run ./bench/loss/cmd -out docs/benchmarks.md

.PHONY: bench-deps
bench-deps: ## Install what the benchmarks compare with: nginx and Redis (as make deps does)
	@scripts/deps.sh bench

.PHONY: bench-go
bench-go: deps ## Go benchmarks of look-up, warm, memory and capture, each beside its peer
	$(GO) test -run '^$$' -bench . -timeout 30m ./internal/clock ./internal/keystore ./internal/server ./internal/schema ./bench

# The long run. SEED chooses what is drawn; the same seed draws the same faults.
DURATION ?= 30m
SEED ?= 1

.PHONY: chaos
chaos: deps ## Break everything at random for DURATION (30m), judge what sidecars answered, write docs/evidence.md
	$(GO) run ./test/faults/cmd -duration $(DURATION) -seed $(SEED) -out docs/evidence.md

# Sizes of fleets, 300 at most.
N ?= 1,10,50,100

.PHONY: scale
scale: deps ## Start fleets of N real sidecars and print what they cost and how fast they are (N=1,10,50,100)
	$(GO) run ./test/scale/cmd -n $(N) -out docs/scale.md

.PHONY: memory
memory: deps ## Measure the memory and the warm of one sidecar with a thousand to a million keys
	$(GO) run ./test/scale/cmd -memory 1000,10000,100000,1000000 -out docs/scale.md

.PHONY: burst
burst: deps ## Revoke 100,000 keys in one transaction while two sidecars are asked all the time
	$(GO) run ./test/scale/cmd -burst 100000 -out docs/scale.md

.PHONY: screenshots
screenshots: deps ## Take the pictures of the status pages in docs anew, after five minutes of life
	SCREENSHOTS=docs $(GO) test -C test/browser -count 1 -timeout 15m ./...

.PHONY: mutants
mutants: deps ## Break the protocol's rules one by one and show which test notices
	$(GO) run ./test/mutants -out docs/evidence.md

.PHONY: model
model: deps ## Search the protocol's model and its mutants with Spin, the long searches too (Markdown)
	$(GO) run ./test/model/cmd -out docs/evidence.md

.PHONY: integrations
integrations: deps ## Measure how soon gateways and the programs of examples/ refuse a revoked key; writes docs/integrations.md
	$(GO) test -count 1 -p 1 -run 'TestARevokedKeyStops' ./test/gateways ./test/recipes -args -write ../../docs/integrations.md

BASE ?= HEAD~1

.PHONY: bench-compare
bench-compare: deps ## Compare the hot path with that of the commit BASE (HEAD~1), by benchstat
	@scripts/benchstat.sh $(BASE)

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters of .golangci.yml (built from source through the Go module proxy)
	$(BIN)/golangci-lint run ./...

# The linter is built by its own module, so that its many dependencies stay out
# of the program's go.mod.
$(BIN)/golangci-lint: tools/go.mod tools/go.sum
	$(GO) build -C tools -o ../$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Both read the module cache and ask no network. They are built by a module of their
# own, as the linter is.
$(BIN)/bom: $(wildcard tools/bom/*)
	$(GO) build -C tools/bom -o ../../$(BIN)/bom .

# Of which binary, and where to.
SBOM_OF ?= $(BIN)/keysidecar
SBOM ?= $(BIN)/sbom.cdx.json

.PHONY: sbom
sbom: build $(BIN)/bom ## Write the bill of materials of bin/keysidecar, CycloneDX as JSON (SBOM_OF=binary SBOM=file)
	$(BIN)/bom sbom -version $(VERSION) -o $(SBOM) $(SBOM_OF)

.PHONY: licences
licences: $(BIN)/bom ## List the licences of what is linked in docs/licences.md, their texts in bin; fails on one that is not allowed
	$(BIN)/bom licences -o docs/licences.md -texts $(BIN)/third-party-licences.txt

.PHONY: generate
generate: ## Write generated files anew (the key descriptions of internal/config)
	$(GO) generate ./...

.PHONY: clean
clean: ## Remove what building and running left behind
	rm -rf $(BIN) run dist
