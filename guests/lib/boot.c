/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What all boot protocols hand over alike. guests/lib/boot.h says how a guest uses it. */
#include "guests/lib/boot.h"

struct boot_told boot_told;

enum { MIB_SHIFT = 20, GPR_SP = 4, PAGE = 4096 };

uint64_t boot_ram_below(void)
{
    return boot_told.memory < LODGE_MMIO_HOLE ? boot_told.memory : LODGE_MMIO_HOLE;
}

bool boot_is_zero(const void *p, size_t n)
{
    for (const uint8_t *b = p; n; b++, n--)
        if (*b)
            return false;
    return true;
}

/* --- command line --- */

/* Goes over `word` and a decimal number behind it; NULL if that is not what is there. */
static const char *take_number(const char *p, const char *word, uint64_t *v)
{
    if (!p)
        return NULL;
    while (*word)
        if (*p++ != *word++)
            return NULL;
    const char *first = p;
    for (*v = 0; *p >= '0' && *p <= '9'; p++)
        *v = *v * 10 + (uint64_t)(*p - '0');
    return p > first ? p : NULL;
}

void boot_check_command_line(uint64_t address)
{
    static const char last[] = " last"; /* and the NUL behind it */
    uint64_t memory, initrd;
    CHECK_EQ(address, BOOT_COMMAND_LINE);
    const char *p = take_number(boot_pointer(address), "memory=", &memory);
    p = take_number(p, " initrd=", &initrd);
    for (unsigned int n = 0; p && n < sizeof(last); n++)
        if (p[n] != last[n])
            p = NULL;
    if (!p)
        guest_die("the command line is not what guests/lib/boot.h asks for");
    boot_told.memory = memory << MIB_SHIFT;
    boot_told.initrd = (uint32_t)initrd;
}

/* --- processor --- */

void boot_check_registers(const uint64_t gpr[16])
{
    for (unsigned int n = 0; n < 16; n++)
        if (n != GPR_SP)
            CHECK_EQ(guest_started.gpr[n], gpr[n]);
    CHECK_EQ(guest_started.gpr[GPR_SP], BOOT_STACK_TOP);
}

static void check_descriptors(bool long_mode)
{
    const uint64_t *gdt = boot_pointer(guest_started.gdtr.base);
    CHECK_EQ(guest_started.gdtr.base, BOOT_GDT);
    CHECK_EQ(guest_started.gdtr.limit, 6 * 8 - 1);
    CHECK_EQ(gdt[0], 0);
    CHECK_EQ(gdt[BOOT_CODE / 8], long_mode ? 0x00AF9B000000FFFF : 0x00CF9B000000FFFF);
    CHECK_EQ(gdt[BOOT_DATA / 8], 0x00CF93000000FFFF);
    CHECK_EQ(gdt[BOOT_TSS / 8], 0x00008B0000000067);
    CHECK_EQ(gdt[BOOT_TSS / 8 + 1], 0);
}

void boot_check_state(bool long_mode)
{
    const struct guest_started *e = &guest_started;
    CHECK_EQ(e->rflags, X86_FLAG_ONE);
    CHECK_EQ(e->cr0, X86_CR0_PE | X86_CR0_ET | (long_mode ? X86_CR0_PG : 0));
    CHECK_EQ(e->cr3, long_mode ? BOOT_PAGE_TABLES : 0);
    CHECK_EQ(e->cr4, long_mode ? X86_CR4_PAE : 0);
    CHECK_EQ(e->efer, long_mode ? X86_EFER_LME | X86_EFER_LMA : 0);
    CHECK_EQ(e->cs, BOOT_CODE);
    CHECK_EQ(e->ds, BOOT_DATA);
    CHECK_EQ(e->es, BOOT_DATA);
    CHECK_EQ(e->ss, BOOT_DATA);
    CHECK_EQ(e->fs, BOOT_DATA);
    CHECK_EQ(e->gs, BOOT_DATA);
    CHECK_EQ(e->ldtr, 0);
    CHECK_EQ(e->tr, BOOT_TSS);
    CHECK_EQ(e->idtr.limit, 0);
    check_descriptors(long_mode);
}

/* --- memory --- */

void boot_check_range(uint32_t n, uint32_t count, uint64_t base, uint64_t size, uint32_t type)
{
    const struct {
        uint64_t base, size;
        uint32_t type;
    } map[] = {
        /* table */
        {0, 0x9FC00, BOOT_RAM},
        {0x9FC00, 0x60400, BOOT_RESERVED},
        {0x100000, boot_ram_below() - 0x100000, BOOT_RAM},
        {LODGE_MMIO_ECAM, (uint64_t)LODGE_ECAM_BUSES << MIB_SHIFT, BOOT_RESERVED},
        {LODGE_MMIO_IO_APIC, PAGE, BOOT_RESERVED},
        {LODGE_MMIO_APIC, PAGE, BOOT_RESERVED},
        {0x100000000, boot_told.memory - boot_ram_below(), BOOT_RAM},
    };
    const uint32_t all = sizeof(map) / sizeof(map[0]);
    CHECK_EQ(count, map[all - 1].size ? all : all - 1);
    if (n >= all)
        return;
    CHECK_EQ(base, map[n].base);
    CHECK_EQ(size, map[n].size);
    CHECK_EQ(type, map[n].type);
}

void boot_check_initrd(uint64_t address, uint64_t size, uint64_t limit)
{
    CHECK_EQ(size, boot_told.initrd);
    if (size != boot_told.initrd || size == 0)
        return;
    CHECK_EQ(address % PAGE, 0);
    CHECK(address >= (uintptr_t)guest_end);
    CHECK(address + size <= limit && address + size <= boot_ram_below());
    const uint8_t *p = boot_pointer(address);
    for (uint32_t n = 0; n < (uint32_t)size; n++)
        if (p[n] != (uint8_t)(31 * n + 7 * (n / 256))) {
            CHECK_EQ(p[n], (uint8_t)(31 * n + 7 * (n / 256)));
            return;
        }
}

/* --- what firmware leaves --- */

static uint8_t sum(const uint8_t *p, unsigned int n)
{
    uint8_t s = 0;
    while (n--)
        s = (uint8_t)(s + *p++);
    return s;
}

void boot_check_rsdp(uint64_t address)
{
    static const char signature[] = "RSD PTR ";
    const uint8_t *p = boot_pointer(address);
    CHECK_EQ(address, 0xE0000);
    for (unsigned int n = 0; n < 8; n++)
        CHECK_EQ(p[n], signature[n]);
    CHECK_EQ(p[15], 2); /* revision */
    CHECK_EQ(sum(p, 20), 0);
    CHECK_EQ(sum(p, 36), 0);
}

void boot_check_bda(void)
{
    const volatile uint16_t *bda = boot_pointer(0x400);
    CHECK_EQ(bda[0], LODGE_PORT_SERIAL);
    CHECK_EQ(bda[0x0E / 2], 0x9FC0);
    CHECK_EQ(*(const volatile uint16_t *)boot_pointer(0x413), 639);
    CHECK_EQ(*(const volatile uint8_t *)boot_pointer(0x9FC00), 1);
}
