/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A machine in the hosted home, without the process around it: the real seam, the production
 * objects, any engine, over RAM that outlives it. For tests that move a guest from one machine to
 * another.
 */
#ifndef LODGE_TESTS_KVM_VM_ENV_H
#define LODGE_TESTS_KVM_VM_ENV_H

#include "hosted/home.h"
#include "machine/board.h"
#include "machine/pc.h"
#include "x86/level.h"

enum { VM_ENV_STATE = 64 << 10 };

/* What all machines of a test have in common. */
struct vm_shape {
    struct vm_config config; /* its TSC's rate is set by vm_shape_init */
    struct x86_level level;  /* as the first engine can give it on this host */
    uint8_t *ram;
    const struct console_ops *console;
    void *console_owner;
};

struct vm_env {
    struct home home; /* .vm */
    const struct engine *engine;
};

struct vm_state {
    size_t size;
    uint8_t bytes[VM_ENV_STATE];
};

/* Both end the program with a message if the host is in the way. `first`: the engine that level and
 * TSC's rate are asked of; kvm, if it is among those that are used. */
void vm_shape_init(struct vm_shape *s, uint32_t vcpus, uint64_t memory, const struct engine *first);
void vm_env_create(struct vm_env *e, const struct vm_shape *s, const struct engine *engine);
void vm_env_destroy(struct vm_env *e);

static inline struct vm *vm_env_vm(struct vm_env *e)
{
    return &e->home.vm;
}

/* All sections of a machine at rest, whose vCPUs have been fetched. */
void vm_env_save(const struct vm_env *e, struct vm_state *s);
/* Of section `name` of a vCPU: its payload. */
const uint8_t *vm_state_section(const struct vm_state *s, const char *name, uint32_t instance,
                                size_t *size);

#endif
