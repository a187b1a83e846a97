// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/apiserver/authz"
	"knarr.dev/controller"
	"knarr.dev/controllers"
	"knarr.dev/dns"
	"knarr.dev/node/simulated"
	"knarr.dev/pki"
	"knarr.dev/scheduler"
)

// extend gives the program's own loops their roles.
func (c *Cluster) extend(policy *authz.Policy) {
	for _, l := range controllers.All() {
		if !strings.HasPrefix(l.Account, "system:") { // those have roles of their own
			policy.Extend(l.Account, l.Needs)
		}
	}
	policy.Extend(dns.Account, dns.Needs())
	if c.joinable() {
		joinPolicy(policy)
	}
	if c.config.SimulatedNodes > 0 {
		policy.Extend(simulated.Account, simulated.Needs())
	}
}

// serviceAccount is the identity of one of the program's own service accounts, or of a user of Kubernetes' own.
func serviceAccount(name string) call.Identity {
	if strings.HasPrefix(name, "system:") {
		return call.Identity{Name: name, Groups: []string{"system:authenticated"}}
	}
	return call.Identity{
		Name:   "system:serviceaccount:kube-system:" + name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"},
	}
}

// startLoops starts the control loops, each under its own service account.
func (c *Cluster) startLoops(context.Context) error {
	var names []string
	for _, l := range controllers.All() {
		names = append(names, l.Name)
	}
	wanted, err := selected(names, c.config.Controllers)
	if err != nil {
		return err
	}
	config := controllers.Config{
		Kinds: api.Kinds(), CA: c.pki.Certificate(pki.ServerCA), Signer: c.pki, Tokens: c.issuer, PodCIDR: netip.MustParsePrefix(c.config.PodCIDR),
	}
	config.Reader = c.Client(serviceAccount("system:kube-controller-manager"))
	var tasks []task
	for _, l := range controllers.All() {
		if !slices.Contains(wanted, l.Name) {
			continue
		}
		caller := c.Client(serviceAccount(l.Account))
		tasks = append(tasks, task{"control loop " + l.Name, func(ctx context.Context) error {
			return controller.Run(ctx, caller, l.New(caller, config), controller.Options{Log: c.log, Metrics: c.metrics})
		}})
	}
	defer c.loopsBegun.Store(true)
	return c.lead("kube-controller-manager", config.Reader, tasks)
}

// startScheduler starts the scheduler.
func (c *Cluster) startScheduler(context.Context) error {
	caller := c.Client(call.Identity{Name: "system:kube-scheduler", Groups: []string{"system:authenticated"}})
	defer c.schedulerBegun.Store(true)
	return c.lead("kube-scheduler", caller, []task{{"scheduler", func(ctx context.Context) error {
		return scheduler.New(scheduler.Config{}, caller, c.log).Run(ctx)
	}}})
}
