/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The engines of the hosted home, best first. `auto` takes the first that works on this host and
 * runs the wanted level; what was found is said by `lodge doctor` and `lodge run -v`.
 *
 * A close look at kvm runs a guest (engine/kvm/probe.c): a device that opens proves little. Who names
 * an engine gets it without: the guest would cost more than all else that comes before the VM's own
 * first instruction.
 */
#include "hosted/engines.h"

#include <stdio.h>
#include <string.h>

static int look_at_kvm(const struct x86_level *level, bool closely, char *why, size_t size)
{
    int err = engine_kvm.probe(level, closely, why, size);

    if (!err)
        snprintf(why, size, "%s all of level %s",
                 closely ? "ran a test guest at the processor's speed, and offers" : "offers",
                 level->name);
    return err;
}

static int look_at_soft(const struct x86_level *level, bool closely, char *why, size_t size)
{
    int err = engine_soft.probe(level, closely, why, size);

    if (!err)
        snprintf(why, size,
                 "needs no hardware virtualization, and this processor has all of "
                 "level %s",
                 level->name);
    return err;
}

const struct engine_row engine_rows[] = {
    {"kvm", &engine_kvm, look_at_kvm},
    {"soft", &engine_soft, look_at_soft},
    {NULL, NULL, NULL},
};

int engines_choose(const char *name, const struct x86_level *level, const struct engine **out,
                   char *why, char *not_taken)
{
    bool any = strcmp(name, "auto") == 0;

    not_taken[0] = '\0';
    snprintf(why, ENGINES_WHY, "there is no engine '%s'", name);
    for (const struct engine_row *r = engine_rows; r->name; r++) {
        if (!any && strcmp(name, r->name) != 0)
            continue;
        if (r->look(level, any, why, ENGINES_WHY) == OK && r->engine) {
            *out = r->engine;
            return OK;
        }
        snprintf(not_taken, ENGINES_WHY, "%s: %.300s", r->name, why);
    }
    return ERR_UNSUPPORTED;
}
