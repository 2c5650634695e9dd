/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * ACPI fixed hardware (ACPI 6.5, 4.8.3): PM1 event and control blocks, PM timer, SCI; and one general-purpose
 * event (4.8.4.1): the VM has a new identity. ACPI mode is always on: there is no SMI_CMD, SCI_EN reads as 1.
 */
#ifndef LODGE_DEVICE_ACPI_PM_H
#define LODGE_DEVICE_ACPI_PM_H

#include "core/irq.h"
#include "core/vm.h"

enum {
    ACPI_PM_TIMER_HZ = 3579545,
    ACPI_PM_TIMER_BITS = 32, /* FADT: TMR_VAL_EXT set */
    ACPI_PM_SLP_TYP_S5 = 5,  /* for \_S5; no other sleep state is offered */
    ACPI_PM_GPES = 8,        /* in GPE0, of which one is used */
    ACPI_PM_GPE_IDENTITY = 0,
};

struct acpi_pm {
    struct vm *vm;
    struct irq_line sci; /* level */
    struct vm_timer timer;
    uint16_t status, enable; /* PM1 */
    uint8_t sleep_type;
    uint8_t gpe_status, gpe_enable;
    uint32_t
        timer_half; /* number of times that the timer's top bit has toggled, as accounted for */
};

int must_check acpi_pm_create(struct acpi_pm *p, struct vm *vm, struct irq_line sci);
void acpi_pm_reset(struct acpi_pm *p); /* board lock held */
/* The operator presses the power button. Takes the board lock. */
void acpi_pm_power_button(struct acpi_pm *p);
/* The event ACPI_PM_GPE_IDENTITY. Takes the board lock. */
void acpi_pm_new_identity(struct acpi_pm *p);

#endif
