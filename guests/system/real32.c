/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Real mode: from protected mode into it and back, interrupts through the IVT, faults, segments
 * that keep their limits ("unreal mode"), 32-bit operands and addresses, strings that wrap. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

/* Code at LOW:0 in real mode, called by a trampoline that is copied below it. Registers go in and
 * come out at fixed places. */
enum { LOW = 0x7000, CODE = 0x7800, RESULT = 0x7600 };

extern uint8_t real_start[], real_end[];

/* In: protected mode, flat. The copy at LOW leaves protected mode by way of 16-bit segments, calls
 * the code at CODE (segment CODE / 16) and comes back. */
__asm__(".pushsection .text\n"
        ".global real_start, real_end\n"
        "real_start:\n"
        ".code32\n"
        "    pusha\n"
        "    mov %esp, (0x7600 + 32)\n"
        "    lidt 0x7000 + (real_idt - real_start)\n"
        "    ljmp $0x20, $0x7000 + (real_16 - real_start)\n" /* 16-bit code */
        ".code16\n"
        "real_16:\n"
        "    mov $0x28, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs; mov %ax, %gs\n"
        "    mov %cr0, %eax\n"
        "    and $~1, %al\n"
        "    mov %eax, %cr0\n"
        "    ljmp $0x700, $(real_really - real_start)\n"
        "real_really:\n"
        "    xor %ax, %ax\n"
        "    mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs; mov %ax, %gs\n"
        "    mov $0x7000, %sp\n"
        "    lcall $0x780, $0\n"
        "real_back:\n"
        "    cli\n"
        "    xor %cx, %cx\n"
        "    mov %cx, %ds\n"
        "    mov %eax, (0x7600)\n"
        "    mov %ebx, (0x7604)\n"
        "    mov %sp, (0x7608)\n"
        "    pushf; popw (0x760A)\n"
        "    mov %cs, (0x760C)\n"
        "    mov %cr0, %eax\n"
        "    or $1, %al\n"
        "    mov %eax, %cr0\n"
        "    ljmpl $0x18, $0x7000 + (real_32 - real_start)\n"
        ".code32\n"
        "real_32:\n"
        "    mov $0x10, %eax\n"
        "    mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
        "    mov (0x7600 + 32), %esp\n"
        "    popa\n"
        "    ret\n"
        "real_idt: .word 0x3FF; .long 0\n"
        "real_end:\n"
        ".popsection");

struct result {
    uint32_t eax, ebx;
    uint16_t sp, flags, cs;
};

#define RESULTS ((volatile struct result *)ptr(RESULT))

/* Where vector v's handler in real mode is put. */
static void set_vector(uint8_t v, uint16_t segment, uint16_t offset)
{
    volatile uint16_t *entry = ptr(v * 4u);
    entry[0] = offset;
    entry[1] = segment;
}

static void run(const char *code, unsigned int size)
{
    volatile uint8_t *to = ptr(CODE);
    for (unsigned int n = 0; n < size; n++)
        to[n] = (uint8_t)code[n];
    to = ptr(LOW);
    for (const uint8_t *p = real_start; p < real_end; p++)
        *to++ = *p;
    ((void (*)(void))(uintptr_t)LOW)();
    load_idt(guest_idt, 2047);
}

#define RUN(code) run(code, sizeof(code) - 1)

static void test_there_and_back(void)
{
    for (int n = 0; n < 3; n++) {
        RESULTS->eax = 0;
        RUN("\x66\xB8\x78\x56\x34\x12" /* mov eax, 0x12345678 */
            "\x8C\xCB"                 /* mov bx, cs */
            "\xCB");                   /* retf */
        CHECK_EQ(RESULTS->eax, 0x12345678);
        CHECK_EQ(RESULTS->ebx & 0xFFFF, CODE / 16);
        CHECK_EQ(RESULTS->sp, 0x7000);
        CHECK_EQ(RESULTS->cs, LOW / 16);
    }
}

static void test_interrupt(void)
{
    /* handler at 0x7A00: add bx, 5; iret */
    static const uint8_t handler[] = {0x83, 0xC3, 0x05, 0xCF};
    for (unsigned int n = 0; n < 4; n++)
        ((volatile uint8_t *)ptr(0x7A00))[n] = handler[n];
    set_vector(0x40, 0x7A0, 0);
    RUN("\x31\xDB" /* xor bx, bx */
        "\xF9"     /* stc */
        "\xCD\x40" /* int 0x40 */
        "\xCD\x40"
        "\x19\xC0" /* sbb ax, ax: CF came back */
        "\xCB");
    CHECK_EQ(RESULTS->ebx & 0xFFFF, 10);
    CHECK_EQ(RESULTS->eax & 0xFFFF, 0xFFFF);
    CHECK_EQ(RESULTS->sp, 0x7000);
}

static void test_exceptions(void)
{
    /* handlers at 0x7A00 + 16 v: mov bx, v; then leave by the address that the test put on top:
     * add sp, 6; retf */
    for (unsigned int v = 0; v < 16; v++) {
        volatile uint8_t *h = ptr(0x7A00 + v * 16);
        static const uint8_t code[] = {0xBB, 0, 0, 0x83, 0xC4, 0x06, 0xCB};
        for (unsigned int n = 0; n < sizeof(code); n++)
            h[n] = n == 1 ? (uint8_t)v : code[n];
        set_vector((uint8_t)v, 0x7A0, (uint16_t)(v * 16));
    }
    RUN("\x31\xC9\xF7\xF1"); /* xor cx, cx; div cx */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_DE);
    RUN("\x0F\x0B"); /* ud2 */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_UD);
    RUN("\xBE\xFF\xFF\x8B\x04"); /* mov si, 0xFFFF; mov ax, [si] */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_GP);
    RUN("\xBD\xFF\xFF\x8B\x46\x00"); /* mov bp, 0xFFFF; mov ax, [bp] */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_SS);
    RUN("\x0F\x00\xC0"); /* sldt ax */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_UD);
    RUN("\x67\x66\x8B\x05\x00\x00\x01\x00"); /* mov eax, [dword 0x10000] */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_GP);
    RUN("\xCC"); /* int3 */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_BP);
    RUN("\xB0\x7F\x04\x01\xCE"); /* mov al, 127; add al, 1; into */
    CHECK_EQ(RESULTS->ebx & 0xFFFF, X86_OF);
}

static void test_segments(void)
{
    /* mov ax, 0x2345; mov es, ax; mov word es:[0x10], 0xBEEF */
    *(volatile uint16_t *)ptr(0x23460) = 0;
    RUN("\xB8\x45\x23\x8E\xC0\x26\xC7\x06\x10\x00\xEF\xBE\xCB");
    CHECK_EQ(*(volatile uint16_t *)ptr(0x23460), 0xBEEF);
    /* code is writable through CS: mov word cs:[0x100], 0x1234 */
    RUN("\x2E\xC7\x06\x00\x01\x34\x12\xCB");
    CHECK_EQ(*(volatile uint16_t *)ptr(CODE + 0x100), 0x1234);
}

static void test_unreal(void)
{
    /* load FS with the flat data segment in protected mode, go back, and use its limit:
     * cli; lgdt is in place; mov eax,cr0; or al,1; mov cr0,eax; mov bx,0x10; mov fs,bx; and al,~1;
     * mov cr0,eax; mov eax, 0x200000; mov dword fs:[eax], 0x600D600D; retf */
    *(volatile uint32_t *)ptr(0x200000) = 0;
    RUN("\x0F\x20\xC0\x0C\x01\x0F\x22\xC0"
        "\xBB\x10\x00\x8E\xE3"
        "\x24\xFE\x0F\x22\xC0"
        "\x66\xB8\x00\x00\x20\x00"
        "\x67\x64\x66\xC7\x00\x0D\x60\x0D\x60"
        "\xCB");
    CHECK_EQ(*(volatile uint32_t *)ptr(0x200000), 0x600D600D);
    /* a load in real mode changes the base only: mov bx, 0x1000; mov fs, bx; mov eax, 0x200000;
     * mov dword fs:[eax], 0x600D0002 */
    RUN("\x0F\x20\xC0\x0C\x01\x0F\x22\xC0"
        "\xBB\x10\x00\x8E\xE3"
        "\x24\xFE\x0F\x22\xC0"
        "\xBB\x00\x10\x8E\xE3"
        "\x66\xB8\x00\x00\x20\x00"
        "\x67\x64\x66\xC7\x00\x02\x00\x0D\x60"
        "\xCB");
    CHECK_EQ(*(volatile uint32_t *)ptr(0x210000), 0x600D0002);
}

static void test_strings(void)
{
    *(volatile uint8_t *)ptr(0x30000) = 0;
    RUN("\xB8\x00\x30\x8E\xC0"     /* mov ax, 0x3000; mov es, ax */
        "\xBF\xFF\xFF\xB9\x02\x00" /* mov di, 0xFFFF; mov cx, 2 */
        "\xB0\x77\xFC\xF3\xAA"     /* mov al, 0x77; cld; rep stosb */
        "\xCB");
    CHECK_EQ(*(volatile uint8_t *)ptr(0x3FFFF), 0x77);
    CHECK_EQ(*(volatile uint8_t *)ptr(0x30000), 0x77);
}

int main(void)
{
    GUEST_RUN(test_there_and_back);
    GUEST_RUN(test_interrupt);
    GUEST_RUN(test_exceptions);
    GUEST_RUN(test_segments);
    GUEST_RUN(test_unreal);
    GUEST_RUN(test_strings);
    return guest_done();
}
