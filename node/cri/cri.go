// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cri speaks the container runtime interface, v1, and runs a containerd of the node's own.
//
// Client is the connection; Child is the process, for nodes that are given no runtime. The package knows nothing of
// pods' specs: package node builds the messages.
package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the limit of a message in either direction, in bytes, as containerd's.
const maxMessage = 16 << 20

// Client calls a container runtime. Its methods are those of the interface.
type Client struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	conn *grpc.ClientConn
}

// Dial returns a client of the runtime at a unix socket. It connects at the first call and again whenever the
// connection is lost.
func Dial(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(socket, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to container runtime: %w", err)
	}
	return &Client{runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// WaitReady waits until the runtime answers and says that it can run containers; with network, that pods can have a
// network too. The error of an ended ctx has the runtime's last answer.
func (c *Client) WaitReady(ctx context.Context, network bool) (*runtimeapi.VersionResponse, error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		version, err := c.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			if err = c.Healthy(ctx, network); err == nil {
				return version, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for container runtime: %w", err)
		case <-ticker.C:
		}
	}
}

// Healthy says why the runtime cannot run containers, or pods with a network of their own.
func (c *Client) Healthy(ctx context.Context, network bool) error {
	status, err := c.RuntimeServiceClient.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return err
	}
	var problems []string
	for _, condition := range status.GetStatus().GetConditions() {
		if condition.Status || condition.Type == runtimeapi.NetworkReady && !network {
			continue
		}
		if condition.Type == runtimeapi.RuntimeReady || condition.Type == runtimeapi.NetworkReady {
			problems = append(problems, fmt.Sprintf("%s=false reason:%s message:%s", condition.Type, condition.Reason, condition.Message))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("container runtime is not ready: %s", strings.Join(problems, ", "))
	}
	return nil
}
