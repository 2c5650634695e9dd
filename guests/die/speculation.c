/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The MSRs that speculation is held back by, a bit at a time. What is taken is in force for as long as it stays: an
 * engine may have to write it to the processor, which need not have that bit.
 *
 * run: bits => lives
 * run: bits => lives level=v2
 * run: bits => lives level=host
 */
#include "guests/die/die.h"

enum { IBRS = 1 << 26 }; /* CPUID 7 EDX */

static uint64_t value;

static void read_one(void *index)
{
    value = rdmsr((uint32_t)(uintptr_t)index);
}

static void write_one(void *index)
{
    wrmsr((uint32_t)(uintptr_t)index, value);
}

static bool takes_bit(uint32_t index, unsigned int bit)
{
    value = UINT64_C(1) << bit;
    if (guest_try(write_one, ptr(index)) != NO_FAULT)
        return false;
    for (unsigned int n = 0; n < 10; n++)
        (void)cpuid(1, 0); /* an exit, and back */
    if (guest_try(read_one, ptr(index)) == NO_FAULT)
        DIE_UNLESS(value == UINT64_C(1) << bit);
    value = 0;
    DIE_UNLESS(guest_try(write_one, ptr(index)) == NO_FAULT);
    return true;
}

static void bits(void)
{
    static const uint32_t indexes[] = {MSR_SPEC_CTRL, MSR_PRED_CMD, MSR_FLUSH_CMD};

    for (unsigned int n = 0; n < sizeof(indexes) / sizeof(indexes[0]); n++) {
        for (unsigned int bit = 0; bit < 64; bit++) {
            if (takes_bit(indexes[n], bit))
                guest_print("MSR %x takes bit %u\n", indexes[n], bit);
        }
    }
    if (cpuid(7, 0).d & IBRS)
        DIE_UNLESS(takes_bit(MSR_SPEC_CTRL, 0));
}

static const struct die_mode modes[] = {
    {"bits", bits},
};

DIE_MAIN(modes)
