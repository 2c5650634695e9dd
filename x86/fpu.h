/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The image that the processor's XSAVE has written, as struct x86_fpu wants it. */
#ifndef LODGE_X86_FPU_H
#define LODGE_X86_FPU_H

#include "isa/x86.h"
#include "x86/cpu.h"

/* XSAVE may leave out a component in its initial configuration, and then the area has anything there (SDM 1, 13.6). */
static inline void x86_fpu_fill_in(struct x86_fpu *f)
{
    if (!(f->xstate_bv & X86_XCR0_X87)) {
        __builtin_memset(f, 0, offsetof(struct x86_fpu, mxcsr));
        __builtin_memset(f->st, 0, sizeof(f->st));
        f->fcw = X86_FCW_RESET;
    }
    if (!(f->xstate_bv & X86_XCR0_SSE))
        __builtin_memset(f->xmm, 0, sizeof(f->xmm));
    if (!(f->xstate_bv & (X86_XCR0_SSE | X86_XCR0_AVX)))
        f->mxcsr = X86_MXCSR_RESET;
    if (!(f->xstate_bv & X86_XCR0_AVX))
        __builtin_memset(f->ymm_high, 0, sizeof(f->ymm_high));
}

#endif
