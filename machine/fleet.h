/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The fleet file: which VMs one machine runs, and their shares of it. Freestanding, no allocation: `lodge image` and
 * the native home read the same file with it. docs/config.md, "Fleets", describes it; docs/native.md how an image
 * carries it.
 */
#ifndef LODGE_MACHINE_FLEET_H
#define LODGE_MACHINE_FLEET_H

#include "core/err.h"
#include "core/types.h"
#include "machine/config.h"

enum {
    FLEET_VMS = 256,
    FLEET_CPUS = 64,            /* of the machine: bits of fleet_vm.cpus */
    FLEET_FILE_MAX = 1 << 20,   /* bytes of the fleet file */
    FLEET_WEIGHT_DEFAULT = 100, /* as cgroup v2's cpu.weight, and its bounds */
    FLEET_WEIGHT_MAX = 10000,
    FLEET_CPU_PERCENT = 100,              /* one CPU, in the unit of reservations and limits */
    FLEET_CREDIT_MAX = 60000,             /* ms */
    FLEET_CPUS_TEXT = 136,                /* bytes of the longest list of CPUs, "0-1,3-4,...", terminator included */
    FLEET_SMT = 8,                        /* bytes of "off" or "shared", terminator included */
    FLEET_COMMAND_LINE = CONFIG_PATH + 2, /* bytes of a module's command line, terminator included */
};

/* What Lodge itself is taken to need of the machine's memory, at most: image, tables, stacks; and for each VM nested
 * tables and what its devices and vCPUs are. */
#define FLEET_OWN_MEMORY MIB(64)
#define FLEET_VM_MEMORY  MIB(4)

/* Command line of the module that is the fleet file. */
#define FLEET_MODULE "fleet"

struct fleet_vm {
    struct vm_config config;   /* the first member: what a VM's own file says; `name` always given, engine "auto" */
    char restore[CONFIG_PATH]; /* a saved VM that it goes on from; empty: it boots its kernel */
    uint32_t weight;           /* of CPU time, beside the others': 1 .. FLEET_WEIGHT_MAX */
    uint32_t reservation;      /* CPU time that it always gets if it wants it: percent of one CPU; 0: none */
    uint32_t limit;            /* and that it never exceeds; 0: none */
    uint32_t credit;           /* CPU time, ms, that it saves up while idle, to be spent in a burst; 0: none */
    uint64_t cpus;             /* that its vCPUs may run on, a bit each, counted as machine.cpus; UINT64_MAX: all */
    char tenant[VM_NAME_SIZE]; /* who it is run for; empty: it is its own tenant */
    bool autostart;            /* starts when the machine does */
    uint32_t line;             /* of its [[vm]] in the file */
};

struct fleet {
    struct fleet_vm *vm; /* the caller's, [capacity]: FLEET_VMS for any file that there may be */
    uint32_t capacity;
    uint32_t count;  /* vm[0 .. count), names all different */
    uint64_t memory; /* bytes of the machine that the file is for; 0: it does not say */
    uint32_t cpus;   /* likewise */
    char smt[FLEET_SMT]; /* "off" or "shared" */
    uint32_t bad_line;   /* where an error is */
};

/*
 * Reads text[0 .. size), named `file` in messages. f->vm and f->capacity are set before, all else is set here. What a
 * VM goes on from is not looked at: fleet_vm_adopt. ERR_INVALID and one line "FILE:LINE: what is wrong (what to do)" in
 * message[CONFIG_MESSAGE]; then f means nothing but for bad_line.
 */
int must_check fleet_parse(struct fleet *f, const char *file, const char *text, size_t size, char *message);

/*
 * Makes blanks of what a line of the file belongs to: a VM, from its [[vm]] on, else a table ([machine]), else the line;
 * other lines keep their numbers. For who would rather run the rest than nothing. False: there was nothing left to take
 * out.
 */
bool fleet_leave_out(char *text, size_t size, uint32_t line);

/* Changes a VM's shares by lines as they stand behind its [[vm]] (cpu.weight = 200), of cpu.* only. ERR_INVALID and a message: then *v
 * means nothing. */
int must_check fleet_vm_set(struct fleet_vm *v, const char *text, size_t size, char *message);

/* May threads of one core run different VMs at once? */
bool fleet_shares_cores(const struct fleet *f);

/* Its definition is that of the saved VM, but for its name, kernel and initrd. ERR_INVALID and a message without
 * place: the shares do not go with it. */
int must_check fleet_vm_adopt(struct fleet_vm *v, const struct vm_config *saved, char *message);

/* A machine, or what is left of one: what VMs, Lodge and modules have to fit into. */
struct fleet_room {
    uint64_t memory; /* bytes; 0: not known, anything fits */
    uint64_t files;  /* bytes of it that modules take */
    uint32_t cpus;   /* 0: not known */
};

/* Do all VMs that start by themselves fit together, and each other one alone? ERR_RANGE and a message with the
 * numbers, without place. Restored VMs have been adopted; no VM is pinned to a CPU that is not there. */
int must_check fleet_fits(const struct fleet *f, const struct fleet_room *room, char *message);

/* CPUs as a file writes them, in text[FLEET_CPUS_TEXT]. */
void fleet_cpus_text(uint64_t cpus, char *text);

/* Is a module of that command line the file that the fleet gives this path? GRUB puts quotes around what has a space;
 * paths with anything else that it would change are refused by fleet_parse. */
bool fleet_module_is(const char *command_line, const char *path);

#endif
