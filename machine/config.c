/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the keys of a VM's definition mean: one table of keys, each with its place in struct
 * vm_config and its bounds. docs/config.md is the same table in words; config_keys.c reads by it,
 * and fleet.c adds the keys that only a fleet's VMs have.
 *
 * The shape is chosen for what comes later. Everything about sharing will stand in tables named
 * after the resource (cpu.weight, memory.reservation, ...), so "memory" and "vcpus" at the top are
 * short forms of memory.size and cpu.count, and a file may use either, but not both. Names that
 * are planned are refused as "reserved", not as "unknown", so that nobody invents another use.
 */
#include "machine/config.h"

#include "core/mem.h"
#include "machine/config_keys.h"
#include "machine/toml.h"
#include "x86/level.h"

/* Bounds of memory: a Linux kernel needs more, a test guest can do with less than 16 MiB. */
#define CONFIG_MEMORY_UNIT MIB(1)
#define CONFIG_MEMORY_MIN  MIB(2)
#define CONFIG_MEMORY_MAX  GIB(256) /* with the hole it fits the 39 address bits of v2 and v3 */

enum { CONFIG_TSC_KHZ_MIN = 100 * 1000, CONFIG_TSC_KHZ_MAX = 10 * 1000 * 1000 };

/* --- what values mean --- */

/* Names end up in messages, process titles and file names: keep them harmless there. */
int config_check_name(const char *what, const char *name, char *message)
{
    if (name[0] == 0)
        return config_refuse(message, "the %s is empty (give one, or leave '%s' out)", what, what);
    for (size_t n = 0; name[n] != 0; n++) {
        char b = name[n];
        bool plain = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9');
        if (!plain && (n == 0 || (b != '.' && b != '_' && b != '-')))
            return config_refuse(message,
                                 "the %s may have letters, digits, '.', '_' and '-' only, and "
                                 "starts with a letter or digit",
                                 what);
    }
    return OK;
}

static int check_name(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    return config_check_name("name", c->name, message);
}

static int check_memory(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    if (c->memory < CONFIG_MEMORY_MIN)
        return config_refuse(message, "memory of %llu bytes is too small (at least %lluM)",
                             (unsigned long long)c->memory,
                             (unsigned long long)(CONFIG_MEMORY_MIN / MIB(1)));
    if (c->memory > CONFIG_MEMORY_MAX)
        return config_refuse(message, "memory of %llu bytes is too large (at most %lluG)",
                             (unsigned long long)c->memory,
                             (unsigned long long)(CONFIG_MEMORY_MAX / GIB(1)));
    if (c->memory % CONFIG_MEMORY_UNIT != 0)
        return config_refuse(
            message, "memory of %llu bytes is not a whole number of MiB (try %lluM)",
            (unsigned long long)c->memory, (unsigned long long)(c->memory / MIB(1)));
    return OK;
}

static int check_vcpus(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    if (c->vcpus < 1 || c->vcpus > VM_MAX_VCPUS)
        return config_refuse(message, "%u vCPUs are not possible (1 to %d)", c->vcpus,
                             VM_MAX_VCPUS);
    return OK;
}

static int check_level(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    if (!str_equal(c->level, "host") && !x86_level_find(c->level))
        return config_refuse(message, "unknown CPU level '%s' (there are v2, v3 and host)",
                             c->level);
    return OK;
}

static int check_engine(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    if (!str_equal(c->engine, "auto") && !str_equal(c->engine, "kvm") &&
        !str_equal(c->engine, "soft"))
        return config_refuse(message, "unknown engine '%s' (there are auto, kvm and soft)",
                             c->engine);
    return OK;
}

static int check_tsc_khz(const void *owner, char *message)
{
    const struct vm_config *c = owner;
    if (c->tsc_khz != 0 && (c->tsc_khz < CONFIG_TSC_KHZ_MIN || c->tsc_khz > CONFIG_TSC_KHZ_MAX))
        return config_refuse(message, "tsc_khz of %u is out of range (0, or %d to %d)", c->tsc_khz,
                             CONFIG_TSC_KHZ_MIN, CONFIG_TSC_KHZ_MAX);
    return OK;
}

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

const struct config_list vm_config_keys = {keys, ARRAY_SIZE(keys)};

static const char *const tables[] = {"cpu", "memory"};

/* Planned, or a fleet's: a key or the first part of one. */
static const char *const reserved[] = {
    "cpu.weight",         "cpu.reservation", "cpu.limit",    "cpu.credit", "cpu.pin",
    "memory.reservation", "memory.weight",   "memory.limit", "tenant",     "fleet",
    "vm",                 "disk",            "network",      "serial",     "firmware",
};

static const struct config_schema schema = {
    .list = {{keys, ARRAY_SIZE(keys)}},
    .table = tables,
    .tables = ARRAY_SIZE(tables),
    .reserved = reserved,
    .reserved_count = ARRAY_SIZE(reserved),
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

static int refuse_element(struct toml *t)
{
    return toml_error(
        t, "[[%s]] makes this a fleet, and one VM is wanted here (a fleet is for 'lodge image')",
        t->path);
}

int vm_config_parse(struct vm_config *c, const char *file, const char *text, size_t size,
                    char *message)
{
    struct config_scope scope;
    struct toml toml;
    config_scope_begin(&scope, &schema, c, 0);
    toml_init(&toml, file, text, size, message, CONFIG_MESSAGE);
    for (;;) {
        enum toml_event event = TOML_END;
        int err = toml_next(&toml, &event);
        if (err != OK || event == TOML_END)
            return err;
        if (event == TOML_ELEMENT)
            err = refuse_element(&toml);
        else
            err = event == TOML_TABLE ? config_scope_table(&scope, &toml)
                                      : config_scope_key(&scope, &toml);
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
        return config_refuse(message,
                             "no kernel given (-k KERNEL, or kernel = \"FILE\" in a file)");
    return OK;
}
