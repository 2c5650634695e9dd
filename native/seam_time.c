/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The TSC of engine/hw.h and core/seam.h's random numbers, on the bare machine: under the names that the rest of the
 * image knows, apart from clock.c and random.c so that those can be tested beside the tests' own seam. The seam's time
 * is in seam.c. */
#include "core/seam.h"
#include "engine/hw.h"
#include "native/clock.h"
#include "native/random.h"

uint32_t hw_tsc_khz(void)
{
    return clock_tsc_khz();
}

uint64_t hw_tsc_at(uint64_t time_ns)
{
    return clock_tsc_at(time_ns);
}

void seam_random(void *buf, size_t size)
{
    random_bytes(buf, size);
}
