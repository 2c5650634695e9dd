/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Compares what the two sides ended with, and prints what differs so that it can be repeated. */
#include "tests/differential/differential.h"

#include <stdio.h>
#include <string.h>

#include "core/types.h"

/* RF is set in the image of RFLAGS that a fault pushes; signal handlers see that one. */
#define COMPARED_FLAGS                                                                             \
    (X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT |    \
     X86_FLAG_AC | X86_FLAG_ID)

bool host_is_amd(void)
{
    enum { UNKNOWN, AMD, OTHER };
    static int maker; /* CPUID is slow in a VM */
    if (maker == UNKNOWN) {
        uint32_t eax = 0, ebx, ecx = 0, edx;
        __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        maker = ebx == 0x68747541 ? AMD : OTHER;
    }
    return maker == AMD;
}

/*
 * Flags that the manual leaves undefined and that are not compared. Most undefined flags are the
 * host's own in the emulator, too. These are not (see there): what the emulator leaves unchanged,
 * and what it has as Zen processors do, which others need not.
 */
uint64_t undefined_flags(const struct insn *i)
{
    if (i->op == INSN_IMUL2)
        return X86_FLAG_SF | X86_FLAG_ZF | X86_FLAG_AF | X86_FLAG_PF;
    if (i->op >= INSN_BT && i->op <= INSN_BTC)
        return X86_FLAG_OF | X86_FLAG_SF | X86_FLAG_AF | X86_FLAG_PF;
    if (host_is_amd())
        return 0;
    /* by a constant and by CL, which the emulator takes, are two things to Intel's processors */
    if (i->op >= INSN_ROL && i->op <= INSN_RCR && i->form == INSN_FORM_RM_IMM)
        return i->imm == 1 ? 0 : X86_FLAG_OF;
    if (i->op >= INSN_SHL && i->op <= INSN_SAR && i->form == INSN_FORM_RM_IMM)
        return X86_FLAG_AF | (i->imm == 1 ? 0 : X86_FLAG_OF);
    if (i->op == INSN_AAA || i->op == INSN_AAS)
        return X86_FLAG_OF | X86_FLAG_SF | X86_FLAG_ZF | X86_FLAG_PF;
    if (i->op == INSN_AAM || i->op == INSN_AAD)
        return X86_FLAG_OF | X86_FLAG_AF | X86_FLAG_CF;
    return i->op == INSN_DAA || i->op == INSN_DAS ? X86_FLAG_OF : 0;
}

struct undefined undefined_after_rep(const struct insn *i, bool faulted)
{
    struct undefined u = {0, 0};
    bool repeated = i->flags & (INSN_REPE | INSN_REPNE);
    if (host_is_amd() || !repeated || insn_op_group((enum insn_op)i->op) != INSN_GROUP_STRING)
        return u;
    if (faulted && (i->op == INSN_CMPS || i->op == INSN_SCAS))
        u.flags = X86_FLAGS_STATUS;
    if (i->addrsize == 4)
        u.upper_halves = (uint16_t)(1u << RCX | 1u << RSI | 1u << RDI);
    return u;
}

bool flags_before_it_stores(const struct insn *i)
{
    return !host_is_amd() && i->op == INSN_SIMD && i->map == 3 && i->opcode == 0x1D && i->flags & INSN_MEM;
}

bool is_pause_on_host(const struct insn *i)
{
    return !host_is_amd() && i->op == INSN_XCHG && i->map == 0 && i->opcode == 0x90 &&
           i->flags & INSN_PREFIX_F3;
}

static const char *const register_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                               "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                               "r12", "r13", "r14", "r15"};

void print_case(const struct test_case *c)
{
    printf("case %#lx (%u-bit): %s:", c->seed, c->mode == INSN_MODE_64 ? 64u : 32u,
           insn_op_name((enum insn_op)c->insn.op));
    for (unsigned n = 0; n < c->length; n++)
        printf(" %02x", c->bytes[n]);
    printf("\n  before:");
    for (unsigned n = 0; n < 16; n++)
        printf("%s %s %lx", n && n % 8 == 0 ? "\n         " : "", register_names[n],
               c->start.gpr[n]);
    printf(" flags %lx\n", c->start.rflags);
}

static void print_outcome(const char *who, const struct outcome *o)
{
    static const char *const kinds[] = {"done", "fault", "stuck"};
    printf("  %s: %s", who, kinds[o->kind]);
    if (o->kind == FAULT)
        printf(" %u address %lx", o->vector, o->address);
    printf(" rip %lx\n", o->state.rip);
}

static bool differs(bool is, const char *what, uint64_t host, uint64_t guest)
{
    if (is)
        printf("  %-8s host %16lx emulator %16lx\n", what, host, guest);
    return is;
}

static bool compare_registers(const struct test_case *c, const struct state *host,
                              const struct state *guest, uint64_t unknown_flags, bool faulted,
                              bool show)
{
    bool equal = true;
    struct undefined undefined = undefined_after_rep(&c->insn, faulted);
    undefined.flags |= undefined_flags(&c->insn);
    for (unsigned n = 0; n < (c->mode == INSN_MODE_64 ? 16u : 8u); n++) {
        bool low = c->mode != INSN_MODE_64 || undefined.upper_halves & 1u << n;
        uint64_t mask = low ? UINT32_MAX : UINT64_MAX;
        if ((host->gpr[n] ^ guest->gpr[n]) & mask) {
            equal = false;
            if (show)
                (void)differs(true, register_names[n], host->gpr[n], guest->gpr[n]);
        }
    }
    if ((host->rflags ^ guest->rflags) & COMPARED_FLAGS & ~unknown_flags & ~undefined.flags) {
        equal = false;
        if (show)
            (void)differs(true, "rflags", host->rflags, guest->rflags);
    }
    return equal;
}

/*
 * What Intel's processors may have stored when they find out that they fault: CALL to where no code can
 * be, its return address; x87's operands across two pages, the part in the first.
 */
static bool may_be_stored(const struct test_case *c, const struct outcome *host, uint64_t address)
{
    if (host->kind != FAULT || host_is_amd())
        return false;
    if (c->insn.op == INSN_CALL_RM)
        return host->vector == X86_GP && address - (c->start.gpr[RSP] - 8) < 8;
    return c->insn.op == INSN_X87 && host->vector == X86_PF && !(host->address & ~PAGE_MASK) &&
           host->address - address <= 10;
}

static bool compare_memory(const struct test_case *c, const struct outcome *o, bool show)
{
    const uint8_t *host = host_memory(), *guest = guest_memory();
    bool equal = true;
    if (memcmp(host, guest, BOX_RW_SIZE) == 0)
        return true;
    for (unsigned n = 0, shown = 0; n < BOX_RW_SIZE && shown < 32; n++) {
        if (host[n] == guest[n] || may_be_stored(c, o, BOX_RW + n))
            continue;
        equal = false;
        if (show)
            printf("  [%x] host %02x emulator %02x\n", BOX_RW + n, host[n], guest[n]);
        shown++;
    }
    return equal;
}

static bool compare_bytes(const char *what, unsigned int index, const uint8_t *host,
                          const uint8_t *guest, size_t size, bool show)
{
    if (memcmp(host, guest, size) == 0)
        return true;
    if (!show)
        return false;
    printf("  %s%u host", what, index);
    for (size_t n = size; n-- > 0;)
        printf("%s%02x", n % 8 == 7 || n + 1 == size ? " " : "", host[n]);
    printf("\n  %s%u emul", what, index);
    for (size_t n = size; n-- > 0;)
        printf("%s%02x", n % 8 == 7 || n + 1 == size ? " " : "", guest[n]);
    printf("\n");
    return false;
}

bool compare_x87(const struct x86_fpu *h, const struct x86_fpu *g, bool show)
{
    bool equal = h->fcw == g->fcw && h->fsw == g->fsw && h->ftw == g->ftw;
    if (show) {
        (void)differs(h->fcw != g->fcw, "fcw", h->fcw, g->fcw);
        (void)differs(h->fsw != g->fsw, "fsw", h->fsw, g->fsw);
        (void)differs(h->ftw != g->ftw, "ftw", h->ftw, g->ftw);
    }
    for (unsigned n = 0; n < 8; n++)
        equal &= compare_bytes("st", n, h->st[n], g->st[n], 10, show);
    return equal;
}

/*
 * What MXCSR's flags say when #XM is raised depends on how a processor goes about it in two cases.
 * With overflow or underflow unmasked: whether the result was exact, exponent apart (the emulator
 * always says no, see x86/op_simd.c). DPPS and DPPD: how much they had computed.
 */
static uint32_t mxcsr_difference(const struct test_case *c, const struct outcome *host,
                                 const struct outcome *guest)
{
    enum { MXCSR_FLAGS = 0x3F, MXCSR_PE = 1 << 5, MXCSR_OM_UM = 3 << 10 };
    uint32_t h = host->state.fpu.mxcsr, difference = h ^ guest->state.fpu.mxcsr;
    bool dot_product = c->insn.map == 3 && (c->insn.opcode & 0xFE) == 0x40;
    if (host->kind == FAULT && host->vector == X86_XM && (h & MXCSR_OM_UM) != MXCSR_OM_UM)
        difference &= ~(uint32_t)MXCSR_PE;
    if (host->kind == FAULT && flags_before_it_stores(&c->insn))
        difference &= ~(uint32_t)MXCSR_FLAGS;
    if (host->kind == FAULT && host->vector == X86_XM && dot_product)
        difference &= ~(uint32_t)MXCSR_FLAGS;
    return difference;
}

bool compare_vectors(const struct x86_fpu *h, const struct x86_fpu *g, bool show)
{
    bool equal = true;
    for (unsigned n = 0; n < 16; n++) {
        equal &= compare_bytes("xmm", n, h->xmm[n], g->xmm[n], 16, show);
        equal &= compare_bytes("ymm_high", n, h->ymm_high[n], g->ymm_high[n], 16, show);
    }
    return equal;
}

static bool is_data_fault(uint8_t vector)
{
    return vector == X86_SS || vector == X86_GP || vector == X86_PF || vector == X86_AC;
}

/* Two things may be wrong at once, and which is found first is the processor's own affair. */
static bool faults_are_equal(const struct test_case *c, const struct outcome *host,
                             const struct outcome *guest)
{
    if (host->vector == guest->vector && host->address == guest->address)
        return true;
    if (host->vector == X86_AC && guest->vector == X86_PF) /* Intel's order is the other */
        return true;
    /* Across the end of 4 GiB: a limit's fault for AMD's and the emulator, not always for Intel's. */
    if (c->mode != INSN_MODE_64 && host->vector == X86_PF && host->address > UINT32_MAX - 16)
        return (guest->vector == X86_SS || guest->vector == X86_GP) && !host_is_amd();
    if (c->insn.op == INSN_BOUND && host->vector == X86_BR) /* by the lower bound alone */
        return guest->vector == X86_PF && !host_is_amd();
    if (c->insn.op == INSN_CMPS) /* something about either operand */
        return is_data_fault(host->vector) && is_data_fault(guest->vector);
    if (c->insn.op == INSN_CALL_RM) /* neither stack nor target */
        return guest->vector == X86_GP && host->vector != X86_UD;
    bool aligned = c->insn.op == INSN_SIMD && (c->insn.simd & SIMD_ALIGNED);
    if (aligned || c->insn.op == INSN_CMPXCHG16B) /* neither aligned nor canonical */
        return host->vector == X86_GP && guest->vector == X86_SS;
    /* Operands that a processor moves in several parts: any byte of them may be named. */
    if (c->insn.op == INSN_X87 || (c->insn.op == INSN_SIMD && (c->insn.simd & SIMD_SPECIAL)))
        return host->vector == X86_PF && guest->vector == X86_PF &&
               (host->address ^ guest->address) < 2 * PAGE_SIZE;
    return false;
}

/* MASKMOVQ, MASKMOVDQU: whether bytes that are masked off may fault is the processor's choice. */
static bool is_masked_fault(const struct test_case *c, const struct outcome *host)
{
    bool maskmov = c->insn.op == INSN_SIMD && c->insn.map == 1 && c->insn.opcode == 0xF7;
    return maskmov && host->kind == FAULT;
}

/* Vectors of 16 bytes and more: #AC is the processor's choice. AMD's check them, the emulator does
 * not, as Intel documents it. What is masked nobody checks. */
static bool is_wide_alignment_fault(const struct test_case *c, const struct outcome *host)
{
    bool masked = c->insn.map == 2 && c->insn.simd & SIMD_SPECIAL;
    return c->insn.op == INSN_SIMD && !masked && c->insn.memsize >= 16 && host->kind == FAULT &&
           host->vector == X86_AC;
}

/* A store of x87 with an unmasked exception stores nothing. Intel's processors do not look at the operand
 * then. */
static bool is_store_without_operand(const struct test_case *c, const struct outcome *host,
                                     const struct outcome *guest)
{
    enum { FSW_ES = 1 << 7 };
    return c->insn.op == INSN_X87 && c->insn.flags & INSN_MEM && host->kind == DONE &&
           host->state.fpu.fsw & FSW_ES && guest->kind == FAULT && is_data_fault(guest->vector) &&
           !host_is_amd();
}

/* A gather that faults may have got any number of elements. */
static bool vectors_are_defined(const struct test_case *c, const struct outcome *host)
{
    bool gather = c->insn.op == INSN_SIMD && c->insn.map == 2 && (c->insn.opcode & 0xFC) == 0x90;
    return !(gather && host->kind == FAULT);
}

/* MMX makes TOP 0 and all tags valid; some processors do also when the instruction faults, some do
 * not for CVTPI2PS from memory. */
static bool x87_is_defined(const struct test_case *c, const struct outcome *host)
{
    bool mmx = c->insn.op == INSN_SIMD && (c->insn.simd & SIMD_MMX);
    bool from_memory = c->insn.map == 1 && c->insn.opcode == 0x2A && (c->insn.flags & INSN_MEM);
    return !(mmx && (host->kind == FAULT || from_memory));
}

/* Has the instruction done to general registers what isa/effects.c knows of it? */
static bool effects_hold(const struct test_case *c, const struct outcome *host, bool show)
{
    uint16_t written;
    if (host->kind != DONE || c->mode != INSN_MODE_64 || !insn_gpr_writes(&c->insn, &written))
        return true;
    int64_t step = insn_gpr_step(&c->insn);
    bool hold = !step || (written && !(written & (written - 1)));
    for (unsigned int n = 0; n < 16; n++) {
        uint64_t expected = host->state.gpr[n];
        if (!(written & 1u << n))
            expected = c->start.gpr[n];
        else if (step)
            expected = c->start.gpr[n] + (uint64_t)step;
        hold &= host->state.gpr[n] == expected;
    }
    if (show && !hold)
        printf("  isa/effects.c: may write %#x, adds %ld\n", written, step);
    return hold;
}

static bool compare_all(const struct test_case *c, const struct outcome *host,
                        const struct outcome *guest, bool show)
{
    if (is_masked_fault(c, host) || is_wide_alignment_fault(c, host) || is_pause_on_host(&c->insn) ||
        is_store_without_operand(c, host, guest))
        return true;
    bool equal = host->kind == guest->kind && host->kind != STUCK &&
                 host->state.rip == guest->state.rip && faults_are_equal(c, host, guest);
    /* POPA that faults has loaded some registers on some processors; the emulator loads none. */
    if (c->insn.op != INSN_POPA || host->kind != FAULT)
        equal &= compare_registers(c, &host->state, &guest->state, host->unknown_flags,
                                   host->kind == FAULT, show);
    equal &= compare_memory(c, host, show) & effects_hold(c, host, show);
    if (c->uses_vector && vectors_are_defined(c, host))
        equal &= compare_vectors(&host->state.fpu, &guest->state.fpu, show);
    if (c->uses_vector && mxcsr_difference(c, host, guest)) {
        equal = false;
        if (show)
            (void)differs(true, "mxcsr", host->state.fpu.mxcsr, guest->state.fpu.mxcsr);
    }
    if (c->uses_vector && x87_is_defined(c, host))
        equal &= compare_x87(&host->state.fpu, &guest->state.fpu, show);
    return equal;
}

bool outcomes_equal(const struct test_case *c, const struct outcome *host,
                    const struct outcome *guest)
{
    return compare_all(c, host, guest, false);
}

void print_difference(const struct test_case *c, const struct outcome *host,
                      const struct outcome *guest)
{
    print_case(c);
    print_outcome("host", host);
    if (host->kind == STUCK)
        printf("  %s\n", host_trouble());
    print_outcome("emulator", guest);
    (void)compare_all(c, host, guest, true);
}
