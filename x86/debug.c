/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Debug exceptions: hardware breakpoints on instructions, data and I/O, and single step (SDM 3B
 * 17.2 and 17.3).
 *
 * Instruction breakpoints are faults, looked for before the instruction; RFLAGS.RF suppresses them
 * and is the run loop's to clear. Data and I/O breakpoints and single step are traps: what an
 * instruction met is gathered in cpu->debug_pending, in the bits of DR6, and becomes one #DB when
 * the instruction has completed. After MOV SS and POP SS it waits for the end of the next
 * instruction (SDM 3A 6.8.3), and a single step is not taken at all.
 *
 * The bits reach DR6, and DR7.GD is cleared, when the exception is delivered (x86_raise).
 *
 * Data breakpoints cost the fast path nothing: x86/mmu.c does not enter a page that holds one.
 * Implicit accesses (descriptor tables, TSS, stacks of gates) do not hit data breakpoints; on
 * hardware some do, but a #DB that its own delivery raises again serves nobody.
 *
 * Not done: branch and bus-lock traps (DEBUGCTL), RTM.
 */
#include "x86/level.h"
#include "x86/mem.h"

enum dr7_kind { /* R/W fields of DR7 */
                DR7_EXECUTE = 0,
                DR7_WRITE = 1,
                DR7_IO = 2, /* undefined unless CR4.DE */
                DR7_READ_WRITE = 3,
};

static bool is_enabled(const struct x86_cpu *cpu, unsigned int n)
{
    return cpu->dr7 >> (2 * n) & 3;
}

static enum dr7_kind kind_of(const struct x86_cpu *cpu, unsigned int n)
{
    return (enum dr7_kind)(cpu->dr7 >> (16 + 4 * n) & 3);
}

/* Bytes that the breakpoint covers, from its address with the low bits ignored. */
static uint64_t length_of(const struct x86_cpu *cpu, unsigned int n)
{
    static const uint8_t length[4] = {1, 2, 8, 4};
    return length[cpu->dr7 >> (18 + 4 * n) & 3];
}

static bool overlaps(const struct x86_cpu *cpu, unsigned int n, uint64_t first, uint64_t size)
{
    uint64_t length = length_of(cpu, n);
    uint64_t start = cpu->dr[n] & ~(length - 1);
    return first - start < length || start - first < size;
}

int x86_debug_before(struct x86_cpu *cpu)
{
    if (likely(!(cpu->dr7 & 0xFF)) || cpu->rflags & X86_FLAG_RF)
        return X86_OK;
    uint64_t linear = cpu->rip;
    if (cpu->mode != INSN_MODE_64)
        linear = (uint32_t)(linear + cpu->seg[SEG_CS].base);
    uint64_t hit = 0;
    for (unsigned int n = 0; n < 4; n++) {
        if (is_enabled(cpu, n) && kind_of(cpu, n) == DR7_EXECUTE && cpu->dr[n] == linear)
            hit |= BIT(n);
    }
    return hit ? x86_fault_debug(cpu, hit) : X86_OK;
}

int x86_debug_after(struct x86_cpu *cpu, bool tf_before)
{
    if (cpu->shadow & X86_SHADOW_MOV_SS)
        return X86_OK;
    uint64_t hit = cpu->debug_pending;
    cpu->debug_pending = 0;
    if (tf_before && !cpu->no_step)
        hit |= X86_DR6_BS;
    cpu->no_step = false;
    return hit ? x86_fault_debug(cpu, hit) : X86_OK;
}

bool x86_debug_armed(const struct x86_cpu *cpu)
{
    return cpu->dr7 & 0xFF || cpu->rflags & X86_FLAG_TF || cpu->debug_pending;
}

void x86_debug_io(struct x86_cpu *cpu, uint16_t port, uint32_t size)
{
    if (likely(!(cpu->dr7 & 0xFF)) || !(cpu->cr4 & X86_CR4_DE))
        return;
    for (unsigned int n = 0; n < 4; n++) {
        if (is_enabled(cpu, n) && kind_of(cpu, n) == DR7_IO && overlaps(cpu, n, port, size))
            cpu->debug_pending |= BIT(n);
    }
}

void x86_debug_data(struct x86_cpu *cpu, uint64_t linear, uint32_t size, bool write)
{
    for (unsigned int n = 0; n < 4; n++) {
        enum dr7_kind kind = kind_of(cpu, n);
        bool wanted = kind == DR7_READ_WRITE || (kind == DR7_WRITE && write);
        if (wanted && is_enabled(cpu, n) && overlaps(cpu, n, linear, size))
            cpu->debug_pending |= BIT(n);
    }
}
