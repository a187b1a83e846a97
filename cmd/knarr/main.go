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
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"knarr.dev/cluster"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c := root()
	if filepath.Base(os.Args[0]) == kubeAPIServerName {
		c.SetArgs(append([]string{kubeAPIServerName}, os.Args[1:]...))
	}
	if err := c.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
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
		Version:       version,
	}
	c.AddCommand(
		upCommand(),
		downCommand(),
		serverCommand(),
		apiserverCommand(),
		kubeAPIServerCommand(),
		agentCommand(),
		controllerManagerCommand(),
		schedulerCommand(),
		proxyCommand(),
		tokenCommand(),
		kubeconfigCommand(),
		imageCommand(),
		backupCommand(),
		restoreCommand(),
		migrateCommand(),
		versionCommand(),
	)
	return c
}

// logger writes to standard error what is of a level that may change. Level is debug, info, warn or error, or empty for warn; a verbosity
// above 0 is Kubernetes' and lets more through.
func logger(level, format string, verbosity int) (*slog.Logger, *slog.LevelVar, error) {
	if level == "" {
		level = "warn"
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	if verbosity > 0 {
		l = min(l, slog.Level(-verbosity))
	}
	changing := new(slog.LevelVar)
	changing.Set(l)
	options := &slog.HandlerOptions{Level: changing}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, options)
	if format == cluster.LogJSON {
		h = slog.NewJSONHandler(os.Stderr, options)
	}
	klog.SetSlogLogger(slog.New(demoted{h}))
	return slog.New(h), changing, nil
}

// demoted is for what libraries log about connections that their users ended: details at best.
type demoted struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	if !d.Enabled(ctx, r.Level) { // errors come unasked
		return nil
	}
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
