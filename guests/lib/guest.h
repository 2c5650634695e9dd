/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What our own guests are made of: tiny freestanding programs which check the machine they run on.
 *
 *   64-bit guests enter through PVH (or as a Linux image, startlinux.S) and run in long mode,
 *   everything below 4 GiB identity-mapped with 2 MiB pages that CPL 3 may use; 32-bit ones enter
 *   through Multiboot and run in protected mode without paging. Both have a GDT, an IDT, a TSS and
 *   exception handling when main() begins.
 *
 *   static void test_something(void) { CHECK(x == 1); CHECK_EQ(a, b); }
 *   int main(void) { GUEST_RUN(test_something); return guest_done(); }
 *
 * Each test prints "PASS name" or "FAIL name: why" on the serial port. When main() returns, its
 * value is written to the exit port: 0 (the VM ends with status 1) if nothing failed.
 */
#ifndef GUESTS_LIB_GUEST_H
#define GUESTS_LIB_GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/lodge/ports.h"
#include "isa/x86.h"

/* Selectors, without RPL */
#define SEL_CODE64      0x08
#define SEL_DATA        0x10
#define SEL_CODE32      0x18
#define SEL_CODE16      0x20
#define SEL_DATA16      0x28
#define SEL_USER_CODE32 0x30
#define SEL_USER_DATA   0x38
#define SEL_USER_CODE64 0x40
#define SEL_TSS         0x48 /* two entries */
#define SEL_FREE        0x58 /* from here on the test's own */
#define GDT_ENTRIES     64
#ifdef __x86_64__
#define SEL_CODE      SEL_CODE64
#define SEL_USER_CODE SEL_USER_CODE64
#else
#define SEL_CODE      SEL_CODE32
#define SEL_USER_CODE SEL_USER_CODE32
#endif

typedef unsigned long reg_t; /* a general register */

/* Named by assembly inside functions, which the compiler does not see. */
#define by_asm __attribute__((used))

/* --- output and end --- */

void guest_putc(char c);
/* From now on output goes by the UART's FIFO, at most a line at once: two exits for 16 bytes, not
 * for each. For guests that print much. */
void guest_buffer_output(void);
/* %s %c %d %u %x %lu %lx %p, no widths */
void guest_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void guest_exit(uint8_t value);
_Noreturn void guest_die(const char *why); /* FAIL, and exit */

/* --- tests --- */

void guest_fail(const char *file, int line, const char *text);
void guest_check_eq(const char *file, int line, const char *text, uint64_t a, uint64_t b);
void guest_run(const char *name, void (*test)(void));
int guest_done(void);
/* Says that the test does not apply here (a feature is not offered): prints PASS with the reason.
 */
void guest_skip(const char *why);

#define CHECK(x) ((x) ? (void)0 : guest_fail(__FILE__, __LINE__, #x))
#define CHECK_EQ(a, b)                                                                             \
    guest_check_eq(__FILE__, __LINE__, #a " == " #b, (uint64_t)(a), (uint64_t)(b))
#define GUEST_RUN(test) guest_run(#test, test)

/* --- exceptions --- */

/* On the stack of a handler, by guests/lib/start*.S. */
struct guest_frame {
#ifdef __x86_64__
    reg_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
#else
    reg_t rdi, rsi, rbp, unused, rbx, rdx, rcx, rax; /* PUSHA */
#endif
    reg_t vector, error, rip, cs, rflags;
    reg_t rsp, ss; /* 32-bit: only when the CPL changed */
};

typedef void guest_handler(struct guest_frame *f);

/*
 * From now on an interrupt that no processor delivers then ends the guest with "IMPOSSIBLE ...":
 * one that comes with IF clear, or right before an instruction that is marked SHADOWED. A machine
 * that does that now and then (docs/rig.md has one) leaves a guest nothing to rely on, a HLT that
 * somebody ends for one. Not for guests that take interrupts by the thousand: they would hardly
 * come to their end there.
 */
void guest_check_interrupts(void);

/* Before an instruction in inline assembly that stands in the shadow of STI or MOV SS. */
#ifdef __x86_64__
#define SHADOWED "661: .pushsection .shadows, \"a\"; .quad 661b; .popsection; "
#else
#define SHADOWED "661: .pushsection .shadows, \"a\"; .long 661b; .popsection; "
#endif

/* Waits for an interrupt with IF set; IF is clear before and after. */
static inline void guest_wait(void)
{
    __asm__ volatile("sti; " SHADOWED "hlt; cli" : : : "memory");
}

/* Who gets a vector; NULL: nobody. A handler that is set comes before guest_try. */
void guest_set_handler(uint8_t vector, guest_handler *handler);
/* A gate of the IDT: type 14 (interrupt), 15 (trap); ist: long mode only. */
void guest_set_gate(uint8_t vector, const void *target, uint8_t type, uint8_t dpl, uint8_t ist);
/* The library's own entry for the vector, as it is after start. */
void guest_reset_gate(uint8_t vector);

/* What the last exception under guest_try was. */
struct guest_fault {
    reg_t vector, error, rip, rflags, cr2, rsp;
    uint16_t cs, ss;
};
extern struct guest_fault guest_fault;

enum { NO_FAULT = -1 };

/* Calls fn(arg) and returns the vector of the exception that it met, or NO_FAULT. The user form
 * calls it at CPL 3 on a stack of its own. */
int guest_try(void (*fn)(void *), void *arg);
int guest_try_user(void (*fn)(void *), void *arg);

/* Vector with DPL 3 that ends guest_try with NO_FAULT, from any CPL. */
#define VECTOR_LEAVE 0x81

/* From a handler: guest_try's caller goes on with that result. Does nothing outside of guest_try.
 */
void guest_leave(struct guest_frame *f, int result);

/* Bodies for them: touch *p, call p, do nothing. */
void guest_load8(void *p);
void guest_store8(void *p);
void guest_call(void *p);
void guest_nothing(void *p);

/* The decimal number behind NAME on the command line, as in guest_argument("seed="); 0: none. */
uint64_t guest_argument(const char *name);
/* A bad but repeatable source of numbers; the seed is 1 or "seed=N" on the command line. */
uint64_t guest_random(void);

/* --- the processor --- */

extern uint64_t guest_gdt[GDT_ENTRIES];
extern uint64_t guest_idt[512];
extern uint8_t guest_tss[0x68];
extern uint8_t guest_user_stack[], guest_user_stack_end[];

uint64_t guest_descriptor(uint32_t base, uint32_t limit, uint32_t attr);
#define ATTR_CODE 0x9Bu
#define ATTR_DATA 0x93u
#define ATTR_DPL3 0x60u
#define ATTR_P    0x80u
#define ATTR_G    0x8000u
#define ATTR_DB   0x4000u
#define ATTR_L    0x2000u

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

#define DEFINE_CR(n)                                                                               \
    static inline reg_t read_cr##n(void)                                                           \
    {                                                                                              \
        reg_t v;                                                                                   \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));                                          \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_cr##n(reg_t v)                                                        \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                 \
    }
DEFINE_CR(0)
DEFINE_CR(2)
DEFINE_CR(3)
DEFINE_CR(4)

#define DEFINE_DR(n)                                                                               \
    static inline reg_t read_dr##n(void)                                                           \
    {                                                                                              \
        reg_t v;                                                                                   \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                          \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_dr##n(reg_t v)                                                        \
    {                                                                                              \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                 \
    }
DEFINE_DR(0)
DEFINE_DR(1)
DEFINE_DR(6)
DEFINE_DR(7)

static inline uint64_t rdmsr(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}
static inline void wrmsr(uint32_t index, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}
struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
                     : "a"(leaf), "c"(subleaf));
    return r;
}
static inline reg_t read_flags(void)
{
    reg_t v;
    __asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
    return v;
}
static inline void write_flags(reg_t v)
{
    __asm__ volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}
static inline void flush_tlb(void)
{
    write_cr3(read_cr3());
}
static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg %0" : : "m"(*(const volatile char *)p) : "memory");
}
static inline void load_gdt(const void *base, uint16_t limit)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uintptr_t base;
    } t = {limit, (uintptr_t)base};
    __asm__ volatile("lgdt %0" : : "m"(t) : "memory");
}
static inline void load_idt(const void *base, uint16_t limit)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uintptr_t base;
    } t = {limit, (uintptr_t)base};
    __asm__ volatile("lidt %0" : : "m"(t) : "memory");
}

/* --- 64-bit guests: paging --- */

extern uint64_t guest_pml4[512];
/* A free, zeroed page of memory (there are some hundreds), and giving back all since a mark. */
void *guest_page(void);
unsigned int guest_page_mark(void);
void guest_page_release(unsigned int mark);
/* Maps one page of 4 KiB, 2 MiB or 1 GiB (level 0, 1, 2) at a linear address that the identity map
 * does not use (4 GiB and up), making tables; returns its entry. */
uint64_t *guest_map(uint64_t linear, uint64_t physical, uint64_t flags, unsigned int level);
/* The entry of that level (3: PML4) on the way to a linear address; the tables above it exist. */
uint64_t *guest_entry(uint64_t linear, unsigned int level);

/* --- 64-bit guests: local APIC and other processors --- */

#define APIC_ID            0x20
#define APIC_EOI           0xB0
#define APIC_SPURIOUS      0xF0
#define APIC_ICR           0x300
#define APIC_ICR_HIGH      0x310
#define APIC_LVT_TIMER     0x320
#define APIC_TIMER_COUNT   0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE  0x3E0

static inline volatile uint32_t *apic_register(uint32_t offset)
{
    return (volatile uint32_t *)(uintptr_t)(LODGE_MMIO_APIC + offset);
}
static inline void apic_write(uint32_t offset, uint32_t v)
{
    *apic_register(offset) = v;
}
static inline uint32_t apic_read(uint32_t offset)
{
    return *apic_register(offset);
}
void apic_enable(void);
void apic_send_self(uint8_t vector);
/* command: the low word of the ICR */
void apic_send(uint32_t destination, uint32_t command);

/* Number of processors, by CPUID. */
unsigned int smp_count(void);
/* Starts all others by INIT and SIPI; each calls fn(n), n from 1, in long mode with its own stack,
 * interrupts off, and halts for good if that returns. Returns when all have come that far. */
void smp_start(void (*fn)(unsigned int n));

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

#endif
