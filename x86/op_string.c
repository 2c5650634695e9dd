/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * String instructions (SDM 2: MOVS CMPS STOS LODS SCAS INS OUTS, REP REPE REPNE).
 *
 * Each has a step, which does one element in the general way, and most have a bulk form, which does
 * as many elements as lie in one page on either side, with the host's own REP instruction on host
 * addresses: so overlapping operands come out as element-by-element copying makes them, and the
 * clearing and copying of pages runs at the host's speed. Where the bulk form finds anything but
 * RAM that may be accessed it does nothing, and the step finds the fault or the device.
 *
 * After every piece rCX, rSI and rDI are exact, so a fault leaves them at the element that raised
 * it. A repeated instruction is done in bounded pieces (bad-inputs C12): after STRING_BUDGET bytes, or as many of STRING_STEP_COST as there are steps in it,
 * when somebody wants something of this vCPU, or (SDM 3B 17.3.1.4) after one element if it is being
 * single-stepped or a data breakpoint was hit, RIP is put back to it and the run loop takes over.
 */
#include "x86/io.h"
#include "x86/operand.h"

enum {
    STRING_BUDGET = 4096,
    STRING_STEP_COST = 64, /* one step may be a device's: a thousand instructions, in which no other VM runs */
};

/* One element. X86_OK; X86_EXIT: done, but leave; X86_FAULT: nothing has changed. */
typedef int string_step_fn(struct x86_cpu *cpu, const struct insn *i, uint8_t size);
/* Up to `max` elements; returns how many were done, 0 to have a step. */
typedef uint64_t string_bulk_fn(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                uint64_t max);

/* --- addresses --- */

static bool string_is_backward(const struct x86_cpu *cpu)
{
    return cpu->rflags & X86_FLAG_DF;
}

static void string_advance(struct x86_cpu *cpu, const struct insn *i, uint8_t reg, uint64_t bytes)
{
    uint64_t v = cpu->gpr[reg];
    operand_set_reg(cpu, reg, i->addrsize, string_is_backward(cpu) ? v - bytes : v + bytes);
}

/* The element at seg:reg. Destinations are in ES whatever the prefixes say. */
static int string_linear(struct x86_cpu *cpu, const struct insn *i, uint8_t reg, uint8_t size,
                         int access, uint64_t *linear)
{
    uint8_t seg = reg == RDI ? SEG_ES : i->seg;
    uint64_t offset = cpu->gpr[reg] & x86_size_mask(i->addrsize);
    return x86_linear(cpu, seg, offset, size, access, linear);
}

/* How many elements, at most `max`, lie in the page of the one at seg:reg, in the direction of DF,
 * without a wrap of the offset; 0 if that one is not wholly in it or not to be reached. */
static uint64_t string_room(struct x86_cpu *cpu, const struct insn *i, uint8_t reg, uint8_t size,
                            int access, uint64_t max)
{
    uint64_t linear, mask = x86_size_mask(i->addrsize), offset = cpu->gpr[reg] & mask;
    if (string_linear(cpu, i, reg, size, access, &linear) != X86_OK)
        return 0;
    uint64_t in_page = linear & ~PAGE_MASK;
    if (in_page + size > PAGE_SIZE)
        return 0;
    bool backward = string_is_backward(cpu);
    uint64_t page = (backward ? in_page : PAGE_SIZE - in_page - size) / size;
    uint64_t wrap = (backward ? offset : mask - offset - (size - 1u)) / size;
    uint64_t more = page < wrap ? page : wrap;
    return more + 1 < max ? more + 1 : max;
}

/* Host address of the element at seg:reg if all n elements may be accessed there, else NULL. */
static uint8_t *string_host(struct x86_cpu *cpu, const struct insn *i, uint8_t reg, uint8_t size,
                            int access, uint64_t n)
{
    uint8_t seg = reg == RDI ? SEG_ES : i->seg;
    uint32_t bytes = (uint32_t)(n * size), behind = string_is_backward(cpu) ? bytes - size : 0;
    uint64_t linear, offset = cpu->gpr[reg] & x86_size_mask(i->addrsize);
    void *host;
    if (x86_linear(cpu, seg, offset - behind, bytes, access, &linear) != X86_OK ||
        x86_mem_host(cpu, linear, bytes, access, &host) != X86_OK || !host)
        return NULL;
    return (uint8_t *)host + behind;
}

/* --- the host's instructions, in the guest's direction --- */

/* DF is clear in C code and must be again after. */
#define STRING_DIRECTION(insn) "testb %[back], %[back]\n\tjz 1f\n\tstd\n1:\t" insn "\n\tcld"

#define STRING_BY_SIZE(size, one, ...)                                                             \
    do {                                                                                           \
        if ((size) == 1)                                                                           \
            one("b", __VA_ARGS__);                                                                 \
        else if ((size) == 2)                                                                      \
            one("w", __VA_ARGS__);                                                                 \
        else if ((size) == 4)                                                                      \
            one("l", __VA_ARGS__);                                                                 \
        else                                                                                       \
            one("q", __VA_ARGS__);                                                                 \
    } while (0)

static void host_movs(uint8_t *dst, const uint8_t *src, uint64_t n, uint8_t size, bool back)
{
#define HOST_MOVS(suffix, ...)                                                                     \
    __asm__ volatile(STRING_DIRECTION("rep; movs" suffix)                                          \
                     : "+D"(dst), "+S"(src), "+c"(n)                                               \
                     : [back] "r"(back)                                                            \
                     : "cc", "memory")
    STRING_BY_SIZE(size, HOST_MOVS, );
}

static void host_stos(uint8_t *dst, uint64_t v, uint64_t n, uint8_t size, bool back)
{
#define HOST_STOS(suffix, ...)                                                                     \
    __asm__ volatile(STRING_DIRECTION("rep; stos" suffix)                                          \
                     : "+D"(dst), "+c"(n)                                                          \
                     : "a"(v), [back] "r"(back)                                                    \
                     : "cc", "memory")
    STRING_BY_SIZE(size, HOST_STOS, );
}

/* The comparisons stop where rep says; n is what is left. CLD does not touch the status flags. */
#define HOST_COMPARE(suffix, name, rep)                                                            \
    __asm__ volatile(STRING_DIRECTION(rep "; " name suffix) X86_ASM_SAVE_FLAGS                     \
                     : "+D"(dst), "+S"(src), "+c"(left), "+a"(a)                                   \
                     : [back] "r"(back)                                                            \
                     : "cc", "memory")

/* CMPS at src and dst, or (src NULL) SCAS of a at dst. Returns the carrier of flags. */
static uint64_t host_compare(const uint8_t *dst, const uint8_t *src, uint64_t a, uint64_t *n,
                             uint8_t size, bool back, bool while_equal)
{
    uint64_t left = *n;
    if (src && while_equal)
        STRING_BY_SIZE(size, HOST_COMPARE, "cmps", "repe");
    else if (src)
        STRING_BY_SIZE(size, HOST_COMPARE, "cmps", "repne");
    else if (while_equal)
        STRING_BY_SIZE(size, HOST_COMPARE, "scas", "repe");
    else
        STRING_BY_SIZE(size, HOST_COMPARE, "scas", "repne");
    *n -= left;
    return a;
}

/* --- MOVS --- */

static int movs_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t from, to, v;
    int s = string_linear(cpu, i, RSI, size, X86_READ, &from);
    if (s == X86_OK)
        s = x86_read_size(cpu, from, size, &v);
    if (s == X86_OK)
        s = string_linear(cpu, i, RDI, size, X86_WRITE, &to);
    if (s == X86_OK)
        s = x86_write_size(cpu, to, size, v);
    if (s != X86_OK)
        return s;
    string_advance(cpu, i, RSI, size);
    string_advance(cpu, i, RDI, size);
    return X86_OK;
}

static uint64_t movs_bulk(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t max)
{
    uint64_t n = string_room(cpu, i, RSI, size, X86_READ, max);
    if (n > 0)
        n = string_room(cpu, i, RDI, size, X86_WRITE, n);
    if (n == 0)
        return 0;
    const uint8_t *src = string_host(cpu, i, RSI, size, X86_READ, n);
    uint8_t *dst = src ? string_host(cpu, i, RDI, size, X86_WRITE, n) : NULL;
    if (!dst)
        return 0;
    host_movs(dst, src, n, size, string_is_backward(cpu));
    x86_note_store(cpu, dst);
    string_advance(cpu, i, RSI, n * size);
    string_advance(cpu, i, RDI, n * size);
    return n;
}

/* --- STOS, LODS --- */

static int stos_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t to;
    int s = string_linear(cpu, i, RDI, size, X86_WRITE, &to);
    if (s == X86_OK)
        s = x86_write_size(cpu, to, size, cpu->gpr[RAX]);
    if (s == X86_OK)
        string_advance(cpu, i, RDI, size);
    return s;
}

static uint64_t stos_bulk(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t max)
{
    uint64_t n = string_room(cpu, i, RDI, size, X86_WRITE, max);
    uint8_t *dst = n > 0 ? string_host(cpu, i, RDI, size, X86_WRITE, n) : NULL;
    if (!dst)
        return 0;
    host_stos(dst, cpu->gpr[RAX], n, size, string_is_backward(cpu));
    x86_note_store(cpu, dst);
    string_advance(cpu, i, RDI, n * size);
    return n;
}

static int lods_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t from, v;
    int s = string_linear(cpu, i, RSI, size, X86_READ, &from);
    if (s == X86_OK)
        s = x86_read_size(cpu, from, size, &v);
    if (s != X86_OK)
        return s;
    operand_set_reg(cpu, RAX, size, v);
    string_advance(cpu, i, RSI, size);
    return X86_OK;
}

/* --- CMPS, SCAS --- */

static int compare_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint64_t from, to, n = 1, a = cpu->gpr[RAX], b;
    bool cmps = i->op == INSN_CMPS;
    int s = X86_OK;
    if (cmps) {
        s = string_linear(cpu, i, RSI, size, X86_READ, &from);
        if (s == X86_OK)
            s = x86_read_size(cpu, from, size, &a);
    }
    if (s == X86_OK)
        s = string_linear(cpu, i, RDI, size, X86_READ, &to);
    if (s == X86_OK)
        s = x86_read_size(cpu, to, size, &b);
    if (s != X86_OK)
        return s;
    uint64_t carrier = host_compare((const uint8_t *)&b, NULL, a, &n, size, false, true);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    if (cmps)
        string_advance(cpu, i, RSI, size);
    string_advance(cpu, i, RDI, size);
    return X86_OK;
}

static uint64_t compare_bulk(struct x86_cpu *cpu, const struct insn *i, uint8_t size, uint64_t max)
{
    bool cmps = i->op == INSN_CMPS;
    uint64_t n = string_room(cpu, i, RDI, size, X86_READ, max);
    if (n > 0 && cmps)
        n = string_room(cpu, i, RSI, size, X86_READ, n);
    if (n == 0)
        return 0;
    const uint8_t *dst = string_host(cpu, i, RDI, size, X86_READ, n), *src = NULL;
    if (dst && cmps)
        src = string_host(cpu, i, RSI, size, X86_READ, n);
    if (!dst || (cmps && !src))
        return 0;
    uint64_t carrier = host_compare(dst, src, cpu->gpr[RAX], &n, size, string_is_backward(cpu),
                                    i->flags & INSN_REPE);
    x86_flags_merge(cpu, X86_FLAGS_STATUS, carrier);
    if (cmps)
        string_advance(cpu, i, RSI, n * size);
    string_advance(cpu, i, RDI, n * size);
    return n;
}

/* --- INS, OUTS: the handlers have checked that the port may be accessed --- */

static int ins_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint16_t port = (uint16_t)cpu->gpr[RDX];
    uint64_t to, v;
    void *host;
    int s = string_linear(cpu, i, RDI, size, X86_WRITE, &to);
    if (s == X86_OK) /* a port must not be read for nothing */
        s = x86_mem_host(cpu, to, size, X86_WRITE, &host);
    if (s != X86_OK)
        return s;
    int done = x86_io_read(cpu, port, size, &v);
    s = x86_write_size(cpu, to, size, v);
    if (s != X86_OK)
        return s;
    string_advance(cpu, i, RDI, size);
    return done;
}

static int outs_step(struct x86_cpu *cpu, const struct insn *i, uint8_t size)
{
    uint16_t port = (uint16_t)cpu->gpr[RDX];
    uint64_t from, v;
    int s = string_linear(cpu, i, RSI, size, X86_READ, &from);
    if (s == X86_OK)
        s = x86_read_size(cpu, from, size, &v);
    if (s != X86_OK)
        return s;
    string_advance(cpu, i, RSI, size);
    return x86_io_write(cpu, port, size, v);
}

/* --- repetition --- */

/* CMPS and SCAS: does the last comparison end it? */
static bool string_is_decided(const struct x86_cpu *cpu, const struct insn *i)
{
    bool equal = cpu->rflags & X86_FLAG_ZF;
    return (i->op == INSN_CMPS || i->op == INSN_SCAS) && equal != (bool)(i->flags & INSN_REPE);
}

/* The bulk forms look at no element's alignment: with #AC in force every element is a step. */
static bool string_checks_alignment(const struct x86_cpu *cpu)
{
    return cpu->tlb == cpu->tlb_table[X86_TLB_NONE];
}

/* Must the run loop have a look before the next element? */
static bool string_is_disturbed(const struct x86_cpu *cpu)
{
    return cpu->debug_pending || vcpu_requests(&cpu->vcpu) || cpu->code_written;
}

static always_inline int string_run(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                    string_step_fn *step, string_bulk_fn *bulk)
{
    if (!(i->flags & (INSN_REPE | INSN_REPNE)))
        return step(cpu, i, size);
    if (unlikely(string_checks_alignment(cpu)))
        bulk = NULL;
    uint64_t left = cpu->gpr[RCX] & x86_size_mask(i->addrsize);
    uint64_t budget = cpu->rflags & X86_FLAG_TF ? 1 : (uint64_t)STRING_BUDGET / size;
    int s = X86_OK;
    while (left > 0 && budget > 0) {
        uint64_t n = bulk ? bulk(cpu, i, size, left < budget ? left : budget) : 0, cost = n;
        if (n == 0) {
            s = step(cpu, i, size);
            if (s == X86_FAULT)
                return s;
            n = 1;
            cost = STRING_STEP_COST;
        }
        left -= n;
        budget -= cost < budget ? cost : budget;
        operand_set_reg(cpu, RCX, i->addrsize, left);
        if (string_is_decided(cpu, i))
            return s;
        if (s != X86_OK || string_is_disturbed(cpu))
            break;
    }
    if (left == 0)
        return s;
    cpu->rip -= i->length;
    cpu->repeats = true;
    return s == X86_OK ? X86_JUMP : s;
}

/* The privilege check comes first, even if there is nothing to repeat. */
static always_inline int string_run_io(struct x86_cpu *cpu, const struct insn *i, uint8_t size,
                                       string_step_fn *step)
{
    int s = x86_io_allowed(cpu, (uint16_t)cpu->gpr[RDX], size);
    return s == X86_OK ? string_run(cpu, i, size, step, NULL) : s;
}

#define STRING_IO_HANDLER(name, bits, step)                                                        \
    static int name##bits(struct x86_cpu *cpu, const struct insn *i)                               \
    {                                                                                              \
        return string_run_io(cpu, i, bits / 8, step);                                              \
    }
#define STRING_IO(name, step)                                                                      \
    STRING_IO_HANDLER(name, 8, step)                                                               \
    STRING_IO_HANDLER(name, 16, step)                                                              \
    STRING_IO_HANDLER(name, 32, step)

#define STRING_HANDLER(name, bits, step, bulk)                                                     \
    static int name##bits(struct x86_cpu *cpu, const struct insn *i)                               \
    {                                                                                              \
        return string_run(cpu, i, bits / 8, step, bulk);                                           \
    }
#define STRING(name, step, bulk)                                                                   \
    STRING_HANDLER(name, 8, step, bulk)                                                            \
    STRING_HANDLER(name, 16, step, bulk)                                                           \
    STRING_HANDLER(name, 32, step, bulk)                                                           \
    STRING_HANDLER(name, 64, step, bulk)

STRING(movs, movs_step, movs_bulk)
STRING(stos, stos_step, stos_bulk)
STRING(lods, lods_step, NULL)
STRING(compare, compare_step, compare_bulk)
STRING_IO(ins, ins_step)
STRING_IO(outs, outs_step)

x86_op_fn *x86_select_string(const struct insn *i)
{
    static x86_op_fn *const table[INSN_OUTS - INSN_MOVS + 1][4] = {
        [INSN_MOVS - INSN_MOVS] = {movs8, movs16, movs32, movs64},
        [INSN_CMPS - INSN_MOVS] = {compare8, compare16, compare32, compare64},
        [INSN_STOS - INSN_MOVS] = {stos8, stos16, stos32, stos64},
        [INSN_LODS - INSN_MOVS] = {lods8, lods16, lods32, lods64},
        [INSN_SCAS - INSN_MOVS] = {compare8, compare16, compare32, compare64},
        [INSN_INS - INSN_MOVS] = {ins8, ins16, ins32},
        [INSN_OUTS - INSN_MOVS] = {outs8, outs16, outs32},
    };
    return table[i->op - INSN_MOVS][operand_size_index(i->opsize)];
}
