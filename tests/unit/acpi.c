/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * ACPI tables: found from the RSDP as a kernel finds them, checksums, fields that must agree with
 * the machine, areas that are too small. iasl, where it is installed, disassembles every table and
 * must compile the DSDT again without an error or a warning.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/vm.h"
#include "lodge/ports.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "tests/lib/unit.h"

static uint8_t area[BOOT_ACPI_SIZE];

static const uint8_t *at(uint64_t address)
{
    CHECK(address >= BOOT_ACPI && address < BOOT_ACPI + BOOT_ACPI_SIZE);
    return area + (address - BOOT_ACPI);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n-- > 0)
        s = (uint8_t)(s + *p++);
    return s;
}

/* A table of the XSDT, or NULL. */
static const uint8_t *find(const char *signature)
{
    const uint8_t *xsdt = at(load_u64(area + 24));
    for (uint32_t n = ACPI_HEADER; n < load_u32(xsdt + 4); n += 8) {
        const uint8_t *p = at(load_u64(xsdt + n));
        if (memcmp(p, signature, 4) == 0)
            return p;
    }
    return NULL;
}

static void build(uint32_t vcpus)
{
    memset(area, 0xEE, sizeof(area));
    CHECK_EQ(acpi_build(vcpus, BOOT_ACPI, area, sizeof(area)), OK);
}

static void check_table(const uint8_t *p, const char *signature, uint32_t size)
{
    unit_context("%s", signature);
    CHECK(memcmp(p, signature, 4) == 0);
    CHECK(size == 0 || load_u32(p + 4) == size);
    CHECK_EQ(sum(p, load_u32(p + 4)), 0);
    CHECK(memcmp(p + 10, "LODGE ", 6) == 0);
    unit_context(NULL);
}

static void test_tables(void)
{
    for (uint32_t vcpus = 1; vcpus <= VM_MAX_VCPUS; vcpus++) {
        build(vcpus);
        CHECK(memcmp(area, "RSD PTR ", 8) == 0);
        CHECK_EQ(sum(area, 20), 0);
        CHECK_EQ(sum(area, 36), 0);
        CHECK_EQ(area[15], 2);
        const uint8_t *rsdt = at(load_u32(area + 16)), *xsdt = at(load_u64(area + 24));
        check_table(rsdt, "RSDT", ACPI_HEADER + 3 * 4);
        check_table(xsdt, "XSDT", ACPI_HEADER + 3 * 8);
        for (uint32_t n = 0; n < 3; n++)
            CHECK_EQ(load_u32(rsdt + 36 + n * 4), load_u64(xsdt + 36 + n * 8));
        check_table(find("FACP"), "FACP", 276);
        check_table(find("APIC"), "APIC", 44 + 8 * vcpus + 38);
        check_table(find("MCFG"), "MCFG", 60);
        check_table(at(load_u64(find("FACP") + 140)), "DSDT", 0);
    }
}

static void test_fadt(void)
{
    build(2);
    const uint8_t *p = find("FACP");
    CHECK_EQ(p[8], 6);
    CHECK_EQ(load_u32(p + 40), load_u64(p + 140));
    const uint8_t *facs = at(load_u32(p + 36));
    CHECK(memcmp(facs, "FACS", 4) == 0);
    CHECK_EQ(load_u32(facs + 4), 64);
    CHECK_EQ(load_u32(p + 36) % 64, 0);
    CHECK_EQ(load_u16(p + 46), LODGE_IRQ_SCI);
    CHECK_EQ(load_u32(p + 48), 0); /* no SMI command port */
    CHECK_EQ(load_u32(p + 56), LODGE_PORT_ACPI_PM1_EVENT);
    CHECK_EQ(load_u32(p + 64), LODGE_PORT_ACPI_PM1_CONTROL);
    CHECK_EQ(load_u32(p + 76), LODGE_PORT_ACPI_PM_TIMER);
    CHECK_EQ(load_u32(p + 80), LODGE_PORT_ACPI_GPE0);
    CHECK_EQ(p[92], 2);
    CHECK_EQ(load_u64(p + 220 + 4), LODGE_PORT_ACPI_GPE0);
    CHECK_EQ(load_u64(p + 148 + 4), LODGE_PORT_ACPI_PM1_EVENT);
    CHECK_EQ(load_u64(p + 172 + 4), LODGE_PORT_ACPI_PM1_CONTROL);
    CHECK_EQ(load_u64(p + 208 + 4), LODGE_PORT_ACPI_PM_TIMER);
    CHECK_EQ(load_u64(p + 116 + 4), LODGE_PORT_RESET);
    CHECK_EQ(p[116], 1);
    CHECK_EQ(load_u16(p + 109) & 7, 5); /* COM port, no 8042, no VGA */
    uint32_t flags = load_u32(p + 112);
    CHECK_EQ(flags >> 20 & 1, 0); /* not hardware-reduced */
    CHECK_EQ(flags >> 4 & 1, 0);  /* power button is fixed hardware */
    CHECK_EQ(flags >> 10 & 1, 1); /* reset register */
}

static void test_madt(void)
{
    build(3);
    const uint8_t *p = find("APIC");
    CHECK_EQ(load_u32(p + 36), LODGE_MMIO_APIC);
    CHECK_EQ(load_u32(p + 40), 1);
    uint32_t seen[5] = {0}, end = load_u32(p + 4), n = 44;
    while (n + 2 <= end && p[n + 1] >= 2) {
        const uint8_t *e = p + n;
        CHECK(e[0] < 5);
        if (e[0] == 0) {
            CHECK_EQ(e[2], seen[0]);
            CHECK_EQ(e[3], seen[0]);
            CHECK_EQ(load_u32(e + 4), 1);
        } else if (e[0] == 1) {
            CHECK_EQ(load_u32(e + 4), LODGE_MMIO_IO_APIC);
            CHECK_EQ(load_u32(e + 8), 0);
        } else if (e[0] == 2 && e[3] == 0) {
            CHECK_EQ(load_u32(e + 4), 2);
            CHECK_EQ(load_u16(e + 8), 0);
        } else if (e[0] == 2) {
            CHECK_EQ(e[3], LODGE_IRQ_SCI);
            CHECK_EQ(load_u32(e + 4), LODGE_IRQ_SCI);
            CHECK_EQ(load_u16(e + 8), 0xD); /* level, active-high */
        } else if (e[0] == 4) {
            CHECK_EQ(e[2], 0xFF);
            CHECK_EQ(e[5], 1);
        }
        seen[e[0] % 5]++;
        n += e[1];
    }
    CHECK_EQ(n, end);
    CHECK_EQ(seen[0], 3);
    CHECK_EQ(seen[1], 1);
    CHECK_EQ(seen[2], 2);
    CHECK_EQ(seen[4], 1);
}

static void test_mcfg(void)
{
    build(1);
    const uint8_t *p = find("MCFG");
    CHECK_EQ(load_u64(p + 44), LODGE_MMIO_ECAM);
    CHECK_EQ(p[54], 0);
    CHECK_EQ(p[55], LODGE_ECAM_BUSES - 1);
}

static bool dsdt_has(const void *bytes, size_t size)
{
    const uint8_t *p = at(load_u64(find("FACP") + 140));
    return memmem(p, load_u32(p + 4), bytes, size) != NULL;
}

/* What Linux's drivers/virt/vmgenid.c looks for: the name that it knows the device by, a package of two integers, and
 * that the event notifies the device. */
static void test_generation(void)
{
    static const uint8_t compatible[] = "\x08_CID\x0DVM_Gen_Counter";
    static const uint8_t dos_name[] = "\x08_DDN\x0DVM_Gen_Counter";
    static const uint8_t address[] = {0x08, 'A', 'D', 'D', 'R', 0x12, 8, 2, 0x0C, 0x00, 0xF0, 0x0F, 0x00, 0x00};
    static const uint8_t event[] = {0x14, 19,  '_', 'E', '0', '0', 0,   0x86, '\\', '.',
                                    '_',  'S', 'B', '_', 'V', 'G', 'E', 'N',  0x0A, 0x80};
    build(1);
    CHECK(dsdt_has(compatible, sizeof(compatible)));
    CHECK(dsdt_has(dos_name, sizeof(dos_name)));
    CHECK(dsdt_has(address, sizeof(address)));
    CHECK(dsdt_has(event, sizeof(event)));
    CHECK_EQ(load_u32(address + 9), BOOT_GENERATION);
    CHECK_EQ(BOOT_GENERATION % 4096, 0); /* nothing else is in that page */
    CHECK(BOOT_GENERATION >= BOOT_ACPI + BOOT_ACPI_SIZE);
}

/* Every area that is too small is refused, and not written beyond. */
static void test_small_areas(void)
{
    build(16);
    size_t used = sizeof(area);
    while (used > 0 && area[used - 1] == 0xEE)
        used--;
    printf("# 16 processors: %zu bytes of tables\n", used);
    for (size_t size = 0; size < used; size += size + 200 < used ? 61 : 1) {
        uint8_t *p = malloc(size ? size : 1);
        CHECK_EQ(acpi_build(16, BOOT_ACPI, p, size), ERR_NO_MEMORY);
        free(p);
    }
    CHECK_EQ(acpi_build(16, BOOT_ACPI, area, used), OK);
    CHECK_EQ(acpi_build(0, BOOT_ACPI, area, sizeof(area)), ERR_INVALID);
    CHECK_EQ(acpi_build(VM_MAX_VCPUS + 1, BOOT_ACPI, area, sizeof(area)), ERR_INVALID);
}

static void test_deterministic(void)
{
    static uint8_t first[BOOT_ACPI_SIZE];
    build(4);
    memcpy(first, area, sizeof(area));
    build(4);
    CHECK(memcmp(first, area, sizeof(area)) == 0);
}

/* Lengths of blocks at the borders of the length prefix's forms (20.2.4), and integers. */
static void test_aml_encoding(void)
{
    static uint8_t buf[70000];
    static const struct {
        size_t contents;
        size_t prefix;
        uint8_t bytes[3];
    } length[] = {
        /* table */
        {0, 1, {5}},
        {58, 1, {63}},
        {59, 2, {0x41, 0x04}},
        {4089, 2, {0x4F, 0xFF}},
        {4090, 3, {0x81, 0x00, 0x01}},
        {65000, 3, {0x8F, 0xDE, 0x0F}},
    };
    for (size_t n = 0; n < sizeof(length) / sizeof(length[0]); n++) {
        struct aml a = {.buf = buf, .size = sizeof(buf)};
        unit_context("%zu", length[n].contents);
        struct aml_block b = aml_open_scope(&a, "TEST");
        for (size_t i = 0; i < length[n].contents; i++)
            aml_byte(&a, 0xA3);
        aml_close(&a, b);
        CHECK(!a.failed);
        CHECK_EQ(a.used, 1 + length[n].prefix + 4 + length[n].contents);
        CHECK(memcmp(buf + 1, length[n].bytes, length[n].prefix) == 0);
        CHECK(memcmp(buf + 1 + length[n].prefix, "TEST", 4) == 0);
    }
    unit_context(NULL);
    struct aml a = {.buf = buf, .size = sizeof(buf)};
    aml_integer(&a, 0);
    aml_integer(&a, 1);
    aml_integer(&a, 0xFF);
    aml_integer(&a, 0x100);
    aml_integer(&a, 0x10000);
    aml_integer(&a, 0x100000000);
    aml_eisa_id(&a, "PNP0A08");
    static const uint8_t want[] = {0, 1, 0x0A, 0xFF, 0x0B, 0,    1,    0x0C, 0,
                                   0, 1, 0,    0x0E, 0,    0,    0,    0,    1,
                                   0, 0, 0,    0x0C, 0x41, 0xD0, 0x0A, 0x08};
    CHECK_EQ(a.used, sizeof(want));
    CHECK(memcmp(buf, want, sizeof(want)) == 0);
}

/* --- iasl ---------------------------------------------------------------------------------------
 */

static void dump(const char *dir, const char *name, const uint8_t *p)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    if (!f)
        return;
    CHECK_EQ(fwrite(p, 1, load_u32(p + 4), f), load_u32(p + 4));
    fclose(f);
}

static int run(const char *dir, const char *command)
{
    char line[512];
    snprintf(line, sizeof(line), "cd %s && %s", dir, command);
    return system(line);
}

static void test_iasl(void)
{
    char dir[] = "/tmp/lodge-acpi-XXXXXX";
    if (system("command -v iasl >/dev/null 2>&1") != 0) {
        printf("# iasl is not installed (acpica-tools): not tried\n");
        return;
    }
    CHECK(mkdtemp(dir) != NULL);
    build(16);
    dump(dir, "dsdt", at(load_u64(find("FACP") + 140)));
    dump(dir, "facp", find("FACP"));
    dump(dir, "apic", find("APIC"));
    dump(dir, "mcfg", find("MCFG"));
    dump(dir, "facs", at(load_u32(find("FACP") + 36)));
    dump(dir, "xsdt", at(load_u64(area + 24)));
    dump(dir, "rsdt", at(load_u32(area + 16)));
    CHECK_EQ(run(dir, "iasl -d *.aml >disassembly 2>&1"), 0);
    CHECK(run(dir, "grep -iE 'error|warning|invalid|incorrect' disassembly") != 0);
    CHECK(run(dir, "grep -iE 'invalid|incorrect|reserved bit' facp.dsl apic.dsl mcfg.dsl") != 0);
    CHECK_EQ(run(dir, "cp dsdt.aml first.aml && iasl -p again dsdt.dsl >compilation 2>&1"), 0);
    CHECK_EQ(run(dir, "grep -q 'Compilation successful. 0 Errors, 0 Warnings' compilation"
                      " || { cat compilation; false; }"),
             0);
    /* compiled again it is the same but for the compiler's name in the header */
    CHECK_EQ(run(dir, "tail -c +37 dsdt.aml >a && tail -c +37 again.aml >b && cmp a b"), 0);
    char line[64];
    snprintf(line, sizeof(line), "rm -r %s", dir);
    CHECK_EQ(system(line), 0);
}

int main(void)
{
    UNIT_RUN(test_tables);
    UNIT_RUN(test_fadt);
    UNIT_RUN(test_madt);
    UNIT_RUN(test_mcfg);
    UNIT_RUN(test_generation);
    UNIT_RUN(test_small_areas);
    UNIT_RUN(test_deterministic);
    UNIT_RUN(test_aml_encoding);
    UNIT_RUN(test_iasl);
    return unit_done();
}
