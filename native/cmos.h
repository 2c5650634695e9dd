/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The machine's own real-time clock, read (cmos.c). Guests' are device/rtc.c. */
#ifndef LODGE_NATIVE_CMOS_H
#define LODGE_NATIVE_CMOS_H

#include "core/err.h"
#include "core/types.h"

/* What its bytes were, and how they are to be understood. */
struct cmos_time {
    uint8_t second, minute, hour, day, month, year;
    uint8_t century; /* meaningless without has_century */
    uint8_t format;  /* register B */
    bool has_century;
};

/* All bytes of one moment. century: its index (acpi.century), 0: there is none. ERR_IO: no clock there, or one that
 * never stops being updated. Some ms at most. Boot CPU. */
int must_check cmos_read(uint8_t century, struct cmos_time *t);

/* Nanoseconds since 1970 of that time, in UTC as the clock is taken to run. ERR_INVALID: no such date, or not from
 * 1970 to 2399. Pure. */
int must_check cmos_to_ns(const struct cmos_time *t, uint64_t *ns);

#endif
