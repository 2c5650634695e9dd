/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Saved state. The stream is a sequence of sections, each
 *
 *   name      16 bytes, padded with zeros
 *   instance  u32
 *   version   u32
 *   length    u32, of the payload
 *   checksum  u32, CRC-32 (ISO-HDLC) of the 28 bytes before and the payload
 *   payload
 *
 * Loading goes over the stream three times: framing and checksums, check of each section, load of
 * each section. The first two change nothing, so a stream that is refused leaves the VM as it was.
 * Sections may come in any order; each that is registered must be there exactly once and nothing
 * else may.
 */
#include "core/state.h"

#include "core/assert.h"
#include "core/err.h"
#include "core/mem.h"

enum { NAME_SIZE = 16, HEADER_SIZE = NAME_SIZE + 16, CHECKSUM_AT = NAME_SIZE + 12 };

void state_put_bytes(struct state_writer *w, const void *p, size_t n)
{
    if (w->used <= w->size && n <= w->size - w->used)
        memcpy(w->buf + w->used, p, n);
    w->used += n;
}

void state_put_u8(struct state_writer *w, uint8_t v)
{
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u16(struct state_writer *w, uint16_t v)
{
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u32(struct state_writer *w, uint32_t v)
{
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_u64(struct state_writer *w, uint64_t v)
{
    state_put_bytes(w, &v, sizeof(v));
}

void state_put_bool(struct state_writer *w, bool v)
{
    state_put_u8(w, v ? 1 : 0);
}

void state_get_bytes(struct state_reader *r, void *p, size_t n)
{
    if (r->failed || n > r->size - r->used) {
        r->failed = true;
        memset(p, 0, n);
        return;
    }
    memcpy(p, r->buf + r->used, n);
    r->used += n;
}

uint8_t state_get_u8(struct state_reader *r)
{
    uint8_t v;
    state_get_bytes(r, &v, sizeof(v));
    return v;
}

uint16_t state_get_u16(struct state_reader *r)
{
    uint16_t v;
    state_get_bytes(r, &v, sizeof(v));
    return v;
}

uint32_t state_get_u32(struct state_reader *r)
{
    uint32_t v;
    state_get_bytes(r, &v, sizeof(v));
    return v;
}

uint64_t state_get_u64(struct state_reader *r)
{
    uint64_t v;
    state_get_bytes(r, &v, sizeof(v));
    return v;
}

bool state_get_bool(struct state_reader *r)
{
    uint8_t v = state_get_u8(r);
    if (v > 1)
        r->failed = true;
    return v == 1;
}

int state_get_end(const struct state_reader *r)
{
    if (r->failed)
        return ERR_TRUNCATED;
    return r->used == r->size ? OK : ERR_CORRUPT;
}

int state_register(struct state_registry *s, const struct state_ops *ops, void *object,
                   uint32_t instance)
{
    if (str_len(ops->name) >= NAME_SIZE)
        return ERR_INVALID;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->section[i].instance == instance && str_equal(s->section[i].ops->name, ops->name))
            return ERR_EXISTS;
    if (s->count == STATE_SECTIONS)
        return ERR_NO_MEMORY;
    s->section[s->count++] = (struct state_section){ops, object, instance};
    return OK;
}

/* CRC-32 as in ISO 3309: reflected, polynomial 0xEDB88320. Pass 0 first, the last result after. */
static uint32_t crc32(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static void save_section(const struct state_section *s, struct state_writer *w)
{
    size_t start = w->used;
    char name[NAME_SIZE] = {0};
    str_copy(name, sizeof(name), s->ops->name);
    state_put_bytes(w, name, sizeof(name));
    state_put_u32(w, s->instance);
    state_put_u32(w, s->ops->version);
    state_put_u32(w, 0);
    state_put_u32(w, 0);
    s->ops->save(s->object, w);
    if (w->used > w->size)
        return;
    uint8_t *header = w->buf + start;
    size_t length = w->used - start - HEADER_SIZE;
    store_u32(header + NAME_SIZE + 8, (uint32_t)length);
    uint32_t crc = crc32(0, header, CHECKSUM_AT);
    store_u32(header + CHECKSUM_AT, crc32(crc, header + HEADER_SIZE, length));
}

void state_save_all(const struct state_registry *s, struct state_writer *w)
{
    for (uint32_t i = 0; i < s->count; i++)
        save_section(&s->section[i], w);
}

/* Where each registered section's payload lies in the stream. */
struct found {
    struct state_reader reader[STATE_SECTIONS];
    bool present[STATE_SECTIONS];
};

static int find_registered(const struct state_registry *s, const uint8_t *header)
{
    if (header[NAME_SIZE - 1] != 0)
        return -1;
    for (uint32_t i = 0; i < s->count; i++) {
        char name[NAME_SIZE] = {0};
        str_copy(name, sizeof(name), s->section[i].ops->name);
        if (memcmp(name, header, NAME_SIZE) == 0 &&
            load_u32(header + NAME_SIZE) == s->section[i].instance)
            return (int)i;
    }
    return -1;
}

static int find_sections(const struct state_registry *s, const uint8_t *buf, size_t size,
                         struct found *f)
{
    size_t at = 0;
    while (at < size) {
        if (size - at < HEADER_SIZE)
            return ERR_TRUNCATED;
        const uint8_t *header = buf + at;
        uint32_t length = load_u32(header + NAME_SIZE + 8);
        if (length > size - at - HEADER_SIZE)
            return ERR_TRUNCATED;
        uint32_t crc = crc32(crc32(0, header, CHECKSUM_AT), header + HEADER_SIZE, length);
        if (crc != load_u32(header + CHECKSUM_AT))
            return ERR_CORRUPT;
        int i = find_registered(s, header);
        if (i < 0 || f->present[i])
            return ERR_CORRUPT;
        uint32_t version = load_u32(header + NAME_SIZE + 4);
        if (version != s->section[i].ops->version)
            return ERR_VERSION;
        f->present[i] = true;
        f->reader[i] = (struct state_reader){header + HEADER_SIZE, length, 0, version, false};
        at += HEADER_SIZE + length;
    }
    for (uint32_t i = 0; i < s->count; i++)
        if (!f->present[i])
            return ERR_TRUNCATED;
    return OK;
}

int state_load_all(struct state_registry *s, const void *buf, size_t size)
{
    struct found f;
    memset(&f, 0, sizeof(f));
    int err = find_sections(s, buf, size, &f);
    if (err != OK)
        return err;
    for (uint32_t i = 0; i < s->count; i++) {
        struct state_reader r = f.reader[i];
        err = s->section[i].ops->check(s->section[i].object, &r);
        if (err == OK)
            err = state_get_end(&r);
        if (err != OK)
            return err;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        struct state_reader r = f.reader[i];
        err = s->section[i].ops->load(s->section[i].object, &r);
        if (NEVER(err != OK)) /* check has passed */
            return err;
    }
    return OK;
}
