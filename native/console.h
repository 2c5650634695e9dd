/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Serial port and screen as start-up comes to them, in this order; home_console (main.h) is the first step.
 * (console.c) */
#ifndef LODGE_NATIVE_CONSOLE_H
#define LODGE_NATIVE_CONSOLE_H

#include "native/acpi.h"
#include "native/boot_info.h"

/* Devices can be mapped: the screen joins in, and shows what was said before. */
void console_screen(const struct boot_info *b);
/* I/O APICs are set up: the serial port interrupts, and so does the power button. Lines of the log bear the time
 * from here on. */
void console_interrupts(const struct acpi *a);

#endif
