/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The PC: assembles memory map, controllers, buses, devices, ACPI tables and boot images into a
 * machine that is the same in both homes and under all engines.
 */
#ifndef LODGE_MACHINE_PC_H
#define LODGE_MACHINE_PC_H

#include "core/vm.h"
#include "engine/engine.h"
#include "machine/config.h"
#include "x86/cpu.h"

enum { PC_MESSAGE = 512 };

/* Where the serial port's bytes go: a back end of the home. */
struct console_ops {
    /* Output; called with the board lock held, must not block for long. */
    void (*write)(void *console, const uint8_t *bytes, size_t size);
    /* pc_console_input took less than it was offered and would take something again. May be NULL.
     * Board lock held: it may only note the fact and wake somebody. */
    void (*room)(void *console);
};

/* A file that is booted from. What is loaded goes from it to the guest's RAM, and no part is read
 * twice, so that it need not be kept in memory and may change while it is looked at. */
struct boot_file {
    size_t size; /* 0: there is none */
    /* All n bytes from `offset` on, which lie inside the file; an error if they cannot be had. */
    int (*read)(void *owner, uint64_t offset, void *to, size_t n);
    /* The same, and `to` is in the guest's RAM. NULL: read does it. */
    int (*load)(void *owner, uint64_t offset, void *to, size_t n);
    /* Makes whole pages of RAM such that no processor reaches them, until guest_mem_late.bring puts
     * the file's bytes there. False: cannot, or would not be able to; they are loaded now. NULL: so
     * are all. */
    bool (*hide)(void *owner, uint64_t offset, void *to, size_t n);
    void *owner;
};

struct boot_files {
    struct boot_file kernel, initrd;
};

struct pc;

/*
 * Builds the machine in *vm (vm_init done, name set): RAM slots over ram[0 .. config->memory),
 * which the home owns, zero-filled; vCPUs of `level`; devices. Nothing runs yet. On error everything
 * done is undone and message[PC_MESSAGE] has one line.
 */
int must_check pc_create(struct vm *vm, const struct vm_config *config, const struct x86_level *level,
                         const struct engine *engine, void *ram, const struct console_ops *console,
                         void *console_owner, char *message);
void pc_destroy(struct vm *vm);

/* Power-on state for all devices and vCPUs, then loads the boot files into RAM (which the home has
 * zeroed, and of which nothing is missing) and sets the boot processor up as the protocol says.
 * ERR_INVALID etc. and a message. */
int must_check pc_boot(struct vm *vm, const struct boot_files *files, char *message);

/* The home has bytes for the guest's serial port: takes what fits, returns how many. Any thread. */
size_t pc_console_input(struct vm *vm, const uint8_t *bytes, size_t size);

/* With the VM at rest, or no vCPU running: brings struct x86_cpu of all vCPUs up to date where the
 * engine keeps registers elsewhere (for saving, for messages), and hands changed ones over. */
int pc_fetch_vcpus(struct vm *vm);
int must_check pc_hand_over_vcpus(struct vm *vm);

/* Starts and stops the VM clock and with it all clocks that the engine keeps. No vCPU runs, or the VM
 * is at rest; vCPUs' state that is new has been handed over. If the engine cannot, the VM stops. */
void pc_start_clock(struct vm *vm);
void pc_stop_clock(struct vm *vm);

/* The VM was copied or restored, so it is another than the one that its guest takes it for: gives it a new
 * generation id and tells the guest (Microsoft, "Virtual Machine Generation ID"), who draws new random numbers. The clock
 * has been started, vCPUs' state was handed over, and no vCPU runs. */
void pc_new_identity(struct vm *vm);

/* The operator presses the power button (ACPI). Any thread. */
void pc_power_button(struct vm *vm);

/*
 * The life of one vCPU, called on its thread after pc_boot: runs the engine, handles exits, parks
 * when halted, rests when asked; returns when the VM has stopped.
 */
void pc_run_vcpu(struct vm *vm, uint32_t id);

const struct engine *pc_engine(const struct vm *vm);
static inline struct x86_cpu *pc_cpu(const struct vm *vm, uint32_t id)
{
    return x86_cpu_of(vm->vcpu[id]);
}

#endif
