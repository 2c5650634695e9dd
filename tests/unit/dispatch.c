/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Every instruction that the decoder knows, in each of its forms and in all three code sizes, has a
 * handler, unless the level lacks it: then it is #UD. What is decoded comes from walking all opcode
 * maps with all ModRM bytes and the prefixes that choose between instructions.
 */
#include <string.h>

#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/level.h"

static struct cpu_env env;
static struct x86_level full; /* level host, with all that the decoder knows */
static x86_op_fn *undefined;
static uint32_t seen[INSN_OP_COUNT]; /* BIT(form) */
static unsigned int decoded, without_handler, not_refused;

static x86_op_fn *select_at(const struct x86_level *level, const struct insn *i)
{
    struct insn direct = *i;
    direct.addrsize = 8; /* not the mode check before VEX in legacy modes: the handler behind it */
    env.cpu->level = level;
    x86_op_fn *fn = x86_select(env.cpu, &direct);
    env.cpu->level = &full;
    return fn;
}

static void report(const char *what, const struct insn *i)
{
    printf("  %s: %s form %u size %u map %u opcode %02x modrm %02x flags %x\n", what,
           insn_op_name((enum insn_op)i->op), i->form, i->opsize, i->map, i->opcode, i->modrm,
           i->flags);
}

static void visit(const struct insn *i)
{
    const struct x86_level *v2 = x86_level_find("v2");
    decoded++;
    seen[i->op] |= 1u << i->form;
    if (select_at(&full, i) == undefined && without_handler++ < 20)
        report("no handler", i);
    bool lacks = !x86_level_has(v2, (enum insn_feature)i->feature);
    if ((select_at(v2, i) == undefined) != lacks && not_refused++ < 20)
        report("level v2 differs", i);
}

static void decode(const uint8_t *bytes, enum insn_mode mode)
{
    struct insn i;
    if (insn_decode(&i, bytes, INSN_MAX_LENGTH, mode) == INSN_DECODE_OK && i.op != INSN_INVALID)
        visit(&i);
}

static void walk_opcode(const uint8_t *head, size_t n, enum insn_mode mode)
{
    uint8_t bytes[INSN_MAX_LENGTH + 1] = {0};
    memcpy(bytes, head, n);
    for (unsigned int modrm = 0; modrm < 256; modrm++) {
        bytes[n] = (uint8_t)modrm;
        decode(bytes, mode);
    }
}

static void walk_legacy(enum insn_mode mode)
{
    static const char *const prefixes[] = {"",         "\x66",     "\xF3",     "\xF2", "\x48",
                                           "\x66\x48", "\xF3\x48", "\xF2\x48", "\x67", "\xF0"};
    static const char *const escapes[] = {"", "\x0F", "\x0F\x38", "\x0F\x3A"};
    for (size_t p = 0; p < ARRAY_SIZE(prefixes); p++) {
        for (size_t m = 0; m < ARRAY_SIZE(escapes); m++) {
            for (unsigned int opcode = 0; opcode < 256; opcode++) {
                uint8_t head[8];
                size_t n = strlen(prefixes[p]), k = strlen(escapes[m]);
                memcpy(head, prefixes[p], n);
                memcpy(head + n, escapes[m], k);
                head[n + k] = (uint8_t)opcode;
                walk_opcode(head, n + k + 1, mode);
            }
        }
    }
}

static void walk_vex(enum insn_mode mode)
{
    for (unsigned int map = 1; map <= 3; map++) {
        for (unsigned int last = 0; last < 256; last++) { /* W, vvvv, L, pp */
            if (mode != INSN_MODE_64 && !(last & 0x40))
                continue; /* only eight registers */
            for (unsigned int opcode = 0; opcode < 256; opcode++) {
                uint8_t bytes[INSN_MAX_LENGTH + 1] = {0xC4, (uint8_t)(0xE0 | map), (uint8_t)last,
                                                      (uint8_t)opcode};
                for (unsigned int reg = 0; reg < 8; reg++) {
                    bytes[4] = (uint8_t)(reg << 3 | 1);
                    decode(bytes, mode);
                    bytes[4] |= 0xC0;
                    decode(bytes, mode);
                }
            }
        }
    }
}

static void test_all(void)
{
    static const enum insn_mode modes[] = {INSN_MODE_16, INSN_MODE_32, INSN_MODE_64};
    for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
        walk_legacy(modes[m]);
        walk_vex(modes[m]);
    }
    printf("%u decoded instructions\n", decoded);
    CHECK_EQ(without_handler, 0);
    CHECK_EQ(not_refused, 0);
    for (unsigned int op = INSN_INVALID + 1; op < INSN_OP_COUNT; op++) {
        unit_context("%s", insn_op_name((enum insn_op)op));
        CHECK(seen[op] != 0); /* the walk met it */
    }
    unit_context(NULL);
}

static void test_no_instruction(void)
{
    struct insn i = {.op = INSN_OP_COUNT};
    CHECK(x86_select(env.cpu, &i) == undefined);
    i.op = UINT16_MAX;
    CHECK(x86_select(env.cpu, &i) == undefined);
    CHECK_EQ(undefined(env.cpu, &i), X86_FAULT);
    CHECK_EQ(env.cpu->fault.vector, X86_UD);
}

/* Without BMI1 and LZCNT the prefix means nothing. */
static void test_bit_scan(void)
{
    static const struct {
        const char *bytes;
        uint64_t result;
    } rows[] = {
        {"\xF3\x48\x0F\xBC\xC3", 4}, /* tzcnt rax, rbx: bsf */
        {"\xF3\x48\x0F\xBD\xC3", 8}, /* lzcnt: bsr, not 55 */
    };
    for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
        cpu_env_reset(&env);
        env.cpu->level = x86_level_find("v2");
        cpu_env_code(&env, rows[n].bytes, 5);
        env.cpu->gpr[RBX] = 0x110;
        CHECK_EQ(cpu_env_step(&env), X86_OK);
        CHECK_EQ(env.cpu->gpr[RAX], rows[n].result);
    }
    cpu_env_reset(&env);
    env.cpu->level = &full;
    cpu_env_code(&env, rows[1].bytes, 5);
    env.cpu->gpr[RBX] = 0x110;
    CHECK_EQ(cpu_env_step(&env), X86_OK);
    CHECK_EQ(env.cpu->gpr[RAX], 55);
}

int main(void)
{
    cpu_env_create(&env, CPU_ENV_LONG);
    x86_level_host(&full);
    full.insn_features = ~(uint64_t)0;
    env.cpu->level = &full;
    const struct insn invalid = {.op = INSN_INVALID};
    undefined = x86_select(env.cpu, &invalid);
    UNIT_RUN(test_all);
    UNIT_RUN(test_no_instruction);
    UNIT_RUN(test_bit_scan);
    cpu_env_destroy(&env);
    return unit_done();
}
