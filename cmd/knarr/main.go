// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Command knarr is a whole Kubernetes in one program. One file per subcommand.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "knarr:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "knarr",
		Short:         "A whole Kubernetes in one program",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(
		upCommand(),
		downCommand(),
		serverCommand(),
		apiserverCommand(),
		kubeconfigCommand(),
		imageCommand(),
		versionCommand(),
	)
	return c
}

// logger writes to standard error; level is debug, info, warn or error.
func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
