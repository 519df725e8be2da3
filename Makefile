# `make run` shows the program at work and `make test` tests it, on a machine with nothing but Go and Node; the rest is for those
# who change it. What is missing is brought in by .ci/setup, which says so.

GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
SQLC          := go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1

# Packages with goroutines of their own.
CONCURRENT := ./db/... ./internal/api/... ./internal/auth/... ./internal/client/... ./internal/eventlog/... ./internal/inbox/... ./internal/postgres/... ./internal/realtime/...

.DEFAULT_GOAL := help
.PHONY: help run test test-postgres check race bench stress build generate fmt lint vuln clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 15

run: build ## everything on this machine: a private Postgres, demo data, the service, and two messages a second
	@.ci/setup postgres
	@exec bin/roombell dev --traffic 2

test: ## all tests, with a real Postgres, the real socket.io-client, a real proxy and a real browser
	@.ci/setup go cc postgres psql pgbouncer wire curl chromium
	go test ./...

test-postgres: ## the tests that meet a Postgres, on another version of it, which npm has: PG=18 (15 to 18)
	@.ci/setup go cc psql pgbouncer wire
	@bin=$$(.ci/setup postgres-$(or $(PG),18)) && export PG_BIN=$$bin && $$bin/postgres --version && \
		go test -count=1 ./triggers/... ./db/... ./internal/eventlog/... ./internal/inbox/... ./internal/realtime/... ./internal/doctor/... ./cmd/roombell/...

check: ## what CI runs: the tests, the race detector, the linters, and that generated files are up to date
	@.ci/run

race: ## the packages with goroutines under the race detector, without the minute of stress
	@.ci/setup go cc postgres wire
	go test -race -short $(CONCURRENT)

bench: build ## Roombell beside a floor and beside bare tables, in one table; BENCH="--only … --json" is passed on
	@.ci/setup cc postgres
	go build -o bin/bench ./internal/bench/cmd
	@exec bin/bench --roombell bin/roombell $(BENCH)

stress: ## writers, three servers, 64 clients, kills, crashes and promotions for a minute; DURATION=30m, BREAK=hi|snapshot|ring|fresh|x|timeline, or STRESS="--seed 7 …"
	@.ci/setup go postgres
	go build -o bin/stress ./internal/eventlog/stress
	@exec bin/stress $(if $(DURATION),--time $(DURATION)) $(STRESS)

build: ## bin/roombell
	@.ci/setup go
	go build -o bin/roombell ./cmd/roombell

generate: ## db/*.sql.go, the two specifications, and the tables in README and manual
	cd sql && CGO_ENABLED=0 $(SQLC) generate
	go generate ./...

fmt:
	gofmt -l -w cmd db internal sql triggers

lint: ## gofmt, vet, and the rules of .golangci.yml
	@files=$$(gofmt -l cmd db internal sql triggers); [ -z "$$files" ] || { echo "not formatted (make fmt):" $$files; exit 1; }
	@! grep -rl --include=package-lock.json --exclude-dir=node_modules '"resolved":' . || { echo 'names a registry: npm needs omit-lockfile-registry-resolved=true'; exit 1; }
	go vet ./...
	$(GOLANGCI_LINT) run ./...

vuln: ## known vulnerabilities in what the program calls, where their database can be reached
	@.ci/vulncheck

clean: ## what was built; the databases of `make run` stay
	rm -rf bin internal/realtime/testdata/*/node_modules internal/web/testdata/*/node_modules internal/api/testdata/*/node_modules
