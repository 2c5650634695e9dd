/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
#include "tests/kvm/vm_env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/mem.h"
#include "hosted/log.h"
#include "hosted/ram.h"

enum { NAME_SIZE = 16, INSTANCE_AT = 16, LENGTH_AT = 24, HEADER_SIZE = 32 };

static void write_nothing(void *console, const uint8_t *bytes, size_t size)
{
    (void)console;
    (void)bytes;
    (void)size;
}

static const struct console_ops no_console = {.write = write_nothing};

static void give_up(const char *what, const char *why)
{
    printf("not ok %s: %s\n", what, why);
    exit(1);
}

void vm_shape_init(struct vm_shape *s, uint32_t vcpus, uint64_t memory, const struct engine *first)
{
    char message[256] = "";
    struct vm_env *env = calloc(1, sizeof(*env));
    struct ram ram;

    memset(s, 0, sizeof(*s));
    vm_config_defaults(&s->config);
    s->config.memory = memory;
    s->config.vcpus = vcpus;
    s->config.exit_port = true;
    s->console = &no_console;
    s->level = *x86_level_find(s->config.level);
    if (first->adapt_profile)
        first->adapt_profile(&s->level);
    if (!env || ram_create(&ram, memory, true, message, sizeof(message)) != OK)
        give_up("memory", message);
    s->ram = ram.base;
    vm_env_create(env, s, first);
    s->config.tsc_khz = env->home.vm.tsc_khz;
    vm_env_destroy(env);
    free(env);
}

void vm_env_create(struct vm_env *e, const struct vm_shape *s, const struct engine *engine)
{
    struct home *h = &e->home;
    char message[PC_MESSAGE];

    memset(e, 0, sizeof(*e));
    e->engine = engine;
    vm_init(&h->vm, engine->name);
    h->vm.home = h;
    h->timer_armed = UINT64_MAX;
    h->options.log_level = SEAM_LOG_WARNING;
    pthread_mutex_init(&h->timer_lock, NULL);
    log_limit_init(&h->log_limit);
    h->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->timer_fd < 0 || h->wake_fd < 0)
        give_up("machine", "no descriptors");
    if (pc_create(&h->vm, &s->config, &s->level, engine, s->ram, s->console, s->console_owner,
                  message) != OK)
        give_up(engine->name, message);
}

void vm_env_destroy(struct vm_env *e)
{
    pc_destroy(&e->home.vm);
    close(e->home.timer_fd);
    close(e->home.wake_fd);
}

void vm_env_save(const struct vm_env *e, struct vm_state *s)
{
    struct state_writer w = {.buf = s->bytes, .size = sizeof(s->bytes)};

    state_save_all(&e->home.vm.state, &w);
    if (w.used > w.size)
        give_up("save", "a state is larger than thought");
    s->size = w.used;
}

const uint8_t *vm_state_section(const struct vm_state *s, const char *name, uint32_t instance,
                                size_t *size)
{
    char wanted[NAME_SIZE] = {0};

    str_copy(wanted, sizeof(wanted), name);
    for (size_t at = 0; at + HEADER_SIZE <= s->size;) {
        const uint8_t *header = s->bytes + at;
        uint32_t length = load_u32(header + LENGTH_AT);

        if (memcmp(header, wanted, NAME_SIZE) == 0 && load_u32(header + INSTANCE_AT) == instance) {
            *size = length;
            return header + HEADER_SIZE;
        }
        at += HEADER_SIZE + length;
    }
    give_up("state", "a section is missing");
    return NULL;
}
