/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * An inventory of the board, for comparison between engines (tests/kvm/inventory.py): what the boot
 * protocol hands over, memory and the holes in it, ACPI tables, ports, PCI, interrupt controllers,
 * serial port, CMOS memory, clocks.
 *
 * A line "key: words" for each thing, no key twice; words are hexadecimal. Of places that are
 * looked through, only those have a line that do not read as all ones. "clock": it changes by
 * itself.
 *
 * All of it is read, some by commands that are there for reading (8254, CMOS, PCI addresses), by
 * the boot processor alone, with interrupts off.
 */
#include "guests/lib/boot.h"

static uint16_t inw(uint16_t port)
{
    uint16_t v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static uint32_t read32(uint64_t address)
{
    return *(const volatile uint32_t *)(uintptr_t)address;
}

/* Lines of 16 bytes: "key offset: words". */
static void print_bytes(const char *key, const uint8_t *bytes, uint32_t size)
{
    for (uint32_t at = 0; at < size; at += 16) {
        guest_print("%s %x:", key, at);
        for (uint32_t i = at; i < at + 16 && i < size; i++)
            guest_print(" %x", bytes[i]);
        guest_print("\n");
    }
}

/* --- what is handed over -------------------------------------------------------------------- */

struct start_info { /* PVH; guests/system/boot_pvh.c checks it */
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, memory_map;
    uint32_t memory_ranges, reserved;
};

struct memory_range {
    uint64_t base, size;
    uint32_t type, reserved;
};

static const struct start_info *info;

static void print_start(void)
{
    const struct memory_range *m = boot_pointer(info->memory_map);
    const struct guest_started *s = &guest_started;

    guest_print("start info: %x %x %x %x %lx %lx %lx %lx\n", info->magic, info->version,
                info->flags, info->modules, info->module_list, info->command_line, info->rsdp,
                info->memory_map);
    guest_print("start command-line: %s\n", (const char *)boot_pointer(info->command_line));
    for (uint32_t n = 0; n < info->memory_ranges; n++)
        guest_print("start memory %u: %lx %lx %x\n", n, m[n].base, m[n].size, m[n].type);
    for (unsigned int n = 0; n < 8; n++)
        guest_print("start register %u: %lx\n", n, s->gpr[n]);
    guest_print("start control: %lx %lx %lx %lx %lx\n", s->rflags, s->cr0, s->cr3, s->cr4, s->efer);
    guest_print("start segments: %x %x %x %x %x %x %x %x\n", s->cs, s->ds, s->es, s->ss, s->fs,
                s->gs, s->ldtr, s->tr);
    guest_print("start tables: %lx %x %lx %x\n", s->gdtr.base, s->gdtr.limit, s->idtr.base,
                s->idtr.limit);
    print_bytes("start gdt", boot_pointer(s->gdtr.base), s->gdtr.limit + 1u);
}

/* BIOS data area and EBDA, as far as firmware has written there. */
static void print_firmware_data(void)
{
    for (uint32_t at = 0x400; at < 0x600; at += 4) {
        if (read32(at))
            guest_print("bda %x: %x\n", at, read32(at));
    }
    for (uint32_t at = 0x9FC00; at < 0xA0000; at += 4) {
        if (read32(at))
            guest_print("ebda %x: %x\n", at, read32(at));
    }
}

/* --- ACPI tables, byte for byte --- */

static void print_table(uint64_t address)
{
    const uint8_t *bytes = boot_pointer(address);
    char key[] = "acpi ????";

    for (unsigned int i = 0; i < 4; i++)
        key[5 + i] = (char)bytes[i];
    guest_print("%s at: %lx %x\n", key, address, read32(address + 4));
    print_bytes(key, bytes, read32(address + 4));
}

static void print_acpi(void)
{
    uint64_t rsdt = read32(info->rsdp + 16), xsdt = read32(info->rsdp + 24);

    print_bytes("acpi rsdp", boot_pointer(info->rsdp), 36);
    print_table(rsdt);
    print_table(xsdt);
    for (uint64_t at = xsdt + 36; at < xsdt + read32(xsdt + 4); at += 8) {
        uint64_t table = read32(at);

        print_table(table);
        if (read32(table) == 0x50434146) { /* FACP: FACS and DSDT */
            print_table(read32(table + 36));
            print_table(read32(table + 40));
        }
    }
}

/* --- what answers ---------------------------------------------------------------------------- */

static bool is_clock(uint32_t port)
{
    return (port >= 0x40 && port <= 0x42) || port == 0x61 || port == 0x71 ||
           (port >= LODGE_PORT_ACPI_PM_TIMER && port < LODGE_PORT_ACPI_PM_TIMER + 4);
}

static void print_ports(void)
{
    for (uint32_t port = 0; port < 0x10000; port++) {
        uint8_t value = inb((uint16_t)port);

        if (is_clock(port))
            guest_print("port %x: clock\n", port);
        else if (value != 0xFF)
            guest_print("port %x: %x\n", port, value);
    }
    guest_print("port wide: %x %x %x\n", inw(LODGE_PORT_ACPI_PM1_EVENT),
                inw(LODGE_PORT_ACPI_PM1_CONTROL), inl(0x80));
}

/* One word of each MiB from the end of RAM to 4 GiB, and of each page in the last of them: the
 * ninth, since that is the first of a local APIC's that is not reserved. */
static void print_hole(void)
{
    for (uint64_t at = LODGE_MMIO_HOLE; at < 0x100000000; at += at < 0xFE000000 ? 0x100000 : 4096) {
        uint32_t value = read32(at + APIC_ID);

        if (value != 0xFFFFFFFF)
            guest_print("address %lx: %x\n", at, value);
    }
}

/* --- PCI ------------------------------------------------------------------------------------- */

static uint32_t read_config(uint32_t function, uint32_t offset)
{
    outl(0xCF8, 0x80000000 | function << 8 | offset);
    return inl(0xCFC);
}

/* Bus 0 by both ways, and whether there is any other. */
static void print_pci(void)
{
    for (uint32_t f = 0; f < 0x10000; f += f < 256 ? 1 : 256) {
        if (read_config(f, 0) == 0xFFFFFFFF)
            continue;
        for (uint32_t at = 0; at < 256; at += 4)
            guest_print("pci %x %x: %x\n", f, at, read_config(f, at));
    }
    outl(0xCF8, 0);
    for (uint32_t f = 0; f < 256; f++) {
        uint64_t space = LODGE_MMIO_ECAM + (f << 12);

        if (read32(space) == 0xFFFFFFFF)
            continue;
        for (uint32_t at = 0; at < 4096; at += 4) {
            if (at < 256 || read32(space + at) != 0xFFFFFFFF)
                guest_print("ecam %x %x: %x\n", f, at, read32(space + at));
        }
    }
}

/* --- interrupt controllers and devices --------------------------------------------------------
 */

static uint32_t read_io_apic(uint32_t n)
{
    *(volatile uint32_t *)(uintptr_t)LODGE_MMIO_IO_APIC = n;
    return read32(LODGE_MMIO_IO_APIC + 0x10);
}

static void print_interrupt_controllers(void)
{
    for (uint32_t n = 0; n < 0x40; n++)
        guest_print("io-apic %x: %x\n", n, read_io_apic(n));
    for (unsigned int n = 0; n < 2; n++) {
        uint16_t port = n ? 0xA0 : 0x20;
        uint8_t requested, in_service;

        outb(port, 0x0A);
        requested = inb(port);
        outb(port, 0x0B);
        in_service = inb(port);
        guest_print("8259 %u: %x %x %x %x\n", n, requested, in_service, inb(port + 1),
                    inb((uint16_t)(0x4D0 + n)));
    }
}

/* Time and date, and flags that come with time, are left out. */
static void print_cmos(void)
{
    enum { STATUS_A = 0x0A, IN_PROGRESS = 0x80, FLAGS = 0x0C, CENTURY = 0x32 };

    for (uint8_t n = STATUS_A; n < 128; n++) {
        uint8_t value;

        outb(0x70, n);
        value = inb(0x71);
        if (n == STATUS_A)
            value &= (uint8_t)~IN_PROGRESS;
        if (n != FLAGS && n != CENTURY)
            guest_print("cmos %x: %x\n", n, value);
    }
}

/* The status of each channel, by the read-back command. */
static void print_timer(void)
{
    for (unsigned int n = 0; n < 3; n++) {
        outb(0x43, (uint8_t)(0xE0 | 2 << n));
        guest_print("8254 %u: %x\n", n, inb((uint16_t)(0x40 + n)) & 0x7F); /* less the output */
    }
}

static void print_serial_port(void)
{
    for (uint16_t n = 1; n < 8; n++)
        guest_print("serial %u: %x\n", n, inb((uint16_t)(LODGE_PORT_SERIAL + n)));
}

/* --- clocks ---------------------------------------------------------------------------------- */

/* Two clocks at one moment, as well as can be had: the TSC is read around the other. */
struct moment {
    uint64_t tsc, other;
};

static uint64_t read_pm_timer(void)
{
    return inl(LODGE_PORT_ACPI_PM_TIMER);
}

static uint64_t read_apic_timer(void)
{
    return ~apic_read(APIC_TIMER_CURRENT);
}

static struct moment best_moment(uint64_t (*read)(void))
{
    struct moment best = {0, 0};
    uint64_t shortest = UINT64_MAX;

    for (unsigned int n = 0; n < 50; n++) {
        uint64_t before = rdtsc(), other = read(), took = rdtsc() - before;

        if (took < shortest) {
            shortest = took;
            best = (struct moment){before + took / 2, other};
        }
    }
    return best;
}

/* Ticks of `read` in a second of the TSC, and whether that is `hz` within 2 %. */
static void print_clock(const char *name, uint64_t (*read)(void), uint64_t bits, uint64_t tsc_hz,
                        uint64_t hz)
{
    struct moment first = best_moment(read), last;
    uint64_t found;

    while (rdtsc() - first.tsc < tsc_hz / 5)
        pause();
    last = best_moment(read);
    found = ((last.other - first.other) & bits) * 1000 / ((last.tsc - first.tsc) / (tsc_hz / 1000));
    if (found < hz - hz / 50 || found > hz + hz / 50)
        guest_print("clock %s: %x off by %x\n", name, (uint32_t)hz, (uint32_t)found);
    else
        guest_print("clock %s: %x\n", name, (uint32_t)hz);
}

/* KVM's clock: ns = ticks << shift * multiplier / 2^32. */
static void print_kvm_clock(void)
{
    static struct {
        uint32_t version, unused;
        uint64_t tsc, ns;
        uint32_t multiplier;
        int8_t shift;
        uint8_t flags, rest[2];
    } clock __attribute__((aligned(64)));

    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, (uintptr_t)&clock | 1);
    (void)inb(0x80); /* it is written when the processor is entered, at the latest */
    guest_print("clock kvm: %x %x %x\n", clock.multiplier, (uint8_t)clock.shift, clock.flags);
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
}

static void print_clocks(void)
{
    uint64_t tsc_khz = cpuid(0x40000010, 0).a, apic_khz = cpuid(0x40000010, 0).b;

    guest_print("clock tsc-khz: %x\n", (uint32_t)tsc_khz);
    print_kvm_clock();
    print_clock("pm-timer", read_pm_timer, UINT32_MAX, tsc_khz * 1000, 3579545);
    apic_write(APIC_TIMER_DIVIDE, 0xA); /* by 128 */
    apic_write(APIC_TIMER_COUNT, UINT32_MAX);
    print_clock("apic-timer", read_apic_timer, UINT32_MAX, tsc_khz * 1000, apic_khz * 1000 / 128);
    apic_write(APIC_TIMER_COUNT, 0);
}

int main(void)
{
    info = boot_pointer(guest_boot_info);
    print_serial_port(); /* before the FIFO is on */
    guest_buffer_output();
    apic_enable();
    print_start();
    print_firmware_data();
    print_acpi();
    print_ports();
    print_hole();
    print_pci();
    print_interrupt_controllers();
    print_cmos();
    print_timer();
    print_clocks();
    guest_print("end: 1\n");
    return 0;
}
