/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#include "tests/lib/pc_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/mem.h"

static struct pc_env *env_of(struct vm *vm)
{
    return container_of(vm, struct pc_env, vm);
}

/* --- an engine without code --- */

static int probe(const struct x86_level *level, bool closely, char *why, size_t size)
{
    (void)level;
    (void)closely;
    snprintf(why, size, "always");
    return OK;
}

static int vm_create(struct vm *vm)
{
    struct pc_env *e = env_of(vm);
    if (e->fail_vm)
        return ERR_UNSUPPORTED;
    e->engine_vms++;
    return OK;
}

static void vm_destroy(struct vm *vm)
{
    env_of(vm)->engine_vms--;
}

static int vcpu_create(struct x86_cpu *cpu)
{
    struct pc_env *e = env_of(cpu->vcpu.vm);
    if (e->fail_vcpu == cpu->vcpu.id + 1)
        return ERR_BUSY;
    e->engine_vcpus++;
    return OK;
}

static void vcpu_destroy(struct x86_cpu *cpu)
{
    env_of(cpu->vcpu.vm)->engine_vcpus--;
}

static int vcpu_run(struct x86_cpu *cpu, struct exit *out)
{
    struct pc_env *e = env_of(cpu->vcpu.vm);
    uint32_t step = atomic_fetch_add(&e->step, 1);
    (void)vcpu_take_requests(&cpu->vcpu, VCPU_REQ_INTR | VCPU_REQ_NMI | VCPU_REQ_SIPI);
    if (step >= PC_ENV_SCRIPT) {
        *out = (struct exit){.reason = EXIT_KICK};
        return OK;
    }
    const struct pc_env_step *s = &e->script[step];
    *out = s->e;
    cpu->activity = s->activity;
    if (out->reason == EXIT_NONE)
        out->reason = EXIT_KICK;
    return s->err;
}

static void vcpu_state_changed(struct x86_cpu *cpu)
{
    env_of(cpu->vcpu.vm)->engine_changes++;
}

static const struct engine fake_engine = {
    .name = "fake",
    .description = "runs nothing",
    .probe = probe,
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_run = vcpu_run,
    .vcpu_state_changed = vcpu_state_changed,
};

/* --- console --- */

static void console_write(void *console, const uint8_t *bytes, size_t size)
{
    struct pc_env *e = console;
    while (size-- > 0 && e->console_length < PC_ENV_CONSOLE - 1)
        e->console[e->console_length++] = (char)*bytes++;
}

static const struct console_ops console_ops = {.write = console_write};

/* --- the machine --- */

void pc_env_create(struct pc_env *e, uint32_t vcpus)
{
    memset(e, 0, sizeof(*e));
    vm_config_defaults(&e->config);
    e->config.memory = MIB(32);
    e->config.vcpus = vcpus;
    snprintf(e->config.append, sizeof(e->config.append), "console=ttyS0");
    /* flags: addresses are given; header, load, end, bss end, entry */
    store_u32(e->kernel, 0x1BADB002);
    store_u32(e->kernel + 4, 0x10000);
    store_u32(e->kernel + 8, 0u - 0x1BADB002 - 0x10000);
    store_u32(e->kernel + 12, 0x100000);
    store_u32(e->kernel + 16, 0x100000);
    store_u32(e->kernel + 28, 0x100020);
    e->files.kernel = boot_env_file(e->kernel, sizeof(e->kernel));
}

int pc_env_build(struct pc_env *e)
{
    if (!e->ram) {
        e->ram = mmap(NULL, e->config.memory, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (e->ram == MAP_FAILED)
            abort();
    }
    e->message[0] = 0;
    vm_init(&e->vm, "test");
    return pc_create(&e->vm, &e->config, x86_level_find(e->config.level),
                     e->engine ? e->engine : &fake_engine, e->ram, &console_ops, e, e->message);
}

int pc_env_boot(struct pc_env *e)
{
    e->message[0] = 0;
    return pc_boot(&e->vm, &e->files, e->message);
}

void pc_env_destroy(struct pc_env *e)
{
    pc_destroy(&e->vm);
    if (e->ram)
        munmap(e->ram, e->config.memory);
}

uint64_t pc_env_in(struct pc_env *e, uint16_t port, uint8_t size)
{
    struct exit x = {.reason = EXIT_PORT};
    x.port.port = port;
    x.port.size = size;
    (void)vcpu_handle_exit(e->vm.vcpu[0], &x);
    return x.port.value;
}

void pc_env_out(struct pc_env *e, uint16_t port, uint8_t size, uint64_t value)
{
    struct exit x = {.reason = EXIT_PORT};
    x.port.port = port;
    x.port.size = size;
    x.port.write = true;
    x.port.value = value;
    (void)vcpu_handle_exit(e->vm.vcpu[0], &x);
}
