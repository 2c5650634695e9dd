/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Start-up, in order, on the boot processor with interrupts off: what the boot loader said; memory; a stack with a
 * guard page; ACPI's tables; time; interrupts; the other CPUs; then every CPU begins to schedule, and this one's
 * first thread goes on with the fleet. What cannot be done without ends in words (panic_words); what can is said and
 * left out.
 */
#include "core/fmt.h"
#include "core/seam.h"
#include "engine/hw.h"
#include "native/acpi.h"
#include "native/apic.h"
#include "native/boot_info.h"
#include "native/clock.h"
#include "native/console.h"
#include "native/cpu.h"
#include "native/cpu_start.h"
#include "native/features.h"
#include "native/frames.h"
#include "native/layout.h"
#include "native/log.h"
#include "native/main.h"
#include "native/memory.h"
#include "native/panic.h"
#include "native/power.h"
#include "native/random.h"
#include "native/selftest.h"
#include "native/speculation.h"
#include "native/stack.h"
#include "native/thread.h"
#include "native/trap.h"

enum { MESSAGE = 160 };

static struct boot_info boot;
static struct acpi acpi;

void native_main(uint64_t info, uint64_t image);

const struct boot_info *main_boot_info(void)
{
    return &boot;
}

const struct acpi *main_acpi(void)
{
    return &acpi;
}

/* --- what is said ------------------------------------------------------------------------------- */

static void say_machine(uint64_t image)
{
    char names[MESSAGE];

    log_line("Lodge %s, native; loaded by %s (%s) at 0x%llx", LODGE_VERSION, boot.loader[0] ? boot.loader : "?",
             boot.efi ? "UEFI" : "BIOS", (unsigned long long)image);
    log_line("processor: %s, %s, family 0x%x, model 0x%x, stepping %u", features.brand[0] ? features.brand : "?",
             features.vendor, features.family, features.model, features.stepping);
    features_text(names, sizeof(names));
    log_line("features: %s", names);
}

static void say_memory(void)
{
    uint64_t total, free_bytes, modules = 0;

    frames_count(&total, &free_bytes);
    for (uint32_t i = 0; i < boot.modules; i++)
        modules += boot.module[i].size;
    log_line("memory: %llu MiB, %llu MiB free; %u modules of %llu KiB%s", (unsigned long long)(total >> 20),
             (unsigned long long)(free_bytes >> 20), boot.modules, (unsigned long long)(modules >> 10),
             boot.from_efi_map ? "; by EFI's map" : "");
    if (boot.left_out)
        log_line("boot information: %u entries left out", boot.left_out);
    for (uint32_t i = 0; i < boot.modules; i++)
        log_line("module: 0x%llx, %llu bytes, %s", (unsigned long long)boot.module[i].base,
                 (unsigned long long)boot.module[i].size, boot.module[i].command);
}

static void say_cpus(void)
{
    log_line("CPUs: %u of %u; %s; timer: %s, %u kHz; TSC: %u kHz", cpu_count, acpi.cpus,
             apic_is_x2apic() ? "x2APIC" : "xAPIC", apic_has_deadline() ? "TSC deadline" : "counter",
             apic_has_deadline() ? hw_tsc_khz() : apic_timer_khz(), hw_tsc_khz());
}

/* --- start-up ------------------------------------------------------------------------------------ */

static void start_time(void)
{
    char message[MESSAGE] = "";

    if (clock_init(&acpi, message, sizeof(message)) != OK)
        panic_words("%s", message);
    log_line("%s", message);
    power_init(&acpi, message, sizeof(message));
    if (message[0])
        log_line("%s", message);
    random_init(boot.range, boot.ranges * sizeof(boot.range[0]), message, sizeof(message));
    log_line("%s", message);
}

static void start_interrupts(void)
{
    if (apic_init(&acpi, boot_info_option(&boot, "x2apic")) != OK)
        panic_words("the local APIC cannot be reached");
    cpu_boot()->apic_id = apic_id();
    apic_calibrate();
    io_apic_init(&acpi);
    console_interrupts(&acpi);
}

/* On a stack with a guard page. */
static noreturn void go_on(void)
{
    char message[MESSAGE] = "";

    if (!boot.rsdp_size)
        panic_words("the boot loader passed no ACPI tables");
    if (acpi_parse(&acpi, hw_phys(boot.rsdp), memory_firmware, NULL, message, sizeof(message)) != OK)
        panic_words("ACPI: %s", message);
    start_time();
    start_interrupts();
    selftest_machine(&boot, &acpi);
    smp_start(&acpi);
    scheduler_init();
    say_cpus();
    selftest_faults(&boot);
    if (!selftest_start(&boot))
        home_start();
    smp_go();
    scheduler_run();
}

void native_main(uint64_t info, uint64_t image)
{
    char message[MESSAGE] = "";
    uint8_t *stack;

    features_init();
    speculation_begin();
    cpu_prepare(cpu_boot(), 0);
    cpu_boot()->online = true;
    trap_init();
    cpu_load(cpu_boot());
    home_console();
    if (boot_info_read(&boot, hw_virt(info), LAYOUT_EARLY_MAX - info, message, sizeof(message)) != OK)
        panic_words("%s", message);
    say_machine(image);
    if (memory_init(&boot, image, message, sizeof(message)) != OK)
        panic_words("%s", message);
    say_memory();
    console_screen(&boot);
    stack = stack_alloc(CPU_STACK);
    if (!stack || cpu_give_stacks(cpu_boot()) != OK)
        panic_words("too little memory for stacks");
    trap_use_stacks();
    stack_switch(stack + CPU_STACK, go_on);
}
