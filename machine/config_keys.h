/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Tables of keys, and the reader that goes by them: see config_keys.c. Inside machine/ only; config.c and fleet.c have
 * the tables.
 */
#ifndef LODGE_MACHINE_CONFIG_KEYS_H
#define LODGE_MACHINE_CONFIG_KEYS_H

#include "core/err.h"
#include "core/types.h"
#include "machine/toml.h"

enum config_kind {
    CONFIG_STRING,
    CONFIG_U32,
    CONFIG_SIZE, /* "512M" or an integer in bytes: uint64_t */
    CONFIG_BOOL,
    CONFIG_CPUS, /* "0,2-3": uint64_t, a bit for each */
};

struct config_key {
    const char *path;
    enum config_kind kind;
    uint32_t offset; /* in the owner; also tells short and long forms of one key apart */
    uint32_t size;   /* CONFIG_STRING: of the array */
    const char *example;
    int (*check)(const void *owner, char *message); /* is the value a possible one? NULL: all */
};

struct config_list {
    const struct config_key *key;
    uint32_t count;
};

/* All that may stand in one scope: at the top of a file, or in one element of an array of tables. */
struct config_schema {
    struct config_list list[2]; /* of one owner's keys; the second may be empty */
    const char *const *table;   /* tables that keys are in */
    uint32_t tables;
    const char *const *reserved; /* planned: a key or the first part of one */
    uint32_t reserved_count;
};

enum { CONFIG_KEYS = 32, CONFIG_TABLES = 4 }; /* of a schema, at most */

/* A scope that is being read, and what has been seen of it. */
struct config_scope {
    const struct config_schema *schema;
    void *owner;
    uint32_t prefix;                /* bytes at the front of the reader's paths that all of the scope's have: "vm." */
    uint32_t key_line[CONFIG_KEYS]; /* 0: not seen */
    uint32_t table_line[CONFIG_TABLES]; /* [table], or first dotted key of it */
};

/* The keys of one VM, in struct vm_config (config.c). */
extern const struct config_list vm_config_keys;

/* May a VM be called so, or what else `what` is the key of? ERR_INVALID and a message without place. (config.c) */
int must_check config_check_name(const char *what, const char *name, char *message);

void config_scope_begin(struct config_scope *s, const struct config_schema *schema, void *owner, uint32_t prefix);
/* t has read [table], or a key with its value. ERR_INVALID and t's message. */
int must_check config_scope_table(struct config_scope *s, struct toml *t);
int must_check config_scope_key(struct config_scope *s, struct toml *t);
/* The line of the key at that offset of the owner, however it was written; 0: it was not given. */
uint32_t config_scope_line(const struct config_scope *s, uint32_t offset);

/* One plain line in message[CONFIG_MESSAGE]; ERR_INVALID. For checks of values. */
int config_refuse(char *message, const char *format, ...) printf_like(2, 3);

#endif
