/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Invalidation of translations and caches, and memory barriers. The guest's caches are the host's,
 * which are coherent: cache instructions check what they have to and do nothing. Barriers are the
 * host's own, since guest loads and stores are host loads and stores.
 */
#include <stdatomic.h>

#include "x86/level.h"
#include "x86/mem.h"
#include "x86/op_system.h"

static bool is_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

int op_invlpg(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(i->flags & INSN_MEM))
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    /* Only an address: neither limits nor types are checked, and a non-canonical one does nothing
     * (SDM 2A INVLPG). */
    uint64_t linear = x86_effective_address(cpu, i);
    if (cpu->mode != INSN_MODE_64)
        linear = (uint32_t)(linear + cpu->seg[i->seg].base);
    else if (i->seg >= SEG_FS)
        linear += cpu->seg[i->seg].base;
    if (is_canonical(linear))
        x86_tlb_flush_page(cpu, linear);
    return X86_JUMP;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL, INVPCID_ALL_BUT_GLOBAL };

/*
 * The TLB holds translations of the current PCID only, since MOV to CR3 flushes, and of global
 * pages. So another PCID's address needs nothing, and everything else may flush all.
 */
int op_invpcid(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(i->flags & INSN_MEM))
        return x86_fault(cpu, X86_UD, 0);
    if (cpu->cpl != 0)
        return x86_fault(cpu, X86_GP, 0);
    uint64_t linear, descriptor[2];
    int status = x86_operand(cpu, i, sizeof(descriptor), X86_READ, &linear);
    if (status == X86_OK)
        status = x86_read_bytes(cpu, linear, descriptor, sizeof(descriptor));
    if (status != X86_OK)
        return status;
    uint64_t type = x86_get_gpr(cpu, i->reg, cpu->mode == INSN_MODE_64 ? 8 : 4);
    uint64_t pcid = descriptor[0], address = descriptor[1];
    bool bad = type > INVPCID_ALL_BUT_GLOBAL || pcid > X86_CR3_PCID;
    if (type <= INVPCID_CONTEXT && pcid != 0 && !(cpu->cr4 & X86_CR4_PCIDE))
        bad = true;
    if (type == INVPCID_ADDRESS && !is_canonical(address))
        bad = true;
    if (bad)
        return x86_fault(cpu, X86_GP, 0);
    if (type == INVPCID_ALL)
        x86_tlb_flush(cpu);
    else if (type != INVPCID_ADDRESS)
        x86_tlb_flush_local(cpu);
    else if (pcid == (cpu->cr4 & X86_CR4_PCIDE ? cpu->cr3 & X86_CR3_PCID : 0))
        x86_tlb_flush_page(cpu, address);
    return X86_JUMP;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: checked like a load of one byte (SDM 2A CLFLUSH). */
int op_clflush(struct x86_cpu *cpu, const struct insn *i)
{
    if (!(i->flags & INSN_MEM))
        return x86_fault(cpu, X86_UD, 0);
    uint64_t linear;
    void *host;
    int status = x86_operand(cpu, i, 1, X86_READ, &linear);
    return status == X86_OK ? x86_mem_host(cpu, linear, 1, X86_READ, &host) : status;
}

/* INVD too: throwing modified lines away is not something that a guest here could want. */
int op_wbinvd(struct x86_cpu *cpu, const struct insn *i)
{
    (void)i;
    return cpu->cpl == 0 ? X86_OK : x86_fault(cpu, X86_GP, 0);
}

int op_lfence(struct x86_cpu *cpu, const struct insn *i)
{
    (void)cpu;
    (void)i;
    atomic_thread_fence(memory_order_acquire);
    return X86_OK;
}

int op_mfence(struct x86_cpu *cpu, const struct insn *i)
{
    (void)cpu;
    (void)i;
    atomic_thread_fence(memory_order_seq_cst);
    return X86_OK;
}

/* Non-temporal stores are executed natively, so this has to be the real one. */
int op_sfence(struct x86_cpu *cpu, const struct insn *i)
{
    (void)cpu;
    (void)i;
    __asm__ volatile("sfence" ::: "memory");
    return X86_OK;
}
