/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A small builder of AML (ACPI 6.5, chapter 20) and resource descriptors (6.4), into a buffer.
 * Blocks are opened and closed; the length prefix is inserted when a block is closed. When the
 * buffer is full nothing more is written and `failed` is set: look once, at the end.
 *
 * Inside machine/ only; the input is ours, so names and lengths are not checked beyond memory
 * safety.
 */
#ifndef LODGE_MACHINE_AML_H
#define LODGE_MACHINE_AML_H

#include "core/types.h"

struct aml {
    uint8_t *buf;
    size_t size;
    size_t used;
    bool failed;
};

/* Where a block's contents begin. */
struct aml_block {
    size_t start;
};

void aml_byte(struct aml *a, uint8_t v);
void aml_bytes(struct aml *a, const void *p, size_t n);
/* A name of one segment, four letters: "_SB_". */
void aml_segment(struct aml *a, const char *name);
/* The shortest form of an integer, of a string. */
void aml_integer(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* EisaId ("PNP0A08"): an integer (ACPI 19.6.36). */
void aml_eisa_id(struct aml *a, const char *id);

/* Name (NAME, ...): what follows is the object. */
void aml_name(struct aml *a, const char *name);

struct aml_block aml_open_scope(struct aml *a, const char *name);
struct aml_block aml_open_device(struct aml *a, const char *name);
/* A control method without arguments. */
struct aml_block aml_open_method(struct aml *a, const char *name);
/* Notify of a device in \_SB. */
void aml_notify(struct aml *a, const char *device, uint8_t value);
struct aml_block aml_open_package(struct aml *a, uint8_t elements);
void aml_close(struct aml *a, struct aml_block b);

/* ResourceTemplate, to be filled with the descriptors below. */
struct aml_block aml_open_resources(struct aml *a);
void aml_close_resources(struct aml *a, struct aml_block b);

/* IO (Decode16, base, base, 1, length) */
void aml_resource_io(struct aml *a, uint16_t base, uint8_t length);
/* IRQNoFlags () {irq}: edge-triggered, active-high, not shared */
void aml_resource_irq(struct aml *a, unsigned int irq);
/* Memory32Fixed (ReadWrite, base, length) */
void aml_resource_memory(struct aml *a, uint32_t base, uint32_t length);
/* Windows of a bridge, [first, last]: WordBusNumber, WordIO, DWordMemory (not cacheable,
 * read-write), all ResourceProducer, fixed, positively decoded. */
void aml_resource_bus_window(struct aml *a, uint16_t first, uint16_t last);
void aml_resource_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_resource_memory_window(struct aml *a, uint32_t first, uint32_t last);

#endif
