/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Saved state: sections of fields, little-endian, written one by one, never a struct as it lies in
 * memory. Each object that has state registers a const table with save / check / load:
 *
 *   save   writes every field that is not derived; cannot fail.
 *   check  reads the same fields from untrusted input into a scratch copy, and refuses
 *          (ERR_CORRUPT) what the object could never have reached, because code elsewhere relies
 *          on it. It changes nothing.
 *   load   is called only after check of every section has passed; applies the fields.
 *
 * A section of another version than the registered one is refused with ERR_VERSION.
 */
#ifndef LODGE_CORE_STATE_H
#define LODGE_CORE_STATE_H

#include "core/types.h"

struct state_writer {
    uint8_t *buf;
    size_t size;
    size_t used;   /* may exceed size: then nothing more was written, but it is still counted */
};

struct state_reader {
    const uint8_t *buf;
    size_t size;
    size_t used;
    uint32_t version; /* of the section being read */
    bool failed;      /* read past the end: every get from then on is 0 */
};

void state_put_u8(struct state_writer *w, uint8_t v);
void state_put_u16(struct state_writer *w, uint16_t v);
void state_put_u32(struct state_writer *w, uint32_t v);
void state_put_u64(struct state_writer *w, uint64_t v);
void state_put_bool(struct state_writer *w, bool v);
void state_put_bytes(struct state_writer *w, const void *p, size_t n);

uint8_t state_get_u8(struct state_reader *r);
uint16_t state_get_u16(struct state_reader *r);
uint32_t state_get_u32(struct state_reader *r);
uint64_t state_get_u64(struct state_reader *r);
/* Any byte but 0 and 1 fails the reader. */
bool state_get_bool(struct state_reader *r);
void state_get_bytes(struct state_reader *r, void *p, size_t n);
/* OK if nothing failed and every byte was used, else ERR_CORRUPT or ERR_TRUNCATED. */
int must_check state_get_end(const struct state_reader *r);

/* CRC-32 as in ISO 3309 (reflected, polynomial EDB88320H). Pass 0 first, the last result after. */
uint32_t state_crc32(uint32_t crc, const void *p, size_t n);

/* --- a stream of sections --- */

enum { STATE_NAME = 16 };

struct state_header {
    char name[STATE_NAME]; /* terminated */
    uint32_t instance, version;
};

/* A section's frame: what is put between the two is its payload. */
size_t state_begin_section(struct state_writer *w, const char *name, uint32_t instance, uint32_t version);
void state_end_section(struct state_writer *w, size_t begin);

/* The next section of *stream, whose payload *payload will read. OK, ERR_NOT_FOUND at the end,
 * ERR_TRUNCATED, or ERR_CORRUPT: its checksum or its name is wrong. */
int must_check state_next_section(struct state_reader *stream, struct state_header *header,
                                  struct state_reader *payload);

/* --- objects --- */

struct state_ops {
    const char *name; /* at most 15 bytes, unique with the instance: "i8254" */
    uint32_t version;
    void (*save)(const void *object, struct state_writer *w);
    int (*check)(const void *object, struct state_reader *r);
    int (*load)(void *object, struct state_reader *r);
};

enum { STATE_SECTIONS = 64 };

struct state_section {
    const struct state_ops *ops;
    void *object;
    uint32_t instance;
};

struct state_registry {
    uint32_t count;
    struct state_section section[STATE_SECTIONS]; /* in order of saving */
};

int must_check state_register(struct state_registry *s, const struct state_ops *ops, void *object,
                              uint32_t instance);
/* All sections with headers and checksums. Bytes needed are in w->used even when w is too small. */
void state_save_all(const struct state_registry *s, struct state_writer *w);
/* Refuses unknown, missing, repeated and damaged sections; checks all, then loads all. On error
 * nothing has changed. The VM is at rest. */
int must_check state_load_all(struct state_registry *s, const void *buf, size_t size);

#endif
