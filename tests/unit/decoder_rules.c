/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The decoder's rules that are not about single encodings: which instructions end a block, which
 * features they need, what the flags of struct insn say, input that is too short or too long.
 */
#include "isa/insn.h"
#include "tests/lib/unit.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 32 };

static size_t parse_hex(const char *hex, uint8_t *bytes)
{
    size_t n = 0;
    char *end;
    while (*hex && n < MAX_BYTES) {
        bytes[n++] = (uint8_t)strtoul(hex, &end, 16);
        for (hex = end; *hex == ' '; hex++)
            ;
    }
    return n;
}

static struct insn decode(const char *hex, enum insn_mode mode)
{
    uint8_t bytes[MAX_BYTES];
    struct insn i = {0};
    size_t n = parse_hex(hex, bytes);
    CHECK_EQ(insn_decode(&i, bytes, n, mode), INSN_DECODE_OK);
    return i;
}

static struct insn decode64(const char *hex)
{
    return decode(hex, INSN_MODE_64);
}

/* VEX.W says nothing of general registers outside 64-bit mode: VMOVD; VPCMPESTRM's lengths. */
static void test_vex_w(void)
{
    static const char *const wide[] = {"c4 e1 f9 6e c1", "c4 e3 f9 60 c1 00"};
    for (size_t k = 0; k < 2; k++) {
        CHECK(decode64(wide[k]).flags & INSN_REX_W);
        CHECK(!(decode(wide[k], INSN_MODE_32).flags & INSN_REX_W));
    }
}

static void test_features(void)
{
    CHECK_EQ(decode64("f3 0f bc c1").feature, INSN_FEATURE_NONE);
    CHECK_EQ(decode64("f3 0f bd c1").feature, INSN_FEATURE_NONE);
    CHECK_EQ(decode64("f3 0f b8 c1").feature, INSN_FEATURE_POPCNT);
    CHECK_EQ(decode64("0f ae 11").feature, INSN_FEATURE_SSE);
    CHECK_EQ(decode64("c5 f8 ae 11").feature, INSN_FEATURE_AVX);
    CHECK_EQ(decode64("c5 f8 77").feature, INSN_FEATURE_AVX);
    CHECK_EQ(decode64("48 0f c7 08").feature, INSN_FEATURE_CX16);
    CHECK_EQ(decode64("c4 e2 70 f2 c2").feature, INSN_FEATURE_BMI1);
    CHECK_EQ(decode64("01 c0").feature, INSN_FEATURE_NONE);
}

/* Control transfers, and what changes mode, translation or interruptibility or must be polled
 * after. */
static void test_ends(void)
{
    static const char *const ending[] = {
        "70 00",
        "c3",
        "e8 00 00 00 00",
        "ff d0",
        "ff 10",
        "cc",
        "cd 80",
        "f1",
        "cf",
        "cb",
        "ff 18",
        "e2 00",
        "e3 00",
        "0f 05",
        "0f 07",
        "0f 34",
        "0f 35",
        "0f 0b",
        "0f b9 c0",
        "0f ff c0",
        "0f aa",
        "0f 22 c0",
        "0f 22 e0",
        "0f 23 c0",
        "0f 06",
        "0f 01 f0",
        "0f 30",
        "0f 01 38",
        "66 0f 38 82 00",
        "0f 08",
        "0f 09",
        "f4",
        "fa",
        "fb",
        "9d",
        "8e d0",
        "0f b2 00",
        "0f 01 10",
        "0f 01 18",
        "0f 00 d0",
        "0f 00 d8",
        "0f 01 d1",
        "0f 01 ca",
        "0f 01 cb",
        "f3 90",
        "e4 00",
        "e6 00",
        "ec",
        "ee",
        "6c",
        "6e",
        "0f a2",
        "0f 01 c1",
        "0f 01 d9",
        "0f 01 c9",
        "f3 a4",
        "f2 ae",
        "06",
    };
    static const char *const going_on[] = {
        "90",       "a4",       "0f 01 f8", "f3 0f ae d0", "0f 31",    "0f 32",    "0f 20 c0",
        "0f 21 c0", "0f 01 c8", "0f 01 d0", "8e d8",       "0f a1",    "9c",       "0f ae 28",
        "0f ae 08", "0f ae f0", "f0 01 00", "0f c7 f0",    "0f 01 00", "0f 01 e0", "f3 0f c7 f8",
        "0f 01 f9", "f7 f0",    "9b",       "fc",          "0f 00 00",
    };
    for (size_t n = 0; n < sizeof(ending) / sizeof(ending[0]); n++) {
        unit_context("%s", ending[n]);
        CHECK(decode64(ending[n]).flags & INSN_ENDS);
    }
    for (size_t n = 0; n < sizeof(going_on) / sizeof(going_on[0]); n++) {
        unit_context("%s", going_on[n]);
        CHECK(decode64(going_on[n]).op != INSN_INVALID);
        CHECK(!(decode64(going_on[n]).flags & INSN_ENDS));
    }
    unit_context(NULL);
}

static void test_flags(void)
{
    CHECK(decode64("48 01 c0").flags & INSN_REX_W);
    CHECK(decode64("48 01 c0").flags & INSN_REX);
    CHECK(!(decode64("c4 e2 f0 f2 c2").flags & INSN_REX));
    CHECK(decode64("c4 e2 f0 f2 c2").flags & INSN_REX_W);
    CHECK(decode64("c4 e2 f1 f7 c2").flags & INSN_OPSIZE_PREFIX);
    CHECK(decode64("64 8b 00").flags & INSN_SEG_OVERRIDE);
    CHECK(!(decode64("3e 8b 00").flags & INSN_SEG_OVERRIDE));
    CHECK_EQ(decode64("65 a4").seg, SEG_GS);
    CHECK_EQ(decode64("a4").seg, SEG_DS);
    CHECK_EQ(decode64("0f 4d c1").opcode, 0x4D);
    CHECK_EQ(decode64("0f 4d c1").map, 1);
    CHECK_EQ(decode64("0f 38 f0 01").map, 2);
    CHECK_EQ(decode64("0f 38 f0 01").modrm, 1);
    CHECK_EQ(decode64("f2 f3 90").flags & INSN_PREFIX_F2, 0);
}

/* Every proper prefix of an instruction is short; none is read beyond its end. */
static void test_short_input(void)
{
    static const char *const whole[] = {
        "48 b8 88 77 66 55 44 33 22 11",
        "64 67 8b 84 8b 11 22 33 44",
        "c4 e3 fb f0 c2 21",
        "f2 48 0f 38 f1 c4",
        "c8 10 00 1f",
        "0f ba e0 01",
    };
    for (size_t n = 0; n < sizeof(whole) / sizeof(whole[0]); n++) {
        uint8_t bytes[MAX_BYTES];
        size_t size = parse_hex(whole[n], bytes);
        for (size_t given = 0; given < size; given++) {
            uint8_t *exact = malloc(given ? given : 1); /* so that ASan sees a read too far */
            struct insn i;
            if (!exact)
                abort();
            memcpy(exact, bytes, given);
            unit_context("%s, %zu bytes", whole[n], given);
            CHECK_EQ(insn_decode(&i, exact, given, INSN_MODE_64), INSN_DECODE_SHORT);
            free(exact);
        }
    }
    unit_context(NULL);
}

static void test_length_limit(void)
{
    uint8_t bytes[MAX_BYTES];
    struct insn i;

    memset(bytes, 0x66, sizeof(bytes));
    CHECK_EQ(insn_decode(&i, bytes, 15, INSN_MODE_64), INSN_DECODE_TOO_LONG);
    CHECK_EQ(insn_decode(&i, bytes, 14, INSN_MODE_64), INSN_DECODE_SHORT);
    bytes[14] = 0x90;
    CHECK_EQ(insn_decode(&i, bytes, sizeof(bytes), INSN_MODE_64), INSN_DECODE_OK);
    CHECK_EQ(i.length, 15);
    bytes[14] = 0x01; /* ModRM would be the 16th byte */
    CHECK_EQ(insn_decode(&i, bytes, sizeof(bytes), INSN_MODE_64), INSN_DECODE_TOO_LONG);
    bytes[14] = 0x06; /* not an instruction: seen within 15 bytes */
    CHECK_EQ(insn_decode(&i, bytes, sizeof(bytes), INSN_MODE_64), INSN_DECODE_OK);
    CHECK_EQ(i.op, INSN_INVALID);
}

static void test_names(void)
{
    CHECK_STR(insn_op_name(INSN_ADD), "ADD");
    CHECK_STR(insn_op_name(INSN_SIMD), "SIMD");
    CHECK_STR(insn_op_name(INSN_OP_COUNT), "INVALID");
    CHECK_EQ(insn_op_group(INSN_CMPXCHG), INSN_GROUP_ATOMIC);
    CHECK_EQ(insn_op_feature(INSN_ADCX), INSN_FEATURE_ADX);
}

int main(void)
{
    UNIT_RUN(test_features);
    UNIT_RUN(test_vex_w);
    UNIT_RUN(test_ends);
    UNIT_RUN(test_flags);
    UNIT_RUN(test_short_input);
    UNIT_RUN(test_length_limit);
    UNIT_RUN(test_names);
    return unit_done();
}
