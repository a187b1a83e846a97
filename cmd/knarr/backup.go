// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

// place holds the flags that say where objects are.
type place struct {
	cluster.Place
	kubeconfig string
}

func (p *place) bind(c *cobra.Command) {
	c.Flags().StringVar(&p.DataDir, "data-dir", cluster.DefaultDataDir(), "data directory that holds the objects, without --etcd-servers")
	bindFlags(c.Flags(), etcdFlags(&p.Etcd)[:5])
}

func (p *place) bindKubeconfig(c *cobra.Command) {
	c.Flags().StringVar(&p.kubeconfig, "kubeconfig", "", "administrator's kubeconfig `FILE`, to ask a server that is running (default DATA-DIR/admin.kubeconfig)")
}

func tell(c *cobra.Command, what string, n cluster.Copied) {
	fmt.Fprintf(c.OutOrStdout(), "%s: %d objects as of revision %d, %s\n", what, n.Records, n.Revision, n.Time.Format(time.RFC3339))
}

func backupCommand() *cobra.Command {
	p, verify := &place{}, false
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy all objects, as of one moment, to a file; a running server serves on",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if verify {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				n, err := cluster.VerifyBackup(f)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				tell(c, args[0], n)
				return nil
			}
			return p.backup(c, args[0])
		},
	}
	p.bind(c)
	p.bindKubeconfig(c)
	c.Flags().BoolVar(&verify, "verify", false, "check a file that was made before, instead")
	return c
}

// backup writes to a temporary file beside the wanted one and renames it when it is whole and on disk.
func (p *place) backup(c *cobra.Command, name string) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	n, err := cluster.Backup(c.Context(), p.Place, p.kubeconfig, f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	tell(c, name, n)
	return nil
}

func restoreCommand() *cobra.Command {
	p := &place{}
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Write the objects of a backup to an empty data directory or etcd",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			n, err := cluster.Restore(c.Context(), f, p.Place)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			tell(c, "restored to "+p.String(), n)
			return nil
		},
	}
	p.bind(c)
	return c
}

func migrateCommand() *cobra.Command {
	p := &place{}
	c := &cobra.Command{
		Use:       "migrate {to-etcd|from-etcd} --etcd-servers URLS",
		Short:     "Copy all objects, as of one moment, from the data directory to an etcd or back",
		ValidArgs: []string{"to-etcd", "from-etcd"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(c *cobra.Command, args []string) error {
			if len(p.Etcd.Servers) == 0 {
				return errors.New("--etcd-servers is needed")
			}
			from, to := cluster.Place{DataDir: p.DataDir}, cluster.Place{Etcd: p.Etcd}
			if args[0] == "from-etcd" {
				from, to = to, from
			}
			n, err := cluster.Migrate(c.Context(), from, to, p.kubeconfig)
			if err != nil {
				return err
			}
			tell(c, "migrated to "+to.String(), n)
			return nil
		},
	}
	p.bind(c)
	p.bindKubeconfig(c)
	return c
}
