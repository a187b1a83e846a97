#!/bin/sh
# Copyright The Knarr Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs tests of Kubernetes' own end-to-end suite, by their names in a file, against a cluster.
#
#   E2E=.../e2e.test run.sh KUBECONFIG FILE [flags of e2e.test]
#
# e2e.test is that of the Kubernetes release (go test -c ./test/e2e in its source). Against an API server
# alone, without control loops, add: --e2e-verify-service-account=false --delete-namespace=false
set -eu
kubeconfig=$1 names=$2
shift 2
focus=$(sed -e 's/^/\\Q/' -e 's/$/\\E/' "$names" | paste -sd '|')
exec "${E2E:-e2e.test}" --kubeconfig="$kubeconfig" --provider=skeleton --disable-log-dump --dump-logs-on-failure=false \
	--num-nodes=1 --minStartupPods=0 --allowed-not-ready-nodes=-1 --ginkgo.no-color --ginkgo.silence-skips --ginkgo.timeout=2h --ginkgo.focus="($focus)\$" "$@"
