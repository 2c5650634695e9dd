/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Virtual-8086 mode: a small monitor runs 16-bit code, reflects its interrupts and sees its faults
 * with the big frame; IOPL; the I/O permission bitmap. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

/* The frame that leaves virtual-8086 mode, after our own part. */
struct v86_frame {
    struct guest_frame f;
    reg_t es, ds, fs, gs;
};

enum { SEGMENT = 0x700, STACK_SEGMENT = 0x780, IVT_HANDLER = 0x7400 };

static struct v86_frame seen;
static volatile unsigned int traps;
static bool reflect;

/* What an 8086 does for INT n. */
static void do_int(struct v86_frame *v, uint8_t vector)
{
    volatile uint16_t *stack;
    v->f.rsp = (v->f.rsp - 6) & 0xFFFF;
    stack = ptr(v->f.ss * 16 + v->f.rsp);
    stack[0] = (uint16_t)v->f.rip;
    stack[1] = (uint16_t)v->f.cs;
    stack[2] = (uint16_t)v->f.rflags;
    volatile uint16_t *entry = ptr(vector * 4u);
    v->f.rip = entry[0];
    v->f.cs = entry[1];
}

static void do_iret(struct v86_frame *v)
{
    volatile uint16_t *stack = ptr(v->f.ss * 16 + v->f.rsp);
    v->f.rip = stack[0];
    v->f.cs = stack[1];
    v->f.rsp = (v->f.rsp + 6) & 0xFFFF;
}

static void on_gp(struct guest_frame *f)
{
    struct v86_frame *v = (struct v86_frame *)(void *)f;
    volatile uint8_t *code;
    if (!(f->rflags & X86_FLAG_VM))
        guest_die("#GP of the monitor itself");
    traps++;
    seen = *v;
    code = ptr(f->cs * 16 + f->rip);
    if (reflect && code[0] == 0xCD && code[1] != VECTOR_LEAVE) {
        f->rip += 2;
        do_int(v, code[1]);
    } else if (reflect && code[0] == 0xCF) {
        do_iret(v);
    } else if (code[0] == 0xF4) { /* HLT: the end */
        guest_set_handler(X86_GP, NULL);
        __asm__ volatile("int %0" : : "i"(VECTOR_LEAVE)); /* back to guest_try's caller */
    } else {
        f->rip += code[0] == 0xCD || (code[0] & 0xFC) == 0xE4 ? 2 : 1; /* skip it */
    }
}

static by_asm uint32_t enter_flags;

static void enter(void *p)
{
    (void)p;
    __asm__ volatile("push $0x740\n" /* GS */
                     "push $0x730\n" /* FS */
                     "push $0x720\n" /* DS */
                     "push $0x710\n" /* ES */
                     "push $0x780\n" /* SS */
                     "push $0x800\n" /* SP */
                     "push enter_flags\n"
                     "push $0x700\n"
                     "push $0\n"
                     "iret");
}

/* Runs bytes at SEGMENT:0 until HLT. */
static int run(const char *code, unsigned int size, uint32_t iopl)
{
    volatile uint8_t *to = ptr(SEGMENT * 16);
    for (unsigned int n = 0; n < size; n++)
        to[n] = (uint8_t)code[n];
    traps = 0;
    enter_flags = 0x20002 | iopl << 12;
    guest_set_handler(X86_GP, on_gp);
    int vector = guest_try(enter, NULL);
    guest_set_handler(X86_GP, NULL);
    return vector;
}

#define RUN(code, iopl) run(code, sizeof(code) - 1, iopl)

static void test_frame(void)
{
    CHECK_EQ(RUN("\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 1);
    CHECK_EQ(seen.f.cs, SEGMENT);
    CHECK_EQ(seen.f.rip, 0);
    CHECK_EQ(seen.f.ss, STACK_SEGMENT);
    CHECK_EQ(seen.f.rsp, 0x800);
    CHECK_EQ(seen.es, 0x710);
    CHECK_EQ(seen.ds, 0x720);
    CHECK_EQ(seen.fs, 0x730);
    CHECK_EQ(seen.gs, 0x740);
    CHECK(seen.f.rflags & X86_FLAG_VM);
    CHECK_EQ(seen.f.error, 0);
}

static void test_segments(void)
{
    /* mov ax,0x1234; mov [0x10],ax; mov bx,0x9000; mov ds,bx; mov [0],ax; hlt */
    CHECK_EQ(RUN("\xB8\x34\x12\xA3\x10\x00\xBB\x00\x90\x8E\xDB\xA3\x00\x00\xF4", 0), NO_FAULT);
    CHECK_EQ(*(volatile uint16_t *)ptr(0x7210), 0x1234);
    CHECK_EQ(*(volatile uint16_t *)ptr(0x90000), 0x1234);
    CHECK_EQ(seen.ds, 0x9000);
    /* far call and return within: call 0x740:0; the target: inc cx; retf */
    *(volatile uint8_t *)ptr(0x7400) = 0x41;
    *(volatile uint8_t *)ptr(0x7401) = 0xCB;
    CHECK_EQ(RUN("\xB9\x05\x00\x9A\x00\x00\x40\x07\xF4", 0), NO_FAULT);
    CHECK_EQ(seen.f.rcx & 0xFFFF, 6);
    CHECK_EQ(traps, 1);
    /* an offset beyond 64 KiB: mov [dword 0x10000], ax with an address-size prefix */
    CHECK_EQ(RUN("\x67\xA3\x00\x00\x01\x00\x90\x90\xF4", 0), NO_FAULT);
    CHECK(traps > 1);
}

static void test_sensitive(void)
{
    /* cli, sti, pushf, popf, iret, int n: #GP with IOPL 0, fine with IOPL 3 */
    CHECK_EQ(RUN("\xFA\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 2);
    CHECK_EQ(RUN("\xFA\xF4", 3), NO_FAULT);
    CHECK_EQ(traps, 1);
    CHECK_EQ(RUN("\x9C\x58\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 2);
    CHECK_EQ(RUN("\x9C\x58\xF4", 3), NO_FAULT);
    CHECK_EQ(traps, 1);
    CHECK_EQ(seen.f.rax & 0x3002, 0x3002);
    CHECK_EQ(RUN("\xCD\x21\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 2);
    /* instructions that do not exist here */
    CHECK_EQ(RUN("\x0F\x00\xC0\xF4", 0), X86_UD); /* sldt ax */
    CHECK_EQ(RUN("\x0F\x03\xC0\xF4", 0), X86_UD); /* lsl */
    CHECK_EQ(RUN("\x63\xC0\xF4", 0), X86_UD);     /* arpl */
    /* privileged ones */
    CHECK_EQ(RUN("\x0F\x22\xC0\x90\x90\xF4", 3), NO_FAULT); /* mov cr0, eax */
    CHECK(traps >= 2);
}

static void test_reflection(void)
{
    volatile uint16_t *ivt = ptr(0x21 * 4);
    volatile uint8_t *handler = ptr(IVT_HANDLER);
    ivt[0] = 0;
    ivt[1] = IVT_HANDLER >> 4;
    handler[0] = 0x40; /* inc ax; iret */
    handler[1] = 0xCF;
    reflect = true;
    CHECK_EQ(RUN("\xB8\x01\x00\xCD\x21\xCD\x21\xF4", 0), NO_FAULT);
    reflect = false;
    CHECK_EQ(seen.f.rax & 0xFFFF, 3);
    CHECK_EQ(seen.f.rsp, 0x800);
    CHECK_EQ(traps, 5); /* two INTs, two IRETs, HLT */
}

static void test_other_exceptions(void)
{
    CHECK_EQ(RUN("\x0F\x0B", 0), X86_UD);
    CHECK_EQ(guest_fault.cs, SEGMENT);
    CHECK(guest_fault.rflags & X86_FLAG_VM);
    CHECK_EQ(RUN("\xCC", 0), X86_BP); /* INT3 goes by the IDT whatever IOPL is */
    CHECK_EQ(guest_fault.rip, 1);
    CHECK_EQ(RUN("\x31\xD2\x31\xC9\xF7\xF1", 0), X86_DE); /* div cx */
    /* INT n with IOPL 3 goes by the IDT too, whose gate must have DPL 3 */
    CHECK_EQ(RUN("\xCD\x81", 3), NO_FAULT);
    CHECK_EQ(traps, 0);
    CHECK_EQ(RUN("\xCD\x40\xF4", 3), NO_FAULT);
    CHECK_EQ(traps, 2);
}

/* TSS with a bitmap: 0x100 free, the rest not (the library's has none: all denied). */
static uint8_t big_tss[0x68 + 8192 + 1] __attribute__((aligned(128)));

static void test_io_bitmap(void)
{
    CHECK_EQ(RUN("\xE6\x80\xF4", 3), NO_FAULT); /* out 0x80, al: IOPL does not count here */
    CHECK_EQ(traps, 2);
    for (unsigned int n = 0; n < 0x68; n++)
        big_tss[n] = guest_tss[n];
    for (unsigned int n = 0x68; n < sizeof(big_tss); n++)
        big_tss[n] = 0xFF;
    big_tss[0x66] = 0x68;
    big_tss[0x68 + 0x80 / 8] = 0xFE; /* port 0x80 */
    guest_gdt[SEL_FREE / 8] =
        guest_descriptor((uint32_t)(uintptr_t)big_tss, sizeof(big_tss) - 1, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_FREE));
    CHECK_EQ(RUN("\xE6\x80\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 1);
    CHECK_EQ(RUN("\xE6\x81\xF4", 0), NO_FAULT);
    CHECK_EQ(traps, 2);
    CHECK_EQ(RUN("\xE7\x80\xF4", 0), NO_FAULT); /* 16 bits: 0x81 too */
    CHECK(traps >= 2);
}

int main(void)
{
    GUEST_RUN(test_frame);
    GUEST_RUN(test_segments);
    GUEST_RUN(test_sensitive);
    GUEST_RUN(test_reflection);
    GUEST_RUN(test_other_exceptions);
    GUEST_RUN(test_io_bitmap);
    return guest_done();
}
