/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a running VM says about itself. Counters of vCPUs are read while they run, so they are of about now. Every
 * number is an integer, in the unit that its name ends with; docs/cli.md lists the names.
 */
#include "hosted/inspect.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "hosted/home.h"

static unsigned long long cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

static const char *state_of(const struct home *h)
{
    if (vm_is_stopped(&h->vm))
        return "ending";
    return h->freeze.paused ? "paused" : "running";
}

void inspect_line(const struct home *h, char *text, size_t size)
{
    snprintf(text, size, "%d\t%s\t%s\t%u\t%llu\t%llu\t%llu", (int)getpid(), state_of(h), h->engine->name,
             h->vm.vcpu_count, (unsigned long long)h->options.config.memory,
             (unsigned long long)vm_clock_ns(&h->vm), cpu_ns());
}

/* A text that grows until it is full. */
struct text {
    char *at;
    size_t size, used;
};

static void put(struct text *t, const char *format, ...) printf_like(2, 3);
static void put(struct text *t, const char *format, ...)
{
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(t->used < t->size ? t->at + t->used : NULL, t->used < t->size ? t->size - t->used : 0, format, ap);
    va_end(ap);
    t->used += n > 0 ? (size_t)n : 0;
}

/* RFC 8259, 7. Bytes that are not ASCII are passed on: paths and command lines are UTF-8 as a rule. */
static void put_string(struct text *t, const char *name, const char *value)
{
    put(t, ",\"%s\":\"", name);
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;

        if (c == '"' || c == '\\')
            put(t, "\\%c", c);
        else if (c < 0x20)
            put(t, "\\u%04x", c);
        else
            put(t, "%c", c);
    }
    put(t, "\"");
}

static void put_number(struct text *t, const char *name, uint64_t value)
{
    put(t, ",\"%s\":%llu", name, (unsigned long long)value);
}

static void put_vcpus(struct text *t, const struct vm *vm)
{
    put(t, ",\"vcpus\":[");
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        const struct x86_cpu *cpu = pc_cpu(vm, id);
        uint64_t exits = 0;

        for (uint32_t i = 0; i < EXIT_REASONS; i++)
            exits += cpu->vcpu.exits[i];
        put(t, "%s{\"id\":%u", id ? "," : "", id);
        put_number(t, "exits", exits);
        put_number(t, "halted_ns", cpu->vcpu.halted_ns);
        put(t, "}");
    }
    put(t, "]");
}

static void put_layers(struct text *t, const struct ram *ram)
{
    const char *comma = "";

    put(t, ",\"memory_layers\":[");
    for (uint32_t i = 0; i < RAM_LAYERS; i++) {
        const struct ram_layer *l = &ram->layer[i];
        uint64_t mapped = 0;

        if (l->fd < 0)
            continue;
        for (uint32_t n = 0; n < ram->extents; n++)
            mapped += ram->extent[n].layer == i ? ram->extent[n].size : 0;
        put(t, "%s{\"kind\":\"%s\"", comma, l->is_memory ? "memory" : "file");
        put_number(t, "mapped_bytes", mapped);
        put(t, ",\"shared\":%s}", l->is_shared ? "true" : "false");
        comma = ",";
    }
    put(t, "]");
}

void inspect_json(const struct home *h, char *text, size_t size)
{
    struct text t = {text, size, 0};
    const struct vm_config *c = &h->options.config;

    put(&t, "{\"pid\":%d", (int)getpid());
    put_string(&t, "name", h->vm.name);
    put_string(&t, "state", state_of(h));
    put_string(&t, "engine", h->engine->name);
    put_string(&t, "level", h->level->name);
    put_string(&t, "kernel", c->kernel);
    put_string(&t, "initrd", c->initrd);
    put_string(&t, "append", c->append);
    put_number(&t, "memory_bytes", c->memory);
    put_number(&t, "tsc_khz", h->vm.tsc_khz);
    put_number(&t, "clock_ns", vm_clock_ns(&h->vm));
    put_number(&t, "cpu_ns", cpu_ns());
    put_number(&t, "resets", h->resets);
    put_number(&t, "last_rest_ns", h->freeze.rest_ns);
    put_vcpus(&t, &h->vm);
    put_layers(&t, &h->ram);
    put(&t, "}");
    if (t.used >= size)
        snprintf(text, size, "{}");
}
