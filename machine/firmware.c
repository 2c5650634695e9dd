/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What firmware would have done by the time that a kernel starts. There is none in this machine, so
 * its traces are made here: memory types, the same on all processors, the ACPI tables, the generation id. (The
 * BIOS data area is in boot.c, the CMOS bytes are the RTC's.)
 *
 * The SCI is level-triggered: firmware says so to the 8259 (ELCR), for guests that use it.
 *
 * Memory types (SDM 3A, 11.11): write-back by default, the hole below 4 GiB uncached by one
 * variable range, the first MiB by the fixed ranges as every PC has it. No engine's execution
 * depends on them; guests read them, and Linux refuses to use PAT when they are off.
 */
#include "lodge/ports.h"
#include "machine/acpi.h"
#include "machine/board.h"
#include "machine/boot.h"
#include "x86/lapic.h"
#include "x86/level.h"

enum {
    TYPE_UNCACHED = 0,
    TYPE_WRITE_PROTECTED = 5,
    TYPE_WRITE_BACK = 6,
};

#define DEF_TYPE_FIXED  BIT(10) /* fixed ranges enabled */
#define DEF_TYPE_ENABLE BIT(11)
#define MASK_VALID      BIT(11)

/* One type for the eight parts of a fixed-range register. */
#define EIGHT(type) ((uint64_t)(type)*0x0101010101010101)

_Static_assert(LODGE_MMIO_HOLE == 0xC0000000, "variable range 0 is the GiB from there");

void firmware_init_cpu(struct x86_cpu *cpu)
{
    struct x86_msrs *m = &cpu->msr;
    uint64_t physical = BIT(cpu->level->physical_bits) - 1;
    m->mtrr_def_type = DEF_TYPE_ENABLE | DEF_TYPE_FIXED | TYPE_WRITE_BACK;
    for (size_t n = 0; n < ARRAY_SIZE(m->mtrr_fixed); n++)
        m->mtrr_fixed[n] = EIGHT(n < 3 ? TYPE_WRITE_BACK : TYPE_WRITE_PROTECTED);
    m->mtrr_fixed[2] = EIGHT(TYPE_UNCACHED); /* 0xA0000 - 0xBFFFF */
    m->mtrr_base[0] = LODGE_MMIO_HOLE | TYPE_UNCACHED;
    m->mtrr_mask[0] = (physical & ~(GIB(1) - 1)) | MASK_VALID;
    if (cpu->vcpu.id == 0)
        lapic_set_virtual_wire(cpu);
}

int firmware_init_board(struct vm *vm)
{
    enum { PORT_ELCR2 = 0x4D1 }; /* IRQ 8 - 15 */
    (void)bus_write(&vm->port_bus, PORT_ELCR2, 1, BIT(LODGE_IRQ_SCI - 8));
    int err = guest_mem_write(&vm->mem, gpa(BOOT_GENERATION), pc_of(vm)->generation,
                              sizeof(pc_of(vm)->generation));
    if (err != OK)
        return err;
    uint8_t *area = guest_mem_ptr(&vm->mem, gpa(BOOT_ACPI), BOOT_ACPI_SIZE);
    if (!area)
        return ERR_RANGE;
    return acpi_build(vm->vcpu_count, BOOT_ACPI, area, BOOT_ACPI_SIZE);
}
