/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* ACPI's static tables, read once at boot from what the firmware left: hostile like any input, so lengths and
 * checksums are checked (acpi.c, pure: memory is read through a function). */
#ifndef LODGE_NATIVE_ACPI_H
#define LODGE_NATIVE_ACPI_H

#include "core/err.h"
#include "core/types.h"

enum { ACPI_CPUS = 256, ACPI_IO_APICS = 8, ACPI_OVERRIDES = 16 };

struct acpi_register { /* generic address structure; address 0: there is none */
    uint8_t space;     /* 0 memory, 1 port; the reset register only: 2, PCI configuration of bus 0 */
    uint8_t width;     /* bits */
    uint64_t address;
};

struct acpi {
    uint32_t cpus; /* enabled ones only: online-capable ones are left alone */
    uint32_t apic_id[ACPI_CPUS];
    uint64_t lapic;
    uint32_t io_apics;
    struct {
        uint32_t id, address, gsi_base;
    } io_apic[ACPI_IO_APICS];
    uint32_t overrides;
    struct {
        uint8_t irq;
        uint32_t gsi;
        uint16_t flags;
    } override[ACPI_OVERRIDES];
    bool has_8259;

    uint16_t sci;
    struct acpi_register pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm_timer, reset;
    bool pm_timer_32, has_reset;
    bool has_power_button; /* as a fixed event in pm1a_event, pm1b_event */
    uint8_t century;       /* the RTC's byte for it in CMOS memory; 0: it has none */
    uint8_t reset_value;
    bool has_s5;
    uint8_t s5_a, s5_b; /* SLP_TYP, from \_S5 of the DSDT */
    uint32_t smi_command;
    uint8_t acpi_enable;
    uint64_t hpet;
};

/* size bytes of physical memory, there until acpi_parse returns; NULL: they are not to be had. Never asked for a
 * range that wraps around. */
typedef const void *acpi_map_fn(void *owner, uint64_t physical, size_t size);

/*
 * rsdp: physical address of the root pointer, or of the loader's copy of it. OK, or ERR_INVALID, one line in
 * message and nothing in *a: there is no root, or no usable table of processors. The other tables may be missing or
 * bad: then what they would say is not there. message_size > 0.
 */
int must_check acpi_parse(struct acpi *a, uint64_t rsdp, acpi_map_fn *map, void *owner, char *message,
                          size_t message_size);

#endif
