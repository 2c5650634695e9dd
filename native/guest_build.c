/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What a VM is made of natively: RAM from the machine's frames, seen through a window; the engine's nested tables; kernel and initrd
 * from the boot loader's modules, where they stay for every reset. Each step that fails takes back those before.
 */
#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "machine/saved.h"
#include "native/boot_info.h"
#include "native/engine.h"
#include "native/frames.h"
#include "native/guest.h"
#include "native/isolation.h"
#include "native/log.h"
#include "native/main.h"
#include "native/panic.h"
#include "native/thread.h"

enum { WHY = 256, ZERO_AT_ONCE = 16 << 20 };

/* --- modules ------------------------------------------------------------------------------------- */

static const struct boot_module *find_module(const char *path)
{
    const struct boot_info *b = main_boot_info();

    for (uint32_t i = 0; i < b->modules; i++) {
        if (fleet_module_is(b->module[i].command, path))
            return &b->module[i];
    }
    return NULL;
}

const void *guest_module(const char *path, size_t *size)
{
    const struct boot_module *m = find_module(path);

    *size = m ? m->size : 0;
    return m ? hw_virt(m->base) : NULL;
}

/* struct boot_file.read */
static int read_module(void *owner, uint64_t offset, void *to, size_t n)
{
    const struct boot_module *m = owner;

    memcpy(to, (const uint8_t *)hw_virt(m->base) + offset, n);
    hw_preempt_point();
    return OK;
}

static int boot_file_of(const char *what, const char *path, struct boot_file *f, char *message)
{
    const struct boot_module *m;

    *f = (struct boot_file){.size = 0};
    if (!path[0])
        return OK;
    m = find_module(path);
    if (!m) {
        (void)fmt(message, GUEST_MESSAGE, "its %s '%s' is not in the image (make the image again)", what, path);
        return ERR_NOT_FOUND;
    }
    *f = (struct boot_file){.size = m->size, .read = read_module, .owner = (void *)(uintptr_t)m};
    return OK;
}

/* --- making -------------------------------------------------------------------------------------- */

static int choose_level(struct guest *g, const struct saved *saved, char *message)
{
    const struct engine *engine = engine_found()->engine;
    const struct vm_config *c = &g->storage_config;
    const struct x86_level *known = x86_level_find(saved ? saved->level.name : c->level);
    char why[WHY] = "";
    int err = OK;

    if (known)
        g->level = *known;
    else
        x86_level_host(&g->level);
    if (engine->adapt_profile)
        engine->adapt_profile(&g->level);
    if (saved) {
        err = x86_level_offers(&g->level, &saved->level, why, sizeof(why));
        g->level = saved->level;
    } else if (c->portable) {
        x86_level_make_portable(&g->level);
    }
    if (!err)
        err = engine->probe(&g->level, false, why, sizeof(why));
    if (err)
        (void)fmt(message, GUEST_MESSAGE, "engine %s does not run it: %s", engine->name, why);
    return err;
}

static int boot(struct guest *g, char *message)
{
    const struct vm_config *c = &g->storage_config;
    struct boot_files files;
    int err = boot_file_of("kernel", c->kernel, &files.kernel, message);

    if (!err)
        err = boot_file_of("initrd", c->initrd, &files.initrd, message);
    return err ? err : pc_boot(g->vm, &files, message);
}

/* The definition of what is made: the fleet's, or the saved VM's with the fleet's name and kernel. */
static int define(struct guest *g, struct saved *saved, char *message)
{
    int err;

    g->storage_config = g->definition->config;
    if (!g->restores)
        return OK;
    err = guest_restore_read(g->definition->restore, saved, message);
    if (err)
        return err;
    g->storage_config = saved->config;
    memcpy(g->storage_config.name, g->definition->config.name, sizeof(g->storage_config.name));
    memcpy(g->storage_config.kernel, g->definition->config.kernel, sizeof(g->storage_config.kernel));
    memcpy(g->storage_config.initrd, g->definition->config.initrd, sizeof(g->storage_config.initrd));
    g->storage_config.tsc_khz = saved->tsc_khz;
    return OK;
}

static void hold(struct guest *g, uint64_t pages)
{
    lock_take(&g->lock);
    meter_hold(&g->memory, pages, seam_time_ns());
    lock_release(&g->lock);
}

static int get_memory(struct guest *g, char *message)
{
    uint64_t size = g->storage_config.memory, total, left;

    if (window_alloc(size, FRAME_GUEST + g->number, &g->ram) == OK) {
        hold(g, size / PAGE_SIZE);
        return OK;
    }
    frames_count(&total, &left);
    (void)fmt(message, GUEST_MESSAGE, "its %llu MiB of memory are more than the %llu MiB that are free",
              (unsigned long long)(size >> 20), (unsigned long long)(left >> 20));
    return ERR_NO_MEMORY;
}

static void return_memory(struct guest *g)
{
    window_free(g->ram, g->storage_config.memory);
    g->ram = NULL;
    hold(g, 0);
    isolation_changed();
}

/* In RAM that is zero, a machine that exists and is to begin. */
static int fill(struct guest *g, const struct saved *saved, char *message)
{
    int err;

    if (!g->restores)
        return boot(g, message);
    err = guest_restore_memory(g, saved, message);
    return err ? err : guest_restore_machine(g, saved, message);
}

static int prove_isolation(struct guest *g, char *message)
{
    int err = isolation_check(&g->isolation, message, GUEST_MESSAGE);

    if (err && g->isolation.broken != g) /* it may be running */
        panic_words("%s", message);
    return err;
}

/* With the machine made: what can still fail. */
static int furnish(struct guest *g, const struct saved *saved, char *message)
{
    int err = fill(g, saved, message);

    if (err)
        return err;
    err = prove_isolation(g, message);
    if (err)
        return err;
    if (guest_timer_start(g) == OK)
        return OK;
    (void)fmt(message, GUEST_MESSAGE, "no memory for its timers' thread");
    return ERR_NO_MEMORY;
}

static int make_in_memory(struct guest *g, const struct saved *saved, char *message)
{
    int err = pc_create(g->vm, &g->storage_config, &g->level, engine_found()->engine, g->ram, &guest_console_ops, g,
                        message);

    if (err)
        return err;
    err = furnish(g, saved, message);
    if (err)
        pc_destroy(g->vm);
    return err;
}

static int make(struct guest *g, struct saved *saved, char *message)
{
    int err = define(g, saved, message);

    if (!err)
        err = choose_level(g, g->restores ? saved : NULL, message);
    if (!err)
        err = get_memory(g, message);
    if (err)
        return err;
    err = make_in_memory(g, saved, message);
    if (err)
        return_memory(g);
    return err;
}

int guest_build(struct guest *g)
{
    size_t pages = (sizeof(struct saved) + PAGE_SIZE - 1) / PAGE_SIZE;
    struct saved *saved = seam_pages_alloc(pages); /* too large for a stack */
    char message[GUEST_MESSAGE] = "no memory";
    int err = ERR_NO_MEMORY;

    vm_init(&g->storage, g->definition->config.name);
    guest_init(g, &g->storage);
    if (saved && engine_found())
        err = make(g, saved, message);
    if (saved)
        seam_pages_free(saved, pages);
    if (err && !engine_found())
        (void)fmt(message, sizeof(message), "this machine can run no guests");
    if (err) {
        log_line("%s does not start: %s", g->vm->name, message);
        (void)str_copy(g->ended, sizeof(g->ended), message);
    }
    return err;
}

int guest_boot_again(struct guest *g)
{
    char message[GUEST_MESSAGE] = "";
    uint8_t *ram = g->ram;
    int err = ERR_INVALID;

    for (uint64_t at = 0; at < g->storage_config.memory; at += ZERO_AT_ONCE) {
        uint64_t left = g->storage_config.memory - at;

        memset(ram + at, 0, left < ZERO_AT_ONCE ? left : ZERO_AT_ONCE);
        hw_preempt_point();
    }
    if (!g->storage_config.kernel[0])
        (void)fmt(message, sizeof(message), "it was saved without its kernel");
    else
        err = boot(g, message);
    if (err)
        log_line("%s does not boot again: %s", g->vm->name, message);
    return err;
}

void guest_unbuild(struct guest *g)
{
    guest_timer_end(g);
    pc_destroy(g->vm);
    return_memory(g);
}
