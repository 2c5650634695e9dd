/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the keys of a VM's definition mean: one table of keys, each with its place in struct
 * vm_config and its bounds. docs/config.md is the same table in words.
 *
 * The shape is chosen for what comes later. Everything about sharing will stand in tables named
 * after the resource (cpu.weight, memory.reservation, ...), so "memory" and "vcpus" at the top are
 * short forms of memory.size and cpu.count, and a file may use either, but not both. Names that
 * are planned are refused as "reserved", not as "unknown", so that nobody invents another use.
 *
 * Errors are one line and say what to do. An unknown key names the nearest known one by edit
 * distance: a misspelt key that is silently ignored is how a VM ends up without its limit.
 */
#include "machine/config.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "machine/toml.h"
#include "x86/level.h"

/* Bounds of memory: a Linux kernel needs more, a test guest can do with less than 16 MiB. */
#define CONFIG_MEMORY_UNIT MIB(1)
#define CONFIG_MEMORY_MIN  MIB(2)
#define CONFIG_MEMORY_MAX  GIB(256) /* with the hole it fits the 39 address bits of v2 and v3 */

enum { CONFIG_TSC_KHZ_MIN = 100 * 1000, CONFIG_TSC_KHZ_MAX = 10 * 1000 * 1000 };

enum config_kind {
    CONFIG_STRING,
    CONFIG_U32,
    CONFIG_SIZE, /* "512M" or an integer in bytes */
    CONFIG_BOOL,
};

/* --- what values mean --- */

static int refuse(char *message, const char *format, ...) printf_like(2, 3);
static int refuse(char *message, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fmt_v(message, CONFIG_MESSAGE, format, ap);
    va_end(ap);
    for (char *p = message; *p != 0; p++) /* values are quoted, and may hold anything */
        if (*p < ' ' || *p > '~')
            *p = '?';
    return ERR_INVALID;
}

/* Names end up in messages, process titles and file names: keep them harmless there. */
static int check_name(const struct vm_config *c, char *message)
{
    if (c->name[0] == 0)
        return refuse(message, "the name is empty (give one, or leave 'name' out)");
    for (size_t n = 0; c->name[n] != 0; n++) {
        char b = c->name[n];
        bool plain = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9');
        if (!plain && (n == 0 || (b != '.' && b != '_' && b != '-')))
            return refuse(message, "the name may have letters, digits, '.', '_' and '-' only, and "
                                   "starts with a letter or digit");
    }
    return OK;
}

static int check_memory(const struct vm_config *c, char *message)
{
    if (c->memory < CONFIG_MEMORY_MIN)
        return refuse(message, "memory of %llu bytes is too small (at least %lluM)",
                      (unsigned long long)c->memory,
                      (unsigned long long)(CONFIG_MEMORY_MIN / MIB(1)));
    if (c->memory > CONFIG_MEMORY_MAX)
        return refuse(message, "memory of %llu bytes is too large (at most %lluG)",
                      (unsigned long long)c->memory,
                      (unsigned long long)(CONFIG_MEMORY_MAX / GIB(1)));
    if (c->memory % CONFIG_MEMORY_UNIT != 0)
        return refuse(message, "memory of %llu bytes is not a whole number of MiB (try %lluM)",
                      (unsigned long long)c->memory, (unsigned long long)(c->memory / MIB(1)));
    return OK;
}

static int check_vcpus(const struct vm_config *c, char *message)
{
    if (c->vcpus < 1 || c->vcpus > VM_MAX_VCPUS)
        return refuse(message, "%u vCPUs are not possible (1 to %d)", c->vcpus, VM_MAX_VCPUS);
    return OK;
}

static int check_level(const struct vm_config *c, char *message)
{
    if (!str_equal(c->level, "host") && !x86_level_find(c->level))
        return refuse(message, "unknown CPU level '%s' (there are v2, v3 and host)", c->level);
    return OK;
}

static int check_engine(const struct vm_config *c, char *message)
{
    if (!str_equal(c->engine, "auto") && !str_equal(c->engine, "kvm") &&
        !str_equal(c->engine, "soft"))
        return refuse(message, "unknown engine '%s' (there are auto, kvm and soft)", c->engine);
    return OK;
}

static int check_tsc_khz(const struct vm_config *c, char *message)
{
    if (c->tsc_khz != 0 && (c->tsc_khz < CONFIG_TSC_KHZ_MIN || c->tsc_khz > CONFIG_TSC_KHZ_MAX))
        return refuse(message, "tsc_khz of %u is out of range (0, or %d to %d)", c->tsc_khz,
                      CONFIG_TSC_KHZ_MIN, CONFIG_TSC_KHZ_MAX);
    return OK;
}

struct config_key {
    const char *path;
    enum config_kind kind;
    uint32_t offset; /* in struct vm_config; also tells short and long forms of one key apart */
    uint32_t size;   /* CONFIG_STRING: of the array */
    const char *example;
    int (*check)(const struct vm_config *c,
                 char *message); /* is the value a possible one? NULL: all */
};

#define AT(member) offsetof(struct vm_config, member)
#define STRING(path, member, example, check)                                                       \
    {                                                                                              \
        path, CONFIG_STRING, AT(member), sizeof(((struct vm_config *)0)->member), example, check   \
    }

static const struct config_key keys[] = {
    /* table */
    STRING("name", name, "\"debian\"", check_name),
    STRING("kernel", kernel, "\"vmlinuz\"", NULL),
    STRING("initrd", initrd, "\"initrd\"", NULL),
    STRING("append", append, "\"console=ttyS0\"", NULL),
    {"memory", CONFIG_SIZE, AT(memory), 0, "\"512M\"", check_memory},
    {"memory.size", CONFIG_SIZE, AT(memory), 0, "\"512M\"", check_memory},
    {"vcpus", CONFIG_U32, AT(vcpus), 0, "2", check_vcpus},
    {"cpu.count", CONFIG_U32, AT(vcpus), 0, "2", check_vcpus},
    STRING("level", level, "\"v3\"", check_level),
    STRING("cpu.level", level, "\"v3\"", check_level),
    {"portable", CONFIG_BOOL, AT(portable), 0, "true", NULL},
    {"cpu.portable", CONFIG_BOOL, AT(portable), 0, "true", NULL},
    STRING("engine", engine, "\"auto\"", check_engine),
    {"exit_port", CONFIG_BOOL, AT(exit_port), 0, "true", NULL},
    {"tsc_khz", CONFIG_U32, AT(tsc_khz), 0, "2000000", check_tsc_khz},
};

static const char *const tables[] = {"cpu", "memory"};

/* Planned: a key or the first part of one. */
static const char *const reserved[] = {
    "cpu.weight",    "cpu.reservation", "cpu.limit", "cpu.credit", "memory.reservation",
    "memory.weight", "memory.limit",    "tenant",    "fleet",      "vm",
    "disk",          "network",         "serial",    "firmware",
};

/* What has been seen so far in the file that is being read. */
struct config_reader {
    struct toml toml;
    struct vm_config *config;
    uint32_t key_line[ARRAY_SIZE(keys)];     /* 0: not seen */
    uint32_t table_line[ARRAY_SIZE(tables)]; /* [table], or first dotted key of it */
};

void vm_config_defaults(struct vm_config *c)
{
    memset(c, 0, sizeof(*c));
    str_copy(c->name, sizeof(c->name), "lodge");
    c->memory = MIB(512);
    c->vcpus = 1;
    str_copy(c->level, sizeof(c->level), "v3");
    str_copy(c->engine, sizeof(c->engine), "auto");
}

int parse_size(const char *text, size_t length, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    uint64_t v = 0;
    size_t n = 0;
    for (; n < length && text[n] >= '0' && text[n] <= '9'; n++)
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(text[n] - '0'), &v))
            return ERR_INVALID;
    if (n == 0)
        return ERR_INVALID;
    if (n < length) {
        unsigned int shift = 0;
        for (unsigned int s = 0; suffixes[s] != 0; s++)
            if (text[n] == suffixes[s] || text[n] == (suffixes[s] | 0x20))
                shift = 10 * (s + 1);
        if (shift == 0 || n + 1 != length || v > UINT64_MAX >> shift)
            return ERR_INVALID;
        v <<= shift;
    }
    *bytes = v;
    return OK;
}

/* --- unknown keys -------------------------------------------------------------------------------
 */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Levenshtein distance; both are shorter than TOML_PATH. */
static uint32_t edit_distance(const char *a, const char *b)
{
    uint32_t row[TOML_PATH + 1];
    uint32_t width = (uint32_t)str_len(b);
    for (uint32_t n = 0; n <= width; n++)
        row[n] = n;
    for (uint32_t i = 0; a[i] != 0; i++) {
        uint32_t diagonal = row[0];
        row[0] = i + 1;
        for (uint32_t n = 1; n <= width; n++) {
            uint32_t swap = diagonal + (a[i] != b[n - 1]);
            diagonal = row[n];
            row[n] = least(swap, least(row[n], row[n - 1]) + 1);
        }
    }
    return row[width];
}

static const char *nearest_key(const char *path)
{
    const char *best = keys[0].path;
    uint32_t best_distance = UINT32_MAX;
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
        uint32_t d = edit_distance(path, keys[k].path);
        if (d < best_distance) {
            best_distance = d;
            best = keys[k].path;
        }
    }
    return best;
}

/* Is `path` the name itself, or under it ("disk.root" under "disk")? */
static bool is_under(const char *path, const char *name)
{
    size_t n = str_len(name);
    return str_len(path) >= n && memcmp(path, name, n) == 0 && (path[n] == 0 || path[n] == '.');
}

static int refuse_unknown(struct config_reader *r)
{
    struct toml *t = &r->toml;
    for (size_t n = 0; n < ARRAY_SIZE(reserved); n++)
        if (is_under(t->path, reserved[n]))
            return toml_error(t, "'%s' is reserved for a later version of Lodge (remove it)",
                              t->path);
    for (size_t n = 0; n < ARRAY_SIZE(tables); n++)
        if (str_equal(t->path, tables[n]))
            return toml_error(t, "'%s' is a table, not a key (open it with [%s])", t->path,
                              t->path);
    return toml_error(t, "unknown key '%s' (the nearest known one is '%s')", t->path,
                      nearest_key(t->path));
}

/* --- known keys ---------------------------------------------------------------------------------
 */

static int set_string(struct config_reader *r, const struct config_key *k)
{
    struct toml *t = &r->toml;
    if (t->kind != TOML_STRING)
        return toml_error(t, "'%s' wants a string (as in %s = %s)", k->path, k->path, k->example);
    if (t->text_length >= k->size)
        return toml_error(t, "'%s' is longer than %u bytes (%zu)", k->path, k->size - 1,
                          t->text_length);
    memcpy((char *)r->config + k->offset, t->text, t->text_length + 1);
    return OK;
}

static int set_u32(struct config_reader *r, const struct config_key *k)
{
    struct toml *t = &r->toml;
    if (t->kind != TOML_INTEGER)
        return toml_error(t, "'%s' wants an integer (as in %s = %s)", k->path, k->path, k->example);
    if (t->integer < 0 || t->integer > (int64_t)UINT32_MAX)
        return toml_error(t, "'%s' is out of range (as in %s = %s)", k->path, k->path, k->example);
    uint32_t v = (uint32_t)t->integer;
    memcpy((char *)r->config + k->offset, &v, sizeof(v));
    return OK;
}

static int set_size(struct config_reader *r, const struct config_key *k)
{
    struct toml *t = &r->toml;
    uint64_t v = 0;
    bool good = false;
    if (t->kind == TOML_STRING) {
        good = parse_size(t->text, t->text_length, &v) == OK;
    } else if (t->kind == TOML_INTEGER) {
        good = t->integer >= 0;
        v = (uint64_t)t->integer;
    }
    if (!good)
        return toml_error(t,
                          "'%s' wants a size: bytes, or a number with K, M, G or T in quotes (as "
                          "in %s = %s)",
                          k->path, k->path, k->example);
    memcpy((char *)r->config + k->offset, &v, sizeof(v));
    return OK;
}

static int set_bool(struct config_reader *r, const struct config_key *k)
{
    struct toml *t = &r->toml;
    if (t->kind != TOML_BOOLEAN)
        return toml_error(t, "'%s' wants true or false (without quotes)", k->path);
    memcpy((char *)r->config + k->offset, &t->boolean, sizeof(t->boolean));
    return OK;
}

/* The table that a path is of or under, or ARRAY_SIZE(tables). */
static size_t find_table(const char *path)
{
    size_t n = 0;
    while (n < ARRAY_SIZE(tables) && !is_under(path, tables[n]))
        n++;
    return n;
}

static int read_table(struct config_reader *r)
{
    struct toml *t = &r->toml;
    size_t n = find_table(t->path);
    if (n == ARRAY_SIZE(tables) || !str_equal(t->path, tables[n])) {
        int err = refuse_unknown(r);
        for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
            if (str_equal(t->path, keys[k].path))
                err = toml_error(t, "'%s' is not a table (as in %s = %s)", t->path, t->path,
                                 keys[k].example);
        return err;
    }
    if (r->table_line[n] != 0)
        return toml_error(t, "[%s] was already opened in line %u", t->path, r->table_line[n]);
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++)
        if (str_equal(keys[k].path, tables[n]) && r->key_line[k] != 0)
            return toml_error(t, "'%s' was already given a value in line %u", t->path,
                              r->key_line[k]);
    r->table_line[n] = t->line;
    return OK;
}

static int read_key(struct config_reader *r)
{
    static int (*const set[])(struct config_reader * r, const struct config_key *k) = {
        [CONFIG_STRING] = set_string,
        [CONFIG_U32] = set_u32,
        [CONFIG_SIZE] = set_size,
        [CONFIG_BOOL] = set_bool,
    };
    struct toml *t = &r->toml;
    size_t k = 0;
    while (k < ARRAY_SIZE(keys) && !str_equal(keys[k].path, t->path))
        k++;
    if (k == ARRAY_SIZE(keys))
        return refuse_unknown(r);
    for (size_t other = 0; other < ARRAY_SIZE(keys); other++)
        if (keys[other].offset == keys[k].offset && r->key_line[other] != 0)
            return toml_error(t, "'%s' was already given as '%s' in line %u", keys[k].path,
                              keys[other].path, r->key_line[other]);
    /* A dotted key opens its table, which [table] must not open again (TOML 1.0, "Table"). */
    size_t n = find_table(t->path);
    if (t->dotted && n < ARRAY_SIZE(tables) && r->table_line[n] == 0)
        r->table_line[n] = t->line;
    r->key_line[k] = t->line;
    int err = set[keys[k].kind](r, &keys[k]);
    char why[CONFIG_MESSAGE];
    if (err == OK && keys[k].check && keys[k].check(r->config, why) != OK)
        err = toml_error(t, "%s", why);
    return err;
}

int vm_config_parse(struct vm_config *c, const char *file, const char *text, size_t size,
                    char *message)
{
    struct config_reader r;
    memset(&r, 0, sizeof(r));
    r.config = c;
    toml_init(&r.toml, file, text, size, message, CONFIG_MESSAGE);
    for (;;) {
        enum toml_event event = TOML_END;
        int err = toml_next(&r.toml, &event);
        if (err != OK || event == TOML_END)
            return err;
        err = event == TOML_TABLE ? read_table(&r) : read_key(&r);
        if (err != OK)
            return err;
    }
}

/* --- the whole ----------------------------------------------------------------------------------
 */

int vm_config_check_values(const struct vm_config *c, char *message)
{
    for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
        int err = keys[k].check ? keys[k].check(c, message) : OK;
        if (err != OK)
            return err;
    }
    return OK;
}

int vm_config_check(const struct vm_config *c, char *message)
{
    int err = vm_config_check_values(c, message);
    if (err != OK)
        return err;
    if (c->kernel[0] == 0)
        return refuse(message, "no kernel given (-k KERNEL, or kernel = \"FILE\" in a file)");
    return OK;
}
