/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What is tried while VMs run, when the command line says so: a panic; interrupts that nobody sent; a CPU that takes none;
 * and tables that lead
 * where they must not, which the checker of isolation has to find (isolation.c). Those are planted where the VM has
 * no memory, so no guest comes there; the VM has less than 1 GiB.
 */
#include "core/assert.h"
#include "core/fmt.h"
#include "core/seam.h"
#include "core/vm.h"
#include "engine/hw.h"
#include "engine/nested.h"
#include "native/boot_info.h"
#include "native/fleet.h"
#include "native/frames.h"
#include "native/isolation.h"
#include "native/log.h"
#include "native/main.h"
#include "native/selftest.h"
#include "native/thread.h"

enum { MESSAGE = 256, ENTRIES = 512, S = 1000000000 };

#define ADDRESS UINT64_C(0x000FFFFFFFFFF000)

/* Until all that start by themselves run, and for that long at least. */
static void wait_for_guests(uint32_t seconds)
{
    _Atomic uint32_t nobody = 0;
    uint64_t until = seam_time_ns() + seconds * (uint64_t)S;

    for (uint32_t i = 0; i < fleet_guests(); i++) {
        if (fleet_guest(i)->definition->autostart)
            (void)guest_wait_state(fleet_guest(i), GUEST_RUNS, seam_time_ns() + 60 * (uint64_t)S);
    }
    while (seam_time_ns() < until)
        seam_wait(&nobody, 0, until);
}

/* --- panic, interrupts --------------------------------------------------------------------------- */

static void panic_later(void)
{
    wait_for_guests(5);
    panic("as the command line asked");
}

/* The local APIC's spurious vector, the 8259s', and one of nobody's; each twice. */
static void spurious(void)
{
    wait_for_guests(1);
    for (uint32_t i = 0; i < 2; i++)
        __asm__ volatile("int $0xFF; int $0x27; int $0x2F; int $0x77");
    log_line("self-test: interrupts that nobody sent have been taken");
}

static void hear_nothing(void)
{
    log_line("self-test: CPU %u hears nothing", hw_cpu());
    for (;;)
        __builtin_ia32_pause();
}

/* --- isolation ----------------------------------------------------------------------------------- */

/* The entry for the last 2 MiB of the first GiB. */
static uint64_t *entry_beyond_memory(const struct nested *n)
{
    uint64_t *table = n->root;

    for (uint32_t i = 0; i < 2; i++) {
        if ((table[0] & n->format->present) == 0)
            panic("the VM has no table of large pages");
        table = hw_virt(table[0] & ADDRESS);
    }
    return &table[ENTRIES - 1];
}

static bool finds(const char *what, uint64_t *entry, uint64_t value)
{
    struct isolation found;
    char message[MESSAGE] = "nothing is found";
    int before = isolation_check(&found, message, sizeof(message)), err, after;

    *entry = value;
    err = isolation_check(&found, message, sizeof(message));
    *entry = 0;
    log_line("self-test: a leaf to %s: %s", what, message);
    after = isolation_check(&found, message, sizeof(message));
    return before == OK && err == ERR_CORRUPT && after == OK;
}

static uint64_t free_frame(void)
{
    uint64_t physical = frames_alloc_large(FRAME_OWN);

    frames_free_large(physical);
    return physical;
}

/* Two VMs run, the first with tables. */
static void isolation(void)
{
    const struct nested *n;
    uint64_t leaf, *entry;
    uint32_t right = 0;

    wait_for_guests(1);
    n = isolation_tables(0);
    entry = entry_beyond_memory(n);
    leaf = n->format->leaf | n->format->large;
    const struct {
        const char *what;
        uint64_t to, bits;
    } plants[] = {
        {"the hypervisor", hw_phys((const void *)(uint64_t)isolation), leaf | n->format->write},
        {"the hypervisor, to be read", hw_phys((const void *)(uint64_t)isolation), leaf},
        {"another VM", hw_phys(fleet_guest(1)->ram), leaf | n->format->write},
        {"another VM, to be read", hw_phys(fleet_guest(1)->ram), leaf},
        {"its own tables", hw_phys(n->root), leaf | n->format->write},
        {"a frame that is free", free_frame(), leaf | n->format->write},
        {"a device", 0xFEE00000, leaf | n->format->write},
        {"nothing", UINT64_C(1) << 50, leaf | n->format->write},
        {"a module", main_boot_info()->module[0].base, leaf | n->format->write},
    };

    for (size_t i = 0; i < ARRAY_SIZE(plants); i++)
        right += finds(plants[i].what, entry, (plants[i].to & ~(uint64_t)(FRAME_LARGE - 1)) | plants[i].bits);
    right += finds("a table that is the VM's", entry, hw_phys(fleet_guest(0)->ram) | n->format->table);
    log_line("self-test: isolation: %u of %u found", right, (uint32_t)ARRAY_SIZE(plants) + 1);
}

/* In the test build the next change of any VM's tables finds it. */
static void isolation_broken(void)
{
    const struct nested *n;

    wait_for_guests(1);
    n = isolation_tables(0);
    *entry_beyond_memory(n) = (hw_phys(fleet_guest(1)->ram) & ADDRESS) | n->format->leaf | n->format->large;
    log_line("self-test: isolation is broken now");
}

/* --- which --------------------------------------------------------------------------------------- */

static void run(void *arg)
{
    ((void (*)(void))(uint64_t)arg)();
}

void selftest_home(const struct boot_info *b)
{
    static const struct {
        const char *name;
        void (*test)(void);
    } tests[] = {
        {"test-panic-later", panic_later},
        {"test-spurious", spurious},
        {"test-deaf", hear_nothing},
        {"test-isolation", isolation},
        {"test-isolation-broken", isolation_broken},
    };
    struct thread *t;

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        if (boot_info_option(b, tests[i].name) &&
            thread_create(&t, tests[i].name, run, (void *)(uint64_t)tests[i].test) != OK)
            panic("no memory for the self-test");
    }
}
