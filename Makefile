# `make` alone lists the targets. The README's two commands, `make demo` and `make test`, install the packages of the
# TypeScript client when they are missing.

GO     ?= go
TS     := clients/ts
DRIVER := $(TS)/dist/src/driver.js
# A reader of the test vectors, written from the documents alone. It takes nothing of the client but the compiler.
READER := integration/reader
# The client on OpenMLS. Where its packages cannot be had, its tests are skipped.
OPENMLS := integration/openmls
# How long each fuzz target runs: executions, since a run by the clock now and then fails at its very end.
FUZZTIME ?= 20000x
# The Go vulnerability database, packed as the folder osv. MIMI_REQUIRE_ALL=1 makes its absence an error.
VULNDB ?= ../shared/vuln/osv.tar.gz

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
# The lines of a test's log that say which tests failed, where and why.
FAILURES := grep -E '^ *(--- FAIL|[a-z0-9_]+_test\.go:[0-9]+:|panic:|FAIL)'
# Which benchmarks run.
BENCH ?= .
# How many random histories in memory a soak checks.
HISTORIES ?= 10000
# The groups of the demo: mls10 for RFC 9420, draft09 for github.com/cisco/go-mls.
PROTOCOL ?= mls10
# synapse: the demo is the whole life of a group with members on a Synapse and on a stock Dendrite.
STOCK ?=
# element-hq: the same sources for github.com/element-hq/dendrite, renamed into a folder that nobody keeps.
HOST ?=
FORK := build/element-hq
# What a release has, and its name.
PROGRAMS ?= dendrite-mimi mimictl
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# A release links the C library too, looks names up and finds users without it, and holds no path or time of its build.
STATIC := -trimpath -buildvcs=false -tags netgo,osusergo,sqlite_omit_load_extension \
  -ldflags '-s -w -buildid= -linkmode external -extldflags "-static -Wl,--build-id=none" -X main.version=$(VERSION)'
SBOM := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
# Tests real homeservers of one program, which make build has made, and ends with the failures.
define test-servers
	@log=$$(mktemp); trap "rm -f $$log" EXIT; \
	DENDRITE_MIMI=$(CURDIR)/bin/dendrite-mimi $(GO) test -count=1 -timeout 30m $(1) 2>&1 | tee $$log || \
	{ echo "The failures once more, without the logs of servers:"; $(FAILURES) $$log; exit 1; }
endef

.PHONY: help build release demo demo-web test test-go test-ts test-host test-integration synapse lint tidy vuln fuzz bench bench-ts soak explore clean fork

ifeq ($(HOST),element-hq)

build release demo demo-web test test-go test-host test-integration: fork
	MLS_TEST_VECTORS=$${MLS_TEST_VECTORS:-$(abspath ../shared/vectors/mls)} \
	$(MAKE) -C $(FORK) HOST= VERSION=$(VERSION) $@

lint: fork
	cd $(FORK) && $(GO) vet ./hooks ./cmd/... && $(GO) mod tidy -diff

tidy: fork
	cd $(FORK) && $(GO) mod tidy
	cp $(FORK)/go.mod $(FORK)/go.sum hosts/element-hq

fork:
	hosts/element-hq/rename.sh $(FORK)

else

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s%s\n", $$1, $$2 }' Makefile

build: ## dendrite-mimi and mimictl, into bin/; with HOST=element-hq into build/element-hq/bin/
	$(GO) build -o bin/ ./cmd/...

release: ## static programs with checksums and SBOMs, into release/, the same bytes wherever they are built
	rm -rf release
	mkdir release
	CGO_ENABLED=1 CGO_CFLAGS=-O2 $(GO) build $(STATIC) -o release/ $(PROGRAMS:%=./cmd/%)
	for program in $(PROGRAMS); do \
	  $(GO) run -trimpath $(SBOM) bin -json -noserial -version $(VERSION) release/$$program | \
	    sed '/^    "timestamp": /d' >release/$$program.cdx.json; \
	done
	cd release && sha256sum * >SHA256SUMS

demo: $(if $(filter draft09,$(PROTOCOL)),,$(DRIVER)) $(if $(STOCK),synapse) ## move a live group between two real homeservers, step by step
	$(GO) run ./integration/demo -protocol $(PROTOCOL) -stock "$(STOCK)"

demo-web: $(DRIVER) ## the same on a web page: two chats, the servers between them, the seven messages, and buttons for faults
	$(GO) run ./integration/demoweb

test: ## everything; ends with a line for each thing that tests lack here
	@echo "The tests in TypeScript and in Go run beside each other. The output of each comes at its end, after minutes."
	@$(MAKE) --no-print-directory -j 2 -O test-ts test-go
	@$(MAKE) --no-print-directory test-integration
	@$(GO) test -count=1 -v -run '^TestMachine$$' ./internal/needs | sed -n 's/.*\(NOT TESTED: .*\)/\1/p'

test-ts: $(DRIVER) ## the TypeScript client, and the reader of the test vectors
	cd $(TS) && npm run -s check && npm run -s tests
	$(TS)/node_modules/.bin/tsc -p $(READER)
	node --test $(READER)/dist/vectors.test.js

test-go: $(DRIVER) $(OPENMLS)/node_modules/.package-lock.json ## the Go packages but those of integration/, with the race detector
	@units=$$($(GO) list ./... | grep -v /integration); \
	$(GO) test -race -timeout 20m $$units git.schwanenlied.me/yawning/x448.git
	$(GO) test -run TestUnwellServers ./mimiport/outbox # which the race detector does not bear

test-integration: build $(DRIVER) $(OPENMLS)/node_modules/.package-lock.json ## real homeservers and clients as processes on loopback
	$(call test-servers,./integration/...)

test-host: build $(DRIVER) $(OPENMLS)/node_modules/.package-lock.json ## what depends on the host: hooks, cmd, and integration without the kills, the liars and the mixed hosts
	$(GO) test -p 1 -timeout 20m ./hooks ./cmd/...
	$(call test-servers,$$($(GO) list ./integration/... | grep -vE '/(adversary|hosts|kill)$$'))

tidy: ## go.mod and go.sum; with HOST=element-hq those in hosts/element-hq
	$(GO) mod tidy

$(DRIVER): $(TS)/node_modules/.package-lock.json $(wildcard $(TS)/src/*.ts $(TS)/src/*/*.ts) $(TS)/tsconfig.json
	cd $(TS) && npm run -s build
	@touch $@

$(TS)/node_modules/.package-lock.json: $(TS)/package-lock.json
	cd $(TS) && npm ci --no-audit --no-fund
	@touch $@

$(OPENMLS)/node_modules/.package-lock.json: $(OPENMLS)/package-lock.json
	cd $(OPENMLS) && { npm ci --no-audit --no-fund && touch node_modules/.package-lock.json || test -z "$${MIMI_REQUIRE_ALL:-}"; }

synapse: ## install a Synapse for the tests into the user's cache, once: root, debootstrap, a minute, 550 MB
	integration/synapse/setup.sh

lint: ## formatting, vet, staticcheck, the rules of the house, module files
	@files=$$(find . \( -name build -o -name node_modules \) -prune -o -name '*.go' -exec gofmt -l {} +); \
	test -z "$$files" || { echo "not gofmt'ed:"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./hooks ./cmd/dendrite-mimi
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) test ./internal/houserules
	$(GO) mod tidy -diff

vuln: ## known vulnerabilities in what the programs call, by a copy of Go's database: a minute, and 3 GB
	$(GO) run ./internal/vulncheck $(VULNDB)

fuzz: ## every fuzz target for FUZZTIME
	@files=$$(grep -rlE '^func Fuzz' --include='*_test.go' --exclude-dir=build . | sort); \
	for file in $$files; do \
	  for target in $$(grep -oE '^func Fuzz\w*' $$file | cut -c6-); do \
	    echo "$$file $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$file); \
	  done; \
	done

soak: $(DRIVER) synapse ## hours: servers killed at every write and send, every fault, a day, a Synapse, histories, explore
	MIMI_SOAK=1 $(GO) test -count=1 -timeout 2h -artifacts -skip '^TestDay$$' ./integration/kill
	MIMI_SOAK=1 $(GO) test -count=1 -timeout 2h -v -run '^TestDay$$' ./integration/kill
	MIMI_REQUIRE_ALL=1 $(GO) test -count=1 -timeout 30m -run 'Synapse|Life|ByReference' ./integration
	MIMI_SOAK=1 $(GO) test -count=1 -timeout 60m -v -run '^(TestMoves|TestDrain|TestMakeTargets)$$' ./integration
	MIMI_SOAK=1 $(GO) test -count=1 -timeout 60m ./integration/hosts ./integration/release
	MIMI_HISTORIES=$(HISTORIES) $(GO) test -count=1 -timeout 60m -artifacts ./integration/history
	$(MAKE) explore

bench: ## what things cost; ends with the table of docs/scaling.md, and fails if that misses a goal
	@$(GO) test -run '^$$' -bench '$(BENCH)' -timeout 60m ./... | $(GO) run ./integration/bench

bench-ts: $(TS)/node_modules/.package-lock.json ## what 1,000 members cost in TypeScript; fails if it misses a goal
	cd $(TS) && npm run -s bench

explore: ## every course of a hand-over, and of who has a group, within bounds: minutes, and 2 GiB at most
	cd mimiport/migration/explore && $(GO) test -count=1 -timeout 1h -v -run '^TestExplore$$' . ./hosts -full

clean: ## delete what the TypeScript client's build has made, and all packages of npm
	rm -rf $(TS)/dist $(TS)/node_modules $(READER)/dist $(OPENMLS)/node_modules

endif
