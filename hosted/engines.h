/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Which engines this build has, and which one `auto` takes: see engines.c. */
#ifndef LODGE_HOSTED_ENGINES_H
#define LODGE_HOSTED_ENGINES_H

#include "engine/engine.h"

enum { ENGINES_WHY = 320 };

struct engine_row {
    const char *name;
    const struct engine *engine; /* NULL: not in this build */
    /* engine->probe, but why[] says what was found either way. */
    int (*look)(const struct x86_level *level, bool closely, char *why, size_t size);
};

/* Best first; ended by a row without a name. */
extern const struct engine_row engine_rows[];

/* name: "auto", or an engine's. OK with *out, why it was taken in why[ENGINES_WHY], and what was
 * passed over ("kvm: ...") or nothing in not_taken[ENGINES_WHY]; else ERR_UNSUPPORTED and why not.
 */
int must_check engines_choose(const char *name, const struct x86_level *level,
                              const struct engine **out, char *why, char *not_taken);

#endif
