/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What an exit costs, seen from inside: the time stamp counter's steps for one, for tools/bench-kvm and
 * tests/native/cost.py. Where it counts instructions (QEMU's -icount), those are the host's instructions, kernel and VMM
 * together, and the loop's two. The least of some rounds is free of the host's own interrupts.
 *
 * "mmio=N" on the command line is the address that is read; without, PCI configuration space where
 * our machine has it. Runs under any VMM that starts PVH guests. Prints "exits: NAME STEPS".
 */
#include "guests/lib/guest.h"

enum { EXITS = 100, ROUNDS = 8, SCRATCH = LODGE_PORT_SERIAL + 7, VECTOR = 0x40 };

static volatile uint32_t *mmio = (volatile uint32_t *)(uintptr_t)LODGE_MMIO_ECAM;

static void do_nothing(void)
{
    __asm__ volatile("" : : : "memory");
}

static void do_cpuid(void)
{
    (void)cpuid(1, 0);
}

/* AMD's instruction, for the hosts that count are AMD's; the call is one that there is not. */
static void do_hypercall(void)
{
    uint64_t result = ~(uint64_t)0;
    __asm__ volatile("vmmcall" : "+a"(result) : "b"(0), "c"(0), "d"(0), "S"(0) : "memory");
}

/* A register that nothing comes of: what is measured is the way there and back. */
static void write_scratch(void)
{
    outb(SCRATCH, 0);
}

static void write_console(void)
{
    outb(LODGE_PORT_SERIAL, '.');
}

static void read_mmio(void)
{
    (void)*mmio;
}

static uint64_t steps_of(void (*action)(void))
{
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = rdtsc();
        for (int i = 0; i < EXITS; i++)
            action();
        uint64_t steps = rdtsc() - start;
        best = steps < best ? steps : best;
    }
    return best / EXITS;
}

static void measure(const char *name, void (*action)(void))
{
    uint64_t steps = steps_of(action);
    guest_print("\nexits: %s %lu\n", name, steps - steps_of(do_nothing));
}

static volatile bool interrupted;

static void on_interrupt(struct guest_frame *f)
{
    (void)f;
    apic_write(APIC_EOI, 0);
    interrupted = true;
}

/* As in a system that runs: KVM looks through all of a local APIC's IRR at each entry from when it
 * was set until it has delivered an interrupt. */
static void take_an_interrupt(void)
{
    apic_enable();
    guest_set_handler(VECTOR, on_interrupt);
    __asm__ volatile("sti");
    apic_send_self(VECTOR);
    while (!interrupted)
        pause();
    __asm__ volatile("cli");
}

int main(void)
{
    uint64_t address = guest_argument("mmio=");
    if (address)
        mmio = (volatile uint32_t *)(uintptr_t)address;
    if (*mmio == UINT32_MAX)
        guest_die("nothing answers at the address that is to be read");
    take_an_interrupt();
    measure("cpuid", do_cpuid);
    measure("hypercall", do_hypercall);
    measure("uart-register", write_scratch);
    measure("uart-data", write_console);
    measure("mmio-read", read_mmio);
    return 0;
}
