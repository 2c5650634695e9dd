/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Control and debug registers (SDM 2B MOV to and from control and debug registers; SDM 3A 2.5;
 * 3A 9.8.5 for the way into long mode).
 *
 * x86_write_cr* check everything before they change anything. They are also what a task switch and
 * the machine's own set-up use. Where paging changes, x86_update_mode finds out and flushes.
 *
 * PAE paging works from four registers that are loaded from memory with CR3 (SDM 3A 4.4.1), so a
 * MOV to CR3, or to CR0 or CR4 where it turns PAE paging on, can fault on what lies there.
 */
#include "x86/lapic.h"
#include "x86/level.h"
#include "x86/mem.h"
#include "x86/op_system.h"

#define CR0_DEFINED                                                                                \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

#define DR6_WRITABLE (0xFu | X86_DR6_BD | X86_DR6_BS | X86_DR6_BT)
#define DR7_WRITABLE 0xFFFF23FFu

/* --- rules for values --- */

/* Reserved in a present PDPTE (SDM 3A, table 4-8). */
static bool pdpte_is_bad(const struct x86_cpu *cpu, uint64_t pdpte)
{
    uint64_t reserved = ~(BIT(cpu->level->physical_bits) - 1) | 0x1E6;
    return pdpte & X86_PTE_P && pdpte & reserved;
}

/* Loads the PDPTE registers for that CR3; #GP if one is bad, with nothing changed. */
static int load_pdptes(struct x86_cpu *cpu, uint64_t cr3)
{
    uint64_t pdpte[4];
    struct gpa table = gpa(cr3 & 0xFFFFFFE0);
    if (guest_mem_read(&cpu->vcpu.vm->mem, table, pdpte, sizeof(pdpte)) != 0)
        memset(pdpte, 0xFF, sizeof(pdpte)); /* where nobody answers */
    for (int i = 0; i < 4; i++) {
        if (pdpte_is_bad(cpu, pdpte[i]))
            return x86_fault(cpu, X86_GP, 0);
    }
    memcpy(cpu->pdpte, pdpte, sizeof(pdpte));
    return X86_OK;
}

static bool cr0_is_bad(const struct x86_cpu *cpu, uint64_t value)
{
    bool pg = value & X86_CR0_PG;
    if (value >> 32 || (pg && !(value & X86_CR0_PE)) ||
        (value & X86_CR0_NW && !(value & X86_CR0_CD)))
        return true;
    bool was_pg = cpu->cr0 & X86_CR0_PG;
    if (pg && !was_pg && cpu->efer & X86_EFER_LME) /* activates long mode */
        return !(cpu->cr4 & X86_CR4_PAE) || cpu->seg[SEG_CS].attr & X86_ATTR_L;
    if (!pg && was_pg)
        return cpu->cr4 & X86_CR4_PCIDE || cpu->mode == INSN_MODE_64;
    return false;
}

int x86_write_cr0(struct x86_cpu *cpu, uint64_t value)
{
    if (cr0_is_bad(cpu, value))
        return x86_fault(cpu, X86_GP, 0);
    value = (value & CR0_DEFINED) | X86_CR0_ET;
    uint64_t changed = value ^ cpu->cr0;
    bool pae = value & X86_CR0_PG && cpu->cr4 & X86_CR4_PAE && !(cpu->efer & X86_EFER_LME);
    if (pae && changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) {
        int status = load_pdptes(cpu, cpu->cr3);
        if (status != X86_OK)
            return status;
    }
    cpu->cr0 = value;
    if (value & X86_CR0_PG && cpu->efer & X86_EFER_LME)
        cpu->efer |= X86_EFER_LMA;
    else
        cpu->efer &= ~X86_EFER_LMA;
    x86_update_mode(cpu);
    return X86_OK;
}

int x86_write_cr3(struct x86_cpu *cpu, uint64_t value)
{
    if (cpu->long_mode) {
        if (cpu->cr4 & X86_CR4_PCIDE)
            value &= ~X86_CR3_NOFLUSH; /* a permission to keep translations; not used */
        if (value >> cpu->level->physical_bits)
            return x86_fault(cpu, X86_GP, 0);
    } else {
        value = (uint32_t)value;
    }
    if (cpu->paging == X86_PAGING_PAE) {
        int status = load_pdptes(cpu, value);
        if (status != X86_OK)
            return status;
    }
    cpu->cr3 = value;
    x86_tlb_flush_local(cpu);
    return X86_OK;
}

int x86_write_cr4(struct x86_cpu *cpu, uint64_t value)
{
    uint64_t changed = value ^ cpu->cr4;
    bool bad = value & ~cpu->level->cr4_mask;
    if (cpu->long_mode && !(value & X86_CR4_PAE))
        bad = true;
    if (changed & value & X86_CR4_PCIDE && (!cpu->long_mode || cpu->cr3 & X86_CR3_PCID))
        bad = true;
    if (bad)
        return x86_fault(cpu, X86_GP, 0);
    bool pae = cpu->cr0 & X86_CR0_PG && value & X86_CR4_PAE && !cpu->long_mode;
    if (pae && changed & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)) {
        int status = load_pdptes(cpu, cpu->cr3);
        if (status != X86_OK)
            return status;
    }
    cpu->cr4 = value;
    x86_update_mode(cpu);
    return X86_OK;
}

/* --- MOV to and from control registers --- */

static uint8_t register_size(const struct x86_cpu *cpu)
{
    return cpu->mode == INSN_MODE_64 ? 8 : 4; /* whatever prefixes say */
}

static bool cr_exists(const struct x86_cpu *cpu, uint8_t number)
{
    if (number == 8)
        return cpu->mode == INSN_MODE_64;
    return number == 0 || (number >= 2 && number <= 4);
}

int op_mov_from_cr(struct x86_cpu *cpu, const struct insn *i)
{
    if (!cr_exists(cpu, i->reg))
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    uint64_t value;
    switch (i->reg) {
    case 0:
        value = cpu->cr0;
        break;
    case 2:
        value = cpu->cr2;
        break;
    case 3:
        value = cpu->cr3;
        break;
    case 4:
        value = cpu->cr4;
        break;
    default:
        value = lapic_get_cr8(cpu);
        break;
    }
    x86_set_gpr(cpu, i->rm, register_size(cpu), value);
    return X86_OK;
}

static int write_cr8(struct x86_cpu *cpu, uint64_t value)
{
    if (value > 15)
        return x86_fault(cpu, X86_GP, 0);
    lapic_set_cr8(cpu, (uint8_t)value);
    return X86_OK;
}

int op_mov_to_cr(struct x86_cpu *cpu, const struct insn *i)
{
    if (!cr_exists(cpu, i->reg))
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    uint64_t value = x86_get_gpr(cpu, i->rm, register_size(cpu));
    int status = X86_OK;
    switch (i->reg) {
    case 0:
        status = x86_write_cr0(cpu, value);
        break;
    case 2:
        cpu->cr2 = value;
        break;
    case 3:
        status = x86_write_cr3(cpu, value);
        break;
    case 4:
        status = x86_write_cr4(cpu, value);
        break;
    default:
        status = write_cr8(cpu, value);
        break;
    }
    return status == X86_OK ? X86_JUMP : status;
}

/* --- the machine status word --- */

int op_lmsw(struct x86_cpu *cpu, const struct insn *i)
{
    enum { LOADED = 0xF }; /* PE, MP, EM, TS */
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    uint16_t word = (uint16_t)x86_get_gpr(cpu, i->rm, 2);
    if (i->flags & INSN_MEM) {
        uint64_t linear;
        int status = x86_operand(cpu, i, 2, X86_READ, &linear);
        if (status == X86_OK)
            status = x86_read16(cpu, linear, &word);
        if (status != X86_OK)
            return status;
    }
    /* PE can be set, not cleared */
    uint64_t keep = cpu->cr0 & ~(uint64_t)(LOADED & ~X86_CR0_PE);
    int status = x86_write_cr0(cpu, keep | (word & LOADED));
    return status == X86_OK ? X86_JUMP : status;
}

int op_smsw(struct x86_cpu *cpu, const struct insn *i)
{
    if (cpu->cr4 & X86_CR4_UMIP && cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    if (!(i->flags & INSN_MEM)) {
        x86_set_gpr(cpu, i->rm, i->opsize, cpu->cr0);
        return X86_OK;
    }
    uint64_t linear;
    int status = x86_operand(cpu, i, 2, X86_WRITE, &linear);
    return status == X86_OK ? x86_write16(cpu, linear, (uint16_t)cpu->cr0) : status;
}

int op_clts(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    cpu->cr0 &= ~X86_CR0_TS;
    return X86_OK;
}

/* --- debug registers --- */

/* The checks that reading and writing share (SDM 2B MOV, 3B 17.2.2 and 17.2.4). */
static int check_dr(struct x86_cpu *cpu, uint8_t number)
{
    if (number > 7)
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    if (cpu->cr4 & X86_CR4_DE && (number == 4 || number == 5))
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->dr7 & X86_DR7_GD)
        return x86_fault_debug(cpu, X86_DR6_BD);
    return X86_OK;
}

int op_mov_from_dr(struct x86_cpu *cpu, const struct insn *i)
{
    int status = check_dr(cpu, i->reg);
    if (status != X86_OK)
        return status;
    uint64_t value;
    if (i->reg < 4)
        value = cpu->dr[i->reg];
    else
        value = i->reg & 1 ? cpu->dr7 : cpu->dr6; /* 4 and 5 are names of 6 and 7 */
    x86_set_gpr(cpu, i->rm, register_size(cpu), value);
    return X86_OK;
}

int op_mov_to_dr(struct x86_cpu *cpu, const struct insn *i)
{
    int status = check_dr(cpu, i->reg);
    if (status != X86_OK)
        return status;
    uint64_t value = x86_get_gpr(cpu, i->rm, register_size(cpu));
    if (i->reg >= 4 && value >> 32)
        return x86_fault(cpu, X86_GP, 0);
    if (i->reg < 4)
        cpu->dr[i->reg] = value;
    else if (i->reg & 1)
        cpu->dr7 = (value & DR7_WRITABLE) | X86_DR7_FIXED;
    else
        cpu->dr6 = (value & DR6_WRITABLE) | X86_DR6_FIXED;
    x86_tlb_flush(cpu); /* pages with data breakpoints are kept out of it */
    return X86_JUMP;
}
