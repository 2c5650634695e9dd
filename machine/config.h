/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM's definition, and its reader: a strict subset of TOML 1.0, freestanding, no allocation. The
 * native home reads the same files. Keys are those of struct vm_config; docs/config.md lists them.
 */
#ifndef LODGE_MACHINE_CONFIG_H
#define LODGE_MACHINE_CONFIG_H

#include "core/err.h"
#include "core/types.h"
#include "core/vm.h"

enum {
    CONFIG_PATH = 1024,
    CONFIG_APPEND = 2048, /* the Linux boot protocol's usual limit */
    CONFIG_MESSAGE = 512,
};

struct vm_config {
    char name[VM_NAME_SIZE];
    char kernel[CONFIG_PATH];
    char initrd[CONFIG_PATH]; /* may be empty */
    char append[CONFIG_APPEND];
    uint64_t memory; /* bytes, a multiple of 2 MiB... or of the page size, see docs */
    uint32_t vcpus;  /* 1 .. VM_MAX_VCPUS */
    char level[16];  /* "v3" */
    char engine[8];  /* "auto" */
    bool exit_port;  /* offer port 0xf4 */
    bool portable;   /* the level without its mitigation profile: x86_level_make_portable */
    bool interpret;  /* engine soft without its translator */
    uint32_t tsc_khz; /* 0: the home chooses */
};

/* Defaults: 512 MiB, 1 vCPU, v3, auto. */
void vm_config_defaults(struct vm_config *c);

/* Reads text[0 .. size) named `file` in messages over *c. On error: ERR_INVALID and a one-line
 * message "FILE:LINE: what is wrong (what to do)" in message[CONFIG_MESSAGE]. */
int must_check vm_config_parse(struct vm_config *c, const char *file, const char *text, size_t size,
                               char *message);

/* Is each value allowed by itself? ERR_INVALID and a message. */
int must_check vm_config_check_values(const struct vm_config *c, char *message);

/* Whole-configuration checks (memory and vCPU bounds, known level and engine names, kernel given);
 * the command line uses the same. ERR_INVALID and a message. */
int must_check vm_config_check(const struct vm_config *c, char *message);

/* "512M", "2G", "65536K", plain bytes: bytes, or ERR_INVALID. */
int must_check parse_size(const char *text, size_t length, uint64_t *bytes);

#endif
