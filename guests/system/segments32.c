/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Segmentation in protected mode: limits, types, null and absent segments, loads and their
 * privilege checks, LDT, gates of 16 and 32 bits, call gates with parameters, LAR and its kin. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static uint8_t memory[0x3000] __attribute__((aligned(4096)));
static uint64_t ldt[8] __attribute__((aligned(16)));

#define BASE (uint32_t)(uintptr_t) memory

static void set(unsigned int selector, uint32_t base, uint32_t limit, uint32_t attr)
{
    uint64_t *t = selector & 4 ? ldt : guest_gdt;
    t[selector >> 3] = guest_descriptor(base, limit, attr);
}

/* --- accesses through FS --- */

static struct {
    uint32_t offset;
    bool write;
} request;

static void access_fs(void *p)
{
    (void)p;
    if (request.write)
        __asm__ volatile("movl $0x55, %%fs:(%0)" : : "r"(request.offset) : "memory");
    else
        __asm__ volatile("movl %%fs:(%0), %%eax" : : "r"(request.offset) : "eax");
}

static void load_fs(void *selector)
{
    __asm__ volatile("mov %w0, %%fs" : : "r"(selector));
}

static void load_ss(void *selector)
{
    __asm__ volatile("mov %%ss, %%ecx; mov %w0, %%ss; mov %%ecx, %%ss" : : "r"(selector) : "ecx");
}

static int try_access(uint32_t offset, bool write)
{
    request.offset = offset;
    request.write = write;
    return guest_try(access_fs, NULL);
}

static void test_limits(void)
{
    static const struct {
        uint32_t attr, limit, offset;
        bool write;
        int vector;
    } cases[] = {
        {ATTR_DATA, 0xFF, 0, true, NO_FAULT},
        {ATTR_DATA, 0xFF, 0xFC, true, NO_FAULT},
        {ATTR_DATA, 0xFF, 0xFD, true, X86_GP},
        {ATTR_DATA, 0xFF, 0xFFFFFFFF, false, X86_GP},
        {ATTR_DATA | ATTR_G, 0x1FFF, 0x1FFC, true, NO_FAULT},
        {ATTR_DATA | ATTR_G, 0x1FFF, 0x1FFD, true, X86_GP},
        {0x91, 0xFF, 0, false, NO_FAULT},
        {0x91, 0xFF, 0, true, X86_GP},
        {ATTR_CODE, 0xFF, 0, false, NO_FAULT},
        {ATTR_CODE, 0xFF, 0, true, X86_GP},
        {0x97 | ATTR_DB, 0xFF, 0x100, true, NO_FAULT}, /* expand-down */
        {0x97 | ATTR_DB, 0xFF, 0xFC, true, X86_GP},
        {0x97, 0xFF, 0xFFFC, false, NO_FAULT}, /* up to 64 KiB without B */
        {0x97, 0xFF, 0xFFFD, false, X86_GP},
        {0x97, 0xFF, 0x10000, false, X86_GP},
    };
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        set(SEL_FREE, BASE, cases[n].limit, cases[n].attr);
        load_fs(ptr(SEL_FREE));
        int vector = try_access(cases[n].offset, cases[n].write);
        if (vector != cases[n].vector)
            guest_print("case %u\n", n);
        CHECK_EQ(vector, cases[n].vector);
        if (vector == X86_GP)
            CHECK_EQ(guest_fault.error, 0);
    }
    load_fs(ptr(0));
    CHECK_EQ(try_access(0, false), X86_GP);
    load_fs(ptr(3));
    CHECK_EQ(try_access(0, false), X86_GP);
    /* the base counts */
    *(uint32_t *)(void *)(memory + 0x20) = 0;
    set(SEL_FREE, BASE + 0x10, 0xFF, ATTR_DATA);
    load_fs(ptr(SEL_FREE));
    CHECK_EQ(try_access(0x10, true), NO_FAULT);
    CHECK_EQ(*(uint32_t *)(void *)(memory + 0x20), 0x55);
}

static void test_loads(void)
{
    static const struct {
        uint32_t attr;
        unsigned int rpl;
        bool user, stack;
        int vector;
    } cases[] = {
        {ATTR_DATA, 0, false, false, NO_FAULT},
        {ATTR_DATA, 3, false, false, X86_GP},
        {ATTR_DATA | ATTR_DPL3, 3, false, false, NO_FAULT},
        {ATTR_DATA, 3, true, false, X86_GP},
        {ATTR_DATA | ATTR_DPL3, 0, true, false, NO_FAULT},
        {0x99, 0, false, false, X86_GP},  /* execute-only */
        {0x9F, 3, true, false, NO_FAULT}, /* conforming */
        {0x9B, 3, true, false, X86_GP},
        {0x13, 0, false, false, X86_NP},
        {0x89, 0, false, false, X86_GP}, /* a TSS */
        {0x91, 0, false, true, X86_GP},  /* read-only stack */
        {0x9B, 0, false, true, X86_GP},
        {ATTR_DATA | ATTR_DPL3, 3, false, true, X86_GP},
        {0x13, 0, false, true, X86_SS},
        {ATTR_DATA | ATTR_DB, 0, false, true, NO_FAULT},
    };
    for (unsigned int n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        set(SEL_FREE, 0, 0xFFFFF, cases[n].attr & ~1u);
        void (*body)(void *) = cases[n].stack ? load_ss : load_fs;
        void *selector = ptr(SEL_FREE | cases[n].rpl);
        int vector = cases[n].user ? guest_try_user(body, selector) : guest_try(body, selector);
        if (vector != cases[n].vector)
            guest_print("case %u\n", n);
        CHECK_EQ(vector, cases[n].vector);
        if (vector == NO_FAULT)
            CHECK(guest_gdt[SEL_FREE / 8] >> 40 & 1); /* accessed */
        else
            CHECK_EQ(guest_fault.error, SEL_FREE);
    }
    CHECK_EQ(guest_try(load_fs, ptr(GDT_ENTRIES * 8)), X86_GP);
    CHECK_EQ(guest_fault.error, GDT_ENTRIES * 8);
    CHECK_EQ(guest_try(load_ss, ptr(0)), X86_GP);
    CHECK_EQ(guest_fault.error, 0);
}

static void lldt(void *selector)
{
    __asm__ volatile("lldt %w0" : : "r"(selector));
}

static void test_ldt(void)
{
    CHECK_EQ(guest_try(load_fs, ptr(0x0C)), X86_GP); /* there is none */
    CHECK_EQ(guest_fault.error, 0x0C);
    set(SEL_FREE, (uint32_t)(uintptr_t)ldt, 15, 0x82);
    CHECK_EQ(guest_try(lldt, ptr(SEL_FREE)), NO_FAULT);
    set(0x0C, BASE, 0xFF, ATTR_DATA);
    set(0x14, BASE, 0xFF, ATTR_DATA);
    CHECK_EQ(guest_try(load_fs, ptr(0x0C)), NO_FAULT);
    CHECK_EQ(guest_try(load_fs, ptr(0x14)), X86_GP); /* beyond its limit */
    uint16_t v;
    __asm__ volatile("sldt %0" : "=m"(v));
    CHECK_EQ(v, SEL_FREE);
    set(SEL_FREE + 8, 0, 15, 0x02);
    CHECK_EQ(guest_try(lldt, ptr(SEL_FREE + 8)), X86_NP);
    CHECK_EQ(guest_try(lldt, ptr(SEL_DATA)), X86_GP);
    CHECK_EQ(guest_try_user(lldt, ptr(SEL_FREE)), X86_GP);
    CHECK_EQ(guest_try(lldt, ptr(0)), NO_FAULT);
}

/* --- gates --- */

static struct guest_frame seen;
static void *frame_at;

static void record(struct guest_frame *f)
{
    seen = *f;
    frame_at = f;
}

static void int_60(void *p)
{
    (void)p;
    __asm__ volatile("int $0x60");
}

/* A handler for a 16-bit gate: IRET with 16-bit operands. */
static by_asm volatile uint32_t frame16[3];

static by_asm __attribute__((naked)) void handler16(void)
{
    __asm__ volatile("push %eax\n"
                     "mov 4(%esp), %eax; mov %eax, frame16\n"
                     "mov 8(%esp), %eax; mov %eax, frame16 + 4\n"
                     "pop %eax\n"
                     "iretw");
}

static void test_gates(void)
{
    extern uint8_t guest_vectors[256][16], guest_interrupt_stack_end[];
    guest_set_handler(0x60, record);
    CHECK_EQ(guest_try(int_60, NULL), NO_FAULT);
    CHECK_EQ(seen.cs, SEL_CODE32);
    CHECK_EQ(guest_try_user(int_60, NULL), X86_GP);
    CHECK_EQ(guest_fault.error, 0x60 << 3 | 2);
    guest_set_gate(0x60, guest_vectors[0x60], 14, 3, 0);
    CHECK_EQ(guest_try_user(int_60, NULL), NO_FAULT);
    CHECK_EQ(seen.cs, SEL_USER_CODE32 | 3);
    CHECK_EQ(seen.ss, SEL_USER_DATA | 3);
    CHECK_EQ((uintptr_t)frame_at + sizeof(seen), (uintptr_t)guest_interrupt_stack_end);
    guest_reset_gate(0x60);
}

/* A 16-bit gate pushes 16-bit items, which name only the low 64 KiB; so all of it happens there. */
static void test_gate16(void)
{
    extern uint8_t low_start[], low_end[];
    volatile uint8_t *low = ptr(0x7000);
    __asm__ volatile("jmp 1f\n"
                     "low_start: int $0x61; lret\n"
                     "low_end: 1:");
    for (unsigned int n = 0; low_start + n < low_end; n++)
        low[n] = low_start[n];
    uint64_t old = guest_idt[0x61];
    volatile uint8_t *handler = ptr(0x7100);
    for (unsigned int n = 0; n < 64; n++)
        handler[n] = ((uint8_t *)(uintptr_t)handler16)[n];
    guest_set_gate(0x61, ptr(0x7100), 6, 0, 0);
    static const struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } pointer = {0x7000, SEL_CODE32};
    __asm__ volatile("lcall *%0" : : "m"(pointer) : "memory", "cc");
    CHECK_EQ(frame16[0] & 0xFFFF, 0x7002);
    CHECK_EQ(frame16[0] >> 16, SEL_CODE32);
    CHECK(frame16[1] & 2);
    guest_idt[0x61] = old;
}

/* --- call gates --- */

static by_asm volatile uint32_t gate_frame[6];
static by_asm volatile uint16_t gate_cs;

static by_asm __attribute__((naked)) void gate_target(void)
{
    __asm__ volatile("push %eax; push %ecx\n"
                     "xor %ecx, %ecx\n"
                     "1: mov 8(%esp,%ecx,4), %eax; mov %eax, %ss:gate_frame(,%ecx,4)\n"
                     "inc %ecx; cmp $6, %ecx; jne 1b\n"
                     "mov %cs, %ss:gate_cs\n"
                     "pop %ecx; pop %eax\n"
                     "lret $8");
}

static by_asm volatile uint32_t esp_before, esp_after;

static void call_gate(void *selector)
{
    struct __attribute__((packed)) {
        uint32_t offset;
        uint16_t selector;
    } volatile pointer = {0, (uint16_t)(uintptr_t)selector};
    __asm__ volatile("push $0x2222; push $0x1111; mov %%esp, esp_before\n"
                     "lcall *(%0)\n"
                     "mov %%esp, esp_after"
                     :
                     : "r"(&pointer)
                     : "memory", "cc");
}

static void set_gate(unsigned int dpl, uint16_t target)
{
    uint32_t offset = (uint32_t)(uintptr_t)gate_target;
    guest_gdt[SEL_FREE / 8 + 2] = (offset & 0xFFFF) | (uint64_t)target << 16 | (uint64_t)2 << 32 |
                                  (uint64_t)(0x8Cu | dpl << 5) << 40 |
                                  (uint64_t)(offset >> 16) << 48;
}

static void test_call_gate(void)
{
    enum { GATE = SEL_FREE + 16 };
    set_gate(3, SEL_CODE32);
    CHECK_EQ(guest_try_user(call_gate, ptr(GATE | 3)), NO_FAULT);
    CHECK_EQ(gate_cs, SEL_CODE32);
    CHECK_EQ(gate_frame[1], SEL_USER_CODE32 | 3);
    CHECK_EQ(gate_frame[2], 0x1111);
    CHECK_EQ(gate_frame[3], 0x2222);
    CHECK_EQ(gate_frame[4], esp_before);
    CHECK_EQ(gate_frame[5], SEL_USER_DATA | 3);
    CHECK_EQ(esp_after, esp_before + 8);                 /* the parameters are released */
    CHECK_EQ(guest_try(call_gate, ptr(GATE)), NO_FAULT); /* same level: none are copied */
    CHECK_EQ(gate_frame[1], SEL_CODE32);
    CHECK_EQ(gate_frame[2], 0x1111);
    set_gate(0, SEL_CODE32);
    CHECK_EQ(guest_try_user(call_gate, ptr(GATE | 3)), X86_GP);
    CHECK_EQ(guest_fault.error, GATE);
    set_gate(3, SEL_DATA);
    CHECK_EQ(guest_try_user(call_gate, ptr(GATE | 3)), X86_GP);
    CHECK_EQ(guest_fault.error, SEL_DATA);
}

/* --- LAR and its kin --- */

static bool lar(uint32_t selector, uint32_t *v)
{
    bool ok;
    __asm__ volatile("lar %2, %0; setz %1" : "+r"(*v), "=q"(ok) : "r"(selector) : "cc");
    return ok;
}

static bool lsl(uint32_t selector, uint32_t *v)
{
    bool ok;
    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(*v), "=q"(ok) : "r"(selector) : "cc");
    return ok;
}

static bool verw(uint32_t selector)
{
    bool ok;
    __asm__ volatile("verw %w1; setz %0" : "=q"(ok) : "r"(selector) : "cc");
    return ok;
}

static void test_lar(void)
{
    uint32_t v = 0x777;
    CHECK(lar(SEL_DATA, &v));
    CHECK_EQ(v & ~0xF0000u, 0x00C09300); /* bits 19:16 are undefined */
    CHECK(lsl(SEL_DATA, &v));
    CHECK_EQ(v, 0xFFFFFFFF);
    v = 0x777;
    CHECK(!lar(0, &v) && !lsl(0, &v) && !lar(GDT_ENTRIES * 8, &v));
    CHECK(!lar(SEL_DATA | 3, &v)); /* RPL */
    CHECK_EQ(v, 0x777);
    CHECK(lar(SEL_TSS, &v) && lsl(SEL_TSS, &v));
    CHECK_EQ(v, 0x67);
    CHECK(verw(SEL_DATA) && !verw(SEL_CODE32) && !verw(SEL_DATA | 3) && verw(SEL_USER_DATA | 3));
    uint16_t selector = 0x10, rpl = 3;
    bool changed;
    __asm__ volatile("arpl %2, %0; setz %1" : "+r"(selector), "=q"(changed) : "r"(rpl) : "cc");
    CHECK(changed && selector == 0x13);
}

int main(void)
{
    GUEST_RUN(test_limits);
    GUEST_RUN(test_loads);
    GUEST_RUN(test_ldt);
    GUEST_RUN(test_gates);
    GUEST_RUN(test_gate16);
    GUEST_RUN(test_call_gate);
    GUEST_RUN(test_lar);
    return guest_done();
}
