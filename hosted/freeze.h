/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Rest, pause and freezing of the running VM: see freeze.c. Everything here is the main thread's. */
#ifndef LODGE_HOSTED_FREEZE_H
#define LODGE_HOSTED_FREEZE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/types.h"

struct home;

struct freeze {
    bool paused;           /* at rest until further notice, its clock stopped */
    bool clock_runs;
    bool renew_identity;   /* when the clock starts: it was restored or forked */
    bool active;           /* freeze_begin .. freeze_end */
    uint32_t layer;        /* where private memory is moved to */
    uint64_t piece;        /* the next of it */
    uint64_t rest_ns;      /* how long the guest rested at once, at most, in the last freezing */
    uint64_t tidy_at;      /* seam time: when to go on giving back, 0: nothing has been frozen */
    uint64_t tidy_piece, tidy_pause_ms;
};

/* Before vCPU threads run: the clock starts, unless the VM is to begin paused. */
void freeze_start(struct home *h, bool paused);
/* The VM has been stopped: vCPUs come out of a pause. Then, when they are out: the clock stops. */
void freeze_unpause(struct home *h);
void freeze_stop(struct home *h);

/* ERR_BUSY: it is already; ERR_STOPPED: it has ended. */
int must_check freeze_pause(struct home *h);
int must_check freeze_resume(struct home *h);

/* Brings the VM to rest, unless it is paused, which is as good; and lets it go again. */
void freeze_rest_begin(struct home *h);
void freeze_rest_end(struct home *h);

/* Freezing: begin, then step until there is no more to do, then finish, which gives descriptors for the one who
 * asked (files[0] is the caller's to close; FROZEN_FILES). Between steps the guest runs. On an error the VM
 * runs on, or has been stopped with a reason. message[SAVED_MESSAGE]. */
int must_check freeze_begin(struct home *h, char *message);
bool freeze_step(struct home *h);
int must_check freeze_finish(struct home *h, int *files, uint32_t *count, char *message);

/* Gives back memory that is held twice, a little at a time. In how many ms to call again, -1: no need. */
int freeze_tidy(struct home *h);

#endif
