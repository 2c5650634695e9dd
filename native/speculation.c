/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * This machine's plan against what speculation tells (engine/speculation.h): read from the boot processor, said in one
 * line, and what of it holds for a CPU for good is switched on there. What belongs to entries and exits is the engines'.
 *
 * Every indirect branch of the hypervisor's C goes through a thunk (thunks.S; the compiler is told so), which is a
 * retpoline. Where the processor does without, a plain jump is written over it, at the very beginning, since code is
 * read-only from memory_init on.
 */
#include "native/speculation.h"

#include "core/mem.h"
#include "engine/hw.h"
#include "engine/speculation.h"
#include "isa/x86.h"
#include "native/features.h"
#include "native/insn.h"
#include "native/log.h"

enum { THUNK_SIZE = 32, REGISTERS = 16, TEXT = 256 };

static struct speculation plan;

extern uint8_t thunks[];

/* A register of CPUID; 0: the processor does not have that leaf. */
static uint32_t leaf(uint32_t number, uint32_t subleaf, unsigned int reg)
{
    uint32_t r[4];

    cpuid(number & 0x80000000, 0, r);
    if (r[0] < number)
        return 0;
    cpuid(number, subleaf, r);
    return r[reg];
}

static struct speculation_cpu read_cpu(void)
{
    enum { EAX, EBX, ECX, EDX, ARCH_CAPABILITIES = 29 };
    struct speculation_cpu c = {
        .intel = str_equal(features.vendor, "GenuineIntel"),
        .amd = str_equal(features.vendor, "AuthenticAMD") || str_equal(features.vendor, "HygonGenuine"),
        .family = features.family,
        .leaf_7_ebx = leaf(7, 0, EBX),
        .leaf_7_edx = leaf(7, 0, EDX),
        .leaf_7_2_edx = leaf(7, 0, EAX) >= 2 ? leaf(7, 2, EDX) : 0,
        .leaf_8_ebx = leaf(0x80000008, 0, EBX),
        .leaf_21_eax = leaf(0x80000021, 0, EAX),
        .leaf_21_ecx = leaf(0x80000021, 0, ECX),
    };

    if (c.leaf_7_edx >> ARCH_CAPABILITIES & 1)
        c.arch = rdmsr(MSR_ARCH_CAPABILITIES);
    return c;
}

/* JMP to the register (SDM 2A, JMP: FF /4), and INT3, at which nothing is executed ahead. */
static void write_jump(uint8_t *thunk, uint32_t reg)
{
    if (reg >= 8)
        *thunk++ = 0x41;
    *thunk++ = 0xFF;
    *thunk++ = (uint8_t)(0xE0 | (reg & 7));
    *thunk = 0xCC;
}

void speculation_begin(void)
{
    const struct speculation_cpu c = read_cpu();

    plan = speculation_plan(&c, false);
    for (uint32_t reg = 0; reg < REGISTERS && !plan.retpolines; reg++)
        write_jump(thunks + (size_t)reg * THUNK_SIZE, reg);
}

void speculation_settle(bool shared)
{
    const struct speculation_cpu c = read_cpu();
    char text[TEXT];

    plan = speculation_plan(&c, shared);
    speculation_text(&plan, text, sizeof(text));
    log_line("speculation: %s", text);
}

void speculation_cpu_on(void)
{
    if (plan.auto_ibrs)
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | SPECULATION_EFER_AIBRSE);
    if (plan.spec_ctrl)
        wrmsr(MSR_SPEC_CTRL, rdmsr(MSR_SPEC_CTRL) | plan.spec_ctrl);
}

const struct speculation *hw_speculation(void)
{
    return &plan;
}
