/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What must-die guests share. Each misbehaves in many ways, its modes; the command line names the
 * one to take: "MODE seed=N top=0x1000000".
 *
 * The comment at the top of a guest's source says how it is run and how that ends, a line each, for
 * tests/guests/guests.py:
 *
 *   run: MODE [WORD...] => OUTCOME [vcpus=N] [memory=SIZE] [seconds=N] [output=BYTES]
 *                                  [port=off]
 *
 *   triple-fault   the guest dies of one
 *   lives          it comes through, and says so by value 0 at the exit port
 *   off            it powers off or resets
 *   runs           it goes on until it is ended by a signal
 *   any            one of these, or another value at the exit port
 *
 * "@" in the words stands for each of several seeds. seconds is a bound, and how long a guest that
 * runs is watched. port=off: no exit port, for random code that would find it.
 */
#ifndef GUESTS_DIE_DIE_H
#define GUESTS_DIE_DIE_H

#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

/* A guest-physical address where nothing is, below 4 GiB. */
#define DIE_HOLE UINT64_C(0xD0000000)

struct die_mode {
    const char *name;
    void (*run)(void);
};

extern uint32_t guest_boot_info;

/* Where it is is asked once, by die_main: smp_start puts its own code over the boot information. */
static inline const char *die_command_line(void)
{
    static const char *line;
    if (!line) {
        const uint8_t *info = ptr(guest_boot_info);
#ifdef __x86_64__
        line = ptr(*(const uint64_t *)(const void *)(info + 24)); /* PVH: hvm_start_info */
#else
        line = ptr(*(const uint32_t *)(const void *)(info + 16)); /* Multiboot information */
#endif
    }
    return line;
}

/* What follows in the word of the command line that begins with `begin`; NULL: there is none. */
static inline const char *die_word(const char *begin)
{
    const char *p = die_command_line();
    for (; *p; p++) {
        const char *b = begin, *q = p;
        while (*b && *b == *q) {
            b++;
            q++;
        }
        if (!*b)
            return q;
        while (p[1] && *p != ' ')
            p++;
    }
    return NULL;
}

static inline bool die_has(const char *word)
{
    const char *rest = die_word(word);
    return rest && (*rest == 0 || *rest == ' ');
}

/* The number in "key=123" or "key=0x7b". */
static inline uint64_t die_number(const char *key, uint64_t otherwise)
{
    const char *p = die_word(key);
    uint64_t v = 0;
    if (!p)
        return otherwise;
    unsigned int base = p[0] == '0' && p[1] == 'x' ? 16 : 10;
    for (p += base == 16 ? 2 : 0; *p && *p != ' '; p++)
        v = v * base + (unsigned int)(*p <= '9' ? *p - '0' : (*p | 0x20) - 'a' + 10);
    return v;
}

/* splitmix64 */
static inline uint64_t die_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

/* Ends the VM without the exit port. */
static inline _Noreturn void die_power_off(void)
{
    __asm__ volatile("outw %0, %1"
                     :
                     : "a"((uint16_t)(5 << 10 | 1 << 13)),
                       "d"((uint16_t)LODGE_PORT_ACPI_PM1_CONTROL));
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* Runs the mode that the command line names. One that comes back has lived. */
static inline int die_main(const struct die_mode *modes, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        if (!die_has(modes[n].name))
            continue;
        guest_print("mode %s\n", modes[n].name);
        modes[n].run();
        guest_print("lives\n");
        return 0;
    }
    guest_die("no such mode");
}

#define DIE_MAIN(modes)                                                                            \
    int main(void)                                                                                 \
    {                                                                                              \
        return die_main((modes), sizeof(modes) / sizeof((modes)[0]));                              \
    }

/* For self-checks of guests that live. */
#define DIE_UNLESS(x) ((x) ? (void)0 : guest_die(#x))

#endif
