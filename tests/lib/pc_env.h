/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A whole machine for tests: RAM, a console that keeps what the guest writes, and an engine that
 * runs no code but answers vcpu_run from a script.
 */
#ifndef LODGE_TESTS_LIB_PC_ENV_H
#define LODGE_TESTS_LIB_PC_ENV_H

#include "machine/board.h"
#include "machine/pc.h"
#include "tests/lib/boot_env.h"

enum { PC_ENV_SCRIPT = 16, PC_ENV_CONSOLE = 256 };

/* One answer of vcpu_run. */
struct pc_env_step {
    int err;
    struct exit e;
    uint8_t activity; /* of the vCPU from then on */
};

struct pc_env {
    struct vm vm;
    struct vm_config config;
    uint8_t *ram;
    char message[PC_MESSAGE];
    struct boot_files files;
    uint8_t kernel[64]; /* a Multiboot kernel that is loaded to 1 MiB: pc_env_boot */

    char console[PC_ENV_CONSOLE];
    size_t console_length;

    struct pc_env_step script[PC_ENV_SCRIPT]; /* vCPU 0; after its end: EXIT_KICK */
    _Atomic uint32_t step;                    /* how often vcpu_run was called */
    uint32_t fail_vcpu;          /* vcpu_create of this one fails (0: none; numbered from 1) */
    bool fail_vm;                /* vm_create fails */
    const struct engine *engine; /* another one instead; NULL: the script's */
    uint32_t engine_vms, engine_vcpus, engine_changes;
};

/* config: 32 MiB, level v3; change it before pc_env_build. */
void pc_env_create(struct pc_env *e, uint32_t vcpus);
/* vm_init and pc_create. */
int pc_env_build(struct pc_env *e);
/* pc_boot of a small kernel. */
int pc_env_boot(struct pc_env *e);
void pc_env_destroy(struct pc_env *e);

uint64_t pc_env_in(struct pc_env *e, uint16_t port, uint8_t size);
void pc_env_out(struct pc_env *e, uint16_t port, uint8_t size, uint64_t value);

#endif
