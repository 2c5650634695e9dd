/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Is there a KVM here that is worth using? A /dev/kvm that opens proves nothing: some hosts offer
 * a KVM without hardware virtualization, in which ordinary kernels crawl or fail. So a guest of a
 * few instructions is run: it counts in ring 0, which has to go about as fast as outside, and
 * executes an undefined instruction, which has to arrive at the handler that its IDT names. Both
 * tell us so by a port.
 *
 * The guest is 32-bit code without paging, on one page of memory that holds its tables too. It
 * cannot hang us: a timer ends KVM_RUN.
 *
 * What hardware takes for an iteration is 1 ns at most; the limit is far above it, since the host
 * may be busy (the best of a few tries counts), and far below what emulators take.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "core/err.h"
#include "core/fmt.h"
#include "engine/kvm/kvm_private.h"

enum {
    PROBE_MEMORY = 0x1000,
    CODE = 0x000,
    HANDLER = 0x080,
    GDT = 0x100,
    IDT = 0x200,
    STACK = 0xFF0,
    SEL_CODE = 8,
    SEL_DATA = 16,
    PORT_STARTED = 0xE0, /* what the guest has done so far */
    PORT_COUNTED,
    PORT_CAUGHT,
    ITERATIONS = 20000,
    TRIES = 5,
    NS_PER_ITERATION = 20,
    SECONDS = 1, /* for one entry */
};

/* mov ecx, ITERATIONS; out STARTED; 1: dec ecx; jnz 1b; out COUNTED; ud2 */
static const uint8_t code[] = {
    0xB9,
    ITERATIONS & 0xFF,
    ITERATIONS >> 8,
    0,
    0,
    0xE6,
    PORT_STARTED,
    0x49,
    0x75,
    0xFD,
    0xE6,
    PORT_COUNTED,
    0x0F,
    0x0B,
};
/* out CAUGHT; hlt */
static const uint8_t handler[] = {0xE6, PORT_CAUGHT, 0xF4};

struct probe {
    int device, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
    struct sigaction old_action;
    sigset_t old_mask;
    bool has_timer;
    const char *what; /* KVM did not do, for this reason (negative errno) */
    int error;
};

/* Where a look ends: NULL if all is well, else why not. */
typedef const char *verdict;

/* KVM said no with an errno: the sentence is kvm_trouble's. */
static verdict trouble(struct probe *p, const char *what, int negative_errno)
{
    p->what = what;
    p->error = negative_errno;
    return what;
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

static void fill_memory(uint8_t *m)
{
    memcpy(m + CODE, code, sizeof(code));
    memcpy(m + HANDLER, handler, sizeof(handler));
    put64(m + GDT + SEL_CODE, UINT64_C(0x00CF9B000000FFFF));
    put64(m + GDT + SEL_DATA, UINT64_C(0x00CF93000000FFFF));
    put64(m + IDT + 6 * 8, UINT64_C(0x00008E0000080000) | HANDLER); /* #UD: 32-bit interrupt gate */
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){.limit = UINT32_MAX,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .db = 1,
                                .s = 1,
                                .g = 1};
}

static int set_registers(const struct probe *p)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rsp = STACK, .rflags = 2};
    int result = kvm_ioctl(p->vcpu, KVM_GET_SREGS, &s);

    s.cs = flat(SEL_CODE, 0xB);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(SEL_DATA, 0x3);
    s.gdt = (struct kvm_dtable){.base = GDT, .limit = 3 * 8 - 1};
    s.idt = (struct kvm_dtable){.base = IDT, .limit = 7 * 8 - 1};
    s.cr0 |= 1;
    if (result >= 0)
        result = kvm_ioctl(p->vcpu, KVM_SET_SREGS, &s);
    if (result >= 0)
        result = kvm_ioctl(p->vcpu, KVM_SET_REGS, &r);
    return result;
}

static void ignore(int signal)
{
    (void)signal;
}

/* SIGALRM by setitimer: unlike a timer of timer_create it needs no place in the queue of signals,
 * which may be full ('ulimit -i'). Whoever started us may have it blocked or ignored. */
static void make_timer(struct probe *p)
{
    struct sigaction action = {.sa_handler = ignore};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    p->has_timer = sigaction(SIGALRM, &action, &p->old_action) == 0 &&
                   pthread_sigmask(SIG_UNBLOCK, &set, &p->old_mask) == 0;
}

static void set_timer(time_t seconds)
{
    /* Again and again: one that came just before KVM_RUN would be in vain. */
    struct itimerval t = {.it_value = {.tv_sec = seconds}, .it_interval = {.tv_sec = seconds}};

    (void)setitimer(ITIMER_REAL, &t, NULL);
}

static void unmake_timer(const struct probe *p)
{
    if (!p->has_timer)
        return;
    (void)pthread_sigmask(SIG_SETMASK, &p->old_mask, NULL);
    (void)sigaction(SIGALRM, &p->old_action, NULL);
}

static verdict make(struct probe *p)
{
    struct kvm_userspace_memory_region region = {.memory_size = PROBE_MEMORY};

    int result;

    p->vm = kvm_ioctl_value(p->device, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return trouble(p, "make VMs", p->vm);
    p->memory =
        mmap(NULL, PROBE_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED)
        return trouble(p, "get memory", -errno);
    fill_memory(p->memory);
    region.userspace_addr = (uintptr_t)p->memory;
    result = kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region);
    if (result < 0)
        return trouble(p, "take memory", result);
    (void)kvm_ioctl_value(p->vm, KVM_SET_TSS_ADDR, 0xFFFBD000);
    p->vcpu = kvm_ioctl_value(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0)
        return trouble(p, "make vCPUs", p->vcpu);
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (p->run == MAP_FAILED)
        return trouble(p, "share a page", -errno);
    make_timer(p);
    return NULL;
}

static void unmake(struct probe *p)
{
    unmake_timer(p);
    if (p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->memory != MAP_FAILED)
        munmap(p->memory, PROBE_MEMORY);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* KVM_RUN, again after signals that are not the timer's (stop and continue, a debugger). 0 or an
 * errno: EINTR if the time is over. */
static int enter(const struct probe *p)
{
    uint64_t end = now_ns() + (uint64_t)SECONDS * 1000000000;
    int error;

    set_timer(SECONDS);
    do
        error = ioctl(p->vcpu, KVM_RUN, 0) < 0 ? errno : 0;
    while ((error == EINTR || error == EAGAIN) && now_ns() < end);
    set_timer(0);
    return error;
}

/* Runs up to the guest's write to a port. */
static verdict run_to(struct probe *p, uint16_t port)
{
    int error = enter(p);

    if (error == EINTR || error == EAGAIN)
        return "a test guest did not come back: this KVM works without hardware, or not at all";
    if (error)
        return trouble(p, "run a test guest", -error);
    if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != port)
        return port == PORT_CAUGHT ? "exceptions do not arrive in a test guest"
                                   : "a test guest did not do what it should";
    return NULL;
}

static verdict run_once(struct probe *p, uint64_t *best)
{
    uint64_t start;
    int result = set_registers(p);
    verdict v = result < 0 ? trouble(p, "take registers", result) : NULL;

    if (!v)
        v = run_to(p, PORT_STARTED);
    start = now_ns();
    if (!v)
        v = run_to(p, PORT_COUNTED);
    if (now_ns() - start < *best)
        *best = now_ns() - start;
    if (!v)
        v = run_to(p, PORT_CAUGHT);
    return v;
}

static int refuse(char *why, size_t size, const char *reason)
{
    (void)fmt(why, size, "%s", reason);
    return ERR_UNSUPPORTED;
}

/* OK, or an error and why. */
static int run_guest(int device, size_t run_size, char *why, size_t size)
{
    struct probe p = {.device = device,
                      .vm = -1,
                      .vcpu = -1,
                      .memory = MAP_FAILED,
                      .run = MAP_FAILED,
                      .run_size = run_size};
    uint64_t best = UINT64_MAX;
    verdict v = make(&p);

    for (int i = 0; i < TRIES && !v && best > (uint64_t)ITERATIONS * NS_PER_ITERATION; i++)
        v = run_once(&p, &best);
    if (!v && best > (uint64_t)ITERATIONS * NS_PER_ITERATION)
        v = "a test guest crawls: this KVM works without hardware virtualization";
    unmake(&p);
    if (p.error)
        return kvm_trouble(why, size, p.what, p.error);
    return v ? refuse(why, size, v) : OK;
}

/* What the engine cannot do without; all of it is in Linux 5.10. */
static const char *missing_capability(int device)
{
    static const struct {
        int number;
        const char *name;
    } needed[] = {
        /* table */
        {KVM_CAP_SPLIT_IRQCHIP, "split irqchip"},
        {KVM_CAP_X86_USER_SPACE_MSR, "MSR exits"},
        {KVM_CAP_X86_MSR_FILTER, "MSR filter"},
        {KVM_CAP_EXCEPTION_PAYLOAD, "exception payload"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
        {KVM_CAP_SYNC_REGS, "synchronized registers"},
        {KVM_CAP_X2APIC_API, "x2APIC"},
        {KVM_CAP_TSC_DEADLINE_TIMER, "TSC-deadline timer"},
        {KVM_CAP_ADJUST_CLOCK, "clock setting"},
        {KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        if (kvm_ioctl_value(device, KVM_CHECK_EXTENSION, (unsigned long)needed[i].number) <= 0)
            return needed[i].name;
    }
    return NULL;
}

static int look(int device, const struct x86_level *level, bool closely, char *why, size_t size)
{
    int run_size = kvm_ioctl_value(device, KVM_GET_VCPU_MMAP_SIZE, 0);
    const char *missing;
    int err = OK;

    if (kvm_ioctl_value(device, KVM_GET_API_VERSION, 0) != KVM_API_VERSION ||
        run_size < (int)sizeof(struct kvm_run))
        return refuse(why, size, "/dev/kvm speaks another version of the interface");
    missing = missing_capability(device);
    if (missing) {
        (void)fmt(why, size, "this host's KVM is too old (Linux 5.10 is needed): it has no %s",
                  missing);
        return ERR_UNSUPPORTED;
    }
    if (closely)
        err = run_guest(device, (size_t)run_size, why, size);
    return err ? err : kvm_check_level(device, level, why, size);
}

int kvm_probe(const struct x86_level *level, bool closely, char *why, size_t size)
{
    int device = kvm_open(why, size);
    int err;

    if (device < 0)
        return ERR_UNSUPPORTED;
    err = look(device, level, closely, why, size);
    close(device);
    return err;
}
