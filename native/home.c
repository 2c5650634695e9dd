/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* What the platform calls when it is up (main.h): which CPUs work, and a thread that finds the engine, makes the fleet, and
 * starts it. */
#include "core/seam.h"
#include "native/cpu_start.h"
#include "native/engine.h"
#include "native/fleet.h"
#include "native/main.h"
#include "native/operator.h"
#include "native/selftest.h"
#include "native/speculation.h"
#include "native/thread.h"

static void begin(void *unused)
{
    (void)unused;
    (void)engine_start();
    fleet_init();
    fleet_start();
    selftest_home(main_boot_info());
    operator_start();
}

void home_start(void)
{
    struct thread *t;

    speculation_settle(smp_cores(fleet_read()));
    if (thread_create(&t, "fleet", begin, NULL) != OK)
        seam_panic(__FILE__, __LINE__, "no memory for the first thread");
}
