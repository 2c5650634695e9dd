/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A sleeping mutex on seam_wait/seam_wake. Each has a rank; a thread takes locks in rising rank
 * only. Debug builds check order and pairing (docs/threads.md lists all ranks).
 */
#ifndef LODGE_CORE_LOCK_H
#define LODGE_CORE_LOCK_H

#include <stdatomic.h>

#include "core/types.h"

enum lock_rank {
    LOCK_RANK_HOME = 5,    /* homes: that a VM stays while somebody looks at it */
    LOCK_RANK_REST = 10,   /* struct vm: one party at a time brings the vCPUs to rest */
    LOCK_RANK_DEVICE = 20, /* a device of its own (virtio) */
    LOCK_RANK_BOARD = 30,  /* the legacy board: 8259, 8254, I/O APIC, RTC, UART, PCI, ACPI */
    LOCK_RANK_APIC = 35,   /* a local APIC's timer registers */
    LOCK_RANK_TIMER = 40,  /* struct vm_clock's timer queue */
    LOCK_RANK_LOG = 50,    /* leaf locks of the homes */
};

struct lock {
    _Atomic uint32_t word; /* 0 free, 1 held, 2 held and waited for */
    uint32_t rank;         /* enum lock_rank */
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_take(struct lock *l);
void lock_release(struct lock *l);
/* Debug builds: panics unless this thread holds a lock of l's rank. */
void lock_assert_held(const struct lock *l);

#endif
