// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package knarr holds the house rules of the tree as tests; the program is in cmd/knarr.
package knarr

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports says, for each component, which others it may import ("*" is all). Test files may import anything.
var imports = map[string][]string{
	"cmd":         {"cluster", "client", "api", "internal"},
	"cluster":     {"*"},
	"controllers": {"controller", "client", "api", "pki"},
	"scheduler":   {"client", "api", "internal"},
	"proxy":       {"client", "api", "internal"},
	"dns":         {"client", "api", "internal"},
	"router":      {"client", "api", "internal"},
	"node":        {"client", "api", "pki", "internal"},
	"dashboard":   {"internal"},
	"apiserver":   {"store", "api", "pki", "internal"},
	"controller":  {"client", "api"},
	"client":      {"api", "internal"},
	"store":       {"internal"},
	"pki":         {"internal"},
	"api":         {},
	"internal":    {},
	"test":        {"*"},
}

// bannedPackages are names that say nothing.
var bannedPackages = []string{"util", "utils", "common", "helpers", "manager", "base", "impl", "types", "interfaces"}

// bannedImports are packages that are no libraries, or whose place is taken by something better here.
var bannedImports = []string{"k8s.io/kubernetes", "k8s.io/apiserver/pkg/server", "k8s.io/apiserver/pkg/registry/generic"}

// Limits are twice what the style asks for; past them a second idea is hiding inside.
const (
	maxFileLines     = 1200
	maxFunctionLines = 140
)

// longer names what may exceed the limits, with the reason.
var longer = map[string]string{}

const module = "knarr.dev/"

func TestLayout(t *testing.T) {
	files := token.NewFileSet()
	docs := map[string]bool{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		checkFile(t, files, filepath.ToSlash(name), file, docs)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, documented := range docs {
		if !documented {
			t.Errorf("%s: no package doc: say what the package is, what it guarantees and where to start", dir)
		}
	}
}

func checkFile(t *testing.T, files *token.FileSet, name string, file *ast.File, docs map[string]bool) {
	test := strings.HasSuffix(name, "_test.go")
	dir := path.Dir(name)
	if !test || dir == "." {
		docs[dir] = docs[dir] || file.Doc != nil && len(file.Doc.Text()) > 20
	}
	if slices.Contains(bannedPackages, file.Name.Name) {
		t.Errorf("%s: package name %q says nothing: name the idea", name, file.Name.Name)
	}
	checkHeader(t, name, file)
	checkImports(t, name, file, test)
	if lines := files.Position(file.End()).Line; lines > maxFileLines && longer[name] == "" {
		t.Errorf("%s: %d lines, limit %d: look for the second idea inside", name, lines, maxFileLines)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		if !test && f.Recv == nil && f.Name.Name == "init" {
			t.Errorf("%s: init function: construct explicitly", files.Position(f.Pos()))
		}
		lines := files.Position(f.End()).Line - files.Position(f.Pos()).Line
		if lines > maxFunctionLines && longer[name+":"+f.Name.Name] == "" {
			t.Errorf("%s: %s has %d lines, limit %d", files.Position(f.Pos()), f.Name.Name, lines, maxFunctionLines)
		}
		if !test {
			checkCalls(t, files, name, f)
		}
	}
}

func checkHeader(t *testing.T, name string, file *ast.File) {
	if len(file.Comments) == 0 || !strings.HasPrefix(file.Comments[0].Text(), "Copyright The Knarr Authors.") {
		t.Errorf("%s: no licence header", name)
	}
}

func checkImports(t *testing.T, name string, file *ast.File, test bool) {
	component, _, nested := strings.Cut(name, "/")
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		for _, banned := range bannedImports {
			if imported == banned || strings.HasPrefix(imported, banned+"/") {
				t.Errorf("%s imports %s, which is not a library", name, imported)
			}
		}
		ours, found := strings.CutPrefix(imported, module)
		if !found || !nested || test {
			continue
		}
		target, _, _ := strings.Cut(ours, "/")
		allowed, known := imports[component]
		if !known {
			t.Errorf("%s: component %q is not in the import table of design and layout test", name, component)
			continue
		}
		if target != component && !slices.Contains(allowed, target) && !slices.Contains(allowed, "*") {
			t.Errorf("%s imports %s: %s may import only %v; components talk through the API", name, imported, component, allowed)
		}
	}
}

// checkCalls finds calls that only main may make.
func checkCalls(t *testing.T, files *token.FileSet, name string, f *ast.FuncDecl) {
	if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "test/") {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		selector, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := selector.X.(*ast.Ident)
		if !ok {
			return true
		}
		switch pkg.Name + "." + selector.Sel.Name {
		case "os.Exit", "log.Fatal", "log.Fatalf", "slog.Info", "slog.Error", "slog.Warn", "slog.Debug", "slog.SetDefault":
			t.Errorf("%s: %s.%s: return the error, or use the logger that was passed in", files.Position(call.Pos()), pkg.Name, selector.Sel.Name)
		}
		return true
	})
}
