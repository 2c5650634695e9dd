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

enum { NAME_SIZE = STATE_NAME, HEADER_SIZE = NAME_SIZE + 16, CHECKSUM_AT = NAME_SIZE + 12 };

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

uint32_t state_crc32(uint32_t crc, const void *p, size_t n)
{
    /* the remainders of four bits: a VM waits for this while it rests */
    static const uint32_t of_nibble[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    const uint8_t *byte = p;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= byte[i];
        crc = crc >> 4 ^ of_nibble[crc & 15];
        crc = crc >> 4 ^ of_nibble[crc & 15];
    }
    return ~crc;
}

/* --- sections -----------------------------------------------------------------------------------
 */

size_t state_begin_section(struct state_writer *w, const char *name, uint32_t instance, uint32_t version)
{
    size_t begin = w->used;
    char padded[NAME_SIZE] = {0};
    str_copy(padded, sizeof(padded), name);
    state_put_bytes(w, padded, sizeof(padded));
    state_put_u32(w, instance);
    state_put_u32(w, version);
    state_put_u32(w, 0);
    state_put_u32(w, 0);
    return begin;
}

static uint32_t section_crc(const uint8_t *header, size_t length)
{
    return state_crc32(state_crc32(0, header, CHECKSUM_AT), header + HEADER_SIZE, length);
}

void state_end_section(struct state_writer *w, size_t begin)
{
    if (w->used > w->size)
        return;
    uint8_t *header = w->buf + begin;
    size_t length = w->used - begin - HEADER_SIZE;
    store_u32(header + NAME_SIZE + 8, (uint32_t)length);
    store_u32(header + CHECKSUM_AT, section_crc(header, length));
}

int state_next_section(struct state_reader *stream, struct state_header *h,
                       struct state_reader *payload)
{
    const uint8_t *header = stream->buf + stream->used;
    size_t left = stream->size - stream->used;
    if (left == 0)
        return ERR_NOT_FOUND;
    if (left < HEADER_SIZE)
        return ERR_TRUNCATED;
    uint32_t length = load_u32(header + NAME_SIZE + 8);
    if (length > left - HEADER_SIZE)
        return ERR_TRUNCATED;
    if (section_crc(header, length) != load_u32(header + CHECKSUM_AT) || header[NAME_SIZE - 1] != 0)
        return ERR_CORRUPT;
    memcpy(h->name, header, NAME_SIZE);
    h->instance = load_u32(header + NAME_SIZE);
    h->version = load_u32(header + NAME_SIZE + 4);
    *payload = (struct state_reader){header + HEADER_SIZE, length, 0, h->version, false};
    stream->used += HEADER_SIZE + length;
    return OK;
}

/* --- objects ------------------------------------------------------------------------------------
 */

static void save_section(const struct state_section *s, struct state_writer *w)
{
    size_t begin = state_begin_section(w, s->ops->name, s->instance, s->ops->version);
    s->ops->save(s->object, w);
    state_end_section(w, begin);
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

static int find_registered(const struct state_registry *s, const struct state_header *h)
{
    for (uint32_t i = 0; i < s->count; i++) {
        char name[NAME_SIZE] = {0};
        str_copy(name, sizeof(name), s->section[i].ops->name);
        if (memcmp(name, h->name, NAME_SIZE) == 0 && h->instance == s->section[i].instance)
            return (int)i;
    }
    return -1;
}

static int find_sections(const struct state_registry *s, const uint8_t *buf, size_t size,
                         struct found *f)
{
    struct state_reader stream = {.buf = buf, .size = size}, payload;
    struct state_header h;
    int err;
    while ((err = state_next_section(&stream, &h, &payload)) == OK) {
        int i = find_registered(s, &h);
        if (i < 0 || f->present[i])
            return ERR_CORRUPT;
        if (h.version != s->section[i].ops->version)
            return ERR_VERSION;
        f->present[i] = true;
        f->reader[i] = payload;
    }
    if (err != ERR_NOT_FOUND)
        return err;
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
