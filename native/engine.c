/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The engine of this machine: that whose extension the processors have, and the firmware has left on. It is looked for on
 * the boot processor and switched on on each CPU that runs threads, by one for each that does not give way before all have one; what one CPU
 * lacks all do without, and it is said.
 */
#include "native/engine.h"

#include <stdatomic.h>

#include "core/fmt.h"
#include "core/seam.h"
#include "native/cpu.h"
#include "native/log.h"
#include "native/panic.h"
#include "native/speculation.h"
#include "native/thread.h"

enum { TEXT = 200 };

static const struct hw_engine *const engines[] = {&hw_svm, &hw_vmx};
static const struct hw_engine *found;
static _Atomic uint32_t came, failed;

static int switch_cpu_on(void)
{
    speculation_cpu_on();
    return found->cpu_on();
}

static void switch_on(void *unused)
{
    static const uint64_t patience_ns = 60000000000; /* for an emulator's CPUs, too */
    char why[TEXT] = "", notes[TEXT] = "";
    uint64_t until;

    (void)unused;
    if (found->cpu_probe(why, sizeof(why), notes, sizeof(notes)) != OK) {
        log_line("CPU %u has no engine %s: %s", hw_cpu(), found->engine->name, why);
        atomic_fetch_add(&failed, 1);
    } else if (switch_cpu_on() != OK) {
        log_line("CPU %u: engine %s cannot be switched on", hw_cpu(), found->engine->name);
        atomic_fetch_add(&failed, 1);
    }
    atomic_fetch_add(&came, 1);
    until = seam_time_ns() + patience_ns;
    while (atomic_load(&came) < cpu_working) { /* the next one is another CPU's */
        if (seam_time_ns() > until)
            panic_words("%u of %u CPUs do not come to switch their engine on", cpu_working - atomic_load(&came), cpu_working);
        __builtin_ia32_pause();
    }
}

static bool switch_all_on(void)
{
    struct thread *t[HW_CPUS];

    for (uint32_t i = 1; i < cpu_working; i++) {
        if (thread_create(&t[i], "engine", switch_on, NULL) != OK)
            seam_panic(__FILE__, __LINE__, "no memory for a thread for each CPU");
    }
    switch_on(NULL);
    for (uint32_t i = 1; i < cpu_working; i++)
        thread_join(t[i]);
    return atomic_load(&failed) == 0;
}

bool engine_start(void)
{
    char why[TEXT], notes[TEXT];

    for (size_t i = 0; i < ARRAY_SIZE(engines) && !found; i++) {
        notes[0] = '\0';
        if (engines[i]->cpu_probe(why, sizeof(why), notes, sizeof(notes)) == OK) {
            found = engines[i];
            log_line("engine %s%s%s", found->engine->name, notes[0] ? ": " : "", notes);
        } else {
            log_line("not engine %s: %s", engines[i]->engine->name, why);
        }
    }
    if (!found)
        log_line("this machine can run no guests: its processors have neither AMD-V nor VT-x, or the firmware has switched it "
                 "off (look there; or run Lodge under Linux, where engine soft needs neither)");
    else if (!switch_all_on())
        found = NULL;
    return found != NULL;
}

const struct hw_engine *engine_found(void)
{
    return found;
}

void engine_stop_here(void)
{
    if (found)
        found->cpu_off();
}
