/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The assembled machine: making and unmaking with every allocation failing in turn, memory map,
 * first state of the processors, wiring, console, saved state.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/mem.h"
#include "lodge/ports.h"
#include "machine/boot.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

/* Nothing is left of a machine. */
static void check_empty(const struct pc_env *e, unsigned int allocations)
{
    CHECK_EQ(fake_seam_allocations(), allocations);
    CHECK(e->vm.machine == NULL && e->vm.apic_bus == NULL);
    CHECK_EQ(e->vm.vcpu_count, 0);
    CHECK_EQ(e->vm.port_bus.count, 0);
    CHECK_EQ(e->vm.mmio_bus.count, 0);
    CHECK_EQ(e->vm.mem.count, 0);
    CHECK_EQ(e->vm.state.count, 0);
    CHECK(e->vm.clock.queue == NULL);
    CHECK_EQ(e->engine_vms, 0);
    CHECK_EQ(e->engine_vcpus, 0);
}

static void test_create_destroy(void)
{
    static struct pc_env e;
    unsigned int before = fake_seam_allocations();
    pc_env_create(&e, 16);
    e.config.exit_port = true;
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(pc_env_build(&e), OK);
        CHECK_EQ(e.vm.vcpu_count, 16);
        CHECK_EQ(e.engine_vcpus, 16);
        CHECK_EQ(pc_env_boot(&e), OK);
        CHECK(pc_engine(&e.vm)->name[0] == 'f');
        pc_destroy(&e.vm);
        check_empty(&e, before);
    }
    pc_destroy(&e.vm); /* of no machine: nothing */
    pc_env_destroy(&e);
}

/* Fails the first allocation, the second, and so on until none fails. */
static void test_failed_allocations(void)
{
    static struct pc_env e;
    unsigned int before = fake_seam_allocations(), nth = 1;
    pc_env_create(&e, 3);
    for (;; nth++) {
        unit_context("allocation %u", nth);
        fake_seam_fail_allocation(nth);
        int err = pc_env_build(&e);
        fake_seam_fail_allocation(0);
        if (err == OK)
            break;
        CHECK_EQ(err, ERR_NO_MEMORY);
        CHECK(e.message[0] != 0 && !strchr(e.message, '\n'));
        check_empty(&e, before);
    }
    unit_context(NULL);
    CHECK(nth > 6);
    printf("# %u allocations\n", nth - 1);
    pc_env_destroy(&e);
    check_empty(&e, before);
}

static void test_failing_engine(void)
{
    static struct pc_env e;
    unsigned int before = fake_seam_allocations();
    pc_env_create(&e, 4);
    e.fail_vm = true;
    CHECK_EQ(pc_env_build(&e), ERR_UNSUPPORTED);
    CHECK(strstr(e.message, "engine") != NULL);
    check_empty(&e, before);
    e.fail_vm = false;
    for (e.fail_vcpu = 1; e.fail_vcpu <= 4; e.fail_vcpu++) {
        CHECK_EQ(pc_env_build(&e), ERR_BUSY);
        CHECK(strstr(e.message, "vCPUs") != NULL);
        check_empty(&e, before);
    }
    CHECK_EQ(pc_env_build(&e), OK);
    pc_env_destroy(&e);
}

static void test_memory_map(void)
{
    static struct pc_env e;
    pc_env_create(&e, 1);
    e.config.memory = GIB(5);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(e.vm.mem.count, 2);
    CHECK_EQ(e.vm.mem.slot[0].size, LODGE_MMIO_HOLE);
    CHECK_EQ(e.vm.mem.slot[1].base, GIB(4));
    CHECK_EQ(e.vm.mem.slot[1].size, GIB(2));
    CHECK(e.vm.mem.slot[1].host == e.ram + LODGE_MMIO_HOLE);
    CHECK_EQ(pc_env_boot(&e), OK);
    CHECK(memcmp(guest_mem_ptr(&e.vm.mem, gpa(BOOT_ACPI), 8), "RSD PTR ", 8) == 0);
    /* CMOS: 64-KiB units above 16 MiB, and above 4 GiB */
    pc_env_out(&e, 0x70, 1, 0x34);
    uint64_t low = pc_env_in(&e, 0x71, 1);
    pc_env_out(&e, 0x70, 1, 0x35);
    low |= pc_env_in(&e, 0x71, 1) << 8;
    CHECK_EQ(low, (LODGE_MMIO_HOLE - MIB(16)) >> 16);
    pc_env_destroy(&e);
}

/* More RAM than the level's processors can address. */
static void test_memory_too_large(void)
{
    static struct pc_env e;
    unsigned int before = fake_seam_allocations();
    pc_env_create(&e, 1);
    e.ram = mmap(NULL, MIB(32), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    e.config.memory = BIT(62);
    CHECK_EQ(pc_env_build(&e), ERR_RANGE);
    CHECK(strstr(e.message, "memory map") != NULL);
    check_empty(&e, before);
    e.config.memory = MIB(32);
    pc_env_destroy(&e);
}

static void check_mtrrs(const struct pc_env *e)
{
    for (uint32_t id = 0; id < e->vm.vcpu_count; id++) {
        const struct x86_msrs *m = &pc_cpu(&e->vm, id)->msr;
        CHECK_EQ(m->mtrr_def_type, 0xC06);
        CHECK_EQ(m->mtrr_base[0], 0xC0000000);
        CHECK_EQ(m->mtrr_mask[0] & 0xFFFFFFFF, 0xC0000800);
        CHECK_EQ(m->mtrr_fixed[0], 0x0606060606060606);
        CHECK_EQ(m->mtrr_fixed[2], 0);
    }
}

static void test_boot_32(void)
{
    static struct pc_env e;
    pc_env_create(&e, 3);
    CHECK_EQ(pc_env_build(&e), OK);
    for (int round = 0; round < 2; round++) { /* the second time is a reset */
        CHECK_EQ(pc_env_boot(&e), OK);
        struct x86_cpu *cpu = pc_cpu(&e.vm, 0);
        CHECK_EQ(cpu->rip, 0x100020);
        CHECK_EQ(cpu->gpr[RAX], 0x2BADB002);
        CHECK_EQ(cpu->gpr[RBX], BOOT_INFO);
        CHECK_EQ(cpu->rflags, 2);
        CHECK_EQ(cpu->mode, INSN_MODE_32);
        CHECK_EQ(cpu->cpl, 0);
        CHECK(cpu->protected_mode && !cpu->long_mode && cpu->flat_data);
        CHECK_EQ(cpu->cr0, X86_CR0_PE | X86_CR0_ET);
        CHECK_EQ(cpu->efer, 0);
        CHECK_EQ(cpu->activity, X86_RUNNING);
        CHECK_EQ(pc_cpu(&e.vm, 1)->activity, X86_WAIT_SIPI);
        CHECK_EQ(pc_cpu(&e.vm, 2)->activity, X86_WAIT_SIPI);
        CHECK(memcmp(e.ram + 0x100000, e.kernel, sizeof(e.kernel)) == 0);
        check_mtrrs(&e);
        /* what the machine before the reset left behind */
        cpu->rip = 1;
        pc_cpu(&e.vm, 1)->activity = X86_HALTED;
        pc_cpu(&e.vm, 2)->msr.mtrr_def_type = 0;
        vcpu_request(e.vm.vcpu[1], VCPU_REQ_INTR | VCPU_REQ_INIT);
        memset(e.ram, 0, e.config.memory);
    }
    CHECK_EQ(pc_env_boot(&e), OK);
    CHECK_EQ(vcpu_requests(e.vm.vcpu[1]) & (VCPU_REQ_INTR | VCPU_REQ_INIT), 0);
    CHECK_EQ(e.engine_changes, 9);
    pc_env_destroy(&e);
}

/* A bzImage, for the 64-bit entry. */
static void test_boot_64(void)
{
    static struct pc_env e;
    static uint8_t image[2048];
    image[0x1F1] = 1;
    store_u32(image + 0x1F4, 0x40);
    store_u16(image + 0x1FE, 0xAA55);
    memcpy(image + 0x202, "HdrS", 4);
    store_u16(image + 0x206, 0x20F);
    image[0x211] = 1;
    store_u32(image + 0x22C, 0x7FFFFFFF);
    store_u16(image + 0x236, 1);
    store_u32(image + 0x238, 255);
    store_u64(image + 0x258, 0x200000);
    store_u32(image + 0x260, 0x100000);
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    e.files.kernel = boot_env_file(image, sizeof(image));
    CHECK_EQ(pc_env_boot(&e), OK);
    struct x86_cpu *cpu = pc_cpu(&e.vm, 0);
    CHECK_EQ(cpu->rip, 0x200200);
    CHECK_EQ(cpu->gpr[RSI], BOOT_INFO);
    CHECK_EQ(cpu->mode, INSN_MODE_64);
    CHECK_EQ(cpu->efer, X86_EFER_LME | X86_EFER_LMA);
    CHECK_EQ(cpu->seg[SEG_CS].selector, 0x10);
    CHECK_EQ(cpu->seg[SEG_SS].selector, 0x18);
    CHECK_EQ(load_u64(e.ram + cpu->gdtr.base + 0x10), 0x00AF9B000000FFFF);
    CHECK_EQ(load_u64(e.ram + cpu->gdtr.base + 0x18), 0x00CF93000000FFFF);
    /* identity, for all of the first 4 GiB */
    for (uint64_t a = 0x123; a < GIB(4); a += MIB(2) - 0x1000) {
        struct gpa physical = {0};
        CHECK(x86_translate_peek(cpu, a, &physical));
        CHECK_EQ(physical.v, a);
    }
    struct gpa physical;
    CHECK(!x86_translate_peek(cpu, GIB(4), &physical));
    pc_env_destroy(&e);
}

static void test_boot_error(void)
{
    static struct pc_env e;
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    e.files.kernel.size = 3;
    CHECK_EQ(pc_env_boot(&e), ERR_INVALID);
    CHECK_STR(e.message, "not a kernel: no bzImage, ELF or Multiboot header found (is it the right file?)");
    e.files.kernel.size = sizeof(e.kernel);
    CHECK_EQ(pc_env_boot(&e), OK);
    pc_env_destroy(&e);
}

/* --- wiring --- */

static bool pic_input(const struct pc *pc, unsigned int irq)
{
    return pc->pic.chip[irq / 8].line >> irq % 8 & 1;
}

static void test_isa_lines(void)
{
    static struct pc_env e;
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    struct pc *pc = pc_of(&e.vm);
    CHECK_EQ(pc->ioapic.line, 0);

    pc_env_out(&e, 0x3FC, 1, 8); /* OUT2 */
    pc_env_out(&e, 0x3F9, 1, 2); /* transmitter empty */
    CHECK_EQ(pc->ioapic.line, 1 << 4);
    CHECK(pic_input(pc, 4));
    pc_env_out(&e, 0x3F9, 1, 0);
    CHECK_EQ(pc->ioapic.line, 0);

    /* SCI, level-triggered in the 8259 as well */
    CHECK_EQ(pc_env_in(&e, 0x4D1, 1), 2);
    pc_env_out(&e, LODGE_PORT_ACPI_PM1_EVENT + 2, 2, 1 << 8);
    pc_power_button(&e.vm);
    CHECK_EQ(pc->ioapic.line, 1 << 9);
    CHECK(pic_input(pc, 9));
    pc_env_out(&e, LODGE_PORT_ACPI_PM1_EVENT, 2, 1 << 8);
    CHECK_EQ(pc->ioapic.line, 0);

    /* the timer's edge: 8259 input 0, I/O APIC input 2 (its handler is told by a vector) */
    pc->ioapic.redirect[2] = 0x51;
    vm_clock_start(&e.vm);
    pc_env_out(&e, 0x43, 1, 0x34);
    pc_env_out(&e, 0x40, 1, 0);
    pc_env_out(&e, 0x40, 1, 0x10);
    fake_seam_advance(10 * 1000 * 1000);
    CHECK(pc->pic.chip[0].irr & 1);
    vm_clock_stop(&e.vm);
    pc_env_destroy(&e);
}

/* The guest finds an id, which a reset does not change, and a copy of the VM does: then it is told. */
static void test_new_identity(void)
{
    static struct pc_env e;
    uint8_t first[16], again[16];
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    CHECK_EQ(guest_mem_read(&e.vm.mem, gpa(BOOT_GENERATION), first, 16), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    CHECK_EQ(guest_mem_read(&e.vm.mem, gpa(BOOT_GENERATION), again, 16), OK);
    CHECK_EQ(memcmp(first, again, 16), 0);
    pc_env_out(&e, LODGE_PORT_ACPI_GPE0 + 1, 1, 1);
    CHECK_EQ(pc_of(&e.vm)->ioapic.line, 0);
    pc_new_identity(&e.vm);
    CHECK_EQ(pc_of(&e.vm)->ioapic.line, 1 << 9);
    CHECK_EQ(guest_mem_read(&e.vm.mem, gpa(BOOT_GENERATION), again, 16), OK);
    CHECK(memcmp(first, again, 16) != 0);
    pc_env_out(&e, LODGE_PORT_ACPI_GPE0, 1, 1);
    CHECK_EQ(pc_of(&e.vm)->ioapic.line, 0);
    pc_env_destroy(&e);
}

static unsigned int told;

static void note_code_written(struct vm *vm, const uint8_t *host, size_t size)
{
    (void)vm;
    (void)host;
    CHECK_EQ(size, 16);
    told++;
}

/* A guest that runs code out of the id's page, under an engine that translated it. */
static void test_new_identity_in_code(void)
{
    static struct pc_env e;
    static _Atomic uint32_t state[MIB(32) / 4096];
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    e.vm.mem.slot[0].page_state = state;
    e.vm.code_written = note_code_written;
    pc_new_identity(&e.vm);
    CHECK_EQ(told, 0);
    state[BOOT_GENERATION / 4096] = GUEST_PAGE_CODE;
    pc_new_identity(&e.vm);
    CHECK_EQ(told, 1);
    e.vm.mem.slot[0].page_state = NULL;
    e.vm.code_written = NULL;
    pc_env_destroy(&e);
}

static void test_console(void)
{
    static struct pc_env e;
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    for (const char *p = "hello\n"; *p; p++)
        pc_env_out(&e, 0x3F8, 1, (uint8_t)*p);
    CHECK_STR(e.console, "hello\n");
    pc_env_out(&e, 0x3FA, 1, 1); /* FIFO */
    CHECK_EQ(pc_console_input(&e.vm, (const uint8_t *)"ab", 2), 2);
    CHECK_EQ(pc_env_in(&e, 0x3F8, 1), 'a');
    CHECK_EQ(pc_env_in(&e, 0x3F8, 1), 'b');
    pc_env_destroy(&e);
}

/* --- saved state --- */

static size_t save(struct pc_env *e, uint8_t *buf, size_t size)
{
    struct state_writer w = {.buf = buf, .size = size};
    state_save_all(&e->vm.state, &w);
    CHECK(w.used <= size);
    return w.used;
}

/* Equal states; else the first difference, by section (name 16, version, instance, length, sum). */
static void check_same_state(const uint8_t *a, const uint8_t *b, size_t size)
{
    enum { HEADER = 32, LENGTH = 24 };
    for (size_t at = 0; at + HEADER <= size; at += HEADER + load_u32(a + at + LENGTH))
        for (size_t n = HEADER; n < HEADER + load_u32(a + at + LENGTH); n++)
            if (at + n < size && a[at + n] != b[at + n]) {
                unit_context("%s, byte %zu", (const char *)a + at, n - HEADER);
                CHECK_EQ(a[at + n], b[at + n]);
                return;
            }
    CHECK(memcmp(a, b, size) == 0);
}

static void test_save_load(void)
{
    static struct pc_env e, other;
    static uint8_t first[1 << 17], second[1 << 17], third[1 << 17];
    pc_env_create(&e, 2);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    vm_clock_start(&e.vm);
    pc_env_out(&e, 0x3FF, 1, 0x5A);
    fake_seam_advance(12345678);
    vm_clock_stop(&e.vm);
    CHECK_STR(e.vm.state.section[0].ops->name, "pc");
    size_t size = save(&e, first, sizeof(first));
    printf("# %u sections, %zu bytes\n", e.vm.state.count, size);

    /* another machine of that shape takes it, and is then the same */
    pc_env_create(&other, 2);
    CHECK_EQ(pc_env_build(&other), OK);
    CHECK_EQ(pc_env_boot(&other), OK);
    CHECK(save(&other, second, sizeof(second)) != size || memcmp(first, second, size) != 0);
    CHECK_EQ(state_load_all(&other.vm.state, first, size), OK);
    for (uint32_t id = 0; id < 2; id++) /* a loaded local APIC asks its vCPU to look at it */
        (void)vcpu_take_requests(other.vm.vcpu[id], VCPU_REQ_INTR);
    CHECK_EQ(save(&other, third, sizeof(third)), size);
    check_same_state(first, third, size);
    CHECK_EQ(vm_clock_ns(&other.vm), 12345678);
    CHECK_EQ(pc_env_in(&other, 0x3FF, 1), 0x5A);
    pc_env_destroy(&other);

    /* machines of another shape refuse it and stay as they are */
    for (int n = 0; n < 3; n++) {
        unit_context("shape %d", n);
        pc_env_create(&other, n == 0 ? 1 : 2);
        if (n == 1)
            other.config.memory = MIB(64);
        if (n == 2)
            strcpy(other.config.level, "v2");
        CHECK_EQ(pc_env_build(&other), OK);
        CHECK_EQ(pc_env_boot(&other), OK);
        size_t before = save(&other, second, sizeof(second));
        CHECK(state_load_all(&other.vm.state, first, size) != OK);
        CHECK_EQ(save(&other, third, sizeof(third)), before);
        CHECK(memcmp(second, third, before) == 0);
        pc_env_destroy(&other);
    }
    unit_context(NULL);
    pc_env_destroy(&e);
}

/* ACPI's section had no general-purpose events in its version 1. */
static void test_old_acpi_section(void)
{
    static struct pc_env e;
    static uint8_t before[1 << 17], old[1 << 17], after[1 << 17];
    static const uint8_t version_1[9];
    struct state_writer w = {.buf = old, .size = sizeof(old)};
    struct state_header h;
    struct state_reader payload;
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    size_t size = save(&e, before, sizeof(before));
    struct state_reader stream = {.buf = before, .size = size};
    while (state_next_section(&stream, &h, &payload) == OK) {
        bool acpi = strcmp(h.name, "acpi_pm") == 0;
        size_t begin = state_begin_section(&w, h.name, h.instance, acpi ? 1 : h.version);
        if (acpi)
            state_put_bytes(&w, version_1, sizeof(version_1));
        else
            state_put_bytes(&w, payload.buf, payload.size);
        state_end_section(&w, begin);
    }
    CHECK_EQ(w.used, size - 2);
    CHECK_EQ(state_load_all(&e.vm.state, old, w.used), (uint64_t)ERR_VERSION);
    CHECK_EQ(save(&e, after, sizeof(after)), size);
    check_same_state(before, after, size);
    pc_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_create_destroy);
    UNIT_RUN(test_failed_allocations);
    UNIT_RUN(test_failing_engine);
    UNIT_RUN(test_memory_map);
    UNIT_RUN(test_memory_too_large);
    UNIT_RUN(test_boot_32);
    UNIT_RUN(test_boot_64);
    UNIT_RUN(test_boot_error);
    UNIT_RUN(test_isa_lines);
    UNIT_RUN(test_new_identity);
    UNIT_RUN(test_new_identity_in_code);
    UNIT_RUN(test_console);
    UNIT_RUN(test_save_load);
    UNIT_RUN(test_old_acpi_section);
    return unit_done();
}
