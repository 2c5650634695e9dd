/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fleet: the file among the boot modules whose command line is "fleet" (docs/native.md), and the VMs that it names.
 *
 * `lodge image` has checked it all; here it is checked again, since images are carried about and machines differ. A file that
 * makes no sense leaves a machine without guests but with an operator; where only a VM of it makes none, or [machine], that is left out and
 * said. A fleet that does not fit is said to, and what fits is started, in the file's order.
 */
#include "native/fleet.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "core/seam.h"
#include "engine/hw.h"
#include "machine/saved.h"
#include "native/boot_info.h"
#include "native/cpu.h"
#include "native/frames.h"
#include "native/log.h"
#include "native/main.h"

_Static_assert(BOOT_MODULES >= 1 + 3 * FLEET_VMS, "the fleet, and a kernel, an initrd and a saved VM each");

static struct fleet fleet;
static struct guest *guests;
static uint32_t count;
static bool is_read;

uint32_t fleet_guests(void)
{
    return count;
}

struct guest *fleet_guest(uint32_t i)
{
    return &guests[i];
}

struct guest *fleet_find(const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (str_equal(guests[i].definition->config.name, name))
            return &guests[i];
    }
    return NULL;
}

static size_t pages_of(size_t size)
{
    return (size + PAGE_SIZE - 1) / PAGE_SIZE;
}

/* What is wrong is said and taken out, until the rest is right. */
static bool parse(char *text, size_t size)
{
    char message[CONFIG_MESSAGE];

    for (uint32_t i = 0; i <= FLEET_VMS; i++) {
        if (fleet_parse(&fleet, FLEET_MODULE, text, size, message) == OK)
            return true;
        log_line("the fleet file: %s", message);
        if (!fleet_leave_out(text, size, fleet.bad_line))
            break;
        log_line("the fleet file: what line %u belongs to is left out", fleet.bad_line);
    }
    log_line("the fleet file: no guests");
    return false;
}

static bool read_file(void)
{
    size_t size;
    const char *text = guest_module(FLEET_MODULE, &size);
    char *copy;
    bool parsed;

    if (!text) {
        log_line("there is no fleet file among the modules: no guests (make the image with 'lodge image')");
        return false;
    }
    if (size > FLEET_FILE_MAX) {
        log_line("the fleet file: it is too large: no guests");
        return false;
    }
    copy = seam_pages_alloc(pages_of(size + 1));
    fleet.vm = seam_pages_alloc(pages_of(FLEET_VMS * sizeof(*fleet.vm)));
    fleet.capacity = FLEET_VMS;
    if (!copy || !fleet.vm) {
        log_line("no memory for the fleet's definitions");
        return false;
    }
    memcpy(copy, text, size);
    parsed = parse(copy, size);
    seam_pages_free(copy, pages_of(size + 1));
    return parsed;
}

/* A saved VM brings its definition with it. One that cannot be read is refused when it is started. */
static void adopt_saved(void)
{
    size_t pages = pages_of(sizeof(struct saved));
    struct saved *saved = seam_pages_alloc(pages);
    char message[GUEST_MESSAGE];

    for (uint32_t i = 0; saved && i < fleet.count; i++) {
        struct fleet_vm *v = &fleet.vm[i];

        if (v->restore[0] && guest_restore_read(v->restore, saved, message) == OK &&
            fleet_vm_adopt(v, &saved->config, message) != OK)
            log_line("%s: %s", v->config.name, message);
    }
    seam_pages_free(saved, saved ? pages : 0);
}

/* The file counts CPUs that run VMs, from 0; cpu_table, by which the scheduler goes, has parked ones between them. */
uint64_t fleet_cpus(uint64_t counted)
{
    uint64_t cpus = 0;

    for (uint32_t i = 0, n = 0; i < cpu_count; i++) {
        if (!cpu_table[i]->parked)
            cpus |= (counted >> n++ & 1) << i;
    }
    return cpus;
}

uint64_t fleet_cpus_there(void)
{
    return cpu_working < FLEET_CPUS ? BIT(cpu_working) - 1 : UINT64_MAX;
}

/* A VM is pinned to what there is of its CPUs; if there is none of them, to none: it would never run. */
static void pin_to_what_there_is(struct fleet_vm *v)
{
    uint64_t there = fleet_cpus_there(), cpus = v->cpus & there;
    char lacking[FLEET_CPUS_TEXT], left[FLEET_CPUS_TEXT];

    if (v->cpus == UINT64_MAX || cpus == v->cpus)
        return;
    fleet_cpus_text(v->cpus & ~there, lacking);
    fleet_cpus_text(cpus, left);
    log_line("%s is pinned to CPU %s, and this machine has 0 to %u: it runs on %s", v->config.name, lacking,
             cpu_working - 1, cpus ? left : "all");
    v->cpus = cpus ? cpus : UINT64_MAX;
}

static void say_whether_it_fits(void)
{
    char message[CONFIG_MESSAGE];
    struct fleet_room room = {.cpus = cpu_working};
    const struct boot_info *b = main_boot_info();
    uint64_t left;

    frames_count(&room.memory, &left);
    for (uint32_t i = 0; i < b->modules; i++)
        room.files += b->module[i].size;
    if (fleet_fits(&fleet, &room, message) != OK)
        log_line("the fleet: %s; what fits is started", message);
}

bool fleet_read(void)
{
    is_read = read_file();
    return is_read && fleet_shares_cores(&fleet);
}

void fleet_init(void)
{
    if (!is_read)
        return;
    adopt_saved();
    for (uint32_t i = 0; i < fleet.count; i++)
        pin_to_what_there_is(&fleet.vm[i]);
    say_whether_it_fits();
    guests = seam_pages_alloc(pages_of(fleet.count * sizeof(*guests)));
    for (uint32_t i = 0; guests && i < fleet.count; i++) {
        if (guest_create(&guests[i], &fleet.vm[i], i) != OK)
            break;
        count++;
    }
    if (count < fleet.count)
        log_line("no memory for %u of %u VMs", fleet.count - count, fleet.count);
}

void fleet_start(void)
{
    for (uint32_t i = 0; i < count; i++) {
        if (guests[i].definition->autostart)
            guest_order(&guests[i], GUEST_ORDER_START);
    }
}

void fleet_stop(uint64_t patience_ns)
{
    enum { END_NS = 1000000000 };
    uint64_t deadline = seam_time_ns() + patience_ns;

    for (uint32_t i = 0; i < count; i++)
        (void)guest_press_power(&guests[i]);
    for (uint32_t i = 0; i < count; i++) {
        if (guest_wait_state(&guests[i], GUEST_OFF, deadline))
            continue;
        log_line("%s does not power off: it is ended", guests[i].definition->config.name);
        guest_order(&guests[i], GUEST_ORDER_KILL);
    }
    deadline = seam_time_ns() + END_NS;
    for (uint32_t i = 0; i < count; i++)
        (void)guest_wait_state(&guests[i], GUEST_OFF, deadline);
}
