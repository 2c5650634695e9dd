/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The sandbox. A guest that found a hole in Lodge would hold this process; what that is worth is
 * decided here. Everything that needs the outside (files, memory for guest RAM and generated code,
 * threads) is fetched before; then the process gives up, in this order:
 *
 *   1. capabilities, in all sets and the bounding set: root runs it with no more power than
 * anybody;
 *   2. core dumps (RLIMIT_CORE 0): they would write a tenant's memory to a disk;
 *   3. the working directory: "/", so that no file system is kept busy, and no relative path helps;
 *   4. new privileges (PR_SET_NO_NEW_PRIVS): set-uid programs mean nothing from here on;
 *   5. system calls: all but the table below, for all threads at once (TSYNC).
 *
 * It works the same as an ordinary user and as root.
 *
 * The filter is a list, not a program somebody has to read: rows of (system call, what an argument
 * must be, why), turned into classic BPF by some lines. libseccomp would bring the same list and a
 * dependency. Calls are tried in the order of their first rows, the frequent first, and the rows of
 * one call together: entering the sandbox is the dearest single call of a VM's start, since the
 * kernel runs the filter for each number there is, to remember (since 5.11) which calls are allowed
 * whatever their arguments. What is compared is the low half of an argument: everything compared
 * here is an int, or a mask of low bits, to the kernel too.
 *
 * What is refused traps (SIGSYS): terminal.c's handler puts the terminal back, names the call and
 * dies. Killing at once would leave the terminal raw, and an error return would let a broken
 * process go on. i386 and x32 calls are other numbers, so they are refused like any other.
 *
 * No open, socket, clone, exec, ptrace or new executable memory: an attacker keeps the guest's own
 * RAM, the console, and the processor time that the guest had anyway. A VM with a name has its control socket besides:
 * who connects there is the VM's user, and checks what it is told (frozen.c); descriptors are sent, but none
 * is received (no recvmsg). Memory that other VMs share is sealed: nobody can write to it any more.
 *
 * SECCOMP_FILTER_FLAG_SPEC_ALLOW is chosen knowingly. Linux before 5.16 takes seccomp as a wish for
 * Speculative Store Bypass Disable (and, with some settings, STIBP and IBPB), on every thread.
 * Since then the default is to do so only when asked, because it costs much and helps only programs
 * that keep secrets from code they run natively in their own address space. This process has no
 * secret but the guest's own RAM: what a guest can find out by speculation past the translator's
 * checks is its own VM's (docs/soft.md, "What it does not protect from"), and the mitigation would not
 * touch that, which is about branches. The cost would be 10 to 30 % of the speed of an engine that
 * keeps guest registers in memory. So we ask for what newer kernels do: nothing. Mitigations between
 * processes that an administrator has set for all stay in force. Under kvm this process executes
 * nothing of the guest's; KVM gives the processor the guest's own settings on entry.
 *
 * Of KVM, /dev/kvm is closed, and what is left of the VM's and vCPUs' descriptors is running, events
 * and registers: no memory slot, vCPU, device or capability can be made or changed. Registers may be
 * set to what the guest could not set itself, as KVM lets any of its users do.
 *
 * Not done: namespaces and a user of its own (an ordinary user may not; the filter leaves nothing
 * that they would still hide).
 */
#include "hosted/sandbox.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/err.h"
#include "hosted/pagemap_scan.h"

/* TCSETS2 and TCGETS2: the header that has them cannot be had together with <termios.h>. */
enum { TERMIOS2_SET = 0x402C542B, TERMIOS2_GET = 0x802C542A };

enum check_kind {
    ANY = 0,
    EQUAL,    /* the argument is `value` */
    CLEAR,    /* it has none of these bits */
    SET,      /* it has all of these bits */
    SELF_PID, /* it is our own process id */
    ABOVE,    /* it is larger than `value` */
};

struct check {
    uint8_t kind; /* enum check_kind */
    uint8_t arg;  /* 0 .. 5 */
    uint32_t value;
};

enum { ROW_CHECKS = 2 };

struct row {
    long number;
    struct check check[ROW_CHECKS];
    const char *why;
};

static const struct row rows[] = {
    /* table */
    {SYS_ioctl, {{EQUAL, 1, KVM_RUN}}, "engine kvm: guest code"},
    {SYS_ioctl, {{EQUAL, 1, KVM_SIGNAL_MSI}}, "engine kvm: an interrupt from a device"},
    {SYS_ioctl, {{EQUAL, 1, KVM_SET_GSI_ROUTING}}, "engine kvm: which interrupts' ends we hear of"},
    {SYS_ioctl, {{EQUAL, 1, KVM_GET_VCPU_EVENTS}}, "engine kvm: may the 8259's interrupt go in?"},
    {SYS_ioctl, {{EQUAL, 1, KVM_NMI}}, "engine kvm: the operator's NMI"},
    {SYS_futex, {{0}}, "locks, halted vCPUs, threads that wait for each other"},
    {SYS_clock_gettime, {{0}}, "time, on hosts whose clock the vDSO cannot read"},
    {SYS_timerfd_settime, {{0}}, "arms the VM's one timer"},
    {SYS_poll, {{0}}, "the main thread waits for timer, signals, input; has a reader stopped?"},
    {SYS_read, {{0}}, "timer, signals, wake-ups, the operator's keys; nothing new can be opened"},
    {SYS_write, {{0}}, "console output, messages, wake-ups; to what is already open"},
    {SYS_pread64, {{0}}, "steal time: how long a vCPU's thread had no processor; kernel and initrd"},
    {SYS_pwrite64, {{0}}, "kernel and initrd come to guest RAM late, or at a reset; to what is open"},
    {SYS_sched_yield, {{0}}, "a vCPU that spins lets another have the processor"},
    {SYS_getrandom, {{0}}, "the boot protocol's seed after a reset"},
    {SYS_fstat, {{0}}, "have the files that are booted from changed?"},
#define KVM_STATE(request, what)                                                                   \
    {                                                                                              \
        SYS_ioctl, {{EQUAL, 1, request}}, "engine kvm, when a vCPU's state is set or shown: " what \
    }
    KVM_STATE(KVM_SET_CPUID2, "its CPUID"),
    KVM_STATE(KVM_GET_REGS, "general registers"),
    KVM_STATE(KVM_SET_REGS, "the same"),
    KVM_STATE(KVM_GET_SREGS, "segments, control registers"),
    KVM_STATE(KVM_SET_SREGS, "the same"),
    KVM_STATE(KVM_GET_SREGS2, "the same, with PAE's registers"),
    KVM_STATE(KVM_SET_SREGS2, "the same"),
    KVM_STATE(KVM_GET_XCRS, "XCR0"),
    KVM_STATE(KVM_SET_XCRS, "the same"),
    KVM_STATE(KVM_GET_XSAVE, "vectors, x87"),
    KVM_STATE(KVM_SET_XSAVE, "the same"),
    KVM_STATE(KVM_GET_DEBUGREGS, "debug registers"),
    KVM_STATE(KVM_SET_DEBUGREGS, "the same"),
    KVM_STATE(KVM_GET_MSRS, "MSRs"),
    KVM_STATE(KVM_SET_MSRS, "the same"),
    KVM_STATE(KVM_GET_LAPIC, "local APIC"),
    KVM_STATE(KVM_SET_LAPIC, "the same"),
    KVM_STATE(KVM_SET_VCPU_EVENTS, "events"),
    KVM_STATE(KVM_GET_MP_STATE, "does it run, halt, wait?"),
    KVM_STATE(KVM_SET_MP_STATE, "the same"),
    KVM_STATE(KVM_SET_CLOCK, "the VM's clock"),
    KVM_STATE(KVM_GET_CLOCK, "the same"),
    KVM_STATE(KVM_GET_DEVICE_ATTR, "the TSC's offset"),
    KVM_STATE(KVM_SET_DEVICE_ATTR, "the same"),
    KVM_STATE(KVM_KVMCLOCK_CTRL, "time stood still"),
#undef KVM_STATE
    {SYS_arch_prctl, {{EQUAL, 0, ARCH_SET_GS}}, "engine soft: its frame, on hosts without WRGSBASE"},
    {SYS_accept4, {{0}}, "control socket: somebody asks; there is no other socket to accept from"},
    {SYS_getsockopt, {{EQUAL, 1, SOL_SOCKET}, {EQUAL, 2, SO_PEERCRED}}, "the same: who is it?"},
    {SYS_sendmsg, {{ABOVE, 0, STDERR_FILENO}}, "the same: answers, and frozen memory for those who save or fork"},
    {SYS_close, {{ABOVE, 0, STDERR_FILENO}}, "the same: one who asked has gone; memory that is not needed any more"},
    {SYS_memfd_create, {{0}}, "freezing: memory for what the guest has written since the last time"},
    {SYS_ftruncate, {{ABOVE, 0, STDERR_FILENO}}, "the same: its size; never of a log that we write to"},
    {SYS_fcntl, {{EQUAL, 1, F_ADD_SEALS}}, "the same: nobody can write any more to what forks get"},
    {SYS_ioctl, {{EQUAL, 1, (uint32_t)PAGEMAP_SCAN_REQUEST}}, "the same: which pages the guest has written"},
    {SYS_lseek, {{0}}, "the same: which parts of memory there are"},
    {SYS_fallocate,
     {{ABOVE, 0, STDERR_FILENO}, {EQUAL, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}},
     "what is held twice after freezing is given back"},
    {SYS_mmap,
     {{CLEAR, 2, PROT_EXEC}, {EQUAL, 3, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE}},
     "freezing: guest RAM becomes copy-on-write"},
    {SYS_mmap,
     {{CLEAR, 2, PROT_EXEC}, {EQUAL, 3, MAP_SHARED | MAP_FIXED | MAP_NORESERVE}},
     "the same: and is what it was if that fails"},
    {SYS_madvise, {{EQUAL, 2, MADV_DONTDUMP}}, "the same: it is in no core dump"},
    {SYS_restart_syscall, {{0}}, "the kernel goes on with a wait after stop and continue"},
    {SYS_madvise, {{EQUAL, 2, MADV_REMOVE}}, "a reset zeroes guest RAM by giving it back"},
    {SYS_madvise, {{EQUAL, 2, MADV_DONTNEED}}, "C libraries' allocators give pages back"},
    {SYS_madvise, {{EQUAL, 2, MADV_FREE}}, "the same"},
    {SYS_mmap,
     {{CLEAR, 2, PROT_EXEC}, {SET, 3, MAP_ANONYMOUS}},
     "memory of our own; never executable"},
    {SYS_munmap, {{0}}, "gives such memory back"},
    {SYS_mprotect,
     {{CLEAR, 2, PROT_EXEC}},
     "guest RAM that is not there yet is hidden; the C library's allocator grows; never executable"},
    {SYS_brk, {{0}}, "the C library's allocator"},
    {SYS_ioctl, {{EQUAL, 1, TCSETS}}, "the terminal's modes: raw, and back"},
    {SYS_ioctl, {{EQUAL, 1, TCGETS}}, "the C library looks whether they took effect"},
    {SYS_ioctl, {{EQUAL, 1, TERMIOS2_SET}}, "the same two, as newer C libraries ask"},
    {SYS_ioctl, {{EQUAL, 1, TERMIOS2_GET}}, "the same"},
    {SYS_ioctl, {{EQUAL, 1, TIOCGPGRP}}, "after stop and continue: are we in the foreground?"},
    {SYS_getpgrp, {{0}}, "the same"},
    {SYS_getpgid, {{EQUAL, 0, 0}}, "the same, as other C libraries ask"},
    {SYS_getpid, {{0}}, "to signal ourselves: abort, stop on Ctrl-Z from outside"},
    {SYS_gettid, {{0}}, "the same"},
    {SYS_tgkill, {{SELF_PID, 0, 0}}, "the same; no other process can be signalled"},
    {SYS_rt_sigprocmask, {{0}}, "abort unblocks its signal"},
    {SYS_rt_sigreturn, {{0}}, "return from a handler"},
    {SYS_writev, {{EQUAL, 0, STDERR_FILENO}}, "the C library's last words (heap or stack damaged)"},
    {SYS_exit_group, {{0}}, "the end"},
};

/* Room for the worst case: number, argument load and test per check, verdict, end of a group. */
enum { BPF_MAX = 8 + (int)(sizeof(rows) / sizeof(rows[0])) * (3 + 2 * ROW_CHECKS) };

struct program {
    struct sock_filter code[BPF_MAX];
    unsigned short count;
    bool too_far; /* a jump does not reach: the rows of one call have become too many */
};

enum { NO_ARGUMENT = -1 };

static void emit(struct program *p, uint16_t code, uint32_t k)
{
    p->code[p->count++] = (struct sock_filter){code, 0, 0, k};
}

static void load(struct program *p, size_t offset)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset);
}

/* A test, which goes on if the check holds; where it goes else is for skip_to_here. */
static void emit_test(struct program *p, const struct check *c)
{
    uint16_t code = c->kind == CLEAR || c->kind == SET ? BPF_JSET : c->kind == ABOVE ? BPF_JGT : BPF_JEQ;

    /* every SET mask of the table is one bit */
    emit(p, BPF_JMP | BPF_K | code, c->kind == SELF_PID ? (uint32_t)getpid() : c->value);
}

/* The test at `at` skips all that has been emitted since if it fails: if it is true, for CLEAR. */
static void skip_to_here(struct program *p, unsigned short at, enum check_kind kind)
{
    unsigned int distance = p->count - at - 1u;

    p->too_far |= distance > UINT8_MAX;
    if (kind == CLEAR)
        p->code[at].jt = (uint8_t)distance;
    else
        p->code[at].jf = (uint8_t)distance;
}

/* Allows the call if all checks hold, else comes out at its end. *loaded: the argument that is in the
 * accumulator, whichever way it came here. */
static void emit_row(struct program *p, const struct row *r, int *loaded)
{
    unsigned short test[ROW_CHECKS];
    uint8_t checks = 0;

    for (; checks < ROW_CHECKS && r->check[checks].kind != ANY; checks++) {
        const struct check *c = &r->check[checks];

        if (*loaded != c->arg) /* little-endian: low half first */
            load(p, offsetof(struct seccomp_data, args) + 8u * c->arg);
        *loaded = c->arg;
        test[checks] = p->count;
        emit_test(p, c);
    }
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    for (uint8_t i = 0; i < checks; i++)
        skip_to_here(p, test[i], (enum check_kind)r->check[i].kind);
    if (checks > 1)
        *loaded = NO_ARGUMENT;
}

/* All rows of one call. The accumulator has a call's number, and still has it if it is another. */
static void emit_group(struct program *p, long number)
{
    unsigned short test = p->count;
    int loaded = NO_ARGUMENT;

    emit(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].number == number)
            emit_row(p, &rows[i], &loaded);
    }
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    skip_to_here(p, test, EQUAL);
}

static bool is_first_of_group(size_t row)
{
    for (size_t i = 0; i < row; i++) {
        if (rows[i].number == rows[row].number)
            return false;
    }
    return true;
}

static void build(struct program *p)
{
    p->count = 0;
    p->too_far = false;
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64);
    p->code[p->count - 1].jt = 1;
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    load(p, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (is_first_of_group(i))
            emit_group(p, rows[i].number);
    }
    emit(p, BPF_RET | BPF_K, SECCOMP_RET_TRAP);
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
    unsigned long cap = 0;

    /* Until there are no more; or at once, for who has no CAP_SETPCAP: then there is nothing to gain
     * through them either. */
    while (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
        cap++;
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return (int)syscall(SYS_capset, &header, none);
}

int sandbox_drop_privileges(char *message, size_t size)
{
    static const struct rlimit no_core = {0, 0};
    const char *what;

    if (drop_capabilities() != 0)
        what = "capset";
    else if (setrlimit(RLIMIT_CORE, &no_core) != 0)
        what = "setrlimit";
    else if (chdir("/") != 0)
        what = "chdir";
    else if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        what = "no_new_privs";
    else
        return OK;
    snprintf(message, size, "cannot drop privileges: %s: %s (see --no-sandbox in docs/cli.md)",
             what, strerror(errno));
    return ERR_PERMISSION;
}

int sandbox_enter(char *message, size_t size)
{
    struct program p;
    struct sock_fprog fprog = {.filter = p.code};
    long result;

    build(&p);
    if (p.too_far) {
        snprintf(message, size, "the sandbox's filter is too long (a bug of Lodge: please report it)");
        return ERR_UNSUPPORTED;
    }
    fprog.len = p.count;
    result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                     SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &fprog);
    if (result < 0 && errno == EINVAL) /* before 4.17 there is no SPEC_ALLOW */
        result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &fprog);
    if (result == 0)
        return OK;
    snprintf(message, size, "cannot enter the sandbox: %s (see --no-sandbox in docs/cli.md)",
             result > 0 ? "a thread has a filter of its own" : strerror(errno));
    return result > 0 ? ERR_BUSY : ERR_UNSUPPORTED;
}

const char *sandbox_missing(void)
{
    uint32_t action = SECCOMP_RET_TRAP;

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0)
        return "no_new_privs";
    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0)
        return "seccomp filters";
    return NULL;
}
