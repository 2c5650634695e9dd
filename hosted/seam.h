/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the home itself needs of its seam beyond core/seam.h. */
#ifndef LODGE_HOSTED_SEAM_H
#define LODGE_HOSTED_SEAM_H

#include "core/types.h"

struct home;

/* Any thread, any lock held: the main thread looks around. */
void seam_wake_main(struct home *h);
/* Main thread: the timer has fired; forgets the armed deadline, so that the next one is armed. */
void seam_timer_fired(struct home *h);

/* What a user can do about an errno of a call that takes memory or a descriptor: "raise 'ulimit -n'". */
const char *seam_errno_hint(int error);
/* errno of this thread's last seam_exec_alloc that failed, 0 if none has. */
int seam_exec_errno(void);

/* Makes seam_steal_ns work on the calling thread; before the sandbox. If it cannot, 0 it stays. */
void seam_steal_open(void);

#endif
