// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Command build writes the archives of the test images: go run ./test/images/build --out DIR.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"knarr.dev/test/images"
)

func main() {
	out := flag.String("out", "bin/images", "where to write the archives")
	flag.Parse()
	if err := images.Build(context.Background(), *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
