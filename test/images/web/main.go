// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Command web is the program inside the sample image: a small HTTP server that says who it is and who asked, a client
// to call it from inside a pod, and little helpers that tests need. It is static and the only file in its image.
//
//	web serve [--port N]           serve: / /hostname /clientip /env?name= /file?path= /healthz /ready /fail /slow?for= /exit?code=
//	web get [--count N] URL        print the answer (N times, a line each)
//	web echo                       copy standard input to standard output, line by line
//	web cat FILE                   print a file
//	web write FILE TEXT            write a file
//	web log [--every D]            print a numbered line at intervals
//	web sleep D                    wait
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"serve"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, args[0], args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string, args []string) error {
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	port := f.Int("port", 8080, "port to serve on")
	count := f.Int("count", 1, "how many requests")
	every := f.Duration("every", time.Second, "time between lines")
	if err := f.Parse(args); err != nil {
		return err
	}
	if need := map[string]int{"get": 1, "cat": 1, "write": 2, "sleep": 1}[command]; f.NArg() < need {
		return fmt.Errorf("%s: %d argument(s) needed", command, need)
	}
	switch command {
	case "serve":
		return serve(ctx, *port)
	case "get":
		return get(ctx, f.Arg(0), *count)
	case "echo":
		return echo()
	case "cat":
		data, err := os.ReadFile(f.Arg(0))
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(data)
		return err
	case "write":
		return os.WriteFile(f.Arg(0), []byte(f.Arg(1)), 0o644)
	case "log":
		return lines(ctx, *every)
	case "sleep":
		d, err := time.ParseDuration(f.Arg(0))
		if err != nil {
			return err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return nil
	}
	return fmt.Errorf("unknown command %q", command)
}

// who is the answer of /.
type who struct {
	Hostname string `json:"hostname"`
	Address  string `json:"address"` // the server's end of the connection
	Client   string `json:"client"`
	Version  string `json:"version,omitempty"` // of the environment
}

func serve(ctx context.Context, port int) error {
	var ready, healthy atomic.Bool
	ready.Store(true)
	healthy.Store(true)
	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(who{host, local(r), client(r), os.Getenv("VERSION")})
	})
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	mux.HandleFunc("/clientip", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, client(r)) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		if name := r.FormValue("name"); name != "" {
			fmt.Fprintln(w, os.Getenv(name))
			return
		}
		fmt.Fprintln(w, strings.Join(os.Environ(), "\n"))
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, r.FormValue("path")) })
	mux.HandleFunc("/healthz", state(&healthy))
	mux.HandleFunc("/ready", state(&ready))
	mux.HandleFunc("/unready", func(http.ResponseWriter, *http.Request) { ready.Store(false) })
	mux.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { healthy.Store(false) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.FormValue("for"))
		select {
		case <-time.After(d):
			fmt.Fprintln(w, host)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	s := &http.Server{Addr: fmt.Sprintf(":%d", port), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.ListenAndServe() }()
	fmt.Printf("serving on port %d\n", port)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// Go on serving for a moment: the news that this pod ends takes time to reach the proxies.
	time.Sleep(time.Second)
	end, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := s.Shutdown(end)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func state(ok *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if !ok.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
}

func client(r *http.Request) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

func local(r *http.Request) string {
	a, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if a == nil {
		return ""
	}
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

func get(ctx context.Context, url string, count int) error {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range count {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		r, err := c.Do(q)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
		if r.StatusCode >= 400 {
			return errors.New(r.Status)
		}
	}
	return nil
}

func echo() error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(in.Text())
	}
	return in.Err()
}

func lines(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 1; ; i++ {
		fmt.Println("line", i)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
