/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What tests/native asks of the image by its command line (selftest.c). */
#ifndef LODGE_NATIVE_SELFTEST_H
#define LODGE_NATIVE_SELFTEST_H

#include <stdbool.h>

struct acpi;
struct boot_info;

/* test-lost-cpu: adds a CPU that is not there. */
void selftest_machine(const struct boot_info *b, struct acpi *a);
/* A fault of the kind that the command line asks for: test-panic, test-null, test-stack, ... */
void selftest_faults(const struct boot_info *b);
/* Instead of the fleet (true): self-test, a thread that checks the platform from inside, says so, and turns the machine
 * off; test-idle, nothing. */
bool selftest_start(const struct boot_info *b);

/* While VMs run (selftest_home.c): when the fleet has been ordered to start, in a thread. */
void selftest_home(const struct boot_info *b);

#endif
