/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * ACPI's static tables (ACPI specification 6.5, chapter 5.2).
 *
 * From the root pointer (RSDP) to the list of tables (XSDT, else RSDT), and of these MADT (processors, interrupt
 * controllers), FADT (power management registers), HPET, and DSDT and SSDTs. In these only one object is looked for,
 * \_S5, the two numbers that turn the machine off. They stand in byte code (chapter 20); an interpreter of it for the
 * sake of two numbers would be as large as all of native/, so the bytes are scanned for the object's only usual form,
 * a name and a package of constants.
 *
 * Firmware writes these tables, and firmware has bugs. A table counts only if its length is plausible and its
 * checksum is right; one that does not is as if it were not there. Lengths inside are checked against the table's;
 * a record that runs over its end makes the whole MADT unusable, since what follows is then not what it seems.
 * Tables are never followed further than root, list, table, so that a loop among them means nothing, and what is
 * read in all is bounded by READ_MAX.
 *
 * Pure: memory comes from a function, nothing is kept. Once at boot, before there is a second CPU.
 */
#include "native/acpi.h"

#include "core/fmt.h"
#include "core/mem.h"

enum {
    HEADER = 36, /* 5.2.6: signature, length, revision, checksum, who made it */
    TABLE_MAX = 4 << 20,
    READ_MAX = 32 << 20,
    ENTRIES_MAX = 1024,
    SSDTS_MAX = 64,

    RSDP_V1 = 20,
    RSDP_V2 = 36,
};

struct reader {
    struct acpi *a;
    acpi_map_fn *map;
    void *owner;
    char *message;
    size_t message_size;
    size_t budget; /* bytes that may still be read */
};

struct table {
    const uint8_t *p; /* NULL: there is none */
    uint32_t length;
};

static const uint8_t *bytes(struct reader *r, uint64_t physical, size_t size)
{
    if (physical == 0 || size == 0 || physical + size <= physical || size > r->budget) /* nothing lies at the very end */
        return NULL;
    r->budget -= size;
    return r->map(r->owner, physical, size);
}

static bool sum_is_zero(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;

    while (size-- > 0)
        sum = (uint8_t)(sum + *p++);
    return sum == 0;
}

/* The table there, if it has that signature, a length of at least `least` and a right checksum. */
static struct table table_at(struct reader *r, uint64_t physical, const char *signature, uint32_t least)
{
    struct table none = {NULL, 0};
    const uint8_t *p = bytes(r, physical, HEADER);

    if (!p || memcmp(p, signature, 4) != 0)
        return none;
    uint32_t length = load_u32(p + 4);
    if (length < HEADER || length < least || length > TABLE_MAX)
        return none;
    p = bytes(r, physical, length);
    if (!p || !sum_is_zero(p, length))
        return none;
    return (struct table){p, length};
}

/* --- MADT: processors and interrupt controllers (5.2.12) --------------------------------------- */

enum { MADT_FIRST = 44, MADT_PCAT = 1 << 0, CPU_ENABLED = 1 << 0, APIC_ID_NONE = 0xFF };

static void add_cpu(struct acpi *a, uint32_t apic_id, uint32_t flags)
{
    if (!(flags & CPU_ENABLED) || a->cpus == ACPI_CPUS)
        return;
    for (uint32_t i = 0; i < a->cpus; i++)
        if (a->apic_id[i] == apic_id)
            return; /* some list the same one in both forms */
    a->apic_id[a->cpus++] = apic_id;
}

static void madt_lapic(struct acpi *a, const uint8_t *e)
{
    if (e[3] != APIC_ID_NONE)
        add_cpu(a, e[3], load_u32(e + 4));
}

static void madt_x2apic(struct acpi *a, const uint8_t *e)
{
    if (load_u32(e + 4) != UINT32_MAX)
        add_cpu(a, load_u32(e + 4), load_u32(e + 8));
}

static void madt_io_apic(struct acpi *a, const uint8_t *e)
{
    uint32_t address = load_u32(e + 4);

    if (a->io_apics == ACPI_IO_APICS || address == 0)
        return;
    a->io_apic[a->io_apics].id = e[2];
    a->io_apic[a->io_apics].address = address;
    a->io_apic[a->io_apics++].gsi_base = load_u32(e + 8);
}

static void madt_override(struct acpi *a, const uint8_t *e)
{
    uint32_t i = 0;

    if (e[2] != 0 || e[3] > 15) /* of the ISA bus's interrupts, which are 16 */
        return;
    while (i < a->overrides && a->override[i].irq != e[3])
        i++;
    if (i == ACPI_OVERRIDES)
        return;
    a->override[i].irq = e[3];
    a->override[i].gsi = load_u32(e + 4);
    a->override[i].flags = load_u16(e + 8);
    if (i == a->overrides)
        a->overrides++;
}

static void madt_lapic_address(struct acpi *a, const uint8_t *e)
{
    a->lapic = load_u64(e + 4);
}

/* Table 5.21 and what follows it; types that are not here do not concern us. */
static const struct {
    uint8_t type, length;
    void (*take)(struct acpi *a, const uint8_t *e);
} madt_entries[] = {
    {0, 8, madt_lapic},          {1, 12, madt_io_apic}, {2, 10, madt_override},
    {5, 12, madt_lapic_address}, {9, 16, madt_x2apic},
};

static bool madt_entry(struct acpi *a, const uint8_t *e, uint32_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(madt_entries); i++) {
        if (madt_entries[i].type != e[0])
            continue;
        if (length < madt_entries[i].length)
            return false;
        madt_entries[i].take(a, e);
    }
    return true;
}

static int parse_madt(struct reader *r, struct table t)
{
    struct acpi *a = r->a;
    const char *problem = NULL;

    if (!t.p) {
        (void)fmt(r->message, r->message_size, "ACPI: no usable table of processors (MADT)");
        return ERR_INVALID;
    }
    a->lapic = load_u32(t.p + 36);
    a->has_8259 = load_u32(t.p + 40) & MADT_PCAT;
    for (uint32_t at = MADT_FIRST; at < t.length && !problem;) {
        uint32_t left = t.length - at;
        uint32_t length = left < 2 ? 0 : t.p[at + 1];
        if (length < 2 || length > left || !madt_entry(a, t.p + at, length))
            problem = "a record runs over its end or is too short";
        at += length;
    }
    if (!problem && a->cpus == 0)
        problem = "no processor is enabled";
    if (!problem && (a->lapic == 0 || a->lapic % PAGE_SIZE != 0))
        problem = "the local APIC's address is absurd";
    if (problem)
        (void)fmt(r->message, r->message_size, "ACPI: table of processors (MADT): %s", problem);
    return problem ? ERR_INVALID : OK;
}

/* --- FADT: power management (5.2.9) ------------------------------------------------------------ */

enum {
    FADT_LEAST = 116, /* revision 1 */
    FADT_RESET_END = 129,
    FLAG_PWR_BUTTON = 1 << 4, /* set: not a fixed event */
    FLAG_TMR_VAL_EXT = 1 << 8,
    FLAG_RESET_REG_SUP = 1 << 10,
    FLAG_HW_REDUCED = 1 << 20, /* none of the registers is there */

    SPACE_MEMORY = 0,
    SPACE_PORT = 1,
    SPACE_PCI = 2,
    GAS = 12, /* 5.2.3.2: space, width, offset, access, address (64 bits) */
};

/* Does an access of size bytes at its address exist? */
static bool register_valid(const struct acpi_register *g, uint32_t size)
{
    if (g->address == 0 || g->space > SPACE_PORT)
        return false;
    if (g->space == SPACE_PORT)
        return g->address <= 0x10000 - size;
    return g->address <= UINT64_MAX - size;
}

/*
 * A block of registers: the extended field at x if the table has it and it holds something, else the 32-bit one, a
 * port. The width is that of the block, by the FADT's byte of its length: the extended
 * field's own is often wrong. A block shorter than `least` bytes is none.
 */
static void fadt_block(struct table t, struct acpi_register *g, uint32_t at, uint32_t x, uint32_t length_at,
                       uint8_t least)
{
    uint8_t length = t.p[length_at];

    *g = (struct acpi_register){SPACE_PORT, 0, load_u32(t.p + at)};
    if (t.length >= x + GAS && load_u64(t.p + x + 4) != 0)
        *g = (struct acpi_register){t.p[x], 0, load_u64(t.p + x + 4)};
    g->width = (uint8_t)((length < 32 ? length : 31) * 8);
    if (length < least || !register_valid(g, length))
        *g = (struct acpi_register){0, 0, 0};
}

static void fadt_reset(struct acpi *a, struct table t, uint32_t flags)
{
    if (t.length < FADT_RESET_END || !(flags & FLAG_RESET_REG_SUP))
        return;
    a->reset = (struct acpi_register){t.p[116], 8, load_u64(t.p + 120)};
    a->reset_value = t.p[128];
    /* 4.8.3.6: bus 0; function and device in bits 16 and 32, the offset below */
    bool pci = a->reset.space == SPACE_PCI && (a->reset.address & ~0x001F000700FFull) == 0;
    a->has_reset = pci || register_valid(&a->reset, 1);
    if (!a->has_reset)
        a->reset = (struct acpi_register){0, 0, 0};
}

/* Where the DSDT is. */
static uint64_t parse_fadt(struct acpi *a, struct table t)
{
    uint32_t flags = load_u32(t.p + 112);
    uint64_t dsdt = load_u32(t.p + 40);

    if (t.length >= 148 && load_u64(t.p + 140) != 0)
        dsdt = load_u64(t.p + 140);
    fadt_reset(a, t, flags);
    a->sci = load_u16(t.p + 46);
    a->century = t.p[108] < 0x80 ? t.p[108] : 0;
    if (flags & FLAG_HW_REDUCED)
        return dsdt;
    a->smi_command = load_u32(t.p + 48) <= UINT16_MAX ? load_u32(t.p + 48) : 0;
    a->acpi_enable = t.p[52];
    a->pm_timer_32 = flags & FLAG_TMR_VAL_EXT;
    fadt_block(t, &a->pm1a_event, 56, 148, 88, 4);
    fadt_block(t, &a->pm1b_event, 60, 160, 88, 4);
    fadt_block(t, &a->pm1a_control, 64, 172, 89, 2);
    fadt_block(t, &a->pm1b_control, 68, 184, 89, 2);
    fadt_block(t, &a->pm_timer, 76, 208, 91, 4);
    a->has_power_button = !(flags & FLAG_PWR_BUTTON) && a->pm1a_event.address != 0;
    return dsdt;
}

/* --- \_S5 in byte code (7.4.2, 20.2) ----------------------------------------------------------- */

enum {
    NAME_OP = 0x08,
    PACKAGE_OP = 0x12,
    BYTE_PREFIX = 0x0A,
    WORD_PREFIX = 0x0B,
    DWORD_PREFIX = 0x0C,
    SLP_TYP_MAX = 7
};

/* A constant at *at, that fits in SLP_TYP's three bits. */
static bool aml_number(const uint8_t *p, size_t size, size_t *at, uint8_t *v)
{
    size_t i = *at, more;

    if (i >= size)
        return false;
    if (p[i] <= 1) { /* ZeroOp, OneOp */
        *v = p[i];
        *at = i + 1;
        return true;
    }
    if (p[i] < BYTE_PREFIX || p[i] > DWORD_PREFIX)
        return false;
    more = (size_t)1 << (p[i] - BYTE_PREFIX);
    if (size - i - 1 < more)
        return false;
    for (size_t k = 1; k < more; k++)
        if (p[i + 1 + k] != 0)
            return false;
    *v = p[i + 1];
    *at = i + 1 + more;
    return *v <= SLP_TYP_MAX;
}

/* The package after the name: PackageOp PkgLength NumElements, then the two numbers. Of one alone, it is both. */
static bool aml_s5_package(struct acpi *a, const uint8_t *p, size_t size, size_t at)
{
    if (size - at < 2 || p[at] != PACKAGE_OP)
        return false;
    at += 2u + (p[at + 1] >> 6); /* PkgLength: its first byte says how many follow */
    if (at >= size)
        return false;
    uint8_t elements = p[at++];
    if (elements == 0 || !aml_number(p, size, &at, &a->s5_a))
        return false;
    a->s5_b = a->s5_a;
    return elements == 1 || aml_number(p, size, &at, &a->s5_b);
}

static bool aml_is_name(const uint8_t *p, size_t at)
{
    return p[at - 1] == NAME_OP || (p[at - 1] == '\\' && p[at - 2] == NAME_OP);
}

static void find_s5(struct acpi *a, struct table t)
{
    for (size_t at = HEADER + 2; at + 4 < t.length && !a->has_s5; at++)
        if (memcmp(t.p + at, "_S5_", 4) == 0 && aml_is_name(t.p, at))
            a->has_s5 = aml_s5_package(a, t.p, t.length, at + 4);
    if (!a->has_s5)
        a->s5_a = a->s5_b = 0;
}

/* --- root -------------------------------------------------------------------------------------- */

struct root {
    struct table list;
    uint32_t entry; /* bytes of each: 4 or 8 */
};

static uint32_t root_count(const struct root *root)
{
    uint32_t n = (root->list.length - HEADER) / root->entry;

    return n < ENTRIES_MAX ? n : ENTRIES_MAX;
}

static uint64_t root_entry(const struct root *root, uint32_t i)
{
    const uint8_t *p = root->list.p + HEADER + i * root->entry;

    return root->entry == 8 ? load_u64(p) : load_u32(p);
}

/* The first usable one. */
static struct table find(struct reader *r, const struct root *root, const char *signature, uint32_t least)
{
    struct table t = {NULL, 0};

    for (uint32_t i = 0; i < root_count(root) && !t.p; i++)
        t = table_at(r, root_entry(root, i), signature, least);
    return t;
}

/* 5.2.5.3. Revision 0 ends at its RSDT; later ones have a length, a checksum over it, and an XSDT. */
static int find_root(struct reader *r, uint64_t rsdp, struct root *root)
{
    const char *problem = "no root pointer (RSDP)";
    const uint8_t *p = bytes(r, rsdp, RSDP_V1);

    if (p && (memcmp(p, "RSD PTR ", 8) != 0 || !sum_is_zero(p, RSDP_V1)))
        problem = "the root pointer's (RSDP) signature or checksum is wrong";
    else if (p) {
        problem = "no usable list of tables (XSDT, RSDT)";
        uint32_t rsdt = load_u32(p + 16);
        const uint8_t *v2 = p[15] >= 2 ? bytes(r, rsdp, RSDP_V2) : NULL;
        root->list.p = NULL;
        if (v2 && load_u32(v2 + 20) == RSDP_V2 && sum_is_zero(v2, RSDP_V2)) {
            root->entry = 8;
            root->list = table_at(r, load_u64(v2 + 24), "XSDT", HEADER);
        }
        if (!root->list.p) {
            root->entry = 4;
            root->list = table_at(r, rsdt, "RSDT", HEADER);
        }
        if (root->list.p)
            return OK;
    }
    (void)fmt(r->message, r->message_size, "ACPI: %s", problem);
    return ERR_INVALID;
}

static void parse_power(struct reader *r, const struct root *root)
{
    struct table fadt = find(r, root, "FACP", FADT_LEAST), t;
    uint32_t ssdts = 0;

    if (!fadt.p)
        return;
    t = table_at(r, parse_fadt(r->a, fadt), "DSDT", HEADER);
    if (t.p)
        find_s5(r->a, t);
    for (uint32_t i = 0; i < root_count(root) && !r->a->has_s5 && ssdts < SSDTS_MAX; i++) {
        t = table_at(r, root_entry(root, i), "SSDT", HEADER);
        if (!t.p)
            continue;
        find_s5(r->a, t);
        ssdts++;
    }
}

/* IA-PC HPET specification, 3.2.4: its registers are in memory, page-aligned at best. */
static void parse_hpet(struct reader *r, const struct root *root)
{
    struct table t = find(r, root, "HPET", 56);

    if (t.p && t.p[40] == SPACE_MEMORY && load_u64(t.p + 44) % 8 == 0)
        r->a->hpet = load_u64(t.p + 44);
}

int acpi_parse(struct acpi *a, uint64_t rsdp, acpi_map_fn *map, void *owner, char *message, size_t message_size)
{
    struct reader r = {a, map, owner, message, message_size, READ_MAX};
    struct root root;
    int err;

    memset(a, 0, sizeof(*a));
    message[0] = 0;
    err = find_root(&r, rsdp, &root);
    if (err == OK)
        err = parse_madt(&r, find(&r, &root, "APIC", MADT_FIRST));
    if (err != OK) {
        memset(a, 0, sizeof(*a));
        return err;
    }
    parse_power(&r, &root);
    parse_hpet(&r, &root);
    return OK;
}
