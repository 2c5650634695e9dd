/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The AML builder. Why not compile ASL at build time: the tables depend on the VM (processors), the
 * part is freestanding, and the whole encoder is smaller than the patching of a compiled table.
 * tests/unit/acpi.c lets iasl judge the result.
 */
#include "machine/aml.h"

#include "core/mem.h"

/* ACPI 6.5, table 20.3 */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0A,
    OP_WORD = 0x0B,
    OP_DWORD = 0x0C,
    OP_STRING = 0x0D,
    OP_QWORD = 0x0E,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXT = 0x5B,
    OP_NOTIFY = 0x86,
    NAME_ROOT = 0x5C,
    NAME_DUAL = 0x2E,
    OP_EXT_DEVICE = 0x82,
};

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    if (a->failed || n > a->size - a->used) {
        a->failed = true;
        return;
    }
    memcpy(a->buf + a->used, p, n);
    a->used += n;
}

void aml_byte(struct aml *a, uint8_t v)
{
    aml_bytes(a, &v, 1);
}

static void put_u16(struct aml *a, uint16_t v)
{
    aml_bytes(a, &v, sizeof(v));
}

static void put_u32(struct aml *a, uint32_t v)
{
    aml_bytes(a, &v, sizeof(v));
}

/* Opens a gap of n bytes at `at` and fills it. */
static void insert(struct aml *a, size_t at, const void *p, size_t n)
{
    if (a->failed || n > a->size - a->used) {
        a->failed = true;
        return;
    }
    memmove(a->buf + at + n, a->buf + at, a->used - at);
    memcpy(a->buf + at, p, n);
    a->used += n;
}

void aml_segment(struct aml *a, const char *name)
{
    aml_bytes(a, name, 4);
}

/* An integer that does not fit a byte, word or double word takes the next size up. */
void aml_integer(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_byte(a, v ? OP_ONE : OP_ZERO);
    } else if (v <= UINT8_MAX) {
        aml_byte(a, OP_BYTE);
        aml_byte(a, (uint8_t)v);
    } else if (v <= UINT16_MAX) {
        aml_byte(a, OP_WORD);
        put_u16(a, (uint16_t)v);
    } else if (v <= UINT32_MAX) {
        aml_byte(a, OP_DWORD);
        put_u32(a, (uint32_t)v);
    } else {
        aml_byte(a, OP_QWORD);
        aml_bytes(a, &v, sizeof(v));
    }
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, s, str_len(s) + 1);
}

static uint32_t hex(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

void aml_eisa_id(struct aml *a, const char *id)
{
    /* three letters of five bits, four hexadecimal digits, stored big-endian */
    uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 |
                 (uint32_t)(id[2] - '@') << 16 | hex(id[3]) << 12 | hex(id[4]) << 8 |
                 hex(id[5]) << 4 | hex(id[6]);
    aml_integer(a, __builtin_bswap32(v));
}

void aml_name(struct aml *a, const char *name)
{
    aml_byte(a, OP_NAME);
    aml_segment(a, name);
}

/* PkgLength (20.2.4) counts itself: one to four bytes. */
static void insert_length(struct aml *a, size_t at)
{
    uint32_t length = (uint32_t)(a->used - at);
    uint8_t b[4];
    size_t n = 1;
    if (length + 1 < 1u << 6) {
        b[0] = (uint8_t)(length + 1);
    } else {
        n = length + 2 < 1u << 12 ? 2 : length + 3 < 1u << 20 ? 3 : 4;
        length += (uint32_t)n;
        b[0] = (uint8_t)((n - 1) << 6 | (length & 0xF));
        for (size_t i = 1; i < n; i++)
            b[i] = (uint8_t)(length >> (4 + 8 * (i - 1)));
    }
    insert(a, at, b, n);
}

struct aml_block aml_open_scope(struct aml *a, const char *name)
{
    aml_byte(a, OP_SCOPE);
    struct aml_block b = {a->used};
    aml_segment(a, name);
    return b;
}

struct aml_block aml_open_device(struct aml *a, const char *name)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, OP_EXT_DEVICE);
    struct aml_block b = {a->used};
    aml_segment(a, name);
    return b;
}

struct aml_block aml_open_method(struct aml *a, const char *name)
{
    aml_byte(a, OP_METHOD);
    struct aml_block b = {a->used};
    aml_segment(a, name);
    aml_byte(a, 0); /* no arguments, not serialized */
    return b;
}

void aml_notify(struct aml *a, const char *device, uint8_t value)
{
    aml_byte(a, OP_NOTIFY);
    aml_byte(a, NAME_ROOT);
    aml_byte(a, NAME_DUAL);
    aml_segment(a, "_SB_");
    aml_segment(a, device);
    aml_integer(a, value);
}

struct aml_block aml_open_package(struct aml *a, uint8_t elements)
{
    aml_byte(a, OP_PACKAGE);
    struct aml_block b = {a->used};
    aml_byte(a, elements);
    return b;
}

void aml_close(struct aml *a, struct aml_block b)
{
    insert_length(a, b.start);
}

/* --- resource descriptors -----------------------------------------------------------------------
 */

struct aml_block aml_open_resources(struct aml *a)
{
    aml_byte(a, OP_BUFFER);
    return (struct aml_block){a->used};
}

void aml_close_resources(struct aml *a, struct aml_block b)
{
    static const uint8_t end_tag[2] = {0x79, 0}; /* 6.4.2.9; checksum 0: not checked */
    aml_bytes(a, end_tag, sizeof(end_tag));
    uint8_t size[3] = {OP_BYTE};
    size_t length = a->used - b.start;
    if (length <= UINT8_MAX) {
        size[1] = (uint8_t)length;
        insert(a, b.start, size, 2);
    } else {
        size[0] = OP_WORD;
        store_u16(size + 1, (uint16_t)length);
        insert(a, b.start, size, 3);
    }
    insert_length(a, b.start);
}

/* 6.4.2.5 */
void aml_resource_io(struct aml *a, uint16_t base, uint8_t length)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1); /* decodes 16 bits */
    put_u16(a, base);
    put_u16(a, base);
    aml_byte(a, 1);
    aml_byte(a, length);
}

/* 6.4.2.1 */
void aml_resource_irq(struct aml *a, unsigned int irq)
{
    aml_byte(a, 0x22);
    put_u16(a, (uint16_t)(1u << irq));
}

/* 6.4.3.4 */
void aml_resource_memory(struct aml *a, uint32_t base, uint32_t length)
{
    aml_byte(a, 0x86);
    put_u16(a, 9);
    aml_byte(a, 1); /* read-write */
    put_u32(a, base);
    put_u32(a, length);
}

enum {
    RESOURCE_MEMORY = 0,
    RESOURCE_IO = 1,
    RESOURCE_BUS = 2,
    RESOURCE_FIXED = 0x0C,   /* minimum and maximum are fixed; positive decode; producer */
    RESOURCE_IO_ENTIRE = 3,  /* ISA and non-ISA ranges */
    RESOURCE_READ_WRITE = 1, /* memory, not cacheable */
};

/* 6.4.3.5.3 */
static void word_window(struct aml *a, uint8_t type, uint8_t flags, uint16_t first, uint16_t last)
{
    aml_byte(a, 0x88);
    put_u16(a, 13);
    aml_byte(a, type);
    aml_byte(a, RESOURCE_FIXED);
    aml_byte(a, flags);
    put_u16(a, 0); /* granularity */
    put_u16(a, first);
    put_u16(a, last);
    put_u16(a, 0); /* translation */
    put_u16(a, (uint16_t)(last - first + 1));
}

void aml_resource_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
    word_window(a, RESOURCE_BUS, 0, first, last);
}

void aml_resource_io_window(struct aml *a, uint16_t first, uint16_t last)
{
    word_window(a, RESOURCE_IO, RESOURCE_IO_ENTIRE, first, last);
}

/* 6.4.3.5.2 */
void aml_resource_memory_window(struct aml *a, uint32_t first, uint32_t last)
{
    aml_byte(a, 0x87);
    put_u16(a, 23);
    aml_byte(a, RESOURCE_MEMORY);
    aml_byte(a, RESOURCE_FIXED);
    aml_byte(a, RESOURCE_READ_WRITE);
    put_u32(a, 0);
    put_u32(a, first);
    put_u32(a, last);
    put_u32(a, 0);
    put_u32(a, last - first + 1);
}
