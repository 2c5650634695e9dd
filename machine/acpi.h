/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The machine's ACPI tables (ACPI 6.5). Inside machine/ only. */
#ifndef LODGE_MACHINE_ACPI_H
#define LODGE_MACHINE_ACPI_H

#include "core/err.h"
#include "core/types.h"
#include "machine/aml.h"

enum {
    ACPI_HEADER = 36, /* bytes of a table's header */
    ACPI_PCI_SLOTS = 32,
    ACPI_PCI_GSI = 16, /* INTA# of slot 0; slot d, pin p: ACPI_PCI_GSI + (d + p) % 4 */
};

/*
 * Builds all tables for a machine with that many processors, to lie at guest-physical `base`
 * (16-byte aligned, below 4 GiB). The RSDP comes first. ERR_NO_MEMORY if `size` is too small, or
 * wrong sizes. The same input gives the same bytes.
 */
int must_check acpi_build(uint32_t vcpus, uint64_t base, uint8_t *area, size_t size);

/* The DSDT's contents, after its header (acpi_dsdt.c). */
void acpi_write_dsdt(struct aml *a, uint32_t vcpus);

#endif
