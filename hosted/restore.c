/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A VM goes on where it was saved or frozen (docs/saved.md). Head and metadata have been read and checked
 * (machine/saved.c, frozen.c); here the machine is made of them.
 *
 * The level. What the saved VM has been promised is held against what this host and engine give under the same
 * name, since only such tables are known to be true: const ones, or that of this host. Then the engine
 * is asked whether it can run it, as for a VM that boots. So a table out of a file is never more than
 * a part of one of ours.
 *
 * Time. The VM's clock goes on from where it stood. Its wall clock is set by the host's: what the RTC and
 * kvm-clock say is as after a machine has slept; a guest that keeps its own wall clock by its monotonic one sees
 * no difference until it looks at them. The TSC's rate is the saved one, and an engine that cannot
 * give it refuses to make vCPUs (engine/kvm/kvm.c).
 */
#include "hosted/restore.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "hosted/engines.h"
#include "hosted/home.h"
#include "hosted/seam.h"

enum { VERIFY_PIECES = 16 };

/* --- definition and engine -----------------------------------------------------------------------
 */

int restore_definition(struct home *h, char *message)
{
    const struct restore_origin *from = h->origin;
    struct vm_config given = h->options.config, defaults, *c = &h->options.config;

    vm_config_defaults(&defaults);
    *c = from->saved->config;
    c->tsc_khz = from->saved->tsc_khz;
    if (strcmp(given.name, defaults.name) != 0)
        memcpy(c->name, given.name, sizeof(c->name));
    memcpy(c->engine, given.engine, sizeof(c->engine));
    memcpy(c->kernel, given.kernel, sizeof(c->kernel));
    memcpy(c->initrd, given.initrd, sizeof(c->initrd));
    c->interpret = given.interpret;
    if (from->frozen && strcmp(given.engine, "auto") == 0)
        memcpy(c->engine, from->frozen->engine, sizeof(c->engine));
    if (from->frozen && !h->options.has_translator)
        c->interpret = from->frozen->interpret;
    if (c->initrd[0] && !c->kernel[0]) {
        snprintf(message, OPTIONS_MESSAGE, "an initrd without a kernel (give -k, too)");
        return ERR_INVALID;
    }
    return vm_config_check_values(c, message);
}

/* What the host and this engine give under the level's name. */
static void offered_level(const struct engine *engine, const struct x86_level *wanted, struct x86_level *out)
{
    const struct x86_level *known = x86_level_find(wanted->name);

    if (known)
        *out = *known;
    else
        x86_level_host(out);
    if (engine->adapt_profile)
        engine->adapt_profile(out);
}

static int look_at(const struct engine_row *r, const struct x86_level *wanted, bool closely, char *why)
{
    struct x86_level offered;
    int err;

    offered_level(r->engine, wanted, &offered);
    err = x86_level_offers(&offered, wanted, why, ENGINES_WHY);
    return err ? err : r->look(wanted, closely, why, ENGINES_WHY);
}

int restore_engine(struct home *h, char *message)
{
    const char *name = h->options.config.engine;
    const struct x86_level *wanted = &h->origin->saved->level;
    bool any = strcmp(name, "auto") == 0;
    char why[ENGINES_WHY] = "it is not known here";
    size_t used = 0;

    message[0] = '\0';
    for (const struct engine_row *r = engine_rows; r->name; r++) {
        if (!r->engine || (!any && strcmp(name, r->name) != 0))
            continue;
        if (look_at(r, wanted, any, why) == OK) {
            h->engine = r->engine;
            h->own_level = *wanted;
            h->level = &h->own_level;
            if (h->options.log_level >= SEAM_LOG_INFO)
                say("%sengine %s: %s", h->who, r->name, why);
            return OK;
        }
        if (used >= OPTIONS_MESSAGE / 2)
            used = OPTIONS_MESSAGE / 2;
        used += (size_t)snprintf(message + used, OPTIONS_MESSAGE - used, "%sengine %s cannot go on with this VM: %.300s",
                                 used ? "; " : "", r->name, why);
    }
    snprintf(message + used, OPTIONS_MESSAGE - used, " (see 'lodge doctor')");
    return ERR_UNSUPPORTED;
}

/* --- memory and machine --------------------------------------------------------------------------
 */

static int verify_all(const struct saved_file *f, char *message)
{
    static uint8_t buffer[SAVED_PIECE];
    uint64_t piece = 0;

    return saved_file_verify(f, &piece, f->saved.pieces, buffer, message);
}

int restore_memory(struct home *h, char *message)
{
    const struct restore_origin *from = h->origin;
    char why[SAVED_MESSAGE] = "";
    int err = OK;

    if (from->file && h->options.verify)
        err = verify_all(from->file, why);
    if (!err) {
        err = ram_create(&h->ram, h->options.config.memory, false, message, OPTIONS_MESSAGE);
        if (err)
            return err;
        err = from->file ? saved_file_map(from->file, &h->ram, why) : frozen_map(from->frozen, &h->ram, why);
    }
    if (err)
        snprintf(message, OPTIONS_MESSAGE, "%s", why);
    return err;
}

int restore_machine(struct home *h, char *message)
{
    struct vm *vm = &h->vm;
    int err = state_load_all(&vm->state, h->origin->saved->machine, h->origin->saved->machine_size);

    if (!err) {
        vm->clock.wall_base = seam_wall_time_ns() - vm_clock_ns(vm);
        h->freeze.renew_identity = true;
        err = pc_hand_over_vcpus(vm);
    }
    if (err)
        snprintf(message, OPTIONS_MESSAGE, "the saved state of processors and devices cannot be taken: %s (%s)",
                 err_name(err), err == ERR_VERSION ? "use the Lodge that saved it" : "take another copy");
    return err;
}

/* --- while it runs -------------------------------------------------------------------------------
 */

/* Threads do not end: the sandbox would not let them. */
static _Noreturn void wait_for_ever(void)
{
    _Atomic uint32_t never = 0;

    for (;;)
        seam_wait(&never, 0, UINT64_MAX);
}

void restore_verify(void *home)
{
    struct home *h = home;
    const struct saved_file *f = h->origin->file;
    static uint8_t buffer[SAVED_PIECE];
    char message[SAVED_MESSAGE];
    uint64_t piece = 0;
    int err = OK;

    while (piece < f->saved.pieces && !err && !vm_is_stopped(&h->vm))
        err = saved_file_verify(f, &piece, VERIFY_PIECES, buffer, message);
    if (err)
        vm_stop(&h->vm, VM_STOP_MEMORY_LOST, 0, "%s", message);
    else
        atomic_store(&h->unverified, false);
    seam_wake_main(h);
    wait_for_ever();
}
