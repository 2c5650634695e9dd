/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * How APIC ids are made of cores and threads: leaf 0BH where it says so (SDM 3A, 9.9.3.2; AMD APM 3, E.3.10), else
 * AMD's leaf 8000001EH (APM 3, E.4.18), else Intel's leaves 1 and 4, which give how many ids a package has and how
 * many of them are cores.
 */
#include "native/topology.h"

enum { LEVEL_SMT = 1, HTT = 28, TOPOLOGY_EXTENSIONS = 22 };

/* Bits for n numbers. */
static uint32_t bits_for(uint32_t n)
{
    uint32_t bits = 0;

    while (bits < 31 && (UINT32_C(1) << bits) < n)
        bits++;
    return bits;
}

static bool by_leaf_b(topology_cpuid *cpuid, uint32_t *bits)
{
    uint32_t r[4];

    cpuid(0, 0, r);
    if (r[0] < 0xB)
        return false;
    cpuid(0xB, 0, r);
    *bits = r[0] & 31;
    return r[1] != 0 && (r[2] >> 8 & 0xFF) == LEVEL_SMT;
}

static bool by_amd(topology_cpuid *cpuid, uint32_t *bits)
{
    uint32_t r[4];

    cpuid(0x80000000, 0, r);
    if (r[0] < 0x8000001E)
        return false;
    cpuid(0x80000001, 0, r);
    if (!(r[2] >> TOPOLOGY_EXTENSIONS & 1))
        return false;
    cpuid(0x8000001E, 0, r);
    *bits = bits_for((r[1] >> 8 & 0xFF) + 1);
    return true;
}

/* AMD's processors that have neither of the above have no SMT, and no leaf 4. */
static uint32_t by_leaf_4(topology_cpuid *cpuid)
{
    uint32_t r[4], ids, cores;

    cpuid(0, 0, r);
    if (r[0] < 4)
        return 0;
    cpuid(1, 0, r);
    ids = r[3] >> HTT & 1 ? r[1] >> 16 & 0xFF : 1;
    cpuid(4, 0, r);
    if ((r[0] & 31) == 0)
        return 0;
    cores = (r[0] >> 26) + 1;
    return ids > cores ? bits_for(ids) - bits_for(cores) : 0;
}

uint32_t topology_thread_bits(topology_cpuid *cpuid)
{
    uint32_t bits = 0;

    if (by_leaf_b(cpuid, &bits) || by_amd(cpuid, &bits))
        return bits;
    return by_leaf_4(cpuid);
}
