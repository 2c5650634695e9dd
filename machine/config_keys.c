/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * From a file's keys to the members of a structure, by tables that say which key is which member.
 *
 * A scope is what a name means one thing in: all of a VM's file, or what follows one [[vm]] of a fleet. It remembers
 * the line of every key and table, since TOML lets each be given once, and since a key and its short form are the
 * same member.
 *
 * Errors are one line and say what to do. An unknown key names the nearest known one by edit distance: a misspelt key
 * that is silently ignored is how a VM ends up without its limit.
 *
 * No state but the caller's, no allocation. Pure.
 */
#include "machine/config_keys.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "machine/config.h"

enum { CONFIG_CPU_BITS = 64 };

int config_refuse(char *message, const char *format, ...)
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

/* --- the schema ---------------------------------------------------------------------------------
 */

static uint32_t key_count(const struct config_schema *c)
{
    return c->list[0].count + c->list[1].count;
}

static const struct config_key *key_at(const struct config_schema *c, uint32_t n)
{
    return n < c->list[0].count ? &c->list[0].key[n] : &c->list[1].key[n - c->list[0].count];
}

/* The key of that path, or key_count. */
static uint32_t find_key(const struct config_schema *c, const char *path)
{
    uint32_t n = 0;
    while (n < key_count(c) && !str_equal(key_at(c, n)->path, path))
        n++;
    return n;
}

/* Is `path` the name itself, or under it ("disk.root" under "disk")? */
static bool is_under(const char *path, const char *name)
{
    size_t n = str_len(name);
    return str_len(path) >= n && memcmp(path, name, n) == 0 && (path[n] == 0 || path[n] == '.');
}

/* The table that a path is of or under, or tables. */
static uint32_t find_table(const struct config_schema *c, const char *path)
{
    uint32_t n = 0;
    while (n < c->tables && !is_under(path, c->table[n]))
        n++;
    return n;
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

static const char *nearest_key(const struct config_schema *c, const char *path)
{
    const char *best = "";
    uint32_t best_distance = UINT32_MAX;
    for (uint32_t n = 0; n < key_count(c); n++) {
        uint32_t d = edit_distance(path, key_at(c, n)->path);
        if (d < best_distance) {
            best_distance = d;
            best = key_at(c, n)->path;
        }
    }
    return best;
}

static int refuse_unknown(const struct config_scope *s, struct toml *t)
{
    const struct config_schema *c = s->schema;
    const char *path = t->path + s->prefix;
    for (uint32_t n = 0; n < c->reserved_count; n++)
        if (is_under(path, c->reserved[n]))
            return toml_error(t, "'%s' is reserved for a later version of Lodge (remove it)", path);
    for (uint32_t n = 0; n < c->tables; n++)
        if (str_equal(path, c->table[n]))
            return toml_error(t, "'%s' is a table, not a key (open it with [%s])", path, t->path);
    return toml_error(t, "unknown key '%s' (the nearest known one is '%s')", path, nearest_key(c, path));
}

/* --- known keys ---------------------------------------------------------------------------------
 */

static int set_string(struct toml *t, const struct config_key *k, char *to)
{
    if (t->kind != TOML_STRING)
        return toml_error(t, "'%s' wants a string (as in %s = %s)", k->path, k->path, k->example);
    if (t->text_length >= k->size)
        return toml_error(t, "'%s' is longer than %u bytes (%zu)", k->path, k->size - 1, t->text_length);
    memcpy(to, t->text, t->text_length + 1);
    return OK;
}

static int set_u32(struct toml *t, const struct config_key *k, char *to)
{
    if (t->kind != TOML_INTEGER)
        return toml_error(t, "'%s' wants an integer (as in %s = %s)", k->path, k->path, k->example);
    if (t->integer < 0 || t->integer > (int64_t)UINT32_MAX)
        return toml_error(t, "'%s' is out of range (as in %s = %s)", k->path, k->path, k->example);
    uint32_t v = (uint32_t)t->integer;
    memcpy(to, &v, sizeof(v));
    return OK;
}

static int set_size(struct toml *t, const struct config_key *k, char *to)
{
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
    memcpy(to, &v, sizeof(v));
    return OK;
}

static int set_bool(struct toml *t, const struct config_key *k, char *to)
{
    if (t->kind != TOML_BOOLEAN)
        return toml_error(t, "'%s' wants true or false (without quotes)", k->path);
    memcpy(to, &t->boolean, sizeof(t->boolean));
    return OK;
}

/* A list of CPUs, as Linux writes it: "0,2-3". */
struct cpu_list {
    struct toml *toml;
    const struct config_key *key;
    const char *at, *end;
};

static bool takes(struct cpu_list *l, char c)
{
    bool is_next = l->at < l->end && *l->at == c;
    l->at += is_next;
    return is_next;
}

static int take_cpu(struct cpu_list *l, uint32_t *cpu)
{
    const char *begin = l->at;
    uint32_t v = 0;
    for (; l->at < l->end && *l->at >= '0' && *l->at <= '9'; l->at++)
        v = least(v * 10 + (uint32_t)(*l->at - '0'), CONFIG_CPU_BITS);
    *cpu = v;
    if (l->at == begin)
        return toml_error(l->toml, "'%s' is no list of CPUs: a number is missing at byte %u (as in %s = %s)", l->key->path,
                          (uint32_t)(begin - l->toml->text) + 1, l->key->path, l->key->example);
    if (v == CONFIG_CPU_BITS)
        return toml_error(l->toml, "'%s' has a CPU that is out of range (0 to %d)", l->key->path, CONFIG_CPU_BITS - 1);
    return OK;
}

/* One number or range. */
static int take_cpus(struct cpu_list *l, uint64_t *cpus)
{
    uint32_t first = 0, last = 0;
    int err = take_cpu(l, &first);
    last = first;
    if (err == OK && takes(l, '-'))
        err = take_cpu(l, &last);
    if (err == OK && last < first)
        err = toml_error(l->toml, "'%s' has a range that descends, %u-%u (write %u-%u)", l->key->path, first, last, last,
                         first);
    for (uint32_t n = first; err == OK && n <= last; n++)
        *cpus |= BIT(n);
    return err;
}

static int set_cpus(struct toml *t, const struct config_key *k, char *to)
{
    struct cpu_list l = {t, k, t->text, t->text + t->text_length};
    uint64_t cpus = 0;
    if (t->kind != TOML_STRING)
        return toml_error(t, "'%s' wants a string (as in %s = %s)", k->path, k->path, k->example);
    if (l.at == l.end)
        return toml_error(t, "'%s' names no CPU (as in %s = %s; without it, it is all)", k->path, k->path, k->example);
    do {
        int err = take_cpus(&l, &cpus);
        if (err != OK)
            return err;
    } while (takes(&l, ','));
    if (l.at != l.end)
        return toml_error(t, "'%s' is no list of CPUs: a comma or the end is missing at byte %u (as in %s = %s)", k->path,
                          (uint32_t)(l.at - t->text) + 1, k->path, k->example);
    memcpy(to, &cpus, sizeof(cpus));
    return OK;
}

/* --- scopes -------------------------------------------------------------------------------------
 */

void config_scope_begin(struct config_scope *s, const struct config_schema *schema, void *owner, uint32_t prefix)
{
    memset(s, 0, sizeof(*s));
    s->schema = schema;
    s->owner = owner;
    s->prefix = prefix;
}

uint32_t config_scope_line(const struct config_scope *s, uint32_t offset)
{
    for (uint32_t n = 0; n < key_count(s->schema); n++)
        if (key_at(s->schema, n)->offset == offset && s->key_line[n] != 0)
            return s->key_line[n];
    return 0;
}

static int refuse_table(const struct config_scope *s, struct toml *t)
{
    const char *path = t->path + s->prefix;
    uint32_t k = find_key(s->schema, path);
    if (k == key_count(s->schema))
        return refuse_unknown(s, t);
    return toml_error(t, "'%s' is not a table (as in %s = %s)", path, path, key_at(s->schema, k)->example);
}

int config_scope_table(struct config_scope *s, struct toml *t)
{
    const struct config_schema *c = s->schema;
    const char *path = t->path + s->prefix;
    uint32_t n = find_table(c, path), k = find_key(c, path);
    if (n == c->tables || !str_equal(path, c->table[n]))
        return refuse_table(s, t);
    if (s->table_line[n] != 0)
        return toml_error(t, "[%s] was already opened in line %u", t->path, s->table_line[n]);
    if (k < key_count(c) && s->key_line[k] != 0)
        return toml_error(t, "'%s' was already given a value in line %u", path, s->key_line[k]);
    s->table_line[n] = t->line;
    return OK;
}

/* The same member of the owner, under this name or another. */
static int refuse_second(const struct config_scope *s, struct toml *t, const struct config_key *key)
{
    for (uint32_t n = 0; n < key_count(s->schema); n++) {
        const struct config_key *other = key_at(s->schema, n);
        if (other->offset == key->offset && s->key_line[n] != 0)
            return toml_error(t, "'%s' was already given as '%s' in line %u", key->path, other->path, s->key_line[n]);
    }
    return OK;
}

int config_scope_key(struct config_scope *s, struct toml *t)
{
    static int (*const set[])(struct toml * t, const struct config_key *k, char *to) = {
        [CONFIG_STRING] = set_string,
        [CONFIG_U32] = set_u32,
        [CONFIG_SIZE] = set_size,
        [CONFIG_BOOL] = set_bool,
        [CONFIG_CPUS] = set_cpus,
    };
    const char *path = t->path + s->prefix;
    uint32_t k = find_key(s->schema, path), n = find_table(s->schema, path);
    if (k == key_count(s->schema))
        return refuse_unknown(s, t);
    const struct config_key *key = key_at(s->schema, k);
    int err = refuse_second(s, t, key);
    if (err != OK)
        return err;
    /* A dotted key opens its table, which [table] must not open again (TOML 1.0, "Table"). */
    if (t->dotted && n < s->schema->tables && s->table_line[n] == 0)
        s->table_line[n] = t->line;
    s->key_line[k] = t->line;
    err = set[key->kind](t, key, (char *)s->owner + key->offset);
    char why[CONFIG_MESSAGE];
    if (err == OK && key->check && key->check(s->owner, why) != OK)
        err = toml_error(t, "%s", why);
    return err;
}
