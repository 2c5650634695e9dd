/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The host's side: runs one instruction on this machine's processor with a given state.
 *
 * enter_code loads all registers and jumps to the instruction. Behind the instruction stands a jump
 * to leave_code, which stores all registers. Instructions that branch have nothing but INT3 around
 * them. Whatever faults, or hits an INT3, ends in a signal handler on a stack of its own, which
 * notes the exception and returns to leave_code with the interrupted registers: so there is one way
 * to read the final state.
 *
 * The generator only lets through what insn_decode takes for a harmless instruction, but decoding
 * is what is on trial here. So a seccomp filter refuses any system call from the code page.
 *
 * 32-bit code runs through the same page in compatibility mode, where the kernel offers it
 * (selector 23h): a far jump there, one back behind the instruction.
 */
#include "tests/differential/differential.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

enum { USER_CS64 = 0x33, USER_CS32 = 0x23, USER_DS = 0x2B };

/* What the assembly below reads and writes; it knows the offsets. */
struct frame {
    uint64_t gpr[16];     /* 0 */
    uint64_t rflags;      /* 128 */
    uint64_t host_rsp;    /* 136 */
    uint64_t vector_mask; /* 144: XSAVE components to load and store; 0: none */
    uint32_t entry;       /* 152: far pointer: offset */
    uint16_t entry_cs;    /* 156: selector */
    uint8_t pad[34];
    struct x86_fpu fpu; /* 192 */
};

_Static_assert(offsetof(struct frame, fpu) == 192, "known to the assembly");
_Static_assert(offsetof(struct frame, entry) == 152, "known to the assembly");

extern struct frame frame;
struct frame frame __attribute__((aligned(64)));

void enter_code(void);
extern const char leave_code[];
void enter_handler(int sig, siginfo_t *info, void *context);
void on_signal(int sig, siginfo_t *info, void *context);

/* clang-format off */
__asm__(
    ".text\n"
    ".globl enter_code\n"
    ".type enter_code, @function\n"
    "enter_code:\n"
    "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, frame+136(%rip)\n"
    "    mov frame+144(%rip), %eax\n"
    "    test %eax, %eax\n"
    "    jz 1f\n"
    "    xor %edx, %edx\n"
    "    xrstor64 frame+192(%rip)\n"
    "1:  pushq frame+128(%rip)\n"
    "    popfq\n"
    "    mov frame+8(%rip), %rcx\n    mov frame+16(%rip), %rdx\n    mov frame+24(%rip), %rbx\n"
    "    mov frame+32(%rip), %rsp\n    mov frame+40(%rip), %rbp\n    mov frame+48(%rip), %rsi\n"
    "    mov frame+56(%rip), %rdi\n    mov frame+64(%rip), %r8\n    mov frame+72(%rip), %r9\n"
    "    mov frame+80(%rip), %r10\n    mov frame+88(%rip), %r11\n    mov frame+96(%rip), %r12\n"
    "    mov frame+104(%rip), %r13\n    mov frame+112(%rip), %r14\n    mov frame+120(%rip), %r15\n"
    "    mov frame(%rip), %rax\n"
    "    ljmp *frame+152(%rip)\n"
    ".globl leave_code\n"
    "leave_code:\n"
    "    mov %rax, frame(%rip)\n    mov %rcx, frame+8(%rip)\n    mov %rdx, frame+16(%rip)\n"
    "    mov %rbx, frame+24(%rip)\n    mov %rsp, frame+32(%rip)\n    mov %rbp, frame+40(%rip)\n"
    "    mov %rsi, frame+48(%rip)\n    mov %rdi, frame+56(%rip)\n    mov %r8, frame+64(%rip)\n"
    "    mov %r9, frame+72(%rip)\n    mov %r10, frame+80(%rip)\n    mov %r11, frame+88(%rip)\n"
    "    mov %r12, frame+96(%rip)\n    mov %r13, frame+104(%rip)\n    mov %r14, frame+112(%rip)\n"
    "    mov %r15, frame+120(%rip)\n"
    "    mov frame+136(%rip), %rsp\n"
    "    pushfq\n"
    "    popq frame+128(%rip)\n"
    "    pushq $2\n"
    "    popfq\n"
    "    mov frame+144(%rip), %eax\n"
    "    test %eax, %eax\n"
    "    jz 2f\n"
    "    xor %edx, %edx\n"
    "    xsave64 frame+192(%rip)\n"
    "    fninit\n"
    "    pushq $0x1f80\n"
    "    ldmxcsr (%rsp)\n"
    "    pop %rax\n"
    "    vzeroupper\n"
    "2:  pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
    "    ret\n"
    /* signal handlers start with the interrupted AC, and C code does not mind alignment */
    ".globl enter_handler\n"
    ".type enter_handler, @function\n"
    "enter_handler:\n"
    "    pushfq\n"
    "    andl $~0x40000, (%rsp)\n"
    "    popfq\n"
    "    jmp on_signal\n");
/* clang-format on */

/* What the signal handler noted; only it and host_run touch it. */
static struct {
    volatile sig_atomic_t armed;
    volatile sig_atomic_t seen; /* signal number */
    uint64_t trapno, error, address, rip, cs, rsp;
} trap;

static uint8_t *rw, *ro, *code; /* writable views of the sandbox */
static bool drops_nt;
static char trouble[128];

static void die(const char *what)
{
    fprintf(stderr, "differential: %s: %s\n", what, strerror(errno));
    exit(2);
}

const char *host_trouble(void)
{
    return trouble;
}

/*
 * Does rip say that this was ours: in the code page, or where a branch went? Only an instruction
 * fetch faults outside of it. RSP is taken from here: some machines refuse the return from a signal
 * with an RSP that is not canonical.
 */
void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    greg_t *r = u->uc_mcontext.gregs;
    if (!trap.armed) {
        static const char text[] = "differential: a fault outside of the tested instruction\n";
        ssize_t ignored = write(2, text, sizeof(text) - 1);
        (void)ignored;
        signal(sig, SIG_DFL);
        return;
    }
    trap.armed = 0;
    trap.seen = sig;
    trap.trapno = (uint64_t)r[REG_TRAPNO];
    trap.error = (uint64_t)r[REG_ERR];
    trap.address = trap.trapno == X86_PF ? (uint64_t)r[REG_CR2] : 0;
    if (sig == SIGSEGV && trap.trapno == X86_PF)
        trap.address = (uint64_t)(uintptr_t)info->si_addr;
    trap.rip = (uint64_t)r[REG_RIP];
    trap.cs = (uint64_t)r[REG_CSGSFS] & 0xFFFF;
    trap.rsp = (uint64_t)r[REG_RSP];
    r[REG_RSP] = (greg_t)frame.host_rsp;
    r[REG_RIP] = (greg_t)(uintptr_t)leave_code;
    r[REG_CSGSFS] = (greg_t)(((uint64_t)r[REG_CSGSFS] & ~UINT64_C(0xFFFF)) | USER_CS64);
    r[REG_EFL] &= ~(greg_t)X86_FLAG_TF;
}

static void install_handlers(void)
{
    static uint8_t stack[1 << 16] __attribute__((aligned(64)));
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction act = {.sa_sigaction = enter_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&act.sa_mask);
    if (sigaltstack(&alt, NULL) != 0)
        die("sigaltstack");
    for (size_t n = 0; n < sizeof(signals) / sizeof(signals[0]); n++) {
        if (sigaction(signals[n], &act, NULL) != 0)
            die("sigaction");
    }
}

/* No system call from the sandbox (the filter sees the address behind the instruction). */
static void install_filter(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, BOX_LIMIT + 1, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, BOX_BASE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        die("seccomp");
}

/* The same memory twice: where the test sees it, with its protection, and anywhere, writable. */
static uint8_t *map_box(int fd, off_t offset, uintptr_t address, size_t size, int protection)
{
    /* made out of an integer: the address is chosen, not given by anything */
    void *where = (void *)address;
    void *seen =
        mmap(where, size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, offset);
    void *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);
    if (seen != where || view == MAP_FAILED)
        die("the sandbox's addresses are taken");
    return view;
}

/* From `entry` until a fault or an INT3, with that state; *out is what came out. */
static void execute(const struct state *start, bool vectors, uint32_t entry, uint16_t cs,
                    struct state *out)
{
    memcpy(frame.gpr, start->gpr, sizeof(frame.gpr));
    frame.rflags = start->rflags;
    frame.vector_mask = vectors ? 7 : 0;
    if (vectors)
        frame.fpu = start->fpu;
    frame.entry = entry;
    frame.entry_cs = cs;
    trap.seen = 0;
    trap.armed = 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    enter_code();
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    trap.armed = 0;
    memcpy(out->gpr, frame.gpr, sizeof(frame.gpr));
    if (trap.seen)
        out->gpr[RSP] = trap.rsp;
    out->rflags = frame.rflags;
    if (vectors)
        out->fpu = frame.fpu;
}

/* Does NT survive in the RFLAGS that an exception saves? */
static bool keeps_nt(void)
{
    struct state start = {.rflags = X86_FLAG_ONE | X86_FLAG_IF | X86_FLAG_NT}, end;
    code[BOX_INSN - BOX_CODE] = 0xCC;
    execute(&start, false, BOX_INSN, USER_CS64, &end);
    return end.rflags & X86_FLAG_NT;
}

void host_init(void)
{
    int fd = memfd_create("differential", 0);
    if (fd < 0 || ftruncate(fd, BOX_RW_SIZE + BOX_RO_SIZE + BOX_CODE_SIZE) != 0)
        die("memfd_create");
    rw = map_box(fd, 0, BOX_RW, BOX_RW_SIZE, PROT_READ | PROT_WRITE);
    ro = map_box(fd, BOX_RW_SIZE, BOX_RO, BOX_RO_SIZE, PROT_READ);
    code = map_box(fd, BOX_RW_SIZE + BOX_RO_SIZE, BOX_CODE, BOX_CODE_SIZE, PROT_READ | PROT_EXEC);
    close(fd);
    /* 32-bit code uses DS and ES, which are null in a 64-bit program */
    __asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"((uint32_t)USER_DS));
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, BOX_GS_BASE) != 0)
        die("arch_prctl");
    install_handlers();
    install_filter();
    drops_nt = !keeps_nt();
    if (drops_nt)
        printf("differential: exceptions clear RFLAGS.NT here, as on no processor: NT is not "
               "compared\n");
}

uint64_t host_unknown_flags(void)
{
    return drops_nt ? X86_FLAG_NT : 0;
}

const uint8_t *host_memory(void)
{
    return rw;
}

/* --- the code page --- */

/* At the page's end: the address of leave_code (aligned, for when RFLAGS.AC is set), and before it
 * the 64-bit code that 32-bit code leaves through. */
enum { EXIT_SLOT = BOX_CODE_SIZE - 8, EXIT_GATE = BOX_CODE_SIZE - 16 };

/* jmp *slot(%rip) */
static void put_exit64(uint32_t at)
{
    int32_t disp = EXIT_SLOT - (int32_t)(at + 6);
    uint64_t target = (uint64_t)(uintptr_t)leave_code;
    memcpy(code + at, "\xFF\x25", 2);
    memcpy(code + at + 2, &disp, 4);
    memcpy(code + EXIT_SLOT, &target, 8);
}

static void put_exit32(uint32_t at)
{
    uint32_t gate = BOX_CODE + EXIT_GATE;
    uint16_t cs = USER_CS64;
    put_exit64(EXIT_GATE);
    code[at] = 0xEA;
    memcpy(code + at + 1, &gate, 4);
    memcpy(code + at + 5, &cs, 2);
}

static bool branches(const struct insn *i)
{
    return insn_op_group((enum insn_op)i->op) == INSN_GROUP_BRANCH;
}

static void put_code(const struct test_case *c)
{
    uint32_t at = BOX_INSN - BOX_CODE;
    memset(code + at - 0x100, 0xCC, 0x200);
    memcpy(code + at, c->bytes, c->length);
    if (branches(&c->insn))
        return;
    if (c->mode == INSN_MODE_64)
        put_exit64(at + c->length);
    else
        put_exit32(at + c->length);
}

/* --- running --- */

static void read_trap(const struct test_case *c, struct outcome *out)
{
    if (trap.seen == SIGSYS) {
        snprintf(trouble, sizeof(trouble), "a system call was attempted");
        out->kind = STUCK;
    } else if (trap.seen == SIGTRAP) {
        out->state.rip = trap.rip - 1; /* the INT3 that a branch led to */
    } else if (trap.trapno == X86_PF && trap.address == trap.rip && trap.rip != BOX_INSN) {
        out->state.rip = trap.rip; /* a branch to where nothing can be executed */
    } else if (trap.rip != BOX_INSN) {
        snprintf(trouble, sizeof(trouble),
                 "signal %d, exception %lu, error %lx, rip %lx address %lx", (int)trap.seen,
                 trap.trapno, trap.error, trap.rip, trap.address);
        out->kind = STUCK;
    } else {
        out->kind = FAULT;
        out->vector = (uint8_t)trap.trapno;
        out->address = trap.address;
    }
    (void)c;
}

void host_run(const struct test_case *c, struct outcome *out)
{
    put_code(c);
    memcpy(rw, c->memory, BOX_RW_SIZE);
    memcpy(ro, c->memory, BOX_RO_SIZE);
    *out = (struct outcome){.kind = DONE};
    execute(&c->start, c->uses_vector, BOX_INSN, c->mode == INSN_MODE_64 ? USER_CS64 : USER_CS32,
            &out->state);
    out->state.rip = BOX_INSN + c->length;
    if (trap.seen) {
        out->unknown_flags = host_unknown_flags();
        read_trap(c, out);
    }
    if (out->kind == FAULT)
        out->state.rip = BOX_INSN;
}

/* --- blocks --- */

static uint8_t *block_view[2]; /* at BOX_BLOCK, at BOX_BLOCK_RWX */

void host_block_init(void)
{
    int fd = memfd_create("blocks", 0);
    if (fd < 0 || ftruncate(fd, 2 * BOX_BLOCK_SIZE) != 0)
        die("memfd_create");
    block_view[0] = map_box(fd, 0, BOX_BLOCK, BOX_BLOCK_SIZE, PROT_READ | PROT_EXEC);
    block_view[1] = map_box(fd, BOX_BLOCK_SIZE, BOX_BLOCK_RWX, BOX_BLOCK_SIZE,
                            PROT_READ | PROT_WRITE | PROT_EXEC);
    close(fd);
    memset(code, 0xCC, BOX_CODE_SIZE);
}

uint8_t *host_block_memory(uint32_t base)
{
    return block_view[base == BOX_BLOCK_RWX];
}

bool host_run_block(const struct state *start, uint32_t entry, const uint8_t *memory,
                    struct block_end *end)
{
    memcpy(rw, memory, BOX_RW_SIZE);
    memcpy(ro, memory, BOX_RO_SIZE);
    /* the translator has used GS */
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, BOX_GS_BASE) != 0)
        die("arch_prctl");
    *end = (struct block_end){.kind = BLOCK_FAULT};
    execute(start, true, entry, USER_CS64, &end->state);
    end->state.rip = trap.rip;
    end->vector = (uint8_t)trap.trapno;
    end->error = (uint32_t)trap.error;
    end->address = trap.address;
    if (trap.seen == SIGTRAP) {
        end->kind = BLOCK_DONE;
        end->state.rip--;
    }
    return trap.seen != SIGSYS && trap.seen != 0;
}

bool host_has_32bit(void)
{
    /* lar says whether the selector is a present 32-bit code segment of DPL 3 */
    uint32_t attr = 0;
    bool ok;
    __asm__("lar %2, %0" : "=r"(attr), "=@ccz"(ok) : "r"((uint32_t)USER_CS32) : "cc");
    return ok && (attr & 0x60F800) == 0x40F800;
}
