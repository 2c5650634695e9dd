/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Runs one user-level instruction on this machine's processor, with given registers and vector
 * state, for tests that compare it with the emulator. Memory operands are in a window of this
 * process at a low, fixed address, so that the emulator's guest can have its own memory at the same
 * one and all registers can be equal.
 */
#ifndef LODGE_TESTS_LIB_HOST_INSN_H
#define LODGE_TESTS_LIB_HOST_INSN_H

#include "x86/cpu.h"

enum {
    HOST_WINDOW = 0x60000, /* = CPU_ENV_DATA */
    HOST_WINDOW_SIZE = 0x2000,
};

struct host_state {
    uint64_t gpr[16]; /* RSP is not loaded */
    uint64_t rflags;
    struct x86_fpu fpu;
};

/* Maps the window; ends the program if it cannot. */
void host_insn_init(void);

/*
 * 0: done, and *s is what came out. Else the exception's vector (X86_UD, X86_GP for all that ends
 * in SIGSEGV, X86_XM, X86_MF), and of *s only fpu is what came out.
 */
int host_insn_run(struct host_state *s, const uint8_t *bytes, size_t length);

/* Does this machine have it (by CPUID)? */
bool host_insn_has(enum insn_feature feature);

#endif
