/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What the operator is told. A guest that ends in order ends silently. One that dies gets a report
 * that answers four questions: what happened, where (instruction, mode, last exit), what did it
 * print last, what can I try. Text that comes from a guest is made plain before (last_line.c);
 * stop_text is the machine's own.
 */
#include "hosted/report.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hosted/home.h"
#include "hosted/log.h"
#include "machine/pc.h"

enum { DUMP_SIZE = 4096 };

static const char *const exit_names[EXIT_REASONS] = {
    [EXIT_NONE] = "none",
    [EXIT_PORT] = "port",
    [EXIT_MMIO] = "mmio",
    [EXIT_MSR] = "msr",
    [EXIT_CPUID] = "cpuid",
    [EXIT_HALT] = "halt",
    [EXIT_HYPERCALL] = "hypercall",
    [EXIT_WINDOW] = "window",
    [EXIT_SHUTDOWN] = "shutdown",
    [EXIT_KICK] = "kick",
    [EXIT_ENGINE_FAILURE] = "failure",
};

/* How a VM can end, by enum vm_stop_reason. what NULL: in order, nothing to say. */
static const struct {
    const char *what;
    const char *advice; /* NULL: no guest to look at */
    enum lodge_status status;
} ends[] = {
    [VM_RUNNING] = {"it has not stopped", NULL, STATUS_ENGINE},
    [VM_STOP_POWEROFF] = {NULL, NULL, STATUS_OK},
    [VM_STOP_RESET] = {NULL, NULL, STATUS_OK},
    [VM_STOP_EXIT_PORT] = {NULL, NULL, STATUS_OK},
    [VM_STOP_TRIPLE_FAULT] =
        {"the guest died of a triple fault",
         "is the kernel made for this machine and level (--cpu)? Linux: --append 'console=ttyS0 "
         "earlyprintk=serial' shows more; -v shows registers",
         STATUS_GUEST_DIED},
    [VM_STOP_GUEST_ERROR] =
        {"the guest cannot go on",
         "is the kernel made for this machine and level (--cpu)? -v shows registers",
         STATUS_GUEST_DIED},
    [VM_STOP_ENGINE] =
        {"the engine cannot go on",
         "this may be a bug of Lodge: report it with the kernel used and the output of -v",
         STATUS_ENGINE},
    [VM_STOP_NO_MEMORY] = {"the host has no memory left for guest RAM",
                           "free some memory on the host, or use less -m", STATUS_HOST},
    [VM_STOP_MEMORY_LOST] = {"the guest's memory is lost", "restore it from another copy", STATUS_HOST},
    [VM_STOP_USER] = {NULL, NULL, STATUS_OPERATOR},
};

static const char *mode_of(const struct x86_cpu *cpu)
{
    if (cpu->mode == INSN_MODE_64)
        return "64-bit mode";
    if (cpu->long_mode)
        return "compatibility mode";
    if (cpu->v86)
        return "virtual-8086 mode";
    if (!cpu->protected_mode)
        return "real mode";
    return cpu->mode == INSN_MODE_16 ? "16-bit protected mode" : "32-bit protected mode";
}

static void describe_exit(const struct exit *e, char *buf, size_t size)
{
    const char *name = (uint32_t)e->reason < EXIT_REASONS ? exit_names[e->reason] : "unknown";

    if (e->reason == EXIT_PORT)
        snprintf(buf, size, "%s of %u bytes %s port %#x", e->port.write ? "write" : "read",
                 e->port.size, e->port.write ? "to" : "from", e->port.port);
    else if (e->reason == EXIT_MMIO)
        snprintf(buf, size, "%s of %u bytes %s device memory at %#llx",
                 e->mmio.write ? "write" : "read", e->mmio.size, e->mmio.write ? "to" : "from",
                 (unsigned long long)e->mmio.address.v);
    else if (e->reason == EXIT_MSR)
        snprintf(buf, size, "%s of MSR %#x", e->msr.write ? "write" : "read", e->msr.index);
    else if (e->reason == EXIT_ENGINE_FAILURE)
        snprintf(buf, size, "%s (%#llx)", e->failure.reason, (unsigned long long)e->failure.detail);
    else
        snprintf(buf, size, "%s", name);
}

static void report_cpu(struct vm *vm, uint32_t id)
{
    const struct x86_cpu *cpu = pc_cpu(vm, id);
    unsigned long long exits = 0;
    char last[96];

    for (uint32_t i = 0; i < EXIT_REASONS; i++)
        exits += cpu->vcpu.exits[i];
    describe_exit(&cpu->vcpu.last_exit, last, sizeof(last));
    say("  vCPU %u: RIP %#llx, %s, CPL %u; %llu instructions, %llu exits, the last: %s", id,
        (unsigned long long)cpu->rip, mode_of(cpu), cpu->cpl, (unsigned long long)cpu->instructions,
        exits, last);
}

static void dump_registers(struct vm *vm)
{
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        char buf[DUMP_SIZE];

        (void)x86_cpu_dump(pc_cpu(vm, id), buf, sizeof(buf));
        say_raw("vCPU %u:\n%s%s", id, buf, buf[0] && buf[strlen(buf) - 1] == '\n' ? "" : "\n");
    }
}

void report_registers_at_rest(struct home *h)
{
    freeze_rest_begin(h);
    if (!h->freeze.paused) /* else they have been fetched, or never run */
        (void)pc_fetch_vcpus(&h->vm); /* what could not be fetched is shown as it was last seen */
    dump_registers(&h->vm);
    freeze_rest_end(h);
}

static void report_death(struct home *h, const char *what, const char *advice)
{
    struct vm *vm = &h->vm;
    const char *last = last_line_get(&h->console.last);

    say("%s%s%s%s", h->who, what, vm->stop_text[0] ? ": " : "", vm->stop_text);
    if (!advice)
        return;
    (void)pc_fetch_vcpus(vm);
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        if (pc_cpu(vm, id)->activity != X86_WAIT_SIPI)
            report_cpu(vm, id);
    }
    say("  last console line: %s%s%s", last[0] ? "\"" : "", last[0] ? last : "none",
        last[0] ? "\"" : "");
    say("  %s", advice);
    if (h->options.log_level >= SEAM_LOG_INFO)
        dump_registers(vm);
}

enum lodge_status report_end(struct home *h)
{
    uint32_t reason = atomic_load(&h->vm.stop_reason);
    int out_error = atomic_load(&h->out_error);

    if (h->signal)
        return (enum lodge_status)(STATUS_SIGNAL + h->signal);
    if (reason == VM_STOP_EXIT_PORT)
        return (enum lodge_status)(h->vm.stop_status & 0xFF);
    if (reason >= ARRAY_SIZE(ends))
        reason = VM_RUNNING;
    if (reason == VM_STOP_NO_MEMORY && ram_was_cut(&h->ram)) {
        say("%sthe saved VM's file was cut off while the VM ran (restore it from another copy)", h->who);
        return STATUS_HOST;
    }
    if (reason == VM_STOP_USER && out_error)
        say("%sended, because standard output failed: %s", h->who, strerror(out_error));
    if (ends[reason].what)
        report_death(h, ends[reason].what, ends[reason].advice);
    return ends[reason].status;
}

static double seconds_of(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void report_stats(struct home *h)
{
    struct vm *vm = &h->vm;

    say("%sengine %s, level %s, VM clock %.3f s, host CPU %.3f s, %llu resets", h->who,
        h->engine->name, h->level->name, (double)vm_clock_ns(vm) / 1e9,
        seconds_of(CLOCK_PROCESS_CPUTIME_ID), (unsigned long long)h->resets);
    for (uint32_t id = 0; id < vm->vcpu_count; id++) {
        const struct x86_cpu *cpu = pc_cpu(vm, id);
        char buf[DUMP_SIZE] = "";
        size_t n = 0;

        for (uint32_t i = 0; i < EXIT_REASONS; i++) {
            if (cpu->vcpu.exits[i])
                n += (size_t)snprintf(buf + n, sizeof(buf) - n, " %s %llu", exit_names[i],
                                      (unsigned long long)cpu->vcpu.exits[i]);
        }
        say("vcpu%u: halted %.3f s; exits:%s", id, (double)cpu->vcpu.halted_ns / 1e9,
            n ? buf : " none");
        if (h->engine->vcpu_stats && h->engine->vcpu_stats(cpu, buf, sizeof(buf)))
            say_raw("%s%s", buf, buf[strlen(buf) - 1] == '\n' ? "" : "\n");
    }
}
