/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Guests that look at no clock end in the same state under interpreter and translator:
 *
 *   same KERNEL...
 *
 * Each is run with one vCPU by the interpreter, then by the translator, to its exit port. Compared
 * are RAM, byte for byte, what the guest printed, and the vCPU's state section but for its clocks.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/files.h"
#include "hosted/seam.h"
#include "machine/boot.h"
#include "tests/kvm/vm_env.h"
#include "tests/lib/unit.h"

enum { MEMORY = 64 << 20, OUTPUT = 64 << 10, FILE_MAX = 64 << 20 };

struct end {
    uint8_t ram[MEMORY];
    char output[OUTPUT];
    size_t length;
    uint32_t reason, status;
    struct x86_cpu cpu;
};

static struct vm_shape shape;
static struct vm_env env;
static struct end *current, *ends[2];
static const char *kernel;

static void keep_output(void *console, const uint8_t *bytes, size_t size)
{
    (void)console;
    for (; size > 0 && current->length < OUTPUT - 1; size--)
        current->output[current->length++] = (char)*bytes++;
}

static const struct console_ops console_ops = {.write = keep_output};

static void *run_vcpu(void *arg)
{
    (void)arg;
    pc_run_vcpu(vm_env_vm(&env), 0);
    seam_wake_main(&env.home);
    return NULL;
}

static void run_timers(void)
{
    struct home *h = &env.home;
    uint64_t count;

    while (!vm_is_stopped(&h->vm)) {
        struct pollfd p[] = {{h->timer_fd, POLLIN, 0}, {h->wake_fd, POLLIN, 0}};

        (void)poll(p, 2, -1);
        if (p[1].revents)
            (void)!read(h->wake_fd, &count, sizeof(count));
        if (p[0].revents && read(h->timer_fd, &count, sizeof(count)) > 0) {
            seam_timer_fired(h);
            vm_timers_run(&h->vm);
        }
    }
}

static void run(struct end *end, bool interpret)
{
    const struct file_request r = {"file", kernel, FILE_MAX, "use a smaller one"};
    struct file_kept file;
    char message[PC_MESSAGE];
    pthread_t thread;

    current = end;
    memset(shape.ram, 0, MEMORY);
    shape.config.interpret = interpret;
    CHECK_EQ(file_keep(&file, &r, message, sizeof(message)), OK);
    const struct boot_files files = {.kernel = {.size = (size_t)file.stat.st_size,
                                                .read = file_kept_read,
                                                .owner = &file}};
    vm_env_create(&env, &shape, &engine_soft);
    CHECK_EQ(pc_boot(vm_env_vm(&env), &files, message), OK);
    pc_start_clock(vm_env_vm(&env));
    CHECK_EQ(pthread_create(&thread, NULL, run_vcpu, NULL), 0);
    run_timers();
    pthread_join(thread, NULL);
    end->reason = atomic_load(&vm_env_vm(&env)->stop_reason);
    end->status = vm_env_vm(&env)->stop_status;
    memcpy(&end->cpu, pc_cpu(vm_env_vm(&env), 0), sizeof(end->cpu));
    memcpy(end->ram, shape.ram, MEMORY);
    memset(end->ram + BOOT_GENERATION, 0, 16); /* two VMs are two */
    vm_env_destroy(&env);
    close(file.fd);
}

static void compare_bytes(const void *a, const void *b, size_t size)
{
    const uint8_t *p = a, *q = b;

    for (size_t n = 0; n < size; n++) {
        if (p[n] == q[n])
            continue;
        printf("# %s: byte %zu: %02x interpreted, %02x translated\n", kernel, n, p[n], q[n]);
        CHECK(false);
    }
}

/* Not as bytes: what lies between the fields is nobody's. */
static void compare_segment(const struct x86_segment *a, const struct x86_segment *b)
{
    CHECK_EQ(a->base, b->base);
    CHECK_EQ(a->limit, b->limit);
    CHECK_EQ(a->attr, b->attr);
    CHECK_EQ(a->selector, b->selector);
}

static void compare_cpu(const struct x86_cpu *a, const struct x86_cpu *b)
{
    for (unsigned int n = 0; n < 16; n++)
        CHECK_EQ(a->gpr[n], b->gpr[n]);
    CHECK_EQ(a->rip, b->rip);
    CHECK_EQ(a->rflags, b->rflags);
    CHECK_EQ(a->cr0, b->cr0);
    CHECK_EQ(a->cr2, b->cr2);
    CHECK_EQ(a->cr3, b->cr3);
    CHECK_EQ(a->cr4, b->cr4);
    CHECK_EQ(a->efer, b->efer);
    CHECK_EQ(a->xcr0, b->xcr0);
    CHECK_EQ(a->dr6, b->dr6);
    for (unsigned int n = 0; n < SEG_COUNT; n++)
        compare_segment(&a->seg[n], &b->seg[n]);
    compare_bytes(&a->fpu, &b->fpu, offsetof(struct x86_fpu, xstate_bv)); /* the header is no state */
    compare_bytes(a->fpu.ymm_high, b->fpu.ymm_high, sizeof(a->fpu.ymm_high));
}

static void test_same(void)
{
    for (unsigned int n = 0; n < 2; n++) {
        memset(ends[n], 0, sizeof(*ends[n]));
        run(ends[n], n == 0);
        CHECK_EQ(ends[n]->reason, VM_STOP_EXIT_PORT);
        CHECK_EQ(ends[n]->status, 1);
    }
    CHECK(ends[0]->length > 0);
    CHECK_STR(ends[1]->output, ends[0]->output);
    for (size_t page = 0; page < MEMORY; page += PAGE_SIZE)
        if (memcmp(ends[0]->ram + page, ends[1]->ram + page, PAGE_SIZE) != 0) {
            printf("# %s: page %zx differs\n", kernel, page);
            CHECK(false);
        }
    compare_cpu(&ends[0]->cpu, &ends[1]->cpu);
}

int main(int argc, char **argv)
{
    vm_shape_init(&shape, 1, MEMORY, &engine_soft);
    shape.console = &console_ops;
    for (unsigned int n = 0; n < 2; n++) {
        ends[n] = calloc(1, sizeof(*ends[n]));
        if (!ends[n])
            return 2;
    }
    for (int n = 1; n < argc; n++) {
        kernel = argv[n];
        printf("# %s\n", kernel);
        UNIT_RUN(test_same);
    }
    return unit_done();
}
