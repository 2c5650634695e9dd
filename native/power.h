/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Turning the machine off and on again, and its power button (power.c). */
#ifndef LODGE_NATIVE_POWER_H
#define LODGE_NATIVE_POWER_H

#include <stdatomic.h>
#include <stdnoreturn.h>

#include "core/types.h"
#include "native/acpi.h"

/*
 * Notes which registers there are, maps those in memory (map_device), and takes the machine into ACPI mode if the
 * firmware has left it in legacy mode. One line on what cannot be done in notes, or empty; notes_size > 0. Once, on
 * the boot CPU, after the clock runs. Without it power_off does nothing and power_reset does without the reset
 * register.
 */
void power_init(const struct acpi *a, char *notes, size_t notes_size);

/* Turns the machine off (S5). Returns only if that is not to be: there are no registers for it, or they did nothing
 * for a second. Other CPUs are stopped and engines off by then. Any CPU. */
void power_off(void);

/* Starts the machine anew, by whatever works; by a triple fault if nothing else does. */
noreturn void power_reset(void);

/* From now on the button raises the SCI (acpi.sci, level, active low unless the MADT overrides it) instead of
 * cutting power. False: there is no such button. */
bool power_button_enable(void);
/* Has the button been pressed since it was last asked? Takes the event back, so that the SCI falls. From the SCI's
 * handler, or polled. */
bool power_button_pressed(void);

#endif
