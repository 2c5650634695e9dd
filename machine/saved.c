/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A saved VM's head and metadata (saved.h, docs/saved.md).
 *
 * The reader trusts nothing: every number is held against what it must fit into before it is used, in
 * forms that cannot wrap, and every byte of the metadata counts, so that any that is changed is noticed
 * even without checksums where it matters. It allocates nothing: what it gives points into the metadata.
 */
#include "machine/saved.h"

#include "core/fmt.h"
#include "core/mem.h"

static const char magic[8] = "LodgeVM";

enum {
    VERSION = 1,
    METADATA_CRC_AT = 40,
    HEAD_CRC_AT = 60,
    RUN_SIZE = 24,
    SUM_SIZE = 4,
    SECTION_VERSION = 1,
    TSC_KHZ_MIN = 1000,
    TSC_KHZ_MAX = 100 * 1000 * 1000,
};

uint32_t saved_crc32c(uint32_t crc, const void *p, size_t n)
{
    const uint8_t *byte = p;
    uint64_t sum = ~crc;
    for (size_t i = 0; i < n; i += 8)
        __asm__("crc32q %[value], %[sum]" : [sum] "+r"(sum) : [value] "rm"(load_u64(byte + i)));
    return ~(uint32_t)sum;
}

uint64_t saved_pages_at(size_t metadata_size)
{
    return (SAVED_HEAD + (uint64_t)metadata_size + PAGE_SIZE - 1) & PAGE_MASK;
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* A field of text: what lies behind its end in memory is left out. */
static void put_text(struct state_writer *w, const char *text, size_t size)
{
    size_t n = 0;
    while (n < size && text[n] != 0)
        n++;
    state_put_bytes(w, text, n);
    for (; n < size; n++)
        state_put_u8(w, 0);
}

static void put_definition(const struct vm_config *c, struct state_writer *w)
{
    size_t begin = state_begin_section(w, "definition", 0, SECTION_VERSION);
    put_text(w, c->name, sizeof(c->name));
    state_put_u64(w, c->memory);
    state_put_u32(w, c->vcpus);
    state_put_bool(w, c->exit_port);
    put_text(w, c->append, sizeof(c->append));
    state_end_section(w, begin);
}

static void put_level(const struct x86_level *l, uint32_t tsc_khz, struct state_writer *w)
{
    size_t begin = state_begin_section(w, "level", 0, SECTION_VERSION);
    put_text(w, l->name, sizeof(l->name));
    state_put_u32(w, tsc_khz);
    state_put_u32(w, l->count);
    for (uint32_t i = 0; i < l->count; i++) {
        const struct x86_cpuid_row *r = &l->row[i];
        state_put_u32(w, r->leaf);
        state_put_u32(w, r->subleaf);
        state_put_bool(w, r->has_subleaf);
        state_put_u32(w, r->eax);
        state_put_u32(w, r->ebx);
        state_put_u32(w, r->ecx);
        state_put_u32(w, r->edx);
    }
    state_put_u64(w, l->insn_features);
    state_put_u64(w, l->arch_capabilities);
    state_put_u64(w, l->xcr0_mask);
    state_put_u64(w, l->cr4_mask);
    state_put_u64(w, l->efer_mask);
    state_put_u8(w, l->physical_bits);
    state_put_bool(w, l->pcid);
    state_put_bool(w, l->x2apic);
    state_put_bool(w, l->tsc_deadline);
    state_put_bool(w, l->spec_ctrl);
    state_put_bool(w, l->gib_pages);
    state_end_section(w, begin);
}

static void put_memory(const struct saved_source *s, struct state_writer *w)
{
    size_t begin = state_begin_section(w, "memory", 0, SECTION_VERSION);
    uint64_t pieces = 0;
    state_put_u32(w, s->runs);
    for (uint32_t n = 0; n < s->runs; n++) {
        state_put_u64(w, s->run[n].ram);
        state_put_u64(w, s->run[n].file);
        state_put_u64(w, s->run[n].size);
        pieces += saved_pieces(s->run[n].size);
    }
    for (uint64_t n = 0; n < pieces; n++)
        state_put_u32(w, s->sums[n]);
    state_end_section(w, begin);
}

void saved_put_vm(const struct saved_source *s, struct state_writer *w)
{
    put_definition(s->config, w);
    put_level(s->level, s->tsc_khz, w);
    size_t begin = state_begin_section(w, "machine", 0, SECTION_VERSION);
    state_put_bytes(w, s->machine, s->machine_size);
    state_end_section(w, begin);
}

void saved_put_metadata(const struct saved_source *s, struct state_writer *w)
{
    saved_put_vm(s, w);
    put_memory(s, w);
}

void saved_put_head(uint8_t head[SAVED_HEAD], const void *metadata, size_t size, uint64_t file_size)
{
    memset(head, 0, SAVED_HEAD);
    memcpy(head, magic, sizeof(magic));
    store_u32(head + 8, VERSION);
    store_u32(head + 12, PAGE_SIZE);
    store_u64(head + 16, size);
    store_u64(head + 24, saved_pages_at(size));
    store_u64(head + 32, file_size);
    store_u32(head + METADATA_CRC_AT, state_crc32(0, metadata, size));
    store_u32(head + HEAD_CRC_AT, state_crc32(0, head, HEAD_CRC_AT));
}

/* --- reading ------------------------------------------------------------------------------------
 */

static int refuse(char *message, int err, const char *what)
{
    fmt(message, SAVED_MESSAGE, "%s", what);
    return err;
}

static int damaged(char *message, const char *what)
{
    fmt(message, SAVED_MESSAGE, "it is damaged: %s (take another copy)", what);
    return ERR_CORRUPT;
}

int saved_get_head(struct saved_head *h, const uint8_t head[SAVED_HEAD], uint64_t file_size, char *message)
{
    if (memcmp(head, magic, sizeof(magic)) != 0)
        return refuse(message, ERR_INVALID, "it is no saved VM (give a file that 'lodge save' has written)");
    if (load_u32(head + HEAD_CRC_AT) != state_crc32(0, head, HEAD_CRC_AT))
        return damaged(message, "wrong checksum of its head");
    if (load_u32(head + 8) != VERSION || load_u32(head + 12) != PAGE_SIZE) {
        fmt(message, SAVED_MESSAGE, "it is of version %u, this Lodge reads version %u (use the one that saved it)",
            load_u32(head + 8), (unsigned int)VERSION);
        return ERR_VERSION;
    }
    *h = (struct saved_head){.metadata_size = load_u64(head + 16),
                             .pages = load_u64(head + 24),
                             .file_size = load_u64(head + 32),
                             .metadata_crc = load_u32(head + METADATA_CRC_AT)};
    for (unsigned int n = METADATA_CRC_AT + 4; n < HEAD_CRC_AT; n++)
        if (head[n] != 0)
            return damaged(message, "something where nothing is to be");
    if (h->metadata_size > SAVED_METADATA_MAX || h->pages != saved_pages_at(h->metadata_size) ||
        h->file_size < h->pages)
        return damaged(message, "its parts do not fit together");
    if (file_size < h->file_size) {
        fmt(message, SAVED_MESSAGE, "it is cut off: %llu bytes of %llu (take another copy)",
            (unsigned long long)file_size, (unsigned long long)h->file_size);
        return ERR_TRUNCATED;
    }
    if (file_size > h->file_size)
        return damaged(message, "it is longer than it says");
    return OK;
}

/* A field of text: terminated, and zero behind. */
static bool get_text(struct state_reader *r, char *to, size_t size)
{
    state_get_bytes(r, to, size);
    size_t n = 0;
    while (n < size && to[n] != 0)
        n++;
    if (n == size)
        return false;
    for (; n < size; n++)
        if (to[n] != 0)
            return false;
    return true;
}

static int get_definition(struct saved *s, struct state_reader *r, char *message)
{
    struct vm_config *c = &s->config;
    vm_config_defaults(c);
    bool texts = get_text(r, c->name, sizeof(c->name));
    c->memory = state_get_u64(r);
    c->vcpus = state_get_u32(r);
    c->exit_port = state_get_bool(r);
    texts &= get_text(r, c->append, sizeof(c->append));
    return state_get_end(r) == OK && texts ? OK : damaged(message, "its definition");
}

static int get_level(struct saved *s, struct state_reader *r, char *message)
{
    struct x86_level *l = &s->level;
    memset(l, 0, sizeof(*l));
    bool name = get_text(r, l->name, sizeof(l->name));
    s->tsc_khz = state_get_u32(r);
    l->count = state_get_u32(r);
    if (l->count > X86_LEVEL_ROWS)
        return damaged(message, "its processor features");
    for (uint32_t i = 0; i < l->count; i++) {
        struct x86_cpuid_row *row = &l->row[i];
        row->leaf = state_get_u32(r);
        row->subleaf = state_get_u32(r);
        row->has_subleaf = state_get_bool(r);
        row->eax = state_get_u32(r);
        row->ebx = state_get_u32(r);
        row->ecx = state_get_u32(r);
        row->edx = state_get_u32(r);
    }
    l->insn_features = state_get_u64(r);
    l->arch_capabilities = state_get_u64(r);
    l->xcr0_mask = state_get_u64(r);
    l->cr4_mask = state_get_u64(r);
    l->efer_mask = state_get_u64(r);
    l->physical_bits = state_get_u8(r);
    l->pcid = state_get_bool(r);
    l->x2apic = state_get_bool(r);
    l->tsc_deadline = state_get_bool(r);
    l->spec_ctrl = state_get_bool(r);
    l->gib_pages = state_get_bool(r);
    if (state_get_end(r) != OK || !name || s->tsc_khz < TSC_KHZ_MIN || s->tsc_khz > TSC_KHZ_MAX)
        return damaged(message, "its processor features");
    str_copy(s->config.level, sizeof(s->config.level), l->name);
    return vm_config_check_values(&s->config, message) == OK ? OK : ERR_CORRUPT;
}

/* Takes n elements out of the reader as they are; NULL: there are not as many. */
static const uint8_t *take(struct state_reader *r, uint64_t n, uint64_t size)
{
    if (r->failed || n > (r->size - r->used) / size) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->buf + r->used;
    r->used += n * size;
    return p;
}

struct saved_run saved_run_at(const struct saved *s, uint32_t n)
{
    const uint8_t *p = s->run_bytes + (size_t)n * RUN_SIZE;
    return (struct saved_run){load_u64(p), load_u64(p + 8), load_u64(p + 16)};
}

uint32_t saved_sum_at(const struct saved *s, uint64_t n)
{
    return load_u32(s->sums + n * SUM_SIZE);
}

/* Runs rise, in RAM and in the file, are not empty, and leave neither. The first begins where pages do,
 * each of the others where the one before ends, and the last ends where the file does. */
static bool runs_are_right(struct saved *s, const struct saved_head *h)
{
    uint64_t ram = 0, file = h->pages;
    s->pieces = 0;
    for (uint32_t n = 0; n < s->runs; n++) {
        struct saved_run run = saved_run_at(s, n);
        if ((run.ram | run.size) & ~PAGE_MASK || run.size == 0 || run.file != file || run.ram < ram ||
            run.ram > s->config.memory || run.size > s->config.memory - run.ram ||
            run.size > h->file_size - file)
            return false;
        ram = run.ram + run.size;
        file += run.size;
        s->pieces += saved_pieces(run.size);
    }
    return file == h->file_size;
}

/* After the definition. */
static int get_memory(struct saved *s, const struct saved_head *h, struct state_reader *r, char *message)
{
    s->runs = state_get_u32(r);
    if (s->runs > SAVED_RUNS_MAX)
        return damaged(message, "its list of memory");
    s->run_bytes = take(r, s->runs, RUN_SIZE);
    if (!s->run_bytes || !runs_are_right(s, h))
        return damaged(message, "its list of memory");
    s->sums = take(r, s->pieces, SUM_SIZE);
    if (!s->sums || state_get_end(r) != OK)
        return damaged(message, "its checksums of memory");
    return OK;
}

/* The next section, which must be that one. */
static int next_section(struct state_reader *stream, const char *name, struct state_reader *payload,
                        char *message)
{
    struct state_header header;
    if (state_next_section(stream, &header, payload) != OK || header.instance != 0 ||
        !str_equal(header.name, name))
        return damaged(message, "its sections are not those of a saved VM");
    if (header.version != SECTION_VERSION) {
        fmt(message, SAVED_MESSAGE, "its section '%s' is of version %u, not %u (use the Lodge that saved it)",
            name, header.version, (unsigned int)SECTION_VERSION);
        return ERR_VERSION;
    }
    return OK;
}

int saved_get_vm(struct saved *s, struct state_reader *stream, char *message)
{
    struct state_reader payload;
    memset(s, 0, sizeof(*s));
    int err = next_section(stream, "definition", &payload, message);
    if (err == OK)
        err = get_definition(s, &payload, message);
    if (err == OK)
        err = next_section(stream, "level", &payload, message);
    if (err == OK)
        err = get_level(s, &payload, message);
    if (err == OK)
        err = next_section(stream, "machine", &payload, message);
    if (err != OK)
        return err;
    s->machine = payload.buf;
    s->machine_size = payload.size;
    return OK;
}

int saved_get_metadata(struct saved *s, const struct saved_head *h, const void *metadata, char *message)
{
    struct state_reader stream = {.buf = metadata, .size = h->metadata_size}, payload;
    if (state_crc32(0, metadata, h->metadata_size) != h->metadata_crc)
        return damaged(message, "wrong checksum of its metadata");
    int err = saved_get_vm(s, &stream, message);
    if (err == OK)
        err = next_section(&stream, "memory", &payload, message);
    if (err == OK)
        err = get_memory(s, h, &payload, message);
    if (err != OK)
        return err;
    if (stream.used != stream.size)
        return damaged(message, "it has more sections than a saved VM");
    return OK;
}
