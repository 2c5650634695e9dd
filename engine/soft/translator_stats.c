/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the translator counts, as text for --stats. docs/soft.md says what the figures mean. */
#include "core/fmt.h"
#include "engine/soft/translator.h"

enum { TOP = 12 };

/* Appends to buf + n; returns the new length. */
static size_t print(char *buf, size_t size, size_t n, const char *format, ...) printf_like(4, 5);

static size_t print(char *buf, size_t size, size_t n, const char *format, ...)
{
    va_list ap;
    if (n >= size)
        return n;
    va_start(ap, format);
    n += fmt_v(buf + n, size - n, format, ap);
    va_end(ap);
    return n;
}

/* The next operation by how often it was interpreted, after the one that was *count times. */
static unsigned int next_op(const struct translator *t, uint64_t count, unsigned int after)
{
    const uint64_t *calls = t->stats.calls_by_op;
    unsigned int best = INSN_OP_COUNT;
    for (unsigned int op = 0; op < INSN_OP_COUNT; op++) {
        bool later = calls[op] < count || (calls[op] == count && op > after);
        if (later && calls[op] && (best == INSN_OP_COUNT || calls[op] > calls[best]))
            best = op;
    }
    return best;
}

size_t translator_print(const struct translator *t, char *buf, size_t size)
{
    const struct translator_stats *s = &t->stats;
    unsigned int id = t->cpu->vcpu.id;
    uint64_t ratio = s->guest_insns ? s->host_bytes * 10 / s->guest_insns : 0;
    size_t n = 0;
    n = print(buf, size, n,
              "vCPU %u: translator: %lu blocks of %lu instructions, %lu.%lu host bytes for each, %lu "
              "flushes, %lu invalidated; entered %lu times; %lu loops of %lu bytes\n",
              id, s->translated, s->guest_insns, ratio / 10, ratio % 10, s->flushes, s->invalidated,
              s->entered, s->loops, s->loop_bytes);
    n = print(buf, size, n,
              "vCPU %u: stubs: %lu TLB fills, %lu slow accesses, %lu interpreted, %lu jump cache "
              "misses, %lu chained, %lu polls, %lu stale; TLB flushes %lu, of pages %lu\n",
              id, s->tlb_fills, s->tlb_slow, s->calls, s->jump_misses, s->chains, s->polls, s->stale,
              s->tlb_flushes, s->page_flushes);
    if (t->counts && t->frame->instructions >= 100) {
        uint64_t cycles = s->cycles / (t->frame->instructions / 100);
        n = print(buf, size, n,
                  "vCPU %u: %lu instructions in the blocks entered, %lu.%lu%lu TSC cycles for each, stubs "
                  "included\n",
                  id, t->frame->instructions, cycles / 100, cycles / 10 % 10, cycles % 10);
    }
    n = print(buf, size, n, "vCPU %u: interpreted:", id);
    unsigned int op = INSN_OP_COUNT;
    uint64_t count = UINT64_MAX;
    for (unsigned int k = 0; k < TOP; k++) {
        op = next_op(t, count, op);
        if (op == INSN_OP_COUNT)
            break;
        count = s->calls_by_op[op];
        n = print(buf, size, n, " %s %lu", insn_op_name((enum insn_op)op), count);
    }
    return print(buf, size, n, "\n");
}
