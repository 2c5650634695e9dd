/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Reads and writes every MSR number in the ranges that exist anywhere, with zeros, ones and random
 * values. A fault is fine, and so is none.
 *
 * run: seed=@ => lives seconds=20
 * run: seed=@ => lives level=host seconds=20
 */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static uint64_t value;

static void read_one(void *index)
{
    value = rdmsr((uint32_t)(uintptr_t)index);
}

static void write_one(void *index)
{
    wrmsr((uint32_t)(uintptr_t)index, value);
}

/* Those that we could not go on without, or that make Lodge write to memory where we say. */
static bool is_vital(uint32_t index)
{
    return index == MSR_EFER || index == 0x11 || index == 0x12 ||
           (index >= MSR_KVM_WALL_CLOCK_NEW && index <= MSR_KVM_WALL_CLOCK_NEW + 0xFF) ||
           (index & ~0xFFu) == 0x40000000 || (index >= 0x830 && index <= 0x83F);
}

static void try_one(uint32_t index)
{
    if (guest_try(read_one, ptr(index)) == NO_FAULT && !is_vital(index)) {
        uint64_t old = value;
        (void)guest_try(write_one, ptr(index));
        value = guest_random();
        (void)guest_try(write_one, ptr(index));
        value = ~UINT64_C(0);
        (void)guest_try(write_one, ptr(index));
        value = old;
        (void)guest_try(write_one, ptr(index));
        return;
    }
    if (is_vital(index))
        return;
    static const uint64_t values[] = {0, ~UINT64_C(0), 1, 0x800000000000};
    for (unsigned int n = 0; n < 4; n++) {
        value = values[n];
        (void)guest_try(write_one, ptr(index));
    }
}

static void test_ranges(void)
{
    static const struct {
        uint32_t first, count;
    } ranges[] = {{0, 0x2000},         {0x40000000, 0x200},  {0x4B564D00, 0x100},
                  {0x80860000, 0x100}, {0xC0000000, 0x2000}, {0xC0010000, 0x2000},
                  {0xFFFFFF00, 0xFF},  {0x7FFFFF80, 0x100}};
    for (unsigned int r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++) {
        for (uint32_t n = 0; n < ranges[r].count; n++)
            try_one(ranges[r].first + n);
    }
}

static void test_random(void)
{
    for (int n = 0; n < 20000; n++)
        try_one((uint32_t)guest_random());
}

/* KVM's clock and steal-time areas: at the end of RAM, in MMIO, nowhere, across pages. */
static void test_kvm_areas(void)
{
    static const uint64_t where[] = {0xD0000000,
                                     0xFFFFFFFF,
                                     0xFEE00000,
                                     0xFEC00000,
                                     UINT64_C(0x0000FFFFFFFFF000),
                                     UINT64_C(0xFFFFFFFFFFFFFFC0)};
    static const uint32_t msrs[] = {MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW,
                                    MSR_KVM_STEAL_TIME, 0x11, 0x12};
    for (unsigned int m = 0; m < 5; m++) {
        for (unsigned int n = 0; n < sizeof(where) / sizeof(where[0]); n++) {
            for (unsigned int low = 0; low < 4; low++) {
                value = where[n] | low;
                (void)guest_try(write_one, ptr(msrs[m]));
                for (int k = 0; k < 1000; k++)
                    pause();
            }
        }
        value = 0;
        (void)guest_try(write_one, ptr(msrs[m]));
    }
    uint8_t *page = guest_page();
    value = ((uintptr_t)page + 0xFF0) | 1; /* crosses a page */
    (void)guest_try(write_one, ptr(MSR_KVM_SYSTEM_TIME_NEW));
    value = 0;
    (void)guest_try(write_one, ptr(MSR_KVM_SYSTEM_TIME_NEW));
}

static void ignore(struct guest_frame *f)
{
    (void)f;
}

int main(void)
{
    guest_set_handler(X86_NMI, ignore);
    GUEST_RUN(test_ranges);
    GUEST_RUN(test_random);
    GUEST_RUN(test_kvm_areas);
    return guest_done();
}
