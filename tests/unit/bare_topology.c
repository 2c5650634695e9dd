/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* How many threads a core has (native/topology.c), by what real processors say of themselves. */
#include <string.h>

#include "native/topology.h"
#include "tests/lib/unit.h"

struct leaf {
    uint32_t leaf, subleaf, r[4];
};

static const struct leaf *leaves;

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    memset(r, 0, 4 * sizeof(*r));
    for (const struct leaf *l = leaves; l->leaf != UINT32_MAX; l++) {
        if (l->leaf == leaf && l->subleaf == subleaf)
            memcpy(r, l->r, sizeof(l->r));
    }
}

#define END {UINT32_MAX, 0, {0}}

static const struct {
    const char *name;
    uint32_t bits;
    struct leaf leaf[8];
} processors[] = {
    /* table */
    {"none of it", 0, {END}},
    {"Core 2 Quad", 0, {{0, 0, {10}}, {1, 0, {0, 4 << 16, 0, 1u << 28}}, {4, 0, {0x0C000121}}, END}},
    {"Pentium 4 with HT", 1, {{0, 0, {5}}, {1, 0, {0, 2 << 16, 0, 1u << 28}}, {4, 0, {0x00000121}}, END}},
    {"Nehalem by leaf 4", 1, {{0, 0, {10}}, {1, 0, {0, 16 << 16, 0, 1u << 28}}, {4, 0, {0x1C004121}}, END}},
    {"Skylake", 1, {{0, 0, {0x16}}, {0xB, 0, {1, 2, 0x100}}, {0xB, 1, {4, 8, 0x201}}, END}},
    {"Skylake, SMT off", 0, {{0, 0, {0x16}}, {0xB, 0, {0, 1, 0x100}}, {0xB, 1, {4, 4, 0x201}}, END}},
    {"Xeon Phi", 2, {{0, 0, {0xD}}, {0xB, 0, {2, 4, 0x100}}, {0xB, 1, {9, 256, 0x201}}, END}},
    {"leaf 0BH empty", 1,
     {{0, 0, {0xB}}, {1, 0, {0, 4 << 16, 0, 1u << 28}}, {4, 0, {0x04000121}}, END}},
    {"Zen", 1,
     {{0, 0, {0xD}}, {0x80000000, 0, {0x8000001F}}, {0x80000001, 0, {0, 0, 1u << 22}}, {0x8000001E, 0, {0, 0x100}}, END}},
    {"Zen without SMT", 0,
     {{0, 0, {0xD}}, {0x80000000, 0, {0x8000001F}}, {0x80000001, 0, {0, 0, 1u << 22}}, {0x8000001E, 0, {0, 0}}, END}},
    {"Zen 2, both", 1,
     {{0, 0, {0x10}}, {0xB, 0, {1, 2, 0x100}}, {0x80000000, 0, {0x80000020}}, {0x80000001, 0, {0, 0, 1u << 22}},
      {0x8000001E, 0, {0, 0x100}}, END}},
    {"no topology extensions", 0,
     {{0, 0, {0xD}}, {0x80000000, 0, {0x8000001F}}, {0x8000001E, 0, {0, 0x100}}, END}},
};

static void test_processors(void)
{
    for (size_t i = 0; i < sizeof(processors) / sizeof(processors[0]); i++) {
        leaves = processors[i].leaf;
        if (topology_thread_bits(cpuid) != processors[i].bits)
            CHECK_STR(processors[i].name, "");
    }
}

int main(void)
{
    UNIT_RUN(test_processors);
    return unit_done();
}
