/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The PC, assembled (docs/machine.md says what a guest finds).
 *
 * struct pc holds every part; pc_create makes them in an order in which each finds what it needs,
 * and undoes exactly what was done when one fails. Devices own no memory: they are unmade by
 * emptying the buses and cancelling their timers. The order of creation is the order of saving,
 * since each part registers its own section: machine, processors with their local APICs, board.
 *
 * Wiring. A device pulls its ISA line; the line goes to the 8259 input of the same number and to an
 * I/O APIC input, which is the same except that IRQ 0 is at input 2 (as in every PC since the I/O
 * APIC). The 8259's output goes to the boot processor's LINT0 through apic_bus.
 *
 * Locks: lines are set with the board lock held. pc_create, pc_boot and pc_destroy are called while
 * no vCPU runs.
 */
#include "core/assert.h"
#include "core/fmt.h"
#include "core/mem.h"
#include "device/exit_port.h"
#include "device/pc_ports.h"
#include "lodge/ports.h"
#include "machine/board.h"
#include "machine/boot.h"

enum {
    IRQ_TIMER = 0,
    IRQ_RTC = 8,
    GSI_TIMER = 2,
    PC_PAGES = (sizeof(struct pc) + PAGE_SIZE - 1) / PAGE_SIZE,
};

static int fail(char *message, int err, const char *what)
{
    fmt(message, PC_MESSAGE, "cannot make the %s: %s", what, err_name(err));
    return err;
}

/* --- wiring -------------------------------------------------------------------------------------
 */

static void set_isa_line(void *owner, unsigned int irq, bool level)
{
    struct pc *pc = owner;
    i8259_set_line(&pc->pic, irq, level);
    ioapic_set_pin(&pc->ioapic, irq == IRQ_TIMER ? GSI_TIMER : irq, level);
}

static struct irq_line isa_line(struct pc *pc, unsigned int irq)
{
    return (struct irq_line){.set = set_isa_line, .owner = pc, .number = irq};
}

static void com1_write(void *owner, const uint8_t *bytes, size_t size)
{
    struct pc *pc = owner;
    pc->console->write(pc->console_owner, bytes, size);
}

static void com1_room(void *owner)
{
    struct pc *pc = owner;
    if (pc->console->room)
        pc->console->room(pc->console_owner);
}

static const struct uart_backend com1_backend = {.write = com1_write, .room = com1_room};

static void kick_vcpu(struct vcpu *v)
{
    engine_vcpu_kick(pc_of(v->vm)->engine, x86_cpu_of(v));
}

/* --- making -------------------------------------------------------------------------------------
 */

/* The level may have fewer address bits than the largest definition needs. */
static int add_memory(struct pc *pc, uint8_t *ram)
{
    struct vm *vm = pc->vm;
    uint64_t below = boot_ram_below(pc->memory), above = boot_ram_above(pc->memory);
    if (above > 0 && GIB(4) + above > BIT(pc->level->physical_bits))
        return ERR_RANGE;
    int err = guest_mem_add(&vm->mem, gpa(0), below, ram, true);
    if (err == OK && above > 0)
        err = guest_mem_add(&vm->mem, gpa(GIB(4)), above, ram + below, true);
    return err;
}

static int create_vcpu(struct pc *pc, uint32_t id)
{
    struct vm *vm = pc->vm;
    struct x86_cpu *cpu;
    int err = x86_cpu_create(&cpu, vm, id, pc->level);
    if (err != OK)
        return err;
    err = state_register(&vm->state, &x86_cpu_state_ops, cpu, id);
    if (err == OK)
        err = state_register(&vm->state, &lapic_state_ops, cpu, id);
    if (err == OK)
        err = pc->engine->vcpu_create(cpu);
    if (err != OK) {
        x86_cpu_destroy(cpu);
        return err;
    }
    vm->vcpu[id] = &cpu->vcpu;
    vm->vcpu_count = id + 1;
    return OK;
}

static int create_interrupts(struct pc *pc)
{
    struct vm *vm = pc->vm;
    int err = i8259_create(&pc->pic, vm);
    if (err == OK)
        err = ioapic_create(&pc->ioapic, vm);
    return err;
}

static int create_board(struct pc *pc, const struct vm_config *config)
{
    struct vm *vm = pc->vm;
    int err = i8254_create(&pc->pit, vm, isa_line(pc, IRQ_TIMER));
    if (err == OK)
        err = rtc_create(&pc->rtc, vm, isa_line(pc, IRQ_RTC));
    if (err == OK)
        err = uart_create(&pc->com1, vm, LODGE_PORT_SERIAL, 0, isa_line(pc, LODGE_IRQ_SERIAL),
                          &com1_backend, pc);
    if (err == OK)
        err = acpi_pm_create(&pc->acpi, vm, isa_line(pc, LODGE_IRQ_SCI));
    if (err == OK)
        err = pci_host_create(&pc->pci, vm);
    if (err == OK)
        err = pc_ports_create(vm);
    if (err == OK && config->exit_port)
        err = exit_port_create(vm);
    if (err == OK)
        rtc_set_memory_size(&pc->rtc, boot_ram_below(pc->memory), boot_ram_above(pc->memory));
    return err;
}

static struct pc *alloc_pc(struct vm *vm, const struct vm_config *config,
                           const struct engine *engine)
{
    struct pc *pc = seam_pages_alloc(PC_PAGES);
    if (!pc)
        return NULL;
    pc->vm = vm;
    pc->memory = config->memory;
    seam_random(pc->generation, sizeof(pc->generation)); /* the same across resets */
    str_copy(pc->append, sizeof(pc->append), config->append);
    pc->apic_bus.send = engine->keeps_apic ? engine->send_message : lapic_bus_send;
    pc->apic_bus.eoi = ioapic_eoi;
    pc->apic_bus.io_apic = &pc->ioapic;
    pc->apic_bus.ack_extint = i8259_ack;
    pc->apic_bus.pic = &pc->pic;
    vm->machine = pc;
    vm->apic_bus = &pc->apic_bus;
    vm->handle_exit = pc_handle_exit;
    return pc;
}

int pc_create(struct vm *vm, const struct vm_config *config, const struct x86_level *level,
              const struct engine *engine, void *ram, const struct console_ops *console,
              void *console_owner, char *message)
{
    struct pc *pc = alloc_pc(vm, config, engine);
    if (!pc)
        return fail(message, ERR_NO_MEMORY, "machine");
    pc->level = level;
    pc->engine = engine;
    pc->console = console;
    pc->console_owner = console_owner;
    vm->engine_why[0] = '\0';
    vm->interpret = config->interpret;
    if (config->tsc_khz != 0)
        vm->tsc_khz = config->tsc_khz;
    if (engine->vcpu_kick)
        vm->kick_vcpu = kick_vcpu;

    const char *what = "machine's memory map";
    int err = add_memory(pc, ram);
    if (err != OK)
        goto destroy;
    what = "engine";
    err = engine->vm_create(vm);
    if (err != OK)
        goto destroy;
    pc->engine_created = true;
    if (config->tsc_khz == 0 && engine->tsc_khz)
        vm->tsc_khz = engine->tsc_khz(vm);
    what = "machine";
    err = state_register(&vm->state, &pc_state_ops, pc, 0);
    if (err != OK)
        goto destroy;
    what = "vCPUs";
    for (uint32_t id = 0; id < config->vcpus && err == OK; id++)
        err = create_vcpu(pc, id);
    if (err != OK)
        goto destroy;
    what = "devices";
    err = create_interrupts(pc);
    if (err == OK)
        err = create_board(pc, config);
    if (err != OK)
        goto destroy;
    return OK;

destroy:
    pc_destroy(vm);
    if (vm->engine_why[0]) {
        fmt(message, PC_MESSAGE, "%s", vm->engine_why);
        return err;
    }
    return fail(message, err, what);
}

void pc_destroy(struct vm *vm)
{
    struct pc *pc = pc_of(vm);
    if (!pc)
        return;
    struct vm_timer *const timer[] = {&pc->pit.timer, &pc->rtc.timer, &pc->com1.timer,
                                      &pc->acpi.timer};
    for (size_t n = 0; n < ARRAY_SIZE(timer); n++)
        vm_timer_cancel(vm, timer[n]);
    while (vm->vcpu_count > 0) {
        struct x86_cpu *cpu = pc_cpu(vm, --vm->vcpu_count);
        vm->vcpu[vm->vcpu_count] = NULL;
        pc->engine->vcpu_destroy(cpu);
        x86_cpu_destroy(cpu);
    }
    if (pc->engine_created)
        pc->engine->vm_destroy(vm);
    vm->state.count = 0;
    vm->port_bus.count = 0;
    vm->mmio_bus.count = 0;
    vm->mem.count = 0;
    vm->handle_exit = NULL;
    vm->kick_vcpu = NULL;
    vm->apic_bus = NULL;
    vm->machine = NULL;
    seam_pages_free(pc, PC_PAGES);
}

/* --- power-on -----------------------------------------------------------------------------------
 */

static void reset_devices(struct pc *pc)
{
    struct vm *vm = pc->vm;
    lock_take(&vm->board_lock);
    i8259_reset(&pc->pic);
    ioapic_reset(&pc->ioapic);
    i8254_reset(&pc->pit);
    rtc_reset(&pc->rtc);
    uart_reset(&pc->com1);
    acpi_pm_reset(&pc->acpi);
    pci_host_reset(&pc->pci);
    lock_release(&vm->board_lock);
    pci_host_sync(&pc->pci, NULL);
}

/* Requests that were left over belong to the machine before the reset; not VCPU_REQ_STOP, which
 * somebody may just be setting. */
static void reset_vcpus(struct vm *vm)
{
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        struct x86_cpu *cpu = pc_cpu(vm, id);
        (void)vcpu_take_requests(&cpu->vcpu, ~(uint32_t)VCPU_REQ_STOP);
        x86_cpu_reset(cpu);
        firmware_init_cpu(cpu);
    }
}

static int fetch(struct vm *vm, uint32_t groups)
{
    int err = OK;
    for (uint32_t id = 0; id < vm->vcpu_count && err == OK; id++)
        err = engine_vcpu_get_state(pc_of(vm)->engine, pc_cpu(vm, id), groups);
    return err;
}

/* An engine that keeps the APICs may know of the end of a level-triggered interrupt that it has had
 * no occasion to report (KVM ends KVM_RUN for a signal first). That knowledge is no state: without
 * this, the I/O APIC would wait for that end for ever. */
static bool end_missed_interrupts(struct vm *vm)
{
    uint64_t held[4] = {0};
    bool all_tell = true;

    for (uint32_t id = 0; id < vm->vcpu_count; id++)
        all_tell &= lapic_add_held(pc_cpu(vm, id), held);
    return all_tell && ioapic_end_missed(&pc_of(vm)->ioapic, held);
}

int pc_fetch_vcpus(struct vm *vm)
{
    int err = fetch(vm, ENGINE_STATE_ALL);
    /* A line that is still asserted has sent its message again: into the engine's APICs. */
    if (err == OK && pc_of(vm)->engine->keeps_apic && end_missed_interrupts(vm))
        err = fetch(vm, ENGINE_STATE_ALL);
    return err;
}

int pc_hand_over_vcpus(struct vm *vm)
{
    const struct engine *engine = pc_of(vm)->engine;
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        struct x86_cpu *cpu = pc_cpu(vm, id);
        int err = engine_vcpu_set_state(engine, cpu, ENGINE_STATE_ALL);
        if (err != OK)
            return err;
        engine->vcpu_state_changed(cpu);
    }
    return OK;
}

void pc_start_clock(struct vm *vm)
{
    vm_clock_start(vm);
    int err = engine_vm_clock_started(pc_of(vm)->engine, vm);
    if (err != OK)
        vm_stop(vm, VM_STOP_ENGINE, 0, "the engine does not take the guest's state or clocks: %s",
                err_name(err));
}

/* What the guest has seen is never in the future of the clock that it goes on with. */
void pc_stop_clock(struct vm *vm)
{
    uint64_t lead = engine_vm_clock_lead(pc_of(vm)->engine, vm);
    vm_clock_stop(vm);
    vm_clock_set(vm, vm_clock_ns(vm) + lead);
}

int pc_boot(struct vm *vm, const struct boot_files *files, char *message)
{
    struct pc *pc = pc_of(vm);
    struct boot boot = {
        .mem = &vm->mem,
        .files = files,
        .append = pc->append,
        .memory = pc->memory,
        .rsdp = BOOT_ACPI,
        .message = message,
    };
    reset_devices(pc);
    reset_vcpus(vm);
    int err = firmware_init_board(vm);
    if (err != OK)
        return fail(message, err, "ACPI tables");
    err = boot_load(&boot);
    if (err != OK)
        return err;
    err = boot_enter(&boot, pc_cpu(vm, 0));
    if (err != OK)
        return fail(message, err, "boot processor's tables");
    err = pc_hand_over_vcpus(vm);
    return err == OK ? OK : fail(message, err, "vCPUs' first state");
}

/* --- from the home ------------------------------------------------------------------------------
 */

size_t pc_console_input(struct vm *vm, const uint8_t *bytes, size_t size)
{
    return uart_receive(&pc_of(vm)->com1, bytes, size);
}

void pc_new_identity(struct vm *vm)
{
    struct pc *pc = pc_of(vm);
    uint8_t *at = guest_mem_ptr(&vm->mem, gpa(BOOT_GENERATION), sizeof(pc->generation));
    if (NEVER(!at))
        return;
    seam_random(pc->generation, sizeof(pc->generation));
    memcpy(at, pc->generation, sizeof(pc->generation));
    _Atomic uint32_t *state = guest_mem_page_state(&vm->mem, at);
    if (state && (atomic_load(state) & GUEST_PAGE_CODE) && vm->code_written)
        vm->code_written(vm, at, sizeof(pc->generation)); /* whoever has code there */
    acpi_pm_new_identity(&pc->acpi);
}

void pc_power_button(struct vm *vm)
{
    acpi_pm_power_button(&pc_of(vm)->acpi);
}

const struct engine *pc_engine(const struct vm *vm)
{
    return pc_of(vm)->engine;
}
