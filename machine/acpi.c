/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * ACPI tables (ACPI 6.5, chapter 5): RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG, DSDT, one after the
 * other in one area. No HPET (there is none), no SRAT, no SLIT.
 *
 * What the FADT says about the machine: ACPI mode is always on (no SMI command port), PM1 event and
 * control blocks, the 32-bit timer and GPE0 in I/O space, reset register at 0xCF9, power button as fixed
 * hardware, no sleep button, no VGA, no 8042. Not hardware-reduced: Linux takes the full machine's
 * paths, which are the well-trodden ones.
 */
#include "machine/acpi.h"

#include "core/mem.h"
#include "core/vm.h"
#include "device/acpi_pm.h"
#include "device/rtc.h"
#include "lodge/ports.h"

enum {
    OEM_REVISION = 1,
    CREATOR_REVISION = 1,

    RSDP_SIZE = 36,
    FACS_SIZE = 64,
    FADT_SIZE = 276,
    TABLES = 3, /* in RSDT and XSDT: FADT, MADT, MCFG */
};

/* Tables are written one after the other; `used` is the offset of the next. */
struct acpi {
    uint64_t base;
    uint8_t *area;
    size_t size;
    size_t used;
    bool failed;
};

static uint8_t checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)(0 - sum);
}

/* Room for `size` zeroed bytes at the next 64-byte boundary (the FACS wants that); NULL: full. */
static uint8_t *reserve(struct acpi *t, size_t size, uint64_t *address)
{
    size_t at = (t->used + 63) & ~(size_t)63;
    if (t->failed || at > t->size || size > t->size - at) {
        t->failed = true;
        return NULL;
    }
    t->used = at + size;
    *address = t->base + at;
    memset(t->area + at, 0, size);
    return t->area + at;
}

/* The header common to all but RSDP and FACS (5.2.6); to be called when the contents are there. */
static void finish(uint8_t *p, size_t size, const char *signature, uint8_t revision)
{
    memcpy(p, signature, 4);
    store_u32(p + 4, (uint32_t)size);
    p[8] = revision;
    p[9] = 0;
    memcpy(p + 10, "LODGE ", 6);
    memcpy(p + 16, "LODGEPC ", 8);
    store_u32(p + 24, OEM_REVISION);
    memcpy(p + 28, "LODG", 4);
    store_u32(p + 32, CREATOR_REVISION);
    p[9] = checksum(p, size);
}

static uint64_t put_dsdt(struct acpi *t, uint32_t vcpus)
{
    uint64_t address = 0;
    uint8_t *p = reserve(t, ACPI_HEADER, &address);
    if (!p)
        return 0;
    struct aml a = {.buf = p + ACPI_HEADER, .size = t->size - t->used};
    acpi_write_dsdt(&a, vcpus);
    t->failed = a.failed;
    t->used += a.used;
    finish(p, ACPI_HEADER + a.used, "DSDT", 2); /* 2: 64-bit integers */
    return address;
}

/* 5.2.10. No hardware signature, no waking vector, no lock held. */
static uint64_t put_facs(struct acpi *t)
{
    uint64_t address = 0;
    uint8_t *p = reserve(t, FACS_SIZE, &address);
    if (!p)
        return 0;
    memcpy(p, "FACS", 4);
    store_u32(p + 4, FACS_SIZE);
    p[32] = 2; /* version */
    return address;
}

/* Generic address structure (5.2.3.2) in I/O space. access: 1 byte, 2 word, 3 double word. */
static void put_gas(uint8_t *p, uint16_t port, uint8_t bits, uint8_t access)
{
    p[0] = 1;
    p[1] = bits;
    p[2] = 0;
    p[3] = access;
    store_u64(p + 4, port);
}

/* FADT: offsets and flags of 5.2.9. */
enum {
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_PROFILE = 45,
    FADT_SCI = 46,
    FADT_PM1A_EVENT = 56,
    FADT_PM1A_CONTROL = 64,
    FADT_PM_TIMER = 76,
    FADT_GPE0 = 80,
    FADT_PM1_EVENT_LENGTH = 88,
    FADT_PM1_CONTROL_LENGTH = 89,
    FADT_PM_TIMER_LENGTH = 91,
    FADT_GPE0_LENGTH = 92,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_CENTURY = 108,
    FADT_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REGISTER = 116,
    FADT_RESET_VALUE = 128,
    FADT_MINOR = 131,
    FADT_X_DSDT = 140,
    FADT_X_PM1A_EVENT = 148,
    FADT_X_PM1A_CONTROL = 172,
    FADT_X_PM_TIMER = 208,
    FADT_X_GPE0 = 220,
    FADT_HYPERVISOR = 268,

    BOOT_ARCH_LEGACY_DEVICES = 1 << 0, /* there is a COM port */
    BOOT_ARCH_8042 = 1 << 1,           /* not set */
    BOOT_ARCH_NO_VGA = 1 << 2,
    BOOT_ARCH_NO_ASPM = 1 << 4,

    FLAG_WBINVD = 1 << 0,
    FLAG_PROC_C1 = 1 << 2,
    FLAG_NO_SLEEP_BUTTON = 1 << 5,
    FLAG_NO_FIXED_RTC = 1 << 6, /* the RTC does not wake the machine */
    FLAG_TIMER_32 = 1 << 8,
    FLAG_RESET_REGISTER = 1 << 10,
    FLAG_HEADLESS = 1 << 12,
};

_Static_assert(ACPI_PM_TIMER_BITS == 32, "FLAG_TIMER_32");

static void fill_fadt_blocks(uint8_t *p)
{
    store_u32(p + FADT_PM1A_EVENT, LODGE_PORT_ACPI_PM1_EVENT);
    store_u32(p + FADT_PM1A_CONTROL, LODGE_PORT_ACPI_PM1_CONTROL);
    store_u32(p + FADT_PM_TIMER, LODGE_PORT_ACPI_PM_TIMER);
    store_u32(p + FADT_GPE0, LODGE_PORT_ACPI_GPE0);
    p[FADT_PM1_EVENT_LENGTH] = 4;
    p[FADT_PM1_CONTROL_LENGTH] = 2;
    p[FADT_PM_TIMER_LENGTH] = 4;
    p[FADT_GPE0_LENGTH] = 2 * ACPI_PM_GPES / 8;
    put_gas(p + FADT_X_PM1A_EVENT, LODGE_PORT_ACPI_PM1_EVENT, 32, 2);
    put_gas(p + FADT_X_PM1A_CONTROL, LODGE_PORT_ACPI_PM1_CONTROL, 16, 2);
    put_gas(p + FADT_X_PM_TIMER, LODGE_PORT_ACPI_PM_TIMER, 32, 3);
    put_gas(p + FADT_X_GPE0, LODGE_PORT_ACPI_GPE0, 2 * ACPI_PM_GPES, 1);
    put_gas(p + FADT_RESET_REGISTER, LODGE_PORT_RESET, 8, 1);
    p[FADT_RESET_VALUE] = 0x06; /* hard reset (full CPU reset) */
}

static uint64_t put_fadt(struct acpi *t, uint64_t facs, uint64_t dsdt)
{
    uint64_t address = 0;
    uint8_t *p = reserve(t, FADT_SIZE, &address);
    if (!p)
        return 0;
    store_u32(p + FADT_FACS, (uint32_t)facs);
    store_u32(p + FADT_DSDT, (uint32_t)dsdt);
    store_u64(p + FADT_X_DSDT, dsdt);
    p[FADT_PROFILE] = 4; /* enterprise server */
    store_u16(p + FADT_SCI, LODGE_IRQ_SCI);
    store_u16(p + FADT_C2_LATENCY, 101);  /* over 100 us: no C2 */
    store_u16(p + FADT_C3_LATENCY, 1001); /* over 1000 us: no C3 */
    p[FADT_CENTURY] = RTC_CENTURY;
    store_u16(p + FADT_BOOT_ARCH, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM);
    store_u32(p + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_NO_SLEEP_BUTTON |
                                  FLAG_NO_FIXED_RTC | FLAG_TIMER_32 | FLAG_RESET_REGISTER |
                                  FLAG_HEADLESS);
    p[FADT_MINOR] = 3;
    memcpy(p + FADT_HYPERVISOR, "LODGE", 5);
    fill_fadt_blocks(p);
    finish(p, FADT_SIZE, "FACP", 6);
    return address;
}

/* 5.2.12: local APICs, one I/O APIC, IRQ 0 at input 2, SCI level-triggered and active-high, NMI at
 * every LINT1. APIC ids are vCPU ids, as in CPUID. */
static uint64_t put_madt(struct acpi *t, uint32_t vcpus)
{
    static const uint8_t rest[] = {
        /* table */
        1,
        12,
        0,
        0,
        0x00,
        0x00,
        0xC0,
        0xFE,
        0,
        0,
        0,
        0, /* I/O APIC 0, GSI from 0 */
        2,
        10,
        0,
        0,
        2,
        0,
        0,
        0,
        0,
        0, /* ISA IRQ 0 is GSI 2, as ISA does */
        2,
        10,
        0,
        LODGE_IRQ_SCI,
        LODGE_IRQ_SCI,
        0,
        0,
        0,
        0x0D,
        0, /* SCI: level, high */
        4,
        6,
        0xFF,
        0,
        0,
        1, /* all processors: LINT1 is NMI */
    };
    _Static_assert(LODGE_MMIO_IO_APIC == 0xFEC00000, "above");
    enum { LOCAL_APIC = 8, FIXED = 8, PCAT_COMPAT = 1 };
    uint64_t address = 0;
    size_t size = ACPI_HEADER + FIXED + (size_t)vcpus * LOCAL_APIC + sizeof(rest);
    uint8_t *p = reserve(t, size, &address);
    if (!p)
        return 0;
    store_u32(p + ACPI_HEADER, LODGE_MMIO_APIC);
    store_u32(p + ACPI_HEADER + 4, PCAT_COMPAT); /* there are 8259s as well */
    uint8_t *entry = p + ACPI_HEADER + FIXED;
    for (uint32_t n = 0; n < vcpus; n++, entry += LOCAL_APIC) {
        entry[0] = 0;
        entry[1] = LOCAL_APIC;
        entry[2] = (uint8_t)n;   /* processor _UID */
        entry[3] = (uint8_t)n;   /* APIC id */
        store_u32(entry + 4, 1); /* enabled */
    }
    memcpy(entry, rest, sizeof(rest));
    finish(p, size, "APIC", 5);
    return address;
}

/* PCI Firmware Specification 3.3, 4.1.2. */
static uint64_t put_mcfg(struct acpi *t)
{
    uint64_t address = 0;
    enum { SIZE = ACPI_HEADER + 8 + 16 };
    uint8_t *p = reserve(t, SIZE, &address);
    if (!p)
        return 0;
    store_u64(p + ACPI_HEADER + 8, LODGE_MMIO_ECAM);
    p[ACPI_HEADER + 8 + 10] = 0;
    p[ACPI_HEADER + 8 + 11] = LODGE_ECAM_BUSES - 1;
    finish(p, SIZE, "MCFG", 1);
    return address;
}

/* RSDT or XSDT: addresses of 4 or 8 bytes (5.2.7, 5.2.8). */
static uint64_t put_root(struct acpi *t, const char *signature, size_t width,
                         const uint64_t table[TABLES])
{
    uint64_t address = 0;
    size_t size = ACPI_HEADER + TABLES * width;
    uint8_t *p = reserve(t, size, &address);
    if (!p)
        return 0;
    for (size_t n = 0; n < TABLES; n++)
        memcpy(p + ACPI_HEADER + n * width, &table[n], width);
    finish(p, size, signature, 1);
    return address;
}

/* 5.2.5.3 */
static void fill_rsdp(uint8_t *p, uint64_t rsdt, uint64_t xsdt)
{
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, "LODGE ", 6);
    p[15] = 2;
    store_u32(p + 16, (uint32_t)rsdt);
    store_u32(p + 20, RSDP_SIZE);
    store_u64(p + 24, xsdt);
    p[8] = checksum(p, 20);
    p[32] = checksum(p, RSDP_SIZE);
}

int acpi_build(uint32_t vcpus, uint64_t base, uint8_t *area, size_t size)
{
    struct acpi t = {.base = base, .area = area, .size = size};
    uint64_t address = 0;
    if (vcpus == 0 || vcpus > VM_MAX_VCPUS)
        return ERR_INVALID;
    uint8_t *rsdp = reserve(&t, RSDP_SIZE, &address);
    uint64_t dsdt = put_dsdt(&t, vcpus);
    uint64_t facs = put_facs(&t);
    const uint64_t table[TABLES] = {
        put_fadt(&t, facs, dsdt),
        put_madt(&t, vcpus),
        put_mcfg(&t),
    };
    uint64_t rsdt = put_root(&t, "RSDT", 4, table);
    uint64_t xsdt = put_root(&t, "XSDT", 8, table);
    if (!rsdp || t.failed)
        return ERR_NO_MEMORY;
    fill_rsdp(rsdp, rsdt, xsdt);
    return OK;
}
