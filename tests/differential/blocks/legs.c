/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The runs of a block (blocks.h): two VMs, one that interprets and one that translates, with the
 * same page tables. All exceptions lead to HLT, on a stack of their own, so a run of the engine
 * ends with the block. Behind every block is INT3.
 */
#include "tests/differential/blocks/blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/err.h"
#include "engine/engine.h"
#include "tests/lib/cpu_env.h"
#include "x86/mem.h"

enum {
    LEG_PT = CPU_ENV_DATA, /* in the environment's free RAM */
    LEG_RW = CPU_ENV_DATA + 0x10000,
    LEG_RO = CPU_ENV_DATA + 0x20000,
    LEG_CODE = CPU_ENV_DATA + 0x30000,
    LEG_BLOCK = CPU_ENV_DATA + 0x40000,
    LEG_BLOCK_RWX = CPU_ENV_DATA + 0x50000,
    LEG_END = CPU_ENV_DATA + 0x60000,
    IST_FRAME = CPU_ENV_STACK_IST - 64,
};

static struct cpu_env interpreted, translated;
static struct x86_cpu *initial; /* registers besides those of a case */

/* --- life --- */

static void make_env(struct cpu_env *e, bool interpret)
{
    cpu_env_create(e, CPU_ENV_LONG);
    cpu_env_all_gates(e);
    for (unsigned int v = 0; v < 256; v++) {
        cpu_env_gate(e, (uint8_t)v, 14, v == X86_BP ? 3 : 0, CPU_ENV_SEL_CODE64,
                     CPU_ENV_HANDLERS + v * 16, 1);
        e->ram[CPU_ENV_HANDLERS + v * 16] = 0xF4; /* hlt */
    }
    cpu_env_put64(e, CPU_ENV_PD + (BOX_BASE >> 21) * 8,
                  LEG_PT | X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A);
    /* nothing else is the user's, nor to be changed by the kernel: only the stack of exceptions is
     */
    for (uint64_t page = 0; page < CPU_ENV_RAM; page += PAGE_SIZE)
        *cpu_env_pte(e, page) &= ~(X86_PTE_U | X86_PTE_W);
    *cpu_env_pte(e, IST_FRAME) |= X86_PTE_W;
    memset(e->ram + LEG_CODE, 0xCC, BOX_CODE_SIZE);
    e->cpu->cr0 |= X86_CR0_AM;
    e->cpu->cr4 |= X86_CR4_FSGSBASE;
    e->vm.interpret = interpret;
    if (engine_soft.vm_create(&e->vm) != OK || engine_soft.vcpu_create(e->cpu) != OK) {
        fprintf(stderr, "blocks: the engine cannot be made\n");
        exit(2);
    }
    vcpu_enter(&e->cpu->vcpu);
}

void legs_init(void)
{
    guest_init();
    make_env(&interpreted, true);
    make_env(&translated, false);
    initial = malloc(sizeof(*initial));
    memcpy(initial, interpreted.cpu, sizeof(*initial));
}

/* --- before a run --- */

static void put_pte(struct cpu_env *e, uint64_t linear, uint64_t physical, uint64_t flags)
{
    cpu_env_put64(e, LEG_PT + ((linear >> PAGE_SHIFT) & 511) * 8, physical | X86_PTE_P | flags);
}

static void put_page_tables(const struct block_case *c, struct cpu_env *e)
{
    uint64_t user = c->kernel ? 0 : X86_PTE_U;
    for (uint64_t n = 0; n < BOX_RW_SIZE; n += PAGE_SIZE)
        put_pte(e, BOX_RW + n, LEG_RW + n, X86_PTE_W | X86_PTE_NX | user);
    if (c->kernel) /* a user's page, for SMAP */
        put_pte(e, BOX_RW + PAGE_SIZE, LEG_RW + PAGE_SIZE, X86_PTE_W | X86_PTE_NX | X86_PTE_U);
    put_pte(e, BOX_RO, LEG_RO, X86_PTE_NX | user);
    put_pte(e, BOX_CODE, LEG_CODE, user);
    for (uint64_t n = 0; n < BOX_BLOCK_SIZE; n += PAGE_SIZE) {
        put_pte(e, BOX_BLOCK + n, LEG_BLOCK + n, user);
        put_pte(e, BOX_BLOCK_RWX + n, LEG_BLOCK_RWX + n, X86_PTE_W | user);
    }
}

static uint32_t block_physical(const struct block_case *c)
{
    return c->base == BOX_BLOCK ? LEG_BLOCK : LEG_BLOCK_RWX;
}

static void put_registers(const struct block_case *c, struct cpu_env *e)
{
    struct x86_cpu *cpu = e->cpu;
    memcpy(cpu->seg, initial->seg, sizeof(cpu->seg));
    cpu->ldtr = initial->ldtr;
    cpu->tr = initial->tr;
    cpu->gdtr = initial->gdtr;
    cpu->idtr = initial->idtr;
    cpu->cr0 = initial->cr0;
    cpu->cr2 = 0;
    cpu->cr3 = initial->cr3;
    cpu->cr4 = initial->cr4 | (c->kernel && c->smap ? X86_CR4_SMAP : 0);
    cpu->xcr0 = initial->xcr0;
    cpu->efer = initial->efer;
    cpu->dr6 = initial->dr6;
    cpu->dr7 = initial->dr7;
    cpu->msr = initial->msr;
    cpu->msr.kernel_gs_base = BOX_RW + 0x800;
    cpu->shadow = 0;
    cpu->activity = X86_RUNNING;
    cpu_env_set_cpl(e, c->kernel ? 0 : 3);
    memcpy(cpu->gpr, c->start.gpr, sizeof(cpu->gpr));
    cpu->rflags = c->start.rflags;
    cpu->rip = c->entry;
    cpu->fpu = c->start.fpu;
    cpu->fpu.mxcsr_mask = initial->fpu.mxcsr_mask;
    cpu->seg[SEG_GS].base = BOX_GS_BASE;
    cpu->seg[SEG_FS].base = c->fs_base;
    x86_update_mode(cpu);
}

static void put_memory(const struct block_case *c, struct cpu_env *e)
{
    memcpy(e->ram + LEG_RW, c->memory, BOX_RW_SIZE);
    memcpy(e->ram + LEG_RO, c->memory, BOX_RO_SIZE);
    memcpy(e->ram + block_physical(c), c->code, BOX_BLOCK_SIZE);
    memset(e->ram + IST_FRAME, 0, 64);
}

static void put_all(const struct block_case *c, struct cpu_env *e)
{
    put_page_tables(c, e);
    put_memory(c, e);
    put_registers(c, e);
    engine_soft.vcpu_state_changed(e->cpu);
}

/* --- after a run --- */

static void take_state(const struct x86_cpu *cpu, struct state *s)
{
    memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
    s->rflags = cpu->rflags;
    s->rip = cpu->rip;
    s->fpu = cpu->fpu;
}

static void take_all(const struct block_case *c, const struct cpu_env *e, struct block_result *r)
{
    const struct x86_cpu *cpu = e->cpu;
    memcpy(r->memory, e->ram + LEG_RW, BOX_RW_SIZE);
    memcpy(r->ro, e->ram + LEG_RO, BOX_RO_SIZE);
    memcpy(r->code, e->ram + block_physical(c), BOX_BLOCK_SIZE);
    memcpy(r->ptes, e->ram + LEG_PT, sizeof(r->ptes));
    r->cr[0] = cpu->cr0;
    r->cr[3] = cpu->cr3;
    r->cr[4] = cpu->cr4;
    r->gs_base = cpu->seg[SEG_GS].base;
    r->kernel_gs_base = cpu->msr.kernel_gs_base;
    take_state(cpu, &r->end.state);
}

/* --- instruction by instruction --- */

static uint8_t *code_at(const struct block_case *c, uint64_t rip)
{
    if (rip < c->base || rip >= c->base + BOX_BLOCK_SIZE)
        return rip >= BOX_CODE && rip < BOX_CODE + BOX_CODE_SIZE
                   ? interpreted.ram + LEG_CODE + (rip - BOX_CODE)
                   : NULL;
    return interpreted.ram + block_physical(c) + (rip - c->base);
}

/* In the other place that blocks run at, where another case's code is: no result to compare. */
static bool is_in_other_block(const struct block_case *c, uint64_t rip)
{
    uint64_t other = c->base == BOX_BLOCK ? BOX_BLOCK_RWX : BOX_BLOCK;
    return rip >= other && rip < other + BOX_BLOCK_SIZE;
}

static bool defines_all_flags(const struct insn *i)
{
    return i->op == INSN_CMP && !(i->flags & INSN_MEM);
}

/* What is about to be executed: may the host, and is its result defined? */
static bool look_at(struct block_case *c, uint64_t rip, bool *undefined)
{
    const uint8_t *code = code_at(c, rip);
    struct insn i;
    if (!code)
        return true;
    uint64_t room = c->base + BOX_BLOCK_SIZE - rip;
    if (insn_decode(&i, code, room < INSN_MAX_LENGTH ? room : INSN_MAX_LENGTH, INSN_MODE_64) !=
        INSN_DECODE_OK) {
        if (*undefined)
            return false;
        return true;
    }
    bool masked = i.op == INSN_SIMD && i.map == 1 && i.opcode == 0xF7; /* MASKMOVQ, MASKMOVDQU */
    /* FNSTENV and FNSAVE store where the last x87 instruction was, which the emulator leaves out.
     */
    bool pointers = i.op == INSN_X87 && i.flags & INSN_MEM && (i.modrm >> 3 & 7) == 6 &&
                    (i.opcode == 0xD9 || i.opcode == 0xDD);
    if (!is_harmless(&i, INSN_MODE_64) || masked || pointers || /* masked off bytes may fault */
        is_pause_on_host(&i) || flags_before_it_stores(&i) || undefined_after_rep(&i, false).upper_halves)
        c->host = false;
    if (i.op == INSN_SIMD && i.simd & SIMD_MMX && i.map == 1 && i.opcode == 0x2A &&
        i.flags & INSN_MEM)
        c->host = false; /* CVTPI2PS: some processors begin MMX state with it, some do not */
    if (*undefined && !defines_all_flags(&i))
        return false;
    *undefined = undefined_flags(&i) != 0;
    if (i.op == INSN_INT3 || i.op == INSN_INT1 ||
        (i.op == INSN_INT && i.imm == X86_BP)) /* with prefixes: it does not end where blocks do */
        return false;
    return i.op != INSN_RDTSC && i.op != INSN_RDTSCP && i.op != INSN_RDRAND && i.op != INSN_RDSEED;
}

static bool is_repeated(const uint8_t *code, size_t size)
{
    struct insn i;
    return insn_decode(&i, code, size, INSN_MODE_64) == INSN_DECODE_OK &&
           insn_op_group((enum insn_op)i.op) == INSN_GROUP_STRING &&
           i.flags & (INSN_PREFIX_F2 | INSN_PREFIX_F3);
}

bool leg_reference(struct block_case *c, struct block_result *r)
{
    struct x86_cpu *cpu = interpreted.cpu;
    struct block_end *end = &r->end;
    bool undefined = false;
    put_all(c, &interpreted);
    *end = (struct block_end){.kind = BLOCK_DONE};
    for (r->steps = 0;; r->steps++) {
        const uint8_t *code = code_at(c, cpu->rip);
        if (cpu->rflags & X86_FLAG_TF) /* would trap */
            return false;
        if (code && *code == 0xCC)
            break;
        if (r->steps >= BLOCK_STEPS || is_in_other_block(c, cpu->rip) ||
            !look_at(c, cpu->rip, &undefined))
            return false;
        uint8_t before[INSN_MAX_LENGTH];
        uint64_t room = code ? c->base + BOX_BLOCK_SIZE - cpu->rip : 0;
        size_t size = room < sizeof(before) ? room : sizeof(before);
        memcpy(before, code, code ? size : 0);
        cpu->shadow = 0;
        int status = x86_step(cpu);
        /* A repeated string that overwrites itself goes on as it was, or as it is now: an interrupt
         * in between decides, and the engines stop there to look. */
        if (code && is_repeated(before, size) && memcmp(before, code, size) != 0)
            return false;
        if (status == X86_EXIT) {
            end->kind = cpu->activity == X86_SHUTDOWN ? BLOCK_SHUTDOWN : BLOCK_HALTED;
            break;
        }
        if (status == X86_FAULT) {
            end->kind = BLOCK_FAULT;
            end->vector = cpu->fault.vector;
            end->error = cpu->fault.has_error ? cpu->fault.error : 0;
            end->address = cpu->fault.vector == X86_PF ? cpu->fault.payload : 0;
            break;
        }
    }
    take_all(c, &interpreted, r);
    return !undefined;
}

/* --- by the engine --- */

static bool has_error_code(unsigned int vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

/* The exception that led to the HLT. */
static void take_exception(const struct cpu_env *e, uint64_t handler, struct block_end *end)
{
    uint64_t sp = end->state.gpr[RSP];
    end->vector = (uint8_t)((handler - CPU_ENV_HANDLERS) / 16);
    if (has_error_code(end->vector)) {
        end->error = (uint32_t)cpu_env_get64(e, sp);
        sp += 8;
    }
    end->kind = end->vector == X86_BP ? BLOCK_DONE : BLOCK_FAULT;
    end->address = end->vector == X86_PF ? e->cpu->cr2 : 0;
    end->state.rip = cpu_env_get64(e, sp) - (end->vector == X86_BP);
    end->state.rflags = cpu_env_get64(e, sp + 16);
    end->state.gpr[RSP] = cpu_env_get64(e, sp + 24);
}

static void run(const struct block_case *c, struct cpu_env *e, struct block_result *r)
{
    struct exit x;
    r->end = (struct block_end){.kind = BLOCK_HALTED};
    if (engine_soft.vcpu_run(e->cpu, &x) != OK || e->vm.stop_reason) {
        fprintf(stderr, "blocks: the engine stopped\n");
        exit(2);
    }
    take_all(c, e, r);
    memcpy(r->stack, e->ram + IST_FRAME, sizeof(r->stack));
    uint64_t handler = e->cpu->rip - 1;
    if (x.reason == EXIT_SHUTDOWN)
        r->end.kind = BLOCK_SHUTDOWN;
    else if (handler >= CPU_ENV_HANDLERS && handler < CPU_ENV_HANDLERS + 256 * 16 &&
             r->end.state.gpr[RSP] >= IST_FRAME && r->end.state.gpr[RSP] < CPU_ENV_STACK_IST)
        take_exception(e, handler, &r->end);
}

void leg_interpreter(const struct block_case *c, struct block_result *r)
{
    put_all(c, &interpreted);
    run(c, &interpreted, r);
}

/* `again`: with what is translated and in the TLB, unless the block has rewritten itself. */
void leg_translator(const struct block_case *c, bool again, struct block_result *r)
{
    bool same = memcmp(translated.ram + block_physical(c), c->code, BOX_BLOCK_SIZE) == 0;
    if (again && same && translated.cpu->cr3 == initial->cr3) {
        put_memory(c, &translated);
        put_registers(c, &translated);
    } else {
        put_all(c, &translated);
    }
    run(c, &translated, r);
}

bool leg_host(const struct block_case *c, struct block_result *r)
{
    uint8_t *code = host_block_memory(c->base);
    memcpy(code, c->code, BOX_BLOCK_SIZE);
    if (!host_run_block(&c->start, c->entry, c->memory, &r->end))
        return false;
    memcpy(r->memory, host_memory(), BOX_RW_SIZE);
    memcpy(r->code, code, BOX_BLOCK_SIZE);
    return true;
}

static bool same_ram(uint64_t from, uint64_t to)
{
    return memcmp(interpreted.ram + from, translated.ram + from, to - from) == 0;
}

/* All but page tables, the stack of exceptions and what blocks work on, which is compared by block.
 */
bool legs_agree_on_ram(void)
{
    return same_ram(0, CPU_ENV_PML4) && same_ram(CPU_ENV_GDT, IST_FRAME & PAGE_MASK) &&
           same_ram(CPU_ENV_STACK_IST, LEG_PT) && same_ram(LEG_END, CPU_ENV_RAM);
}

void legs_print_stats(void)
{
    static char text[8192];
    (void)engine_soft.vcpu_stats(translated.cpu, text, sizeof(text));
    printf("%s", text);
}
