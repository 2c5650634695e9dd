/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Before native/spin.h on the path of includes: spin locks that are watched, and at which another simulated CPU may
 * go on (tests/lib/native/sim.c). */
#ifndef LODGE_NATIVE_SPIN_H
#define LODGE_NATIVE_SPIN_H

#include "core/types.h"

struct spin {
    uint32_t holder; /* number of the CPU plus one; 0: free */
};

void spin_lock(struct spin *s);
void spin_unlock(struct spin *s);

#endif
