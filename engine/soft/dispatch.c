/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* From RIP to translated code: what the run loop does when emitted code has been left. */
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "x86/mem.h"

enum { MXCSR_MASKS = 0x1F80 };

uint8_t translator_mode(const struct translator *t)
{
    const struct x86_cpu *cpu = t->cpu;
    const uint64_t avx = X86_XCR0_SSE | X86_XCR0_AVX;
    uint8_t mode = cpu->tlb_context;
    if (!t->has_xsave || cpu->cr0 & (X86_CR0_TS | X86_CR0_EM) || !(cpu->cr4 & X86_CR4_OSFXSR) ||
        (cpu->fpu.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)
        return mode;
    mode |= MODE_SSE;
    if (t->has_avx && cpu->cr4 & X86_CR4_OSXSAVE && (cpu->xcr0 & avx) == avx)
        mode |= MODE_AVX;
    return mode;
}

struct tblock *tblock_get(struct translator *t, const uint8_t *host, uint64_t rip, uint8_t mode,
                          bool *again)
{
    *again = false;
    struct tblock *b = tblock_find(t, (uint64_t)(uintptr_t)host, mode);
    if (b)
        return b;
    uint64_t page = (uint64_t)(uintptr_t)host & PAGE_MASK;
    if (translator_is_thrashing(t, page))
        return NULL;
    if (code_mark_page(t->cpu, host) == CODE_MARKED_AT_REST) {
        *again = true;
        return NULL;
    }
    return translate(t, host, rip, mode, again);
}

bool translator_holds_code(struct x86_cpu *cpu, uint64_t linear)
{
    return x86_tlb_slot(cpu, linear)->exec_tag == x86_tlb_tag(cpu, linear);
}

bool translator_round(struct translator *t, const uint8_t *host, int *status)
{
    struct x86_cpu *cpu = t->cpu;
    uint8_t mode = translator_mode(t), vectors = mode & (MODE_SSE | MODE_AVX);
    bool again;
    if (vectors != t->vector_mode) {
        translator_forget_jumps(t);
        t->vector_mode = vectors;
    }
    const struct tblock *b = tblock_get(t, host, cpu->rip, mode, &again);
    if (!b) {
        *status = X86_OK;
        return again;
    }
    if (cpu->late_code) { /* translating has set an accessed bit in a page of code */
        *status = X86_OK;
        return true;
    }
    if (!translator_holds_code(cpu, cpu->rip))
        return false;
    translator_follow_tlb(t);
    translator_enter_jump(t, cpu->rip, b);
    translator_run(t, b);
    *status = t->status;
    return true;
}
