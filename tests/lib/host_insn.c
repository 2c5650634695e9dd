/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * See the header. The instruction is put into a copy of a template that loads all registers, and
 * stores them behind it, with addresses relative to itself. What faults comes back through the
 * signal handler and siglongjmp; the kernel has saved the vector state as it was.
 */
#include "tests/lib/host_insn.h"

#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { BLOB_SIZE = 8192, SLOT = 1024, STATE = 4096 };

/* Offsets in the state, which is at blob + STATE: struct host_state, then our stack pointer. */
_Static_assert(offsetof(struct host_state, rflags) == 128, "known to the template");
_Static_assert(offsetof(struct host_state, fpu) == 192, "known to the template");

/* clang-format off */
__asm__(
    ".text\n"
    "host_insn_template:\n"
    "    push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "    mov %rsp, host_insn_template + 4096 + 1088(%rip)\n"
    "    mov $7, %eax\n xor %edx, %edx\n"
    "    xrstor64 host_insn_template + 4096 + 192(%rip)\n"
    "    push host_insn_template + 4096 + 128(%rip)\n popfq\n"
    "    mov host_insn_template + 4096 + 0(%rip), %rax\n"
    "    mov host_insn_template + 4096 + 8(%rip), %rcx\n"
    "    mov host_insn_template + 4096 + 16(%rip), %rdx\n"
    "    mov host_insn_template + 4096 + 24(%rip), %rbx\n"
    "    mov host_insn_template + 4096 + 40(%rip), %rbp\n"
    "    mov host_insn_template + 4096 + 48(%rip), %rsi\n"
    "    mov host_insn_template + 4096 + 56(%rip), %rdi\n"
    "    mov host_insn_template + 4096 + 64(%rip), %r8\n"
    "    mov host_insn_template + 4096 + 72(%rip), %r9\n"
    "    mov host_insn_template + 4096 + 80(%rip), %r10\n"
    "    mov host_insn_template + 4096 + 88(%rip), %r11\n"
    "    mov host_insn_template + 4096 + 96(%rip), %r12\n"
    "    mov host_insn_template + 4096 + 104(%rip), %r13\n"
    "    mov host_insn_template + 4096 + 112(%rip), %r14\n"
    "    mov host_insn_template + 4096 + 120(%rip), %r15\n"
    ".org host_insn_template + 1024, 0x90\n"
    ".fill 16, 1, 0x90\n"
    "    mov %rax, host_insn_template + 4096 + 0(%rip)\n"
    "    mov %rcx, host_insn_template + 4096 + 8(%rip)\n"
    "    mov %rdx, host_insn_template + 4096 + 16(%rip)\n"
    "    mov %rbx, host_insn_template + 4096 + 24(%rip)\n"
    "    mov %rbp, host_insn_template + 4096 + 40(%rip)\n"
    "    mov %rsi, host_insn_template + 4096 + 48(%rip)\n"
    "    mov %rdi, host_insn_template + 4096 + 56(%rip)\n"
    "    mov %r8, host_insn_template + 4096 + 64(%rip)\n"
    "    mov %r9, host_insn_template + 4096 + 72(%rip)\n"
    "    mov %r10, host_insn_template + 4096 + 80(%rip)\n"
    "    mov %r11, host_insn_template + 4096 + 88(%rip)\n"
    "    mov %r12, host_insn_template + 4096 + 96(%rip)\n"
    "    mov %r13, host_insn_template + 4096 + 104(%rip)\n"
    "    mov %r14, host_insn_template + 4096 + 112(%rip)\n"
    "    mov %r15, host_insn_template + 4096 + 120(%rip)\n"
    "    pushfq\n pop host_insn_template + 4096 + 128(%rip)\n"
    "    mov $7, %eax\n xor %edx, %edx\n"
    "    xsave64 host_insn_template + 4096 + 192(%rip)\n"
    "    fninit\n"
    "    push $0x1f80\n ldmxcsr (%rsp)\n pop %rax\n"
    "    vzeroupper\n"
    "    pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "    ret\n"
    "host_insn_template_end:\n"
    ".hidden host_insn_template\n"
    ".hidden host_insn_template_end\n");
/* clang-format on */

extern const uint8_t host_insn_template[], host_insn_template_end[];

static uint8_t *blob;
static sigjmp_buf back;
static volatile sig_atomic_t armed;
static int vector;
static uint8_t trapped_area[sizeof(struct x86_fpu)] __attribute__((aligned(64)));

static int vector_of(int signal_number, const siginfo_t *info, const greg_t *registers)
{
    (void)info;
    if (signal_number == SIGILL)
        return X86_UD;
    if (signal_number == SIGFPE)
        return (int)registers[REG_TRAPNO];
    return X86_GP;
}

static void on_signal(int signal_number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    if (!armed)
        abort();
    armed = 0;
    vector = vector_of(signal_number, info, u->uc_mcontext.gregs);
    /* the kernel's frame is an XSAVE area in standard format */
    memcpy(trapped_area, u->uc_mcontext.fpregs, sizeof(trapped_area));
    siglongjmp(back, 1);
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

void host_insn_init(void)
{
    static const int signals[] = {SIGILL, SIGFPE, SIGSEGV, SIGBUS};
    void *window = mmap((void *)(uintptr_t)HOST_WINDOW, HOST_WINDOW_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (window != (void *)(uintptr_t)HOST_WINDOW)
        die("the window's address is taken");
    blob = mmap(NULL, BLOB_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
    if (blob == MAP_FAILED)
        die("mmap");
    memcpy(blob, host_insn_template, (size_t)(host_insn_template_end - host_insn_template));
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    for (size_t n = 0; n < sizeof(signals) / sizeof(signals[0]); n++)
        sigaction(signals[n], &action, NULL);
}

int host_insn_run(struct host_state *s, const uint8_t *bytes, size_t length)
{
    struct host_state *state = (struct host_state *)(void *)(blob + STATE);
    void (*run)(void) = (void (*)(void))(uintptr_t)blob;
    memset(blob + SLOT, 0x90, 16);
    memcpy(blob + SLOT, bytes, length);
    memcpy(state, s, sizeof(*state));
    state->fpu.xstate_bv = 7;
    state->fpu.xcomp_bv = 0;
    armed = 1;
    if (sigsetjmp(back, 0) != 0) {
        memcpy(&s->fpu, trapped_area, sizeof(s->fpu));
        return vector;
    }
    run();
    armed = 0;
    memcpy(s, state, sizeof(*s));
    return 0;
}

/* --- features --- */

struct feature_bit {
    uint8_t feature, leaf, reg, bit; /* reg: 1 EBX, 2 ECX, 3 EDX */
};

bool host_insn_has(enum insn_feature feature)
{
    static const struct feature_bit bits[] = {
        {INSN_FEATURE_SSE3, 1, 2, 0},   {INSN_FEATURE_PCLMUL, 1, 2, 1},
        {INSN_FEATURE_SSSE3, 1, 2, 9},  {INSN_FEATURE_FMA, 1, 2, 12},
        {INSN_FEATURE_SSE41, 1, 2, 19}, {INSN_FEATURE_SSE42, 1, 2, 20},
        {INSN_FEATURE_AES, 1, 2, 25},   {INSN_FEATURE_AVX, 1, 2, 28},
        {INSN_FEATURE_F16C, 1, 2, 29},  {INSN_FEATURE_AVX2, 7, 1, 5},
        {INSN_FEATURE_SHA, 7, 1, 29},   {INSN_FEATURE_GFNI, 7, 2, 8},
        {INSN_FEATURE_VAES, 7, 2, 9},   {INSN_FEATURE_VPCLMUL, 7, 2, 10},
    };
    for (size_t n = 0; n < sizeof(bits) / sizeof(bits[0]); n++) {
        unsigned int r[4];
        if (bits[n].feature != feature)
            continue;
        __cpuid_count(bits[n].leaf, 0, r[0], r[1], r[2], r[3]);
        return r[bits[n].reg] >> bits[n].bit & 1;
    }
    return true;
}
