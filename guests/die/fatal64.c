/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Ways to die of a triple fault in long mode, and jumps to where no code can be.
 *
 * run: null-idt => triple-fault
 * run: null-idt-page-fault => triple-fault
 * run: no-stack => triple-fault
 * run: idt-unmapped => triple-fault
 * run: idt-noncanonical => triple-fault
 * run: idt-ecam => triple-fault
 * run: idt-io-apic => triple-fault
 * run: idt-apic => triple-fault
 * run: idt-hole => triple-fault
 * run: idt-top top=0x1000000 => triple-fault memory=16M
 * run: gdt-hole => triple-fault
 * run: gdt-ecam => triple-fault
 * run: gdt-empty => triple-fault
 * run: tss-hole => triple-fault
 * run: tss-apic => triple-fault
 * run: tss-empty => triple-fault
 * run: other-vcpu => triple-fault vcpus=2
 * run: cr3-hole => triple-fault
 * run: cr3-ecam => triple-fault
 * run: cr3-apic => triple-fault
 * run: cr3-zero => triple-fault
 * run: cr3-self => triple-fault
 * run: cr3-highest => triple-fault
 * run: stack-hole => any seconds=1
 * run: stack-apic => any seconds=1
 * run: stack-ecam => any seconds=1
 * run: stack-edge => lives
 * run: jumps top=0x1000000 => lives memory=16M
 * run: top-page => lives
 */
#include "guests/die/die.h"

static void breakpoint(void *p)
{
    (void)p;
    __asm__ volatile("int3");
}

static void load64(void *p)
{
    (void)*(volatile uint64_t *)p;
}

static void die(void)
{
    guest_print("alive after int3\n");
    guest_exit(3);
}

static void null_idt(void)
{
    load_idt(NULL, 0);
    breakpoint(NULL);
    die();
}

static void null_idt_page_fault(void)
{
    load_idt(NULL, 0);
    guest_load8(ptr(0x7000000000));
    die();
}

/* A handler for #DF that has no stack of its own either. */
static void no_stack(void)
{
    extern uint8_t guest_vectors[256][16];
    guest_set_gate(X86_DF, guest_vectors[X86_DF], 14, 0, 0);
    __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"(UINT64_C(0x7000000000)));
    die();
}

static void with_idt_at(uint64_t base)
{
    load_idt(ptr(base), 4095);
    breakpoint(NULL);
    die();
}

static void idt_unmapped(void)
{
    with_idt_at(0x7000000000);
}

static void idt_noncanonical(void)
{
    /* LIDT refuses it, with a fault that the frame reports; so the last canonical address */
    DIE_UNLESS(guest_try(guest_load8, ptr(0x800000000000)) == X86_GP);
    with_idt_at(0x7FFFFFFFFFF8);
}

static void idt_ecam(void)
{
    with_idt_at(LODGE_MMIO_ECAM);
}

static void idt_io_apic(void)
{
    with_idt_at(LODGE_MMIO_IO_APIC);
}

static void idt_apic(void)
{
    with_idt_at(LODGE_MMIO_APIC);
}

static void idt_hole(void)
{
    with_idt_at(DIE_HOLE);
}

/* #BP's gate is the last in RAM; what #GP and #DF would need is beyond. */
static void idt_top(void)
{
    uint64_t base = die_number("top=", 0) - 4 * 16;
    for (unsigned int n = 0; n < 8; n++)
        ((volatile uint64_t *)ptr(base))[n] = guest_idt[n];
    load_idt(ptr(base), 4095);
    guest_set_handler(X86_BP, (guest_handler *)(uintptr_t)guest_nothing);
    breakpoint(NULL);
    guest_print("gate in RAM works\n");
    guest_load8(ptr(0x7000000000));
    die();
}

static void with_gdt_at(uint64_t base, uint16_t limit)
{
    load_gdt(ptr(base), limit);
    breakpoint(NULL);
    die();
}

static void gdt_hole(void)
{
    with_gdt_at(DIE_HOLE, 0xFFFF);
}

static void gdt_ecam(void)
{
    with_gdt_at(LODGE_MMIO_ECAM, 0xFFFF);
}

static void gdt_empty(void)
{
    with_gdt_at((uintptr_t)guest_gdt, 0);
}

static void with_tss_at(uint64_t base, uint32_t limit)
{
    guest_gdt[SEL_FREE / 8 + 1] = guest_descriptor((uint32_t)base, limit, 0x89);
    guest_gdt[SEL_FREE / 8 + 2] = 0;
    __asm__ volatile("ltr %w0" : : "r"(SEL_FREE + 8));
    (void)guest_try_user(breakpoint, NULL);
    die();
}

static void tss_hole(void)
{
    with_tss_at(DIE_HOLE, 0x67);
}

static void tss_apic(void)
{
    with_tss_at(LODGE_MMIO_APIC, 0x67);
}

static void tss_empty(void)
{
    with_tss_at((uintptr_t)guest_tss, 0);
}

static void die_on_other(unsigned int n)
{
    (void)n;
    null_idt();
}

/* The boot processor halts for good: the VM must end all the same. */
static void other_vcpu(void)
{
    smp_start(die_on_other);
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void with_cr3(uint64_t cr3)
{
    write_cr3(cr3);
    breakpoint(NULL);
    die();
}

static void cr3_hole(void)
{
    with_cr3(DIE_HOLE);
}

static void cr3_ecam(void)
{
    with_cr3(LODGE_MMIO_ECAM);
}

static void cr3_apic(void)
{
    with_cr3(LODGE_MMIO_APIC);
}

static void cr3_zero(void)
{
    with_cr3((uintptr_t)guest_page());
}

/* A root whose entries all point to itself: everywhere is that page, and no code is in it. */
static void cr3_self(void)
{
    uint64_t *root = guest_page();
    for (unsigned int n = 0; n < 512; n++)
        root[n] = (uintptr_t)root | X86_PTE_P | X86_PTE_W | X86_PTE_U;
    with_cr3((uintptr_t)root);
}

/* The last page that the processor can address. */
static void cr3_highest(void)
{
    with_cr3((UINT64_C(1) << (cpuid(0x80000008, 0).a & 0xFF)) - 4096);
}

/* --- stacks where no memory is: pushes go nowhere, pops bring all ones --- */

static void with_stack_at(uint64_t rsp)
{
    __asm__ volatile("mov %0, %%rsp; int3; call guest_done; push $5; popf; ret" : : "r"(rsp));
    die();
}

static void stack_hole(void)
{
    with_stack_at(DIE_HOLE + 0x800);
}

static void stack_apic(void)
{
    with_stack_at(LODGE_MMIO_APIC + 0x800);
}

static void stack_ecam(void)
{
    with_stack_at(LODGE_MMIO_ECAM + 0x800);
}

/* At both ends of the lower half, whose neighbours are not canonical. */
static void push_at(void *rsp)
{
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; mov %%rbx, %%rsp"
                     :
                     : "r"(rsp)
                     : "rbx", "memory");
}

static void stack_edge(void)
{
    /* the frames of these faults go to IST 1 */
    extern uint8_t guest_vectors[256][16];
    static const uint8_t vectors[] = {X86_SS, X86_GP, X86_PF};
    for (unsigned int n = 0; n < sizeof(vectors); n++)
        guest_set_gate(vectors[n], guest_vectors[vectors[n]], 14, 0, 1);
    DIE_UNLESS(guest_try(push_at, ptr(0x800000000008)) == X86_SS);
    DIE_UNLESS(guest_try(push_at, ptr(0x800000000004)) == X86_SS);
    DIE_UNLESS(guest_try(push_at, ptr(0x800000000000)) == X86_PF);
    DIE_UNLESS(guest_try(push_at, ptr(0xFFFF800000000004)) == X86_SS);
    DIE_UNLESS(guest_try(push_at, ptr(0xFFFF800000000000)) == X86_SS);
    DIE_UNLESS(guest_try(push_at, ptr(0)) == X86_PF);
    DIE_UNLESS(guest_try(push_at, ptr(4)) == X86_PF);
}

/* --- jumps --- */

static void jumps(void)
{
    uint64_t top = die_number("top=", 0);
    static const uint64_t devices[] = {DIE_HOLE,        LODGE_MMIO_ECAM, LODGE_MMIO_IO_APIC,
                                       LODGE_MMIO_APIC, 0xFFFFFFF0,      LODGE_MMIO_APIC + 0xFFF};
    for (unsigned int n = 0; n < sizeof(devices) / sizeof(devices[0]); n++) {
        DIE_UNLESS(guest_try(guest_call, ptr(devices[n])) == X86_UD);
        DIE_UNLESS(guest_fault.rip == devices[n]);
    }
    DIE_UNLESS(guest_try(guest_call, ptr(top)) == X86_UD);
    DIE_UNLESS(guest_try_user(guest_call, ptr(top)) == X86_UD);
    guest_map(0x4000000000, UINT64_C(1) << 38, X86_PTE_P | X86_PTE_W, 0);
    DIE_UNLESS(guest_try(guest_call, ptr(0x4000000000)) == X86_UD);
    DIE_UNLESS(guest_try(guest_call, ptr(0x4000001000)) == X86_PF);
    DIE_UNLESS(guest_try(guest_call, ptr(0x800000000000)) == X86_GP);
    DIE_UNLESS(guest_try(guest_call, ptr(0x7FFFFFFFFFFF)) == X86_PF);
    DIE_UNLESS(guest_try(guest_call, ptr(0x8000000000000000)) == X86_GP);
    DIE_UNLESS(guest_try(guest_call, ptr(~0ull)) == X86_PF);
    /* the last byte of RAM: "mov eax, imm32" whose constant comes from nowhere, as ones */
    *(volatile uint8_t *)ptr(top - 1) = 0xB8;
    DIE_UNLESS(guest_try(guest_call, ptr(top - 1)) == X86_UD);
    DIE_UNLESS(guest_fault.rip == top + 4);
    *(volatile uint8_t *)ptr(top - 1) = 0xC3;
    DIE_UNLESS(guest_try(guest_call, ptr(top - 1)) == NO_FAULT);
}

/* Code in the last page of the address space that runs, and reaches, over its end into page 0. */
static void top_page(void)
{
    uint8_t *page = guest_page();
    volatile uint8_t *zero = ptr(die_number("zero=", 0));
    guest_map(~UINT64_C(0xFFF), (uintptr_t)page, X86_PTE_P | X86_PTE_W, 0);
    zero[0] = 0xC3;
    page[0xFFF] = 0x90; /* nop, ret */
    DIE_UNLESS(guest_try(guest_call, ptr(~UINT64_C(0))) == NO_FAULT);
    page[0xFFE] = 0xB8; /* mov eax, imm32, of which one byte is here */
    zero[3] = 0xC3;
    DIE_UNLESS(guest_try(guest_call, ptr(~UINT64_C(1))) == NO_FAULT);
    zero[3] = 0xCC;
    DIE_UNLESS(guest_try(guest_call, ptr(~UINT64_C(1))) == X86_BP);
    DIE_UNLESS(guest_fault.rip == 4);
    DIE_UNLESS(guest_try(load64, ptr(~UINT64_C(2))) == NO_FAULT);
}

static const struct die_mode modes[] = {
    {"null-idt", null_idt},
    {"null-idt-page-fault", null_idt_page_fault},
    {"no-stack", no_stack},
    {"idt-unmapped", idt_unmapped},
    {"idt-noncanonical", idt_noncanonical},
    {"idt-ecam", idt_ecam},
    {"idt-io-apic", idt_io_apic},
    {"idt-apic", idt_apic},
    {"idt-hole", idt_hole},
    {"idt-top", idt_top},
    {"gdt-hole", gdt_hole},
    {"gdt-ecam", gdt_ecam},
    {"gdt-empty", gdt_empty},
    {"tss-hole", tss_hole},
    {"tss-apic", tss_apic},
    {"tss-empty", tss_empty},
    {"other-vcpu", other_vcpu},
    {"cr3-hole", cr3_hole},
    {"cr3-ecam", cr3_ecam},
    {"cr3-apic", cr3_apic},
    {"cr3-zero", cr3_zero},
    {"cr3-self", cr3_self},
    {"cr3-highest", cr3_highest},
    {"stack-hole", stack_hole},
    {"stack-apic", stack_apic},
    {"stack-ecam", stack_ecam},
    {"stack-edge", stack_edge},
    {"jumps", jumps},
    {"top-page", top_page},
};

DIE_MAIN(modes)
