/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* How fast the TSC runs, by another clock of the machine (calibrate.c). */
#ifndef LODGE_NATIVE_CALIBRATE_H
#define LODGE_NATIVE_CALIBRATE_H

#include "core/err.h"
#include "core/types.h"
#include "native/acpi.h"

struct tsc_rate {
    uint32_t khz;
    uint32_t error_ppm; /* at most, of what was measured; UINT32_MAX: nothing could be measured */
    const char *source; /* by what: "ACPI PM timer" */
};

/* Some ms, at most 20 per round and clock tried. hpet: its registers (1 KiB), mapped; NULL: none. ERR_UNSUPPORTED:
 * no clock gave figures that agree. Boot CPU, interrupts off. */
int must_check calibrate_tsc(const struct acpi *a, const volatile void *pm_timer, volatile void *hpet,
                             struct tsc_rate *r);

#endif
