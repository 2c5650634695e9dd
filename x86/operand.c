/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Memory operands, the general way: any address size, segmentation by x86_linear, TLB misses, page
 * crossings and MMIO by x86/mmu.c. The handlers come here when the inline fast path of
 * x86/operand.h does not serve.
 *
 * No state of its own. Locked operations work in place with compare-and-exchange where the operand
 * is RAM within a cache line; elsewhere all other vCPUs are brought to rest around a plain read and
 * write.
 */
#include "x86/operand.h"

int operand_load(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t *v)
{
    uint64_t linear;
    int s = x86_operand(cpu, i, size, X86_READ, &linear);
    if (s != X86_OK)
        return s;
    return x86_read_size(cpu, linear, size, v);
}

int operand_store(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t v)
{
    uint64_t linear;
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    return x86_write_size(cpu, linear, size, v);
}

#define DEFINE_EXCHANGE(bits, type)                                                                \
    static bool compare_exchange##bits(void *host, uint64_t old, uint64_t new)                     \
    {                                                                                              \
        uint64_t seen = old;                                                                       \
        bool done;                                                                                 \
        __asm__ volatile("lock; cmpxchg %[new], %[mem]"                                            \
                         : [mem] "+m"(*(type *)host), "+a"(seen), "=@ccz"(done)                    \
                         : [new] "q"((type) new)                                                   \
                         : "memory");                                                              \
        return done;                                                                               \
    }
DEFINE_EXCHANGE(8, uint8_t)
DEFINE_EXCHANGE(16, uint16_t)
DEFINE_EXCHANGE(32, uint32_t)
DEFINE_EXCHANGE(64, uint64_t)

static bool compare_exchange(void *host, uint8_t size, uint64_t old, uint64_t new)
{
    switch (size) {
    case 1:
        return compare_exchange8(host, old, new);
    case 2:
        return compare_exchange16(host, old, new);
    case 4:
        return compare_exchange32(host, old, new);
    default:
        return compare_exchange64(host, old, new);
    }
}

/* Plain read and write: unlocked, or all other vCPUs at rest. */
static int rmw_by_parts(struct x86_cpu *cpu, uint64_t linear, operand_reg_fn *op, uint64_t src,
                        uint8_t size, uint64_t *carrier)
{
    void *host;
    uint64_t v;
    int s = x86_mem_host(cpu, linear, size, X86_WRITE, &host); /* write faults come first */
    if (s != X86_OK)
        return s;
    s = x86_read_size(cpu, linear, size, &v);
    if (s != X86_OK)
        return s;
    *carrier = op(&v, src, cpu->rflags);
    return x86_write_size(cpu, linear, size, v);
}

int operand_rmw_at(struct x86_cpu *cpu, uint64_t linear, operand_reg_fn *op, uint64_t src,
                   uint8_t size, bool locked, uint64_t *carrier)
{
    if (!locked)
        return rmw_by_parts(cpu, linear, op, src, size, carrier);
    void *host;
    int s = x86_rmw_begin(cpu, linear, size, true, &host);
    if (s != X86_OK)
        return s;
    if (!host) {
        /* While this vCPU waits for its turn others run on and may change the page tables:
         * everything is looked up again inside. */
        x86_lock_begin(cpu);
        s = rmw_by_parts(cpu, linear, op, src, size, carrier);
        x86_lock_end(cpu);
        return s;
    }
    uint64_t old, v;
    do {
        v = old = operand_host_load(host, size);
        *carrier = op(&v, src, cpu->rflags);
    } while (!compare_exchange(host, size, old, v));
    x86_note_store(cpu, host);
    return X86_OK;
}

int operand_rmw_slow(struct x86_cpu *cpu, const struct insn *i, operand_reg_fn *op, uint64_t src,
                     uint8_t size, uint64_t flag_mask)
{
    uint64_t linear, carrier;
    int s = x86_operand(cpu, i, size, X86_WRITE, &linear);
    if (s != X86_OK)
        return s;
    s = operand_rmw_at(cpu, linear, op, src, size, i->flags & INSN_LOCK, &carrier);
    if (s != X86_OK)
        return s;
    x86_flags_merge(cpu, flag_mask, carrier);
    return X86_OK;
}
