/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The cache of native fragments.
 *
 * A fragment is a few dozen bytes of host code around one guest instruction: load the registers
 * that it names from struct x86_fpu, run it, store those that it writes. The host's registers have
 * the guest's numbers, so the instruction is nearly its own copy: only its memory operand and its
 * general registers are others. Fragments hold no address, so they need no relocation and do not
 * care whose RIP, base register or displacement it was; a whole kernel with its user land needs
 * some hundreds of them. They are found by a key with all that matters (native_key) in a hash
 * table; when table or code memory are full, all are dropped. A guest can make us generate code at
 * a bounded rate, never make us keep more than NATIVE_CODE_SIZE.
 *
 * Vector registers and x87 belong to nobody between two calls of C functions (System V ABI: all are
 * caller-saved, x87 is empty, MXCSR and the x87 control word have their defaults), and the
 * freestanding part is compiled without them; so fragments do not save the host's.
 *
 * The memory is mapped twice (seam_exec_alloc), writable here and executable there. After code that
 * may have been executed before is overwritten, the processor must serialise before it runs the new
 * (SDM 3A 8.1.3); IRET does that without privilege and without an exit where Lodge is a guest
 * itself. CPUID, which does it too, exits there.
 *
 * Everything here belongs to the vCPU's own thread; there is no lock.
 */
#include "x86/native.h"

#include "core/assert.h"
#include "core/err.h"
#include "core/mem.h"

enum { NATIVE_PAGES = (sizeof(struct native) + PAGE_SIZE - 1) / PAGE_SIZE, FRAGMENT_ALIGN = 16 };

/* Is the processor one of QEMU's TCG? Its IRET in ring 3 reads the stack as the kernel would, which faults
 * if that kernel has SMAP on (QEMU 7.2; docs/rig.md). */
static bool host_is_tcg(void)
{
    uint32_t a = 0x40000000, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b == 0x54474354 && c == 0x43544743 && d == 0x47435447; /* "TCGTCGTCGTCG" */
}

int native_create(struct x86_cpu *cpu)
{
    struct native *n = seam_pages_alloc(NATIVE_PAGES);
    if (!n)
        return ERR_NO_MEMORY;
    int err = seam_exec_alloc(&n->exec, NATIVE_CODE_SIZE);
    if (err != OK) {
        seam_pages_free(n, NATIVE_PAGES);
        return err;
    }
    n->serialise_by_cpuid = host_is_tcg();
    n->frame.mxcsr_host = X86_MXCSR_RESET;
    cpu->native = n;
    return OK;
}

void native_destroy(struct x86_cpu *cpu)
{
    if (!cpu->native)
        return;
    seam_exec_free(&cpu->native->exec);
    seam_pages_free(cpu->native, NATIVE_PAGES);
    cpu->native = NULL;
}

static void serialise_by_cpuid(void)
{
    uint32_t a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* IRET to the next instruction. */
static void serialise_by_iret(void)
{
    uint64_t scratch;
    __asm__ volatile("movq %%rsp, %0\n\t"
                     "pushq $0\n\t"
                     "movw %%ss, (%%rsp)\n\t"
                     "pushq %0\n\t"
                     "pushfq\n\t"
                     "pushq $0\n\t"
                     "movw %%cs, (%%rsp)\n\t"
                     "leaq 1f(%%rip), %0\n\t"
                     "pushq %0\n\t"
                     "iretq\n"
                     "1:"
                     : "=&r"(scratch)
                     :
                     : "memory", "cc");
}

void native_serialise(const struct x86_cpu *cpu)
{
    if (unlikely(cpu->native->serialise_by_cpuid))
        serialise_by_cpuid();
    else
        serialise_by_iret();
}

static void drop_all(struct native *n)
{
    memset(n->slot, 0, sizeof(n->slot));
    n->used = 0;
    n->count = 0;
    n->flushes++;
}

native_fn *native_find_slow(struct x86_cpu *cpu, const struct insn *i, uint64_t key)
{
    struct native *n = cpu->native;
    uint32_t at = native_hash(key);
    for (; n->slot[at].key; at = (at + 1) & (NATIVE_SLOTS - 1)) {
        if (n->slot[at].key == key)
            return n->slot[at].fn;
    }
    if (n->count >= NATIVE_FRAGMENTS_MAX || n->used + NATIVE_FRAGMENT_SIZE > n->exec.size) {
        drop_all(n);
        at = native_hash(key);
    }
    uint8_t *code = n->exec.write + n->used;
    uint32_t length = i->op == INSN_X87 ? native_emit_x87(i, code) : native_emit(i, code);
    assert(length <= NATIVE_FRAGMENT_SIZE);
    if (n->flushes)
        native_serialise(cpu);
    n->slot[at].key = key;
    n->slot[at].fn = (native_fn *)(uintptr_t)(n->exec.exec + n->used);
    n->used += (length + FRAGMENT_ALIGN - 1) & ~(uint32_t)(FRAGMENT_ALIGN - 1);
    n->count++;
    return n->slot[at].fn;
}

/* In assembly, because C is compiled without vector registers. */
__asm__(".text\n"
        ".globl native_copy16\n"
        ".type native_copy16, @function\n"
        "native_copy16:\n\t"
        "movups (%rsi), %xmm0\n\t"
        "movups %xmm0, (%rdi)\n\t"
        "ret\n"
        ".size native_copy16, . - native_copy16\n"
        ".globl native_copy32\n"
        ".type native_copy32, @function\n"
        "native_copy32:\n\t"
        "movups (%rsi), %xmm0\n\t"
        "movups 16(%rsi), %xmm1\n\t"
        "movups %xmm0, (%rdi)\n\t"
        "movups %xmm1, 16(%rdi)\n\t"
        "ret\n"
        ".size native_copy32, . - native_copy32\n");
