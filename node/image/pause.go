// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"knarr.dev/internal/oci"
)

// PauseRef names the sandbox image, which holds a pod's namespaces.
const PauseRef = "knarr.dev/pause:1"

// WritePause writes the archive of the sandbox image for an architecture (a GOARCH value) to w. The image has one
// program of a few hundred bytes: it reaps the children that a shared process namespace leaves to it and ends on
// SIGTERM and SIGINT.
func WritePause(w io.Writer, arch string) error {
	program, err := pauseProgram(arch)
	if err != nil {
		return err
	}
	return oci.Write(w, oci.Image{
		Refs:         []string{PauseRef},
		Layers:       [][]oci.File{{{Name: "pause", Mode: 0o755, Data: program}}},
		Config:       ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535", WorkingDir: "/"},
		Architecture: arch,
	})
}

// pauseProgram returns a static ELF executable. In C:
//
//	sigset_t all = ~0; sigprocmask(SIG_BLOCK, &all, NULL);
//	for (;;) switch (sigtimedwait(&all, NULL, NULL)) {
//	case SIGTERM: case SIGINT: exit_group(0);
//	case SIGCHLD: while (wait4(-1, NULL, WNOHANG, NULL) > 0);
//	}
//
// A blocked signal reaches process 1 of a namespace though it has no handler.
func pauseProgram(arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return executable(62, pauseAMD64()), nil
	case "arm64":
		return executable(183, pauseARM64()), nil
	}
	return nil, fmt.Errorf("no pause program for architecture %q", arch)
}

// executable wraps position-independent code in an ELF file with one segment, read and execute.
func executable(machine uint16, code []byte) []byte {
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		// type EXEC, machine, version, entry, program headers at 64, no section headers, flags
		uint16(2), machine, uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0),
		// sizes: this header, a program header and their number, a section header and their number, string section
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		// program header: LOAD, R+X, offset, addresses, sizes, alignment
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000),
	} {
		b.Write(binary.LittleEndian.AppendUint64(nil, asUint64(v))[:binary.Size(v)])
	}
	b.Write(code)
	return b.Bytes()
}

func asUint64(v any) uint64 {
	switch v := v.(type) {
	case uint16:
		return uint64(v)
	case uint32:
		return uint64(v)
	case uint64:
		return v
	}
	panic(fmt.Sprintf("elf field of type %T", v))
}

func pauseAMD64() []byte {
	return []byte{
		0x31, 0xff, // 00 xor edi, edi
		0x48, 0x8d, 0x35, 0x67, 0, 0, 0, // 02 lea rsi, [rip+set]
		0x31, 0xd2, // 09 xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // 0b mov r10d, 8
		0xb8, 14, 0, 0, 0, // 11 mov eax, rt_sigprocmask
		0x0f, 0x05, // 16 syscall
		0x48, 0x8d, 0x3d, 0x51, 0, 0, 0, // 18 wait: lea rdi, [rip+set]
		0x31, 0xf6, // 1f xor esi, esi
		0x31, 0xd2, // 21 xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // 23 mov r10d, 8
		0xb8, 128, 0, 0, 0, // 29 mov eax, rt_sigtimedwait
		0x0f, 0x05, // 2e syscall
		0x83, 0xf8, 15, // 30 cmp eax, SIGTERM
		0x74, 0x2e, // 33 je exit
		0x83, 0xf8, 2, // 35 cmp eax, SIGINT
		0x74, 0x29, // 38 je exit
		0x83, 0xf8, 17, // 3a cmp eax, SIGCHLD
		0x75, 0xd9, // 3d jne wait
		0xbf, 0xff, 0xff, 0xff, 0xff, // 3f reap: mov edi, -1
		0x31, 0xf6, // 44 xor esi, esi
		0xba, 1, 0, 0, 0, // 46 mov edx, WNOHANG
		0x45, 0x31, 0xd2, // 4b xor r10d, r10d
		0xb8, 61, 0, 0, 0, // 4e mov eax, wait4
		0x0f, 0x05, // 53 syscall
		0x85, 0xc0, // 55 test eax, eax
		0x7f, 0xe6, // 57 jg reap
		0xeb, 0xbd, // 59 jmp wait
		0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // 5b nop
		0x31, 0xff, // 63 exit: xor edi, edi
		0xb8, 231, 0, 0, 0, // 65 mov eax, exit_group
		0x0f, 0x05, // 6a syscall
		0x0f, 0x0b, 0x90, 0x90, // 6c ud2
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // 70 set
	}
}

func pauseARM64() []byte {
	var b []byte
	for _, word := range []uint32{
		0xd2800000,                     // 00 mov x0, #0
		0x10000001 | 30<<5,             // 01 adr x1, set
		0xd2800002,                     // 02 mov x2, #0
		0xd2800103,                     // 03 mov x3, #8
		0xd28010e8,                     // 04 mov x8, #rt_sigprocmask
		0xd4000001,                     // 05 svc #0
		0x10000000 | 25<<5,             // 06 wait: adr x0, set
		0xd2800001,                     // 07 mov x1, #0
		0xd2800002,                     // 08 mov x2, #0
		0xd2800103,                     // 09 mov x3, #8
		0xd2801128,                     // 10 mov x8, #rt_sigtimedwait
		0xd4000001,                     // 11 svc #0
		0x71003c1f,                     // 12 cmp w0, #SIGTERM
		0x54000000 | 14<<5,             // 13 b.eq exit
		0x7100081f,                     // 14 cmp w0, #SIGINT
		0x54000000 | 12<<5,             // 15 b.eq exit
		0x7100441f,                     // 16 cmp w0, #SIGCHLD
		0x54000001 | (-11&0x7ffff)<<5,  // 17 b.ne wait
		0x92800000,                     // 18 reap: mov x0, #-1
		0xd2800001,                     // 19 mov x1, #0
		0xd2800022,                     // 20 mov x2, #WNOHANG
		0xd2800003,                     // 21 mov x3, #0
		0xd2802088,                     // 22 mov x8, #wait4
		0xd4000001,                     // 23 svc #0
		0x7100001f,                     // 24 cmp w0, #0
		0x5400000c | (-7&0x7ffff)<<5,   // 25 b.gt reap
		0x14000000 | (-20 & 0x3ffffff), // 26 b wait
		0xd2800000,                     // 27 exit: mov x0, #0
		0xd2800bc8,                     // 28 mov x8, #exit_group
		0xd4000001,                     // 29 svc #0
		0xd503201f,                     // 30 nop
		0xffffffff,                     // 31 set
		0xffffffff,
	} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}
