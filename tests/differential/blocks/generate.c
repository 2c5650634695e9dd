/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Blocks out of a seed. The instructions are those of the test of single ones (generate_case), each
 * with MOVs in front that load the registers which that made for it; so most memory operands are
 * somewhere interesting, and results flow from one instruction to the next all the same. Between
 * them branches to other instructions of the block, loops, stores into the block, and in the kernel's
 * ring what only that may do. Instructions that would fault by themselves are mostly left out: blocks
 * should come to their end more often than not.
 */
#include "tests/differential/blocks/blocks.h"

#include <string.h>

#include "core/mem.h"

enum { FAULTS_PERCENT = 10, MIDDLE = 0x80 };

/* A branch whose displacement is filled in when all instructions have their place. */
struct fixup {
    uint32_t at;   /* of the displacement, in the block */
    uint8_t size;  /* 1 or 4: relative to its end; 8: an absolute address */
    uint32_t slot; /* | MIDDLE: one byte into it */
};

struct maker {
    struct block_case *c;
    struct rng r;
    uint32_t at;                    /* offset where the next byte goes */
    uint32_t slot[BLOCK_INSNS + 1]; /* where each begins, with its setup */
    uint32_t insn[BLOCK_INSNS + 1]; /* without */
    uint32_t slots, wanted;
    struct fixup fixup[8 * BLOCK_INSNS];
    uint32_t fixups;
    uint64_t sub_seed;
    bool fs, walks;
};

static void put_bytes(struct maker *m, const void *bytes, uint32_t n)
{
    memcpy(m->c->code + m->at, bytes, n);
    m->at += n;
}

static void put_byte(struct maker *m, uint32_t v)
{
    m->c->code[m->at++] = (uint8_t)v;
}

static void begin_insn(struct maker *m)
{
    if (m->c->entries < ARRAY_SIZE(m->c->at))
        m->c->at[m->c->entries++] = m->at;
}

static void put_mov(struct maker *m, unsigned int reg, uint64_t v)
{
    begin_insn(m);
    put_byte(m, 0x48 | (reg >> 3));
    put_byte(m, 0xB8 | (reg & 7));
    put_bytes(m, &v, 8);
}

/* --- instructions of the test of single ones --- */

static bool is_memory_base(const struct insn *i, unsigned int reg)
{
    return i->flags & INSN_MEM && (i->base == reg || i->index == reg);
}

/* Does the instruction come to nothing without this register? */
static bool needs(const struct insn *i, unsigned int reg)
{
    enum insn_group g = insn_op_group((enum insn_op)i->op);
    if (is_memory_base(i, reg))
        return true;
    if (g == INSN_GROUP_STRING)
        return reg == RCX || reg == RSI || reg == RDI;
    if (g == INSN_GROUP_STACK || g == INSN_GROUP_BRANCH)
        return reg == RSP || (reg == RBP && (i->op == INSN_ENTER || i->op == INSN_LEAVE));
    if (g == INSN_GROUP_MUL)
        return reg == RAX || reg == RDX;
    return i->op == INSN_XLAT && reg == RBX;
}

static bool single_completes(const struct test_case *c)
{
    struct outcome out;
    guest_run(c, &out);
    return out.kind == DONE;
}

static void next_single(struct maker *m, struct test_case *c)
{
    const struct selection all = {.groups = (1u << INSN_GROUP_COUNT) - 1, .mode = INSN_MODE_64};
    for (;;) {
        if (!generate_case(c, m->sub_seed++, &all))
            continue;
        enum insn_group g = insn_op_group((enum insn_op)c->insn.op);
        if (g == INSN_GROUP_BRANCH && rng_chance(&m->r, 70))
            continue;
        if (g == INSN_GROUP_X87 && rng_chance(&m->r, 70))
            continue;
        if (single_completes(c) || rng_chance(&m->r, FAULTS_PERCENT))
            return;
    }
}

static void use_fs(uint8_t *bytes, uint32_t length)
{
    for (uint32_t n = 0; n < length; n++)
        if (bytes[n] == 0x65) {
            bytes[n] = 0x64;
            return;
        }
}

/* What one instruction leaves undefined the next one defines: CMP r, r. */
static void define_flags(struct maker *m)
{
    begin_insn(m);
    put_byte(m, 0x48);
    put_byte(m, 0x39);
    put_byte(m, 0xC0 | (uint32_t)rng_below(&m->r, 64));
}

static void put_single(struct maker *m)
{
    static struct test_case c;
    next_single(m, &c);
    bool into_code = c.insn.flags & INSN_MEM && c.insn.base < 16 && m->c->base == BOX_BLOCK_RWX &&
                     !(c.insn.flags & INSN_RIPREL) && rng_chance(&m->r, 6);
    for (unsigned int reg = 0; reg < 16; reg++) {
        uint64_t v = c.start.gpr[reg];
        if (into_code && reg == c.insn.base)
            v = m->c->entry + rng_below(&m->r, 200) - (uint64_t)(int64_t)c.insn.disp;
        if (rng_chance(&m->r, needs(&c.insn, reg) ? 90 : 7))
            put_mov(m, reg, v);
    }
    m->insn[m->slots] = m->at;
    begin_insn(m);
    if (m->fs && c.insn.seg == SEG_GS)
        use_fs(c.bytes, c.length);
    put_bytes(m, c.bytes, c.length);
    if (undefined_flags(&c.insn))
        define_flags(m);
}

/* --- branches --- */

static uint32_t random_slot(struct maker *m)
{
    uint32_t n = m->slots, ahead = m->wanted - n;
    uint32_t slot;
    if (n > 0 && rng_chance(&m->r, 20))
        slot = (uint32_t)rng_below(&m->r, n + 1);
    else
        slot = n + 1 + (uint32_t)rng_below(&m->r, ahead);
    return slot | (rng_chance(&m->r, 3) ? MIDDLE : 0);
}

static void fix_up(struct maker *m, uint8_t size)
{
    uint64_t zero = 0;
    m->fixup[m->fixups++] = (struct fixup){m->at, size, random_slot(m)};
    put_bytes(m, &zero, size);
}

static void put_indirect(struct maker *m)
{
    unsigned int reg = (unsigned int)rng_below(&m->r, 16), call = (unsigned int)rng_below(&m->r, 2);
    begin_insn(m);
    put_byte(m, 0x48 | (reg >> 3));
    put_byte(m, 0xB8 | (reg & 7));
    if (rng_chance(&m->r, 6)) {
        uint64_t v = random_value(&m->r);
        put_bytes(m, &v, 8);
    } else {
        fix_up(m, 8);
    }
    begin_insn(m);
    if (reg >= 8)
        put_byte(m, 0x41);
    put_byte(m, 0xFF);
    put_byte(m, (call ? 0xD0 : 0xE0) | (reg & 7));
}

static void put_return(struct maker *m)
{
    begin_insn(m);
    put_byte(m, 0x68); /* push: the address is below 2 GiB */
    m->fixup[m->fixups++] = (struct fixup){m->at, 5, random_slot(m)};
    put_bytes(m, "\0\0\0\0", 4);
    begin_insn(m);
    if (rng_chance(&m->r, 30)) {
        put_byte(m, 0xC2);
        put_bytes(m, "\x10\0", 2);
    } else {
        put_byte(m, 0xC3);
    }
}

static void put_branch(struct maker *m)
{
    uint64_t kind = rng_below(&m->r, 100);
    if (rng_chance(&m->r, 30))
        put_mov(m, RCX, rng_below(&m->r, 4));
    if (rng_chance(&m->r, 20))
        put_mov(m, RSP, BOX_RW + 0x400 + 8 * rng_below(&m->r, 0x600));
    m->insn[m->slots] = m->at;
    if (kind >= 85) {
        put_return(m);
        return;
    }
    if (kind >= 70) {
        put_indirect(m);
        return;
    }
    begin_insn(m);
    if (kind < 30) {
        put_byte(m, 0x0F);
        put_byte(m, 0x80 | (uint32_t)rng_below(&m->r, 16));
        fix_up(m, 4);
    } else if (kind < 45) {
        put_byte(m, 0x70 | (uint32_t)rng_below(&m->r, 16));
        fix_up(m, 1);
    } else if (kind < 57) {
        if (rng_chance(&m->r, 15))
            put_byte(m, 0x67);
        put_byte(m, 0xE0 | (uint32_t)rng_below(&m->r, 4)); /* LOOPcc, JRCXZ */
        fix_up(m, 1);
    } else {
        put_byte(m, kind < 62 ? 0xE9 : 0xE8);
        fix_up(m, 4);
    }
}

/* --- stores into the block --- */

/* MOV to [RIP + d]: the address is filled in by hand, somewhere in or after the block. */
static void put_store(struct maker *m)
{
    static const uint8_t harmless[] = {0x90, 0xCC, 0xF8, 0xF9, 0xF5, 0x98, 0x99, 0x50, 0x58};
    uint32_t size = 1u << rng_below(&m->r, 3);
    uint8_t value[4];
    for (uint32_t n = 0; n < sizeof(value); n++)
        value[n] = rng_chance(&m->r, 85) ? harmless[rng_below(&m->r, sizeof(harmless))]
                                         : (uint8_t)rng_next(&m->r);
    m->insn[m->slots] = m->at;
    begin_insn(m);
    if (size == 2)
        put_byte(m, 0x66);
    put_byte(m, size == 1 ? 0xC6 : 0xC7);
    put_byte(m, 0x05);
    int32_t disp = (int32_t)rng_below(&m->r, 120) - (rng_chance(&m->r, 20) ? 60 : 0);
    put_bytes(m, &disp, 4);
    put_bytes(m, value, size);
}

/* --- the kernel's ring --- */

static void put_system(struct maker *m)
{
    static const struct {
        uint8_t length;
        char bytes[8];
    } table[] = {
        {1, "\xFA"},         {1, "\xFB"},
        {1, "\x9C"},         {1, "\x9D"},
        {3, "\x0F\x01\xF8"}, {3, "\x0F\x01\xCA"},
        {3, "\x0F\x01\xCB"}, {3, "\x0F\x20\xD0"},
        {3, "\x0F\x20\xD9"}, {3, "\x0F\x20\xC2"},
        {3, "\x0F\x20\xE3"}, {4, "\x41\x0F\x20\xD3"},
        {3, "\x0F\x22\xD0"}, {2, "\x8C\xD8"},
        {3, "\x41\x8C\xCA"}, {3, "\x48\x8C\xE9"},
        {2, "\x0F\x06"},     {1, "\xFD"},
        {1, "\xFC"},         {1, "\xF4"},
        {2, "\xCD\x30"},     {2, "\x48\xCF"},
        {3, "\x0F\x00\xC8"}, {3, "\x0F\x01\xE0"},
        {2, "\x0F\xA2"},     {5, "\xF3\x48\x0F\xAE\xC8"},
        {3, "\x0F\x01\xD0"}, {2, "\x0F\x32"},
        {1, "\xFB"},         {1, "\xFA"},
        {1, "\x9C"},
    };
    uint64_t n = rng_below(&m->r, ARRAY_SIZE(table) + 6);
    if (rng_chance(&m->r, 60))
        put_mov(m, RSP, BOX_RW + 0x400 + 8 * rng_below(&m->r, 0x600));
    if (n < ARRAY_SIZE(table)) {
        if (table[n].bytes[0] == '\xF4' && rng_chance(&m->r, 80))
            n = 0;
        put_mov(m, RCX, rng_chance(&m->r, 50) ? 0 : 0xC0000102);
        m->insn[m->slots] = m->at;
        begin_insn(m);
        put_bytes(m, table[n].bytes, table[n].length);
        return;
    }
    if (n < ARRAY_SIZE(table) + 3) { /* POPF of something */
        begin_insn(m);
        put_byte(m, 0x68);
        uint32_t flags = (uint32_t)rng_next(&m->r) & ~(uint32_t)(X86_FLAG_TF | BIT(31));
        put_bytes(m, &flags, 4);
        begin_insn(m);
        put_byte(m, 0x9D);
        return;
    }
    if (n < ARRAY_SIZE(table) + 4) { /* CR0.TS */
        put_mov(m, RAX, 0x80010033 | (rng_chance(&m->r, 50) ? X86_CR0_TS : 0));
        begin_insn(m);
        put_bytes(m, "\x0F\x22\xC0", 3);
        return;
    }
    put_mov(m, RAX, n & 1 ? 0x1000 : BOX_RW + 0x1000); /* CR3; INVLPG */
    begin_insn(m);
    if (n & 1)
        put_bytes(m, "\x0F\x22\xD8", 3);
    else
        put_bytes(m, "\x0F\x01\x38", 3);
}

/* --- loops --- */

/*
 * An array or two walked in steps, with a counter: what the translator makes copies of (tr_loop.c).
 * Registers are stepped in ways that it takes for steps, and in ways that only look like them;
 * operands begin close to the end of a page, or of all pages.
 */
struct walk {
    uint8_t counter, base[2], index;
};

static void put_rex(struct maker *m, bool wide, unsigned int reg, unsigned int index, unsigned int base)
{
    put_byte(m, 0x40 | (wide ? 8u : 0) | (reg & 8 ? 4u : 0) | (index & 8 ? 2u : 0) | (base & 8 ? 1u : 0));
}

static unsigned int walk_data(struct maker *m, const struct walk *w)
{
    unsigned int reg;
    do
        reg = (unsigned int)rng_below(&m->r, 16);
    while (reg == w->counter || reg == RSP || ((reg == w->base[0] || reg == w->base[1] || reg == w->index) &&
                                               rng_chance(&m->r, 95)));
    return reg;
}

static int32_t walk_disp(struct maker *m)
{
    static const int32_t near[] = {0, 0, 0, 8, -8, 16, -0x10, 0x40, -0x200, 0x7F0, 1, 0x100, 0x1000};
    return near[rng_below(&m->r, ARRAY_SIZE(near))];
}

static void put_walk_operand(struct maker *m, const struct walk *w)
{
    static const struct {
        uint8_t prefix, map, opcode;
        bool wide, vector;
    } table[] = {
        {0, 0, 0x8B, true, false},     {0, 0, 0x8B, false, false},   {0, 0, 0x89, true, false},
        {0, 0, 0x89, false, false},    {0x66, 0, 0x89, false, false}, {0, 0, 0x88, false, false},
        {0, 0, 0x8A, false, false},    {0, 0, 0x03, true, false},    {0, 0, 0x01, true, false},
        {0, 0, 0x00, false, false},    {0, 0, 0x33, false, false},   {0, 0, 0x39, true, false},
        {0, 0, 0x85, false, false},    {0, 0, 0x87, true, false},    {0, 1, 0xB6, false, false},
        {0, 1, 0xBF, true, false},     {0, 1, 0xAF, true, false},    {0, 1, 0x44, true, false},
        {0xF0, 0, 0x01, true, false},  {0, 0, 0x63, true, false},    {0, 0, 0x8D, true, false},
        {0, 1, 0x10, false, true},     {0, 1, 0x28, false, true},    {0, 1, 0x11, false, true},
        {0, 1, 0x29, false, true},     {0x66, 1, 0x58, false, true}, {0xF2, 1, 0x10, false, true},
        {0xF2, 1, 0x59, false, true},  {0x66, 1, 0xFE, false, true}, {0xF3, 1, 0x7F, false, true},
    };
    size_t n = rng_below(&m->r, ARRAY_SIZE(table));
    unsigned int reg = table[n].vector ? (unsigned int)rng_below(&m->r, 16) : walk_data(m, w);
    unsigned int base = w->base[rng_below(&m->r, 2)];
    bool indexed = rng_chance(&m->r, 30);
    int32_t disp = walk_disp(m);
    begin_insn(m);
    if (rng_chance(&m->r, 2))
        put_byte(m, 0x67);
    if (table[n].prefix)
        put_byte(m, table[n].prefix);
    put_rex(m, table[n].wide, reg, indexed ? w->index : 0, base);
    if (table[n].map)
        put_byte(m, 0x0F);
    put_byte(m, table[n].opcode);
    put_byte(m, 0x80 | (reg & 7) << 3 | 4); /* SIB, disp32 */
    put_byte(m, (indexed ? (uint32_t)rng_below(&m->r, 4) << 6 | (w->index & 7u) << 3 : 0x20) | (base & 7));
    put_bytes(m, &disp, 4);
}

static void put_walk_step(struct maker *m, unsigned int reg)
{
    static const int8_t steps[] = {1, 2, 4, 8, 8, 16, 16, 32, 64, -1, -8, -16, 127, -128, 3};
    static const int32_t far[] = {0x200, -0x200, 0x80, 0x400, 0x1000, 0x7FF, 0x100};
    int8_t step = steps[rng_below(&m->r, ARRAY_SIZE(steps))];
    uint64_t kind = rng_below(&m->r, 100);
    bool wide = rng_chance(&m->r, 92);
    begin_insn(m);
    put_rex(m, wide, 0, 0, reg);
    if (kind < 50) { /* ADD, SUB */
        put_byte(m, 0x83);
        put_byte(m, (rng_chance(&m->r, 70) ? 0xC0 : 0xE8) | (reg & 7));
        put_byte(m, (uint8_t)step);
    } else if (kind < 70) {
        put_byte(m, 0x81);
        put_byte(m, 0xC0 | (reg & 7));
        put_bytes(m, &far[rng_below(&m->r, ARRAY_SIZE(far))], 4);
    } else if (kind < 80) { /* INC, DEC */
        put_byte(m, 0xFF);
        put_byte(m, (rng_chance(&m->r, 70) ? 0xC0 : 0xC8) | (reg & 7));
    } else if (kind < 95) { /* LEA reg, [reg + step] */
        m->at--;
        put_rex(m, wide, reg, 0, reg);
        put_byte(m, 0x8D);
        put_byte(m, 0x40 | (reg & 7) << 3 | 4);
        put_byte(m, 0x20 | (reg & 7));
        put_byte(m, (uint8_t)step);
    } else { /* no step: AND with something that leaves most of it; ADD of another width */
        put_byte(m, kind < 97 ? 0x83 : 0x80);
        put_byte(m, (kind < 97 ? 0xE0 : 0xC0) | (reg & 7));
        put_byte(m, kind < 97 ? 0xF8 : (uint8_t)step);
    }
}

/* Where an array begins: near the end of a page that can be accessed, of the last one, in the code. */
static uint64_t walk_place(struct maker *m)
{
    uint64_t kind = rng_below(&m->r, 100), page = BOX_RW + PAGE_SIZE * rng_below(&m->r, 5);
    if (kind < 4)
        return m->c->entry + rng_below(&m->r, 0x100);
    if (kind < 10)
        return BOX_RO + rng_below(&m->r, PAGE_SIZE);
    if (kind < 50)
        return page + rng_below(&m->r, 0x400) - 0x200;
    return (page & ~(uint64_t)0xF) + (rng_below(&m->r, PAGE_SIZE) & ~(uint64_t)0xF);
}

static void put_dec(struct maker *m, unsigned int reg)
{
    begin_insn(m);
    put_rex(m, true, 0, 0, reg);
    put_byte(m, 0xFF);
    put_byte(m, 0xC8 | (reg & 7));
}

static void put_walk(struct maker *m)
{
    struct walk w;
    uint8_t used[16] = {[RSP] = 1}, *const all[] = {&w.counter, &w.base[0], &w.base[1], &w.index};
    for (size_t n = 0; n < ARRAY_SIZE(all); n++) {
        do
            *all[n] = (uint8_t)rng_below(&m->r, 16);
        while (used[*all[n]]);
        used[*all[n]] = 1;
    }
    put_mov(m, w.counter, 1 + rng_below(&m->r, rng_chance(&m->r, 80) ? 24 : 80));
    put_mov(m, w.base[0], walk_place(m));
    put_mov(m, w.base[1], walk_place(m));
    put_mov(m, w.index, rng_below(&m->r, 16));
    uint32_t operands = 1 + (uint32_t)rng_below(&m->r, 4), parts = operands + 1 + (uint32_t)rng_below(&m->r, 3);
    bool with_jump = rng_chance(&m->r, 20); /* the exit in front, and JMP behind */
    uint32_t top = m->at, exit = 0;
    if (with_jump) {
        put_dec(m, w.counter);
        begin_insn(m);
        put_bytes(m, "\x0F\x84\0\0\0\0", 6);
        exit = m->at;
    }
    for (uint32_t n = 0; n < parts; n++) {
        if (rng_below(&m->r, parts) < operands) {
            put_walk_operand(m, &w);
            if (rng_chance(&m->r, 3)) { /* out of the loop */
                begin_insn(m);
                put_byte(m, 0x0F);
                put_byte(m, 0x80 | (uint32_t)rng_below(&m->r, 16));
                fix_up(m, 4);
            }
        } else {
            uint64_t which = rng_below(&m->r, 5);
            put_walk_step(m, which < 2 ? w.base[0] : which < 4 ? w.base[1] : w.index);
        }
    }
    if (with_jump) {
        begin_insn(m);
        put_byte(m, 0xE9);
        store_u32(m->c->code + m->at, top - (m->at + 4));
        m->at += 4;
        store_u32(m->c->code + exit - 4, m->at - exit);
        return;
    }
    put_dec(m, w.counter);
    begin_insn(m);
    put_bytes(m, "\x0F\x85", 2);
    store_u32(m->c->code + m->at, top - (m->at + 4));
    m->at += 4;
}

/* --- all together --- */

static void put_slot(struct maker *m)
{
    struct block_case *c = m->c;
    uint64_t kind = rng_below(&m->r, 100);
    m->slot[m->slots] = m->insn[m->slots] = m->at;
    if (c->kernel && kind < 30)
        put_system(m);
    else if (kind < 18)
        put_branch(m);
    else if (kind < 26 && c->base == BOX_BLOCK_RWX)
        put_store(m);
    else if (kind >= (m->walks ? 30 : 95))
        put_walk(m);
    else
        put_single(m);
    m->slots++;
}

static void apply_fixup(const struct maker *m, const struct fixup *f)
{
    struct block_case *c = m->c;
    uint32_t n = f->slot & ~(uint32_t)MIDDLE;
    uint32_t to = n < m->slots ? (f->slot & MIDDLE ? m->insn[n] + 1 : m->slot[n]) : m->at;
    if (f->size == 8) {
        store_u64(c->code + f->at, c->base + to);
    } else if (f->size == 5) {
        store_u32(c->code + f->at, c->base + to);
    } else if (f->size == 4) {
        store_u32(c->code + f->at, to - (f->at + 4));
    } else {
        int32_t d = (int32_t)to - (int32_t)(f->at + 1);
        c->code[f->at] = (uint8_t)(d == (int8_t)d ? d : 0);
    }
}

/* Mostly somewhere in the first page; at times so that the block goes over its end, or ends with
 * the second page, behind which there is nothing. */
static uint32_t random_place(struct rng *r)
{
    uint64_t kind = rng_below(r, 10);
    if (kind < 6)
        return (uint32_t)rng_below(r, 0x800);
    return (kind < 9 ? 0x1000u : 0x2000u) - 1 - (uint32_t)rng_below(r, 200);
}

static void random_start(struct block_case *c, struct rng *r)
{
    for (unsigned int n = 0; n < 16; n++)
        c->start.gpr[n] = random_value(r);
    c->start.gpr[RSP] = BOX_RW + 0x400 + 8 * rng_below(r, 0x600);
    c->start.rflags = X86_FLAG_ONE | (rng_next(r) & X86_FLAGS_STATUS);
    if (!c->kernel)
        c->start.rflags |= X86_FLAG_IF;
    if (rng_chance(r, 12))
        c->start.rflags |= X86_FLAG_DF;
    if (rng_chance(r, c->kernel ? 50 : 3))
        c->start.rflags |= X86_FLAG_AC;
    random_vectors(&c->start.fpu, r);
    for (unsigned int n = 0; n < BOX_RW_SIZE; n += 8)
        store_u64(c->memory + n, rng_next(r));
}

void generate_block(struct block_case *c, uint64_t seed)
{
    struct maker m = {.c = c, .r = {seed * UINT64_C(0x9E3779B97F4A7C15) | 1}};
    (void)rng_next(&m.r);
    c->seed = seed;
    c->base = rng_chance(&m.r, 40) ? BOX_BLOCK_RWX : BOX_BLOCK;
    c->kernel = rng_chance(&m.r, 15);
    c->smap = rng_chance(&m.r, 50);
    m.fs = rng_chance(&m.r, 5);
    c->host = !c->kernel && !m.fs;
    c->fs_base = BOX_GS_BASE;
    c->entries = 0;
    m.walks = rng_chance(&m.r, 10);
    m.sub_seed = rng_next(&m.r);
    memset(c->code, 0xCC, sizeof(c->code));
    random_start(c, &m.r);
    m.at = random_place(&m.r);
    c->entry = c->base + m.at;
    m.wanted = 1 + (uint32_t)rng_below(&m.r, BLOCK_INSNS);
    /* A slot is at most 16 MOVs and an instruction long, or a loop of seven with their operands. What is
     * behind the second page is cut off. */
    while (m.slots < m.wanted && m.at + 300 < sizeof(c->code))
        put_slot(&m);
    for (uint32_t n = 0; n < m.fixups; n++)
        apply_fixup(&m, &m.fixup[n]);
}
