/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Start-up (main.c): what it knows, and what it calls when the time has come. */
#ifndef LODGE_NATIVE_MAIN_H
#define LODGE_NATIVE_MAIN_H

#include "core/types.h"
#include "lodge/version.h"

struct acpi;
struct boot_info;

const struct boot_info *main_boot_info(void);
const struct acpi *main_acpi(void);

/* The first thing: somewhere to speak to, that needs no memory, interrupts or tables. */
void home_console(void);
/* Everything is up, the other CPUs wait: consoles by interrupt, the first threads. */
void home_start(void);

#endif
