/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What Linux makes of its machine, for comparison between engines (tests/kvm/inventory.py): a line
 * "inventory KEY: VALUE" for each thing, no key twice, nothing that only counts or comes by chance.
 * One program and no script: starting processes is what takes longest in a guest.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <unistd.h>

enum { ROOM = 1 << 18, PER_LINE = 32, READ_ALL = 3 };

static char text[ROOM + 1];

/* The whole file, as a string too; its length, or -1. */
static long slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    size_t n;

    if (!f)
        return -1;
    n = fread(text, 1, ROOM, f);
    fclose(f);
    text[n] = 0;
    return (long)n;
}

/* Lines become one, without blanks at its end. */
static void flatten(char *s)
{
    size_t n = strlen(s);

    while (n && isspace((unsigned char)s[n - 1]))
        s[--n] = 0;
    for (; *s; s++)
        if (*s == '\n')
            *s = ' ';
}

/* Calls fn(what, path) for each file that the pattern matches. */
static void each(const char *what, const char *pattern, void (*fn)(const char *, const char *))
{
    glob_t g;

    if (glob(pattern, 0, NULL, &g) == 0) {
        for (size_t i = 0; i < g.gl_pathc; i++)
            fn(what, g.gl_pathv[i]);
        globfree(&g);
    }
}

static void print_value(const char *what, const char *path)
{
    if (slurp(path) < 0)
        return;
    flatten(text);
    printf("inventory %s %s: %s\n", what, path, text);
}

static void print_bytes(const char *what, const char *path)
{
    long n = slurp(path);

    for (long at = 0; at < n; at += PER_LINE) {
        printf("inventory %s %s %lx:", what, path, at);
        for (long i = at; i < at + PER_LINE && i < n; i++)
            printf(" %x", (unsigned char)text[i]);
        printf("\n");
    }
}

/* The line itself is the key: a colon, which would end it, becomes a blank. */
static void print_line(const char *what, char *line)
{
    for (char *p = line; *p; p++)
        if (*p == ':')
            *p = ' ';
    printf("inventory %s %s: 1\n", what, line);
}

static void print_lines(const char *what, const char *path)
{
    if (slurp(path) < 0)
        return;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        print_line(what, line);
}

/* "name<tab>: value" for each processor, which begins with its number. */
static void print_cpuinfo(void)
{
    int cpu = -1;

    (void)slurp("/proc/cpuinfo");
    for (char *save, *line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        char *colon = strchr(line, ':'), *end = colon;

        if (!colon)
            continue;
        while (end > line && isspace((unsigned char)end[-1]))
            end--;
        *end = 0;
        if (strcmp(line, "processor") == 0)
            cpu = atoi(colon + 1);
        else
            printf("inventory cpu%d %s:%s\n", cpu, line, colon + 1);
    }
}

/* Names and controllers of interrupts, without the counts, of which there is one for each processor
 * (or one in all: ERR and MIS). */
static void print_interrupts(void)
{
    char *save, *line;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    (void)slurp("/proc/interrupts");
    for (strtok_r(text, "\n", &save); (line = strtok_r(NULL, "\n", &save));) {
        char *colon = strchr(line, ':'), *rest = colon + 1;

        if (!colon)
            continue;
        for (long n = 0; n < cpus; n++) {
            rest += strspn(rest, " ");
            rest += strspn(rest, "0123456789");
        }
        *colon = 0;
        printf("inventory interrupt %s:%s\n", line + strspn(line, " "), rest);
    }
}

/* What the kernel said about its processors and clocks when it started. */
static void print_log(void)
{
    static const char *const wanted[] = {
        "tsc: ",          "Hypervisor detected",
        "kvm-guest: PV",  "Booting paravirt",
        "ACPI: PM-Timer", "ACPI: Using",
        "APIC: ",         "IOAPIC",
        "x86/fpu: ",      "x86/PAT: ",
        "x2apic",         "clocksource: ",
        "Calibrating ",   "Performance Ev",
        "smpboot: ",      "mce: ",
        "..TIMER: ",      "Linux version ",
        "MTRR",           "NX (Execute",
        "PCI: MMCONFIG",  "pci_bus ",
        "BIOS-e820: ",
    };
    int n = klogctl(READ_ALL, text, ROOM);

    text[n > 0 ? n : 0] = 0;
    for (char *save, *line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        char *said = strstr(line, "] ");

        for (size_t i = 0; said && i < sizeof(wanted) / sizeof(wanted[0]); i++)
            if (strncmp(said + 2, wanted[i], strlen(wanted[i])) == 0)
                print_line("said", said + 2);
    }
}

static const struct {
    const char *what, *pattern;
    void (*print)(const char *what, const char *path);
} parts[] = {
    {"cpu", "/sys/devices/system/cpu/online", print_value},
    {"cpu", "/sys/devices/system/cpu/possible", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/topology/*_list", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/topology/*_id", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/cache/index*/level", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/cache/index*/size", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/cache/index*/type", print_value},
    {"cpu", "/sys/devices/system/cpu/cpu*/cache/index*/shared_cpu_list", print_value},
    {"vulnerability", "/sys/devices/system/cpu/vulnerabilities/*", print_value},
    {"memory", "/proc/iomem", print_lines},
    {"port", "/proc/ioports", print_lines},
    {"mtrr", "/proc/mtrr", print_lines},
    {"memory", "/sys/firmware/memmap/*/*", print_value},
    {"acpi", "/sys/firmware/acpi/tables/*", print_bytes},
    {"boot", "/sys/kernel/boot_params/data", print_bytes},
    {"boot", "/sys/kernel/boot_params/version", print_value},
    {"boot", "/sys/kernel/boot_params/setup_data/*/type", print_value},
    {"boot", "/proc/cmdline", print_value},
    {"pci", "/sys/bus/pci/devices/*/config", print_bytes},
    {"pci", "/sys/bus/pci/devices/*/resource", print_value},
    {"pci", "/sys/bus/pci/devices/*/irq", print_value},
    {"device", "/sys/bus/acpi/devices/*/hid", print_value},
    {"device", "/sys/bus/acpi/devices/*/path", print_value},
    {"device", "/sys/bus/pnp/devices/*/resources", print_value},
    {"device", "/sys/bus/platform/devices/*/modalias", print_value},
    {"device", "/sys/bus/serio/devices/*/description", print_value},
    {"device", "/sys/class/rtc/*/name", print_value},
    {"device", "/sys/class/tty/ttyS*/type", print_value},
    {"dmi", "/sys/class/dmi/id/*", print_value},
    {"irq", "/sys/kernel/irq/*/chip_name", print_value},
    {"irq", "/sys/kernel/irq/*/hwirq", print_value},
    {"irq", "/sys/kernel/irq/*/type", print_value},
    {"irq", "/sys/kernel/irq/*/actions", print_value},
    {"clock", "/sys/devices/system/clocksource/clocksource0/*_clocksource", print_value},
    {"clock", "/sys/devices/system/clockevents/*/current_device", print_value},
};

int main(void)
{
    print_cpuinfo();
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        each(parts[i].what, parts[i].pattern, parts[i].print);
    print_interrupts();
    print_log();
    printf("inventory end: 1\n");
    return 0;
}
