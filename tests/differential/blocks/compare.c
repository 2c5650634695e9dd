/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Compares how runs of a block ended, and prints what differs. */
#include "tests/differential/blocks/compare.h"

#include <stdio.h>
#include <string.h>

/* Of RFLAGS; RF is in the image that a fault pushes only. */
#define COMPARED_FLAGS                                                                             \
    (X86_FLAGS_STATUS | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT |    \
     X86_FLAG_AC | X86_FLAG_ID)

static const char *const kinds[] = {"done", "fault", "halted", "shutdown"};

static bool equal(const char *what, uint64_t a, uint64_t b, bool show)
{
    if (a != b && show)
        printf("  %-10s %16lx %16lx\n", what, a, b);
    return a == b;
}

static bool equal_bytes(const char *what, uint64_t base, const uint8_t *a, const uint8_t *b,
                        size_t size, bool show)
{
    if (memcmp(a, b, size) == 0)
        return true;
    for (size_t n = 0, shown = 0; show && n < size && shown < 16; n++) {
        if (a[n] != b[n]) {
            printf("  %s [%lx] %02x %02x\n", what, base + n, a[n], b[n]);
            shown++;
        }
    }
    return false;
}

/* What the host may have otherwise. */
static struct undefined undefined_on_host(const struct block_case *c, const struct block_result *host)
{
    struct undefined u = {0, 0};
    struct insn i;
    uint64_t at = host->end.state.rip - c->base;
    if (host->end.kind == BLOCK_FAULT && at < BOX_BLOCK_SIZE &&
        insn_decode(&i, host->code + at, BOX_BLOCK_SIZE - at, INSN_MODE_64) == INSN_DECODE_OK)
        u = undefined_after_rep(&i, true);
    u.flags |= host_unknown_flags();
    return u;
}

static uint64_t known(uint64_t value, unsigned int reg, const struct undefined *undefined)
{
    return undefined->upper_halves & 1u << reg ? (uint32_t)value : value;
}

static bool compare_states(const struct state *a, const struct state *b,
                           const struct undefined *undefined, bool show)
{
    uint64_t flags = COMPARED_FLAGS & ~undefined->flags;
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    bool same = true;
    for (unsigned int n = 0; n < 16; n++)
        same &= equal(names[n], known(a->gpr[n], n, undefined), known(b->gpr[n], n, undefined), show);
    same &= equal("rip", a->rip, b->rip, show);
    same &= equal("rflags", a->rflags & flags, b->rflags & flags, show);
    same &= compare_vectors(&a->fpu, &b->fpu, show);
    same &= compare_x87(&a->fpu, &b->fpu, show);
    same &= equal("mxcsr", a->fpu.mxcsr, b->fpu.mxcsr, show);
    return same;
}

static bool compare_ends(const struct block_end *a, const struct block_end *b, bool show)
{
    bool same = equal("end", a->kind, b->kind, show);
    if (a->kind == BLOCK_FAULT && b->kind == BLOCK_FAULT) {
        same &= equal("vector", a->vector, b->vector, show);
        same &= equal("address", a->address, b->address, show);
        same &= equal("error", a->error, b->error, show);
    }
    return same;
}

static bool compare(const struct block_case *c, const struct block_result *a,
                    const struct block_result *b, enum leg_kind kind, bool show)
{
    struct undefined undefined = {0, 0};
    if (kind == LEG_HOST)
        undefined = undefined_on_host(c, a);
    bool same = compare_ends(&a->end, &b->end, show);
    same &= compare_states(&a->end.state, &b->end.state, &undefined, show);
    same &= equal_bytes("memory", BOX_RW, a->memory, b->memory, BOX_RW_SIZE, show);
    same &= equal_bytes("code", c->base, a->code, b->code, BOX_BLOCK_SIZE, show);
    if (kind == LEG_HOST)
        return same;
    same &= equal_bytes("read-only", BOX_RO, a->ro, b->ro, BOX_RO_SIZE, show);
    /* An instruction that faults in the end may have found a page that it would have written. */
    uint64_t ignored = X86_PTE_A | (a->end.kind == BLOCK_FAULT ? X86_PTE_D : 0);
    for (unsigned int n = 0; n < 512; n++)
        same &= equal("dirty", a->ptes[n] & ~ignored, b->ptes[n] & ~ignored, show);
    same &=
        equal_bytes("fpu", 0, (const uint8_t *)&a->end.state.fpu,
                    (const uint8_t *)&b->end.state.fpu, offsetof(struct x86_fpu, xstate_bv), show);
    same &= equal("cr0", a->cr[0], b->cr[0], show);
    same &= equal("cr3", a->cr[3], b->cr[3], show);
    same &= equal("cr4", a->cr[4], b->cr[4], show);
    same &= equal("gs.base", a->gs_base, b->gs_base, show);
    same &= equal("kernel gs", a->kernel_gs_base, b->kernel_gs_base, show);
    if (kind == LEG_ENGINE)
        same &= equal_bytes("stack", 0, a->stack, b->stack, sizeof(a->stack), show);
    return same;
}

void print_block(const struct block_case *c)
{
    printf("case %#lx: %s%s, entry %x, flags %lx, mxcsr %x, fs.base %lx\n", c->seed,
           c->kernel ? "kernel" : "user", c->kernel && c->smap ? " with SMAP" : "", c->entry,
           c->start.rflags, c->start.fpu.mxcsr, c->fs_base);
    for (unsigned int n = 0; n < 16; n++)
        printf("%s%lx", n % 8 ? " " : "\n  ", c->start.gpr[n]);
    printf("\n");
    for (uint32_t n = 0; n < c->entries && c->at[n] < BOX_BLOCK_SIZE; n++) {
        struct insn i;
        bool ok =
            insn_decode(&i, c->code + c->at[n], INSN_MAX_LENGTH, INSN_MODE_64) == INSN_DECODE_OK;
        printf("  %x: %-10s", c->base + c->at[n], ok ? insn_op_name((enum insn_op)i.op) : "?");
        for (unsigned int k = 0; ok && k < i.length; k++)
            printf(" %02x", c->code[c->at[n] + k]);
        printf("\n");
    }
}

static void print_end(const char *who, const struct block_end *e)
{
    printf("  %s: %s", who, kinds[e->kind]);
    if (e->kind == BLOCK_FAULT)
        printf(" %u error %x address %lx", e->vector, e->error, e->address);
    printf(" rip %lx\n", e->state.rip);
}

bool blocks_equal(const struct block_case *c, const struct block_result *a,
                  const struct block_result *b, enum leg_kind kind)
{
    return compare(c, a, b, kind, false);
}

void print_blocks(const struct block_case *c, const struct block_result *a,
                  const struct block_result *b, enum leg_kind kind, const char *name_a,
                  const char *name_b)
{
    print_block(c);
    print_end(name_a, &a->end);
    print_end(name_b, &b->end);
    (void)compare(c, a, b, kind, true);
}

bool compare_blocks(const struct block_case *c, const struct block_result *a,
                    const struct block_result *b, enum leg_kind kind, const char *name_a,
                    const char *name_b)
{
    bool same = blocks_equal(c, a, b, kind);
    if (!same)
        print_blocks(c, a, b, kind, name_a, name_b);
    return same;
}
