# One line a target; `make help` lists them.
.PHONY: help build
help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'
build: ## build bin/knarr and bin/kubectl
	CGO_ENABLED=0 go build -o bin/ ./cmd/knarr ./cmd/kubectl
