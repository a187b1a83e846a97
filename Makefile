# Each target is a line or two that a newcomer can read. Run as root for real containers.
.DEFAULT_GOAL := help
.PHONY: help up down build images deps test unit race vet lint e2e bench fuzz

KUBE_VERSION := v1.36.3
VERSION      := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
V            := k8s.io/component-base/version
LDFLAGS      := -s -w -X main.version=$(VERSION) -X $(V).gitVersion=$(KUBE_VERSION) -X $(V).gitMajor=1 -X $(V).gitMinor=36
# Managed fields are shared between the objects that have the same.
export GOFLAGS += -tags=fieldsv1string
PACKAGES     := containerd containernetworking-plugins nftables conntrack iproute2 busybox-static python3-kubernetes

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

up: deps build images ## install what is missing, build, start a cluster with a sample app, print what to try
	bin/knarr up --detach --image bin/images/web.tar --image bin/images/busybox.tar
	bin/kubectl --kubeconfig /var/lib/knarr/admin.kubeconfig apply -f docs/user/hello.yaml
	bin/kubectl --kubeconfig /var/lib/knarr/admin.kubeconfig rollout status deployment/hello --timeout=120s
	@echo; cat docs/user/try.txt

down: ## stop the cluster that `make up` started
	bin/knarr down

build: ## build bin/knarr and bin/kubectl
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/knarr ./cmd/kubectl

images: ## build the sample images into bin/images
	CGO_ENABLED=0 go run ./test/images/build --out bin/images

deps: ## install the Debian packages that a node needs
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES); }

test: deps build images vet lint race e2e ## everything that CI runs

vet: ## go vet
	go vet ./...
	cd test/e2e/clients && CGO_ENABLED=0 go vet -trimpath ./...
	cd test/e2e/clients/kubectl132 && CGO_ENABLED=0 go vet -trimpath ./...

lint: ## staticcheck, and gofmt
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go tool staticcheck ./...

unit: ## the tests that need no root, no containers
	go test ./...

race: ## all package tests with the race detector
	go test -race -timeout 20m $$(go list ./... | grep -v -E '/test/(e2e|bench)')

e2e: ## whole clusters on real containers, as root
	go test -count=1 -timeout 20m -v ./test/e2e/...

bench: ## Go benchmarks; see test/bench/README.md for kbench
	go test -run '^$$' -bench . -benchmem ./store/... ./apiserver/... ./scheduler/...

fuzz: ## a minute for each fuzz target
	@for p in $$(grep -rl 'func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho 'func Fuzz[A-Za-z0-9]*' $$p/*_test.go | sed 's/func //'); do go test -run '^$$' -fuzz "^$$f\$$" -fuzztime 60s $$p || exit 1; done; done
