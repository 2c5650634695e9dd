/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What exits mean, and the life of a vCPU: with an engine that answers from a script. Wild accesses
 * go to every port and over the device memory; the machine may stop, and nothing else happens.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "lodge/ports.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/pc_env.h"
#include "tests/lib/unit.h"

static struct pc_env e;

static void begin(uint32_t vcpus)
{
    pc_env_create(&e, vcpus);
    e.config.exit_port = true;
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
}

static int handle(struct exit *x)
{
    return vcpu_handle_exit(e.vm.vcpu[0], x);
}

static void test_port_and_mmio(void)
{
    begin(1);
    struct exit x = {.reason = EXIT_PORT};
    x.port.port = 0x123; /* nobody */
    x.port.size = 2;
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.port.value & 0xFFFF, 0xFFFF);
    pc_env_out(&e, 0x3FF, 1, 0x77);
    CHECK_EQ(pc_env_in(&e, 0x3FF, 1), 0x77);

    x = (struct exit){.reason = EXIT_MMIO};
    x.mmio.address = gpa(0xD0000000);
    x.mmio.size = 8;
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.mmio.value, UINT64_MAX);
    /* I/O APIC: version register by index and data */
    x.mmio.address = gpa(LODGE_MMIO_IO_APIC);
    x.mmio.size = 4;
    x.mmio.write = true;
    x.mmio.value = 1;
    CHECK_EQ(handle(&x), OK);
    x.mmio.address = gpa(LODGE_MMIO_IO_APIC + 0x10);
    x.mmio.write = false;
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.mmio.value & 0xFF, IOAPIC_VERSION);
    /* ECAM: the host bridge's class */
    x.mmio.address = gpa(LODGE_MMIO_ECAM + 8);
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.mmio.value >> 16, 0x0600);
    CHECK_EQ(e.vm.vcpu[0]->exits[EXIT_MMIO], 4);
    pc_env_destroy(&e);
}

static void test_msr_cpuid_hypercall(void)
{
    begin(2);
    struct exit x = {.reason = EXIT_MSR};
    x.msr.index = MSR_APIC_BASE;
    CHECK_EQ(handle(&x), OK);
    CHECK(!x.msr.fault);
    CHECK_EQ(x.msr.value & 0xFFFFF000, LODGE_MMIO_APIC);
    x.msr.index = 0x12345;
    CHECK_EQ(handle(&x), OK);
    CHECK(x.msr.fault);
    x.msr.index = MSR_LSTAR;
    x.msr.write = true;
    x.msr.value = 1ull << 60; /* not canonical */
    CHECK_EQ(handle(&x), OK);
    CHECK(x.msr.fault);
    x.msr.value = 0x1000;
    CHECK_EQ(handle(&x), OK);
    CHECK(!x.msr.fault);
    CHECK_EQ(pc_cpu(&e.vm, 0)->msr.lstar, 0x1000);

    x = (struct exit){.reason = EXIT_CPUID};
    x.cpuid.eax = 0x40000000;
    CHECK_EQ(handle(&x), OK);
    CHECK(memcmp(&x.cpuid.ebx, "KVMK", 4) == 0);

    x = (struct exit){.reason = EXIT_HYPERCALL};
    x.hypercall.number = 0xFFFF;
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.hypercall.result, (uint64_t)-1000); /* -KVM_ENOSYS */
    x.hypercall.number = 5;                        /* KVM_HC_KICK_CPU */
    x.hypercall.arg[1] = 1;
    CHECK_EQ(handle(&x), OK);
    CHECK_EQ(x.hypercall.result, 0);
    CHECK(vcpu_requests(e.vm.vcpu[1]) & VCPU_REQ_PV_KICK);
    pc_env_destroy(&e);
}

static void check_stop(struct exit *x, enum vm_stop_reason reason, const char *text)
{
    begin(1);
    struct x86_cpu *cpu = pc_cpu(&e.vm, 0);
    cpu->cr2 = 0xBAD;
    CHECK_EQ(handle(x), ERR_STOPPED);
    CHECK_EQ(e.vm.stop_reason, reason);
    CHECK_STR(e.vm.stop_text, text);
    /* from then on everything ends so */
    struct exit again = {.reason = EXIT_HALT};
    CHECK_EQ(handle(&again), ERR_STOPPED);
    pc_env_destroy(&e);
}

static void test_stops(void)
{
    struct exit x = {.reason = EXIT_SHUTDOWN};
    check_stop(&x, VM_STOP_TRIPLE_FAULT,
               "vCPU 0 at 0010:100020, 32-bit protected mode, CPL 0, CR2 bad");
    x = (struct exit){.reason = EXIT_ENGINE_FAILURE};
    x.failure.reason = "no way";
    x.failure.detail = 0x12;
    check_stop(&x, VM_STOP_ENGINE, "no way (12), vCPU 0 at 0010:100020, 32-bit protected mode");
    x = (struct exit){.reason = EXIT_PORT};
    x.port.port = LODGE_PORT_EXIT;
    x.port.size = 1;
    x.port.write = true;
    x.port.value = 3;
    check_stop(&x, VM_STOP_EXIT_PORT, "the guest wrote 0x3 to the exit port");
    CHECK_EQ(e.vm.stop_status, 7);
    x.port.port = LODGE_PORT_ACPI_PM1_CONTROL;
    x.port.size = 2;
    x.port.value = ACPI_PM_SLP_TYP_S5 << 10 | 1 << 13;
    check_stop(&x, VM_STOP_POWEROFF, "the guest powered off");
    x.port.port = LODGE_PORT_RESET;
    x.port.size = 1;
    x.port.value = 6;
    check_stop(&x, VM_STOP_RESET, "the guest asked for a reset (port 0xcf9)");
}

static void test_no_exit_port(void)
{
    pc_env_create(&e, 1);
    CHECK_EQ(pc_env_build(&e), OK);
    CHECK_EQ(pc_env_boot(&e), OK);
    pc_env_out(&e, LODGE_PORT_EXIT, 1, 0);
    CHECK_EQ(e.vm.stop_reason, VM_RUNNING);
    pc_env_destroy(&e);
}

/* --- wild accesses --- */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 16;
}

static void go_on_if_stopped(void)
{
    if (vm_is_stopped(&e.vm))
        vm_clear_stop(&e.vm);
}

static void test_wild_ports(void)
{
    begin(2);
    vm_clock_start(&e.vm);
    uint64_t random = 1;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t port = 0; port < 0x10000; port++) {
            uint8_t size = (uint8_t)(1 << next_random(&random) % 3);
            pc_env_out(&e, (uint16_t)port, size, next_random(&random));
            go_on_if_stopped();
            (void)pc_env_in(&e, (uint16_t)port, size);
            go_on_if_stopped();
            if (port % 64 == 0)
                fake_seam_advance(100000);
        }
    }
    vm_clock_stop(&e.vm);
    CHECK_EQ(pc_env_boot(&e), OK);
    pc_env_destroy(&e);
}

static void test_wild_mmio(void)
{
    static const uint64_t window[] = {LODGE_MMIO_ECAM, LODGE_MMIO_IO_APIC, 0xD0000000,
                                      0xFEE00000,      0xFFFFF000,         UINT64_MAX - 0x1000};
    begin(2);
    vm_clock_start(&e.vm);
    uint64_t random = 2;
    for (uint32_t n = 0; n < 200000; n++) {
        struct exit x = {.reason = EXIT_MMIO};
        uint64_t offset = next_random(&random) % (n & 1 ? 0x100 : 0x1000);
        x.mmio.address = gpa(window[n % 6] + offset);
        x.mmio.size = (uint8_t)(1 << next_random(&random) % 4);
        x.mmio.write = next_random(&random) & 1;
        x.mmio.value = next_random(&random);
        (void)handle(&x);
        go_on_if_stopped();
    }
    vm_clock_stop(&e.vm);
    CHECK_EQ(pc_env_boot(&e), OK);
    pc_env_destroy(&e);
}

static void test_wild_msrs(void)
{
    static const uint32_t base[] = {0, 0x40000000, 0x4B564D00, 0xC0000000, 0xC0010000, 0xC0011000};
    static const uint64_t value[] = {0, UINT64_MAX, 0x123456789ABCDEF0};
    begin(2);
    for (uint32_t n = 0; n < 6 * 0x2000 * 3; n++) {
        struct exit x = {.reason = EXIT_MSR};
        x.msr.index = base[n / 3 / 0x2000] + n / 3 % 0x2000;
        x.msr.write = true;
        x.msr.value = value[n % 3];
        CHECK_EQ(handle(&x), OK);
        x.msr.write = false;
        CHECK_EQ(handle(&x), OK);
    }
    pc_env_destroy(&e);
}

/* --- the run loop --- */

static void *run_vcpu(void *arg)
{
    pc_run_vcpu(&e.vm, *(const uint32_t *)arg);
    return NULL;
}

/* Until vcpu_run has been called n times, or a second has passed. */
static bool wait_for_step(uint32_t n)
{
    for (int ms = 0; ms < 1000 && atomic_load(&e.step) < n; ms++)
        usleep(1000);
    return atomic_load(&e.step) >= n;
}

static bool wait_for_parked(uint32_t id)
{
    for (int ms = 0; ms < 1000 && !atomic_load(&e.vm.vcpu[id]->parked); ms++)
        usleep(1000);
    return atomic_load(&e.vm.vcpu[id]->parked);
}

/* A halted vCPU sleeps, counts as resting, wakes for an interrupt, and leaves when the VM stops. */
static void test_halt(void)
{
    static uint32_t id = 0;
    pthread_t thread;
    begin(1);
    for (uint32_t n = 0; n < PC_ENV_SCRIPT; n++)
        e.script[n] = (struct pc_env_step){.e = {.reason = EXIT_HALT}, .activity = X86_HALTED};
    CHECK_EQ(pthread_create(&thread, NULL, run_vcpu, &id), 0);
    CHECK(wait_for_step(1));
    CHECK(wait_for_parked(0));
    vm_rest_begin(&e.vm, NULL);
    vm_rest_end(&e.vm, NULL);
    usleep(5000);
    CHECK_EQ(atomic_load(&e.step), 1); /* rest alone does not wake it */
    vcpu_request(e.vm.vcpu[0], VCPU_REQ_INTR);
    CHECK(wait_for_step(2));
    CHECK(wait_for_parked(0));
    vcpu_request(e.vm.vcpu[0], VCPU_REQ_NMI);
    CHECK(wait_for_step(3));
    CHECK(wait_for_parked(0));
    vm_stop(&e.vm, VM_STOP_USER, 0, "enough");
    pthread_join(thread, NULL);
    CHECK_EQ(e.vm.vcpu[0]->exits[EXIT_HALT], 3);
    CHECK(atomic_load(&e.vm.vcpu[0]->resting));
    pc_env_destroy(&e);
}

/* One that waits for SIPI is not woken by interrupts. */
static void test_wait_sipi(void)
{
    static uint32_t id = 0;
    pthread_t thread;
    begin(1);
    for (uint32_t n = 0; n < PC_ENV_SCRIPT; n++)
        e.script[n] = (struct pc_env_step){.e = {.reason = EXIT_HALT}, .activity = X86_WAIT_SIPI};
    CHECK_EQ(pthread_create(&thread, NULL, run_vcpu, &id), 0);
    CHECK(wait_for_step(1));
    CHECK(wait_for_parked(0));
    vcpu_request(e.vm.vcpu[0], VCPU_REQ_INTR | VCPU_REQ_NMI);
    usleep(5000);
    CHECK_EQ(atomic_load(&e.step), 1);
    vcpu_request(e.vm.vcpu[0], VCPU_REQ_SIPI);
    CHECK(wait_for_step(2));
    vm_stop(&e.vm, VM_STOP_USER, 0, "enough");
    pthread_join(thread, NULL);
    pc_env_destroy(&e);
}

static void test_kick_and_end(void)
{
    static uint32_t id = 0;
    begin(1);
    /* an old request to stop does not keep it from running, nor spinning */
    vcpu_request(e.vm.vcpu[0], VCPU_REQ_STOP | VCPU_REQ_KICK);
    e.script[2].err = ERR_STOPPED;
    run_vcpu(&id);
    CHECK_EQ(e.step, 3);
    CHECK_EQ(vcpu_requests(e.vm.vcpu[0]), 0);
    CHECK_EQ(e.vm.stop_reason, VM_RUNNING);

    e.step = 0;
    e.script[0].e.reason = EXIT_PORT; /* what the guest did last, before the triple fault */
    e.script[0].e.port.port = 0x80;
    e.script[0].e.port.size = 1;
    e.script[1].e.reason = EXIT_SHUTDOWN;
    e.script[1].activity = X86_SHUTDOWN;
    run_vcpu(&id);
    CHECK_EQ(e.step, 2);
    CHECK_EQ(e.vm.stop_reason, VM_STOP_TRIPLE_FAULT);
    CHECK_EQ(e.vm.vcpu[0]->last_exit.reason, EXIT_PORT);
    CHECK_EQ(e.vm.vcpu[0]->exits[EXIT_SHUTDOWN], 1);

    vm_clear_stop(&e.vm);
    CHECK_EQ(pc_env_boot(&e), OK);
    e.step = 0;
    e.script[0].err = ERR_IO;
    run_vcpu(&id);
    CHECK_EQ(e.vm.stop_reason, VM_STOP_ENGINE);
    CHECK(strstr(e.vm.stop_text, "engine fake on vCPU 0") != NULL);

    e.step = 0;
    run_vcpu(&id); /* stopped: does not even begin */
    CHECK_EQ(e.step, 0);
    pc_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_port_and_mmio);
    UNIT_RUN(test_msr_cpuid_hypercall);
    UNIT_RUN(test_stops);
    UNIT_RUN(test_no_exit_port);
    UNIT_RUN(test_wild_ports);
    UNIT_RUN(test_wild_mmio);
    UNIT_RUN(test_wild_msrs);
    UNIT_RUN(test_halt);
    UNIT_RUN(test_wait_sipi);
    UNIT_RUN(test_kick_and_end);
    return unit_done();
}
