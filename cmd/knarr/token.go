// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"knarr.dev/client"
	"knarr.dev/cluster"
)

// administrator is how commands reach a running cluster.
type administrator struct{ kubeconfig, dir string }

func (a *administrator) bind(c *cobra.Command) {
	c.PersistentFlags().StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig `FILE` of an administrator (default DATA-DIR/admin.kubeconfig)")
	c.PersistentFlags().StringVar(&a.dir, "data-dir", cluster.DefaultDataDir(), "directory of the cluster's state")
}

// dial returns a client, what closes it, and how it reaches the server.
func (a *administrator) dial() (*client.Client, func(), client.HTTPConfig, error) {
	file := a.kubeconfig
	if file == "" {
		file = filepath.Join(a.dir, "admin.kubeconfig")
	}
	config, err := client.Kubeconfig(file, "")
	if err != nil {
		return nil, nil, config, err
	}
	config.UserAgent = "knarr/" + version
	transport, err := client.NewHTTP(config)
	if err != nil {
		return nil, nil, config, err
	}
	return client.New(transport), transport.Close, config, nil
}

func tokenCommand() *cobra.Command {
	a := &administrator{}
	c := &cobra.Command{Use: "token", Short: "Make, list and delete the tokens with which machines join"}
	a.bind(c)
	c.AddCommand(tokenCreateCommand(a), tokenListCommand(a), tokenDeleteCommand(a))
	return c
}

func tokenCreateCommand(a *administrator) *cobra.Command {
	ttl, description, server, join := cluster.TokenTTL, "", "", false
	c := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a token, or store the given one, and print it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			token := cluster.NewToken()
			if len(args) > 0 {
				var err error
				if token, err = cluster.ParseToken(args[0]); err != nil {
					return err
				}
			}
			token.Description = description
			admin, closeAdmin, config, err := a.dial()
			if err != nil {
				return err
			}
			defer closeAdmin()
			if token, err = cluster.CreateToken(c.Context(), admin, token, ttl); err != nil {
				return err
			}
			if !join {
				_, err = fmt.Fprintln(c.OutOrStdout(), token)
				return err
			}
			return printJoin(c, token, config, server)
		},
	}
	f := c.Flags()
	f.DurationVar(&ttl, "ttl", ttl, "how long it works; 0 is for ever")
	f.StringVar(&description, "description", "", "what it is for")
	f.BoolVar(&join, "print-join-command", false, "print the whole command for the machine that is to join")
	f.StringVar(&server, "server", "", "`URL` of the server to print in it (default: this machine's address)")
	return c
}

// printJoin prints the command for another machine.
func printJoin(c *cobra.Command, token cluster.Token, config client.HTTPConfig, server string) error {
	hash, err := cluster.CAHash(config.CA)
	if err != nil {
		return err
	}
	if server == "" {
		if server, err = reachable(config.Server); err != nil {
			return err
		}
		if u, err := url.Parse(config.Server); err == nil && server != config.Server && net.ParseIP(u.Hostname()).IsLoopback() {
			fmt.Fprintf(c.ErrOrStderr(), "The server listens on %s only, which other machines do not reach: start it with --listen 0.0.0.0:%s.\n", u.Hostname(), u.Port())
		}
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "knarr agent --server %s --token %s --ca-hash %s\n", server, token, hash)
	return err
}

// reachable is the URL of a server as other machines see it: its own address instead of loopback and wildcards.
func reachable(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	ip := net.ParseIP(u.Hostname())
	if ip == nil && u.Hostname() != "localhost" || ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
		return server, nil
	}
	address, ok := cluster.MachineAddress("")
	if !ok {
		return "", errors.New("this machine has no address that others reach: give one with --server")
	}
	u.Host = net.JoinHostPort(address.String(), u.Port())
	return u.String(), nil
}

func tokenListCommand(a *administrator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			admin, closeAdmin, _, err := a.dial()
			if err != nil {
				return err
			}
			defer closeAdmin()
			tokens, err := cluster.ListTokens(c.Context(), admin)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
			for _, t := range tokens {
				ttl, expires := "<forever>", "<never>"
				if !t.Expires.IsZero() {
					ttl, expires = "<expired>", t.Expires.UTC().Format(time.RFC3339)
					if left := time.Until(t.Expires); left > 0 {
						ttl = left.Round(time.Second).String()
					}
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t, ttl, expires, words(t.Usages), words([]string{t.Description}), words(t.Groups))
			}
			return w.Flush()
		},
	}
}

func words(list []string) string {
	if s := strings.Join(list, ","); s != "" {
		return s
	}
	return "<none>"
}

func tokenDeleteCommand(a *administrator) *cobra.Command {
	return &cobra.Command{
		Use:   "delete TOKEN...",
		Short: "Delete tokens, given whole or by the part before the dot",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			admin, closeAdmin, _, err := a.dial()
			if err != nil {
				return err
			}
			defer closeAdmin()
			for _, token := range args {
				if err := cluster.DeleteToken(c.Context(), admin, token); err != nil {
					return err
				}
				id, _, _ := strings.Cut(token, ".")
				fmt.Fprintf(c.OutOrStdout(), "token %s deleted\n", id)
			}
			return nil
		},
	}
}
