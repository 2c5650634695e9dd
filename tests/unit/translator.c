/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What guest code must not be able to do to the translator: nothing that it can see tells translated
 * code from the processor, and nothing reaches beyond the guest's RAM.
 *
 * Guest code is assembled here, copied to CPU_ENV_CODE and run from there until it halts. RAM stands
 * between two pages that nobody may touch, and the low addresses of the host are none of ours: an
 * access beside RAM kills the test.
 */
#include <string.h>
#include <sys/mman.h>

#include "core/err.h"
#include "engine/engine.h"
#include "engine/soft/soft.h"
#include "engine/soft/translator.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/unit.h"
#include "x86/mem.h"

enum {
    HANDLER_SIZE = 16,
    DATA = CPU_ENV_DATA,
    FAULT = DATA + 0x8000, /* vector + 1 of the exception that ended the run, then its frame */
    PTE = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D,
    GUARD = 1 << 20,
};

static struct cpu_env e;
static uint8_t *own_ram, *mapping;

#define CODE(name, text)                                                                           \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\n" #name "_end:\n.popsection");          \
    extern const uint8_t name[], name##_end[]

/* RAM between pages that cannot be accessed. */
static void fence_ram(void)
{
    struct guest_mem_slot *s = &e.vm.mem.slot[0];
    mapping = mmap(NULL, CPU_ENV_RAM + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapping != MAP_FAILED);
    CHECK_EQ(mprotect(mapping + GUARD, CPU_ENV_RAM, PROT_READ | PROT_WRITE), 0);
    own_ram = e.ram;
    memcpy(mapping + GUARD, own_ram, CPU_ENV_RAM);
    e.ram = s->host = mapping + GUARD;
    x86_tlb_flush(e.cpu);
}

/* Exceptions halt, with their vector in RAM. */
static void make_handlers(void)
{
    cpu_env_all_gates(&e);
    for (unsigned int v = 0; v < 256; v++) {
        uint8_t *h = e.ram + CPU_ENV_HANDLERS + v * HANDLER_SIZE;
        memcpy(h, "\x66\xC7\x04\x25", 4); /* mov word [FAULT], vector + 1 */
        store_u32(h + 4, FAULT);
        store_u16(h + 8, (uint16_t)(v + 1));
        h[10] = 0xF4;
    }
}

static void begin(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    fence_ram();
    make_handlers();
    CHECK_EQ(engine_soft.vm_create(&e.vm), OK);
    CHECK_EQ(engine_soft.vcpu_create(e.cpu), OK);
    vcpu_enter(&e.cpu->vcpu);
}

static void end(void)
{
    vcpu_leave(&e.cpu->vcpu);
    engine_soft.vcpu_destroy(e.cpu);
    engine_soft.vm_destroy(&e.vm);
    e.ram = own_ram;
    cpu_env_destroy(&e);
    munmap(mapping, CPU_ENV_RAM + 2 * GUARD);
}

static struct translator *translator(void)
{
    return soft_translator(e.cpu);
}

/* From there until the guest halts. Returns the vector of an exception that ended it, or -1. */
static int run_from(uint64_t rip)
{
    struct exit x;
    cpu_env_put16(&e, FAULT, 0);
    e.cpu->activity = X86_RUNNING;
    e.cpu->rip = rip;
    CHECK_EQ(engine_soft.vcpu_run(e.cpu, &x), OK);
    CHECK_EQ(x.reason, EXIT_HALT);
    return (int)cpu_env_get16(&e, FAULT) - 1;
}

/* The RIP that the exception's frame has. */
static uint64_t fault_rip(bool has_error)
{
    return cpu_env_get64(&e, e.cpu->gpr[RSP] + (has_error ? 8 : 0));
}

/* Stores from outside, by who may: with what follows for translated code. */
static void put_code(uint64_t address, const void *bytes, size_t size)
{
    memcpy(e.ram + address, bytes, size);
    for (uint64_t page = address & PAGE_MASK; page < address + size; page += PAGE_SIZE)
        e.vm.code_written(&e.vm, e.ram + page, 1);
}
#define PUT_CODE(address, name) put_code((address), name, (size_t)(name##_end - (name)))
#define RUN(name)               (PUT_CODE(CPU_ENV_CODE, name), run_from(CPU_ENV_CODE))

/* Maps the page at any linear address, in tables from `tables` on (three pages); no INVLPG. */
static void set_entry(uint64_t linear, uint64_t physical, uint64_t tables)
{
    const uint64_t flags = PTE;
    uint64_t table = CPU_ENV_PML4;
    for (unsigned int level = 3; level > 0; level--) {
        uint64_t at = table + (linear >> (PAGE_SHIFT + 9 * level) & 511) * 8;
        if (!(cpu_env_get64(&e, at) & X86_PTE_P)) {
            cpu_env_put64(&e, at, tables | flags);
            tables += PAGE_SIZE;
        }
        table = cpu_env_get64(&e, at) & ~(uint64_t)0xFFF;
    }
    cpu_env_put64(&e, table + (linear >> PAGE_SHIFT & 511) * 8, physical | flags);
}

static void map_at(uint64_t linear, uint64_t physical, uint64_t tables)
{
    set_entry(linear, physical, tables);
    x86_tlb_flush_page(e.cpu, linear);
}

enum { TABLES = DATA + 0x20000 };

/* --- J16: the guest does not choose host addresses --------------------------------------------- */

CODE(aligned_load, "vmovaps (%rbx), %ymm0\n hlt");
CODE(aligned_store, "vmovaps %ymm0, (%rbx)\n hlt");

/* Operands that have to be aligned are checked from bit 12 + n of the address on: an empty entry of
 * the TLB must not be a hit for any page whose number is below 2^n. */
static void test_j16_aligned_operand_and_empty_entry(void)
{
    static const uint64_t pages[] = {0, 0xB, 0xC, 0xF, 0x11, 0x15, 0x1F, 0x30, 0x100};
    begin();
    for (size_t n = 0; n < ARRAY_SIZE(pages); n++) {
        uint64_t far = pages[n] << PAGE_SHIFT | BIT(40);
        *cpu_env_pte(&e, pages[n] << PAGE_SHIFT) &= ~(uint64_t)X86_PTE_P;
        map_at(far, DATA, TABLES);
        e.cpu->gpr[RBX] = pages[n] << PAGE_SHIFT;
        CHECK_EQ(RUN(aligned_load), X86_PF);
        CHECK_EQ(RUN(aligned_store), X86_PF);
        e.cpu->gpr[RBX] = far; /* leaves an addend behind, that of another page */
        CHECK_EQ(RUN(aligned_store), -1);
        x86_tlb_flush(e.cpu);
        e.cpu->gpr[RBX] = pages[n] << PAGE_SHIFT;
        CHECK_EQ(RUN(aligned_load), X86_PF);
        CHECK_EQ(RUN(aligned_store), X86_PF);
    }
    end();
}

CODE(jump_rax, "jmp *%rax");
CODE(call_rax, "call *%rax");
CODE(split_mov, "movl $0x44332211, %eax\n hlt");

enum { SPLIT = DATA + 0x10FFD }; /* an instruction with two bytes on the next page */

/* Instructions across pages have entries of their own, which no jump finds. */
static void test_j16_jump_beside_canonical_addresses(void)
{
    begin();
    PUT_CODE(SPLIT, split_mov);
    CHECK_EQ(run_from(SPLIT), -1);
    CHECK_EQ(run_from(SPLIT), -1);
    CHECK_EQ(e.cpu->gpr[RAX], 0x44332211);
    for (unsigned int bit = 48; bit < 64; bit++) {
        uint64_t rsp = e.cpu->gpr[RSP] = CPU_ENV_STACK0;
        e.cpu->gpr[RAX] = ((SPLIT & PAGE_MASK) + PAGE_SIZE) ^ BIT(bit);
        CHECK_EQ(RUN(jump_rax), X86_GP);
        CHECK_EQ(fault_rip(true), CPU_ENV_CODE);
        e.cpu->gpr[RSP] = CPU_ENV_STACK0;
        CHECK_EQ(RUN(call_rax), X86_GP);
        CHECK_EQ(fault_rip(true), CPU_ENV_CODE);
        CHECK_EQ(cpu_env_get64(&e, e.cpu->gpr[RSP] + 32), rsp);
    }
    CHECK(translator()->stats.translated > 0);
    end();
}

/* --- J2: an instruction across pages ------------------------------------------------------------ */

/* The last page of the lower half is followed by the hole, whatever the page tables have for the
 * same bits: the block that was made at another address must not run here. */
static void test_j02_across_into_the_hole(void)
{
    const uint64_t last = BIT(47) - PAGE_SIZE;
    begin();
    PUT_CODE(SPLIT, split_mov);
    CHECK_EQ(run_from(SPLIT), -1);
    map_at(last, SPLIT & PAGE_MASK, TABLES);
    map_at(-BIT(47), (SPLIT & PAGE_MASK) + PAGE_SIZE, TABLES + 3 * PAGE_SIZE);
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    CHECK_EQ(run_from(last + 0xFFD), X86_GP);
    CHECK_EQ(fault_rip(true), last + 0xFFD);
    /* at the other end it goes on at address 0 */
    map_at(-(uint64_t)PAGE_SIZE, SPLIT & PAGE_MASK, TABLES + 6 * PAGE_SIZE);
    map_at(0, (SPLIT & PAGE_MASK) + PAGE_SIZE, TABLES);
    e.cpu->gpr[RAX] = 0;
    CHECK_EQ(run_from(-(uint64_t)PAGE_SIZE + 0xFFD), -1);
    CHECK_EQ(e.cpu->gpr[RAX], 0x44332211);
    end();
}

/* --- J5: stale translations of addresses --------------------------------------------------------- */

CODE(load_rbx, "movq (%rbx), %rax\n hlt");

/* As many flushes as generations in a row, all while nothing translated ran. */
static void test_j05_generations_that_come_round(void)
{
    begin();
    cpu_env_put64(&e, DATA, 1);
    cpu_env_put64(&e, DATA + PAGE_SIZE, 2);
    e.cpu->gpr[RBX] = BIT(40);
    PUT_CODE(CPU_ENV_CODE, load_rbx);
    for (uint32_t flushes = 4090; flushes < 4100; flushes++) {
        map_at(BIT(40), DATA, TABLES);
        CHECK_EQ(run_from(CPU_ENV_CODE), -1);
        CHECK_EQ(e.cpu->gpr[RAX], 1);
        cpu_env_put64(&e, TABLES + 2 * PAGE_SIZE, (DATA + PAGE_SIZE) | PTE);
        for (uint32_t n = 0; n < flushes; n++)
            x86_tlb_flush(e.cpu);
        CHECK_EQ(run_from(CPU_ENV_CODE), -1);
        CHECK_EQ(e.cpu->gpr[RAX], 2);
    }
    end();
}

/* --- C1: operands of bit instructions ------------------------------------------------------------- */

CODE(bit_address32, "btsq %rax, (%ebx)\n hlt");

/* With 32-bit addresses the offset counts before the address is cut. */
static void test_c1_bit_offset_and_address_size(void)
{
    begin();
    map_at((DATA + 0x1000) - BIT(32), DATA + 0x2000, TABLES);
    e.cpu->gpr[RBX] = DATA;
    e.cpu->gpr[RAX] = -(BIT(32) - 0x1000) * 8; /* 2^32 bytes below, and a page: cut to the page */
    CHECK_EQ(RUN(bit_address32), -1);
    CHECK_EQ(cpu_env_get64(&e, DATA + 0x1000), 1);
    CHECK_EQ(cpu_env_get64(&e, DATA + 0x2000), 0);
    end();
}

/* --- code that is written other than by stores ------------------------------------------------- */

CODE(write_msr, "wrmsr\n jmp *%rsi");
CODE(touch, "movq (%rbx), %rcx\n jmp *%rsi");
CODE(dirty, "movb $1, (%rbx)\n jmp *%rsi");

enum { MIXED = DATA + 0x30000 }; /* a page of code in which the processor writes */

static void write_msr_and_run(uint32_t index, uint64_t value, uint64_t rip)
{
    e.cpu->gpr[RCX] = index;
    e.cpu->gpr[RAX] = (uint32_t)value;
    e.cpu->gpr[RDX] = 0;
    e.cpu->gpr[RSI] = rip;
    CHECK_EQ(RUN(write_msr), -1);
}

/* KVM's pages: a constant of an instruction is the structure's version. */
static void test_late_kvm_pages(void)
{
    uint64_t at = MIXED;
    begin();
    put_code(at + 0x3F, "\xB8\x00\x00\x00\x00\xF4", 6); /* mov eax, ...; hlt */
    CHECK_EQ(run_from(at + 0x3F), -1);
    CHECK_EQ(e.cpu->gpr[RAX], 0);
    write_msr_and_run(0x4B564D01, (at + 0x40) | 1, at + 0x3F);
    CHECK(e.cpu->gpr[RAX] != 0);
    CHECK_EQ(e.cpu->gpr[RAX], cpu_env_get32(&e, at + 0x40));
    /* steal time, which is the instruction itself; version and flags; a byte of 0, so add cl, cl */
    atomic_store(&e.cpu->steal_ns, UINT64_C(0xB848000000000000));
    at += PAGE_SIZE;
    put_code(at + 0x46, "\x48\xB8\0\0\0\0\0\0\0\0\0\xC9\xF4", 13);
    CHECK_EQ(run_from(at + 0x46), -1);
    write_msr_and_run(0x4B564D03, (at + 0x40) | 1, at + 0x46);
    CHECK(e.cpu->gpr[RAX] != 0);
    CHECK_EQ(e.cpu->gpr[RAX], cpu_env_get32(&e, at + 0x48));
    /* wall clock: jmp by the version, to push rbx; add gs:[rax], al; add [rax], al; hlt */
    at += PAGE_SIZE;
    put_code(at + 0x3F, "\xE9\0\0\0\0\xF4", 6);
    put_code(at + 0x4C, "\xF4", 1);
    CHECK_EQ(run_from(at + 0x3F), -1);
    CHECK_EQ(e.cpu->rip, at + 0x45);
    e.vm.clock.wall_base = UINT64_C(0x6553F100) * 1000000000;
    write_msr_and_run(0x4B564D00, at + 0x40, at + 0x3F);
    CHECK_EQ(e.cpu->rip, at + 0x4D);
    end();
}

/* Accessed and dirty bits: a constant of an instruction is a page table's entry. */
static void test_late_page_table_entry(void)
{
    const uint64_t linear = BIT(40) | 5 << PAGE_SHIFT, entry = TABLES + 2 * PAGE_SIZE + 5 * 8;
    const uint32_t clean = (DATA + 0x1000) | X86_PTE_P | X86_PTE_W;
    uint8_t code[] = {0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0xF4}; /* mov eax, ...; add [rax], al twice; hlt */
    begin();
    map_at(linear, DATA + 0x1000, TABLES);
    store_u32(code + 1, clean);
    put_code(entry - 1, code, sizeof(code));
    CHECK_EQ(run_from(entry - 1), -1);
    CHECK_EQ(e.cpu->gpr[RAX], clean);
    e.cpu->gpr[RBX] = linear;
    e.cpu->gpr[RSI] = entry - 1;
    CHECK_EQ(RUN(touch), -1);
    CHECK_EQ(e.cpu->gpr[RAX], clean | X86_PTE_A);
    CHECK_EQ(RUN(dirty), -1);
    CHECK_EQ(e.cpu->gpr[RAX], clean | X86_PTE_A | X86_PTE_D);
    end();
}

/* --- what is interpreted need not be what was translated --------------------------------------- */

CODE(jump_to_rax, "jmp *%rax");
CODE(jump_on_page, ".byte 0xE9, 0xFB, 0x0F, 0, 0"); /* to the same offset in the next page */
CODE(move_and_halt, "mov $0x11223344, %ebx\n hlt");
CODE(halt, "hlt");

/*
 * The page tables change, and no INVLPG follows: the jump cache may go on with the old page, the
 * interpreter, whose TLB has lost it, finds another instruction there, of the same length. It does
 * not jump: there is nothing behind the translated jump to go on with.
 */
static void test_j02_another_instruction_in_its_place(void)
{
    enum { OLD = DATA + 0x40000, NEW = DATA + 0x41000, NEXT = DATA + 0x42000, AT = 0x100 };
    const uint64_t page = 0x70000000;
    const uint8_t *host;
    begin();
    map_at(page, OLD, TABLES);
    map_at(page + PAGE_SIZE, NEXT, TABLES + 3 * PAGE_SIZE);
    map_at(page + X86_TLB_SIZE * PAGE_SIZE, NEXT, TABLES + 6 * PAGE_SIZE);
    PUT_CODE(OLD + AT, jump_on_page);
    PUT_CODE(NEW + AT, move_and_halt);
    PUT_CODE(NEXT + AT, halt);
    PUT_CODE(CPU_ENV_CODE, jump_to_rax);
    CHECK_EQ(run_from(page + AT), -1);
    CHECK_EQ(e.cpu->rip, page + PAGE_SIZE + AT + 1);
    x86_tlb_flush_page(e.cpu, page + PAGE_SIZE); /* the jump's target is not in the jump cache */
    set_entry(page, NEW, TABLES);
    CHECK_EQ(x86_fetch_host(e.cpu, page + X86_TLB_SIZE * PAGE_SIZE, &host, NULL), X86_OK);
    e.cpu->gpr[RAX] = page + AT;
    CHECK_EQ(run_from(CPU_ENV_CODE), -1);
    CHECK_EQ(e.cpu->gpr[RBX], 0x11223344);
    CHECK_EQ(e.cpu->rip, page + AT + 6);
    end();
}

int main(void)
{
    UNIT_RUN(test_j16_aligned_operand_and_empty_entry);
    UNIT_RUN(test_j16_jump_beside_canonical_addresses);
    UNIT_RUN(test_j02_across_into_the_hole);
    UNIT_RUN(test_j05_generations_that_come_round);
    UNIT_RUN(test_c1_bit_offset_and_address_size);
    UNIT_RUN(test_j02_another_instruction_in_its_place);
    UNIT_RUN(test_late_kvm_pages);
    UNIT_RUN(test_late_page_table_entry);
    return unit_done();
}
