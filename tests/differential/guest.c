/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The emulator's side: a processor at CPL 3 in long mode whose page tables show the sandbox at the
 * same linear addresses as the host's.
 */
#include "tests/differential/differential.h"

#include <string.h>

#include "tests/lib/cpu_env.h"
#include "x86/mem.h"

enum {
    /* in the environment's free RAM */
    GUEST_PT = CPU_ENV_DATA,
    GUEST_RW = CPU_ENV_DATA + 0x10000,
    GUEST_RO = CPU_ENV_DATA + 0x20000,
    GUEST_CODE = CPU_ENV_DATA + 0x30000,
    /* a repeated string instruction of any length ends at a guard page before this */
    GUEST_MAX_STEPS = 100000,
};

static struct cpu_env env;

static void map_page(uint64_t linear, uint64_t physical, bool writable)
{
    uint64_t flags = X86_PTE_P | X86_PTE_U | X86_PTE_A | X86_PTE_D;
    cpu_env_put64(&env, GUEST_PT + ((linear >> 12) & 511) * 8,
                  physical | flags | (writable ? X86_PTE_W : 0));
}

void guest_init(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    /* all of the sandbox lies in one 2-MiB region */
    cpu_env_put64(&env, CPU_ENV_PD + (BOX_BASE >> 21) * 8,
                  GUEST_PT | X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A);
    for (uint64_t n = 0; n < BOX_RW_SIZE; n += PAGE_SIZE)
        map_page(BOX_RW + n, GUEST_RW + n, true);
    map_page(BOX_RO, GUEST_RO, false);
    map_page(BOX_CODE, GUEST_CODE, false);
    /* nothing else is the user's */
    for (uint64_t page = 0; page < CPU_ENV_RAM; page += PAGE_SIZE)
        *cpu_env_pte(&env, page) &= ~X86_PTE_U;
    cpu_env_set_cpl(&env, 3);
    env.cpu->cr0 |= X86_CR0_AM;
    env.cpu->cr4 |= X86_CR4_FSGSBASE;
    x86_update_mode(env.cpu);
}

const uint8_t *guest_memory(void)
{
    return env.ram + GUEST_RW;
}

static void set_mode(enum insn_mode mode)
{
    struct x86_cpu *cpu = env.cpu;
    if (cpu->mode == mode)
        return;
    if (mode == INSN_MODE_32)
        cpu_env_set_compat(&env);
    else
        cpu_env_set_cpl(&env, 3);
}

void guest_run(const struct test_case *c, struct outcome *out)
{
    struct x86_cpu *cpu = env.cpu;
    memset(env.ram + GUEST_CODE + (BOX_INSN - BOX_CODE), 0xCC, 64);
    memcpy(env.ram + GUEST_CODE + (BOX_INSN - BOX_CODE), c->bytes, c->length);
    memcpy(env.ram + GUEST_RW, c->memory, BOX_RW_SIZE);
    memcpy(env.ram + GUEST_RO, c->memory, BOX_RO_SIZE);
    set_mode(c->mode);
    memcpy(cpu->gpr, c->start.gpr, sizeof(cpu->gpr));
    cpu->rflags = c->start.rflags;
    cpu->rip = BOX_INSN;
    cpu->seg[SEG_GS].base = BOX_GS_BASE;
    x86_update_mode(cpu);
    if (c->uses_vector)
        cpu->fpu = c->start.fpu;

    int status;
    unsigned int steps = 0;
    do {
        status = x86_step(cpu);
    } while (status == X86_JUMP && cpu->rip == BOX_INSN && ++steps < GUEST_MAX_STEPS);

    *out = (struct outcome){.kind = DONE};
    if (status == X86_FAULT) {
        out->kind = FAULT;
        out->vector = cpu->fault.vector;
        out->address = cpu->fault.vector == X86_PF ? cpu->fault.payload : 0;
    } else if (status == X86_EXIT || steps >= GUEST_MAX_STEPS) {
        out->kind = STUCK;
    }
    memcpy(out->state.gpr, cpu->gpr, sizeof(cpu->gpr));
    out->state.rflags = cpu->rflags;
    out->state.rip = cpu->rip;
    if (c->uses_vector)
        out->state.fpu = cpu->fpu;
}
