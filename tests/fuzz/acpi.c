/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the bare machine's ACPI tables (native/acpi.c). The input is physical memory from BASE on, the
 * root pointer at its beginning. Checksums are made right as memory is handed out, in copies of exactly the size
 * that was asked for.
 */
#include <stdlib.h>
#include <string.h>

#include "core/types.h"
#include "native/acpi.h"

enum { BASE = 0x1000, COPIES = 16384 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
    const uint8_t *data;
    size_t size;
    void *copy[COPIES];
    unsigned int copies;
};

static void require(bool x)
{
    if (!x)
        abort();
}

static void fix(uint8_t *p, size_t size, size_t sum_at)
{
    uint8_t sum = 0;
    p[sum_at] = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + p[i]);
    p[sum_at] = (uint8_t)-sum;
}

static const void *map(void *owner, uint64_t physical, size_t size)
{
    struct memory *m = owner;
    require(size > 0 && physical + size > physical && m->copies < COPIES);
    if (physical < BASE || physical - BASE > m->size || size > m->size - (physical - BASE))
        return NULL;
    uint8_t *p = malloc(size);
    m->copy[m->copies++] = p;
    memcpy(p, m->data + (physical - BASE), size);
    if (memcmp(p, "RSD PTR ", 8) == 0) {
        fix(p, 20, 8);
        if (size == 36)
            fix(p, 36, 32);
    } else if (size >= 36) {
        fix(p, size, 9);
    }
    return p;
}

static void check_register(const struct acpi_register *g)
{
    require(g->space <= 1 && (g->space == 0 || g->address <= 0x10000u - g->width / 8u));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct memory m;
    static struct acpi a;
    char message[80] = "?";
    m.data = data;
    m.size = size;
    int err = acpi_parse(&a, BASE, map, &m, message, sizeof(message));
    while (m.copies > 0)
        free(m.copy[--m.copies]);
    require((err == OK) == (message[0] == 0) && (err == OK) == (a.cpus > 0));
    require(a.cpus <= ACPI_CPUS && a.io_apics <= ACPI_IO_APICS && a.overrides <= ACPI_OVERRIDES);
    check_register(&a.pm1a_event);
    check_register(&a.pm1b_event);
    check_register(&a.pm1a_control);
    check_register(&a.pm1b_control);
    check_register(&a.pm_timer);
    require(a.s5_a < 8 && a.s5_b < 8 && (a.has_reset || a.reset.address == 0));
    for (uint32_t i = 0; i < a.overrides; i++)
        require(a.override[i].irq < 16);
    return 0;
}
