// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
)

// Bounds of image references.
const (
	imageNameMax = 255
	imageTagMax  = 128
)

// tagOf is the tag of an image reference: latest if it has neither tag nor digest, and none if it is no reference at all.
func tagOf(image string) string {
	name, digest, pinned := strings.Cut(image, "@")
	if pinned && !isDigest(digest) {
		return ""
	}
	slash := strings.LastIndex(name, "/")
	last, tag, tagged := strings.Cut(name[slash+1:], ":")
	switch name = name[:slash+1] + last; {
	case !isImageName(name), tagged && !isTag(tag):
		return ""
	case tagged:
		return tag
	case pinned:
		return ""
	}
	return "latest"
}

// isImageName tells whether a name is one of a repository, with or without the host of a registry.
func isImageName(name string) bool {
	host, path, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" && host == strings.ToLower(host) {
		host, path = "", name
	}
	if len(name) > imageNameMax || host == "" && len(path) == 64 && strings.Trim(path, "0123456789abcdef") == "" { // such is an ID
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isPathPart(part) {
			return false
		}
	}
	return host == "" || isHost(host)
}

// isPathPart accepts words of small letters and digits, joined by a dot, one or two underscores, or dashes.
func isPathPart(part string) bool {
	isWord := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if part == "" || !isWord(rune(part[0])) || !isWord(rune(part[len(part)-1])) {
		return false
	}
	for _, joint := range strings.FieldsFunc(part, isWord) {
		if joint != "." && joint != "_" && joint != "__" && strings.Trim(joint, "-") != "" {
			return false
		}
	}
	return true
}

func isHost(host string) bool {
	if strings.HasPrefix(host, "[") {
		return true
	}
	name, port, found := strings.Cut(host, ":")
	if found && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !all(part, "-") {
			return false
		}
	}
	return true
}

func isTag(tag string) bool {
	return tag != "" && len(tag) <= imageTagMax && tag[0] != '.' && tag[0] != '-' && all(tag, "_.-")
}

func isDigest(digest string) bool {
	algorithm, hex, found := strings.Cut(digest, ":")
	return found && algorithm != "" && len(hex) >= 32 && all(algorithm, "-_+.") && strings.Trim(hex, "0123456789abcdefABCDEF") == ""
}

// all tells whether a text consists of letters, digits and those other characters.
func all(text, others string) bool {
	for _, c := range text {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(others, c) {
			return false
		}
	}
	return true
}
