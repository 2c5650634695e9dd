/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * What goes wrong in binary translators, one test each: limits of instructions, code that changes
 * or is seen in another mode, stale translations of addresses, code where there is no RAM, full
 * caches. What concerns the host is in translator_run.c and translator_host.c.
 */
#include "tests/unit/translator_env.h"

#define FLAGS   (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A | X86_PTE_D)
#define FAR_PTE (CPU_ENV_RAM - PAGE_SIZE) /* where map_far writes */
#define UPPER   UINT64_C(0xFFFF800000000000)

enum { FRAME_A = CPU_ENV_DATA, FRAME_B = CPU_ENV_DATA + 0x1000, FRAME_C = CPU_ENV_DATA + 0x2000 };

/* Bytes at FAR + offset, in the frames that are mapped there. */
static void put_far(uint64_t first, uint64_t second, unsigned int offset, const void *bytes,
                    size_t size)
{
    const uint8_t *in = bytes;
    for (size_t n = 0; n < size; n++) {
        uint64_t to = offset + n < PAGE_SIZE ? first + offset + n : second + offset + n - PAGE_SIZE;
        put_code(to, in + n, 1);
    }
}

/* --- J1 --- */

static void test_j01_length_limit(void)
{
    static const unsigned int offsets[] = {0x100, 0xFF0, 0xFF1, 0xFF2, 0xFF8, 0xFFE, 0xFFF};
    begin();
    map_far(0, FRAME_A | FLAGS);
    map_far(1, FRAME_B | FLAGS);
    for (unsigned int n = 0; n < ARRAY_SIZE(offsets); n++) {
        for (unsigned int length = 13; length <= 17; length++) {
            uint8_t code[20];
            memset(code, 0x66, sizeof(code)); /* prefixes, then inc eax, then hlt */
            memcpy(code + length - 2, "\xFF\xC0\xF4", 3);
            put_far(FRAME_A, FRAME_B, offsets[n], code, length + 1);
            for (unsigned int times = 0; times < 3; times++) {
                unit_context("%u bytes at %x", length, offsets[n]);
                e.cpu->gpr[RAX] = 0xFFFF;
                int vector = run_at(FAR + offsets[n], 0);
                CHECK_EQ(vector, length <= 15 ? HALTED : X86_GP);
                CHECK_EQ(e.cpu->gpr[RAX], length <= 15 ? 0 : 0xFFFF);
                if (length > 15)
                    CHECK_EQ(at.rip, FAR + offsets[n]);
            }
        }
    }
    end();
}

/* --- J2 --- */

static void test_j02_split_instruction(void)
{
    begin();
    map_far(0, FRAME_A | FLAGS);
    map_far(1, FRAME_B | FLAGS);
    /* mov eax, imm32; hlt: three bytes on the first page */
    put_far(FRAME_A, FRAME_B, 0xFFD, "\xB8\x11\x22\x33\x44\xF4", 6);
    const uint64_t rip = FAR + 0xFFD;
    for (unsigned int n = 0; n < 3; n++) {
        CHECK_EQ(run_at(rip, 0), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 0x44332211);
    }
    put_far(FRAME_A, FRAME_B, 0x1000, "\x55", 1); /* the second half is rewritten */
    CHECK_EQ(run_at(rip, 0), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 0x44552211);
    CHECK_EQ(run_at(rip, 0), HALTED);
    map_far(1, FRAME_C | FLAGS); /* is another page's */
    put_far(FRAME_A, FRAME_C, 0x1000, "\x66\x77\xF4", 3);
    x86_tlb_flush_page(e.cpu, FAR + PAGE_SIZE);
    CHECK_EQ(run_at(rip, 0), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 0x77662211);
    map_far(1, 0); /* is absent */
    x86_tlb_flush_page(e.cpu, FAR + PAGE_SIZE);
    CHECK_EQ(run_at(rip, 0), X86_PF);
    CHECK_EQ(at.rip, rip);
    CHECK_EQ(e.cpu->cr2, FAR + PAGE_SIZE);
    CHECK_EQ(at.error, X86_PF_I);
    map_far(1, FRAME_B | FLAGS | X86_PTE_NX); /* is data */
    x86_tlb_flush_page(e.cpu, FAR + PAGE_SIZE);
    CHECK_EQ(run_at(rip, 0), X86_PF);
    CHECK_EQ(at.error, X86_PF_I | X86_PF_P);
    map_far(1, FRAME_B | FLAGS); /* and back */
    x86_tlb_flush_page(e.cpu, FAR + PAGE_SIZE);
    CHECK_EQ(run_at(rip, 0), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 0x44552211);
    end();
}

/* --- J3 --- */

static void test_j03_running_block_is_rewritten(void)
{
    begin();
    map_far(0, CPU_ENV_CODE | FLAGS);
    /* mov byte [rbx], 7; mov eax, 5; hlt */
    const uint64_t alias[] = {CPU_ENV_CODE, FAR};
    for (unsigned int n = 0; n < 8; n++) {
        unit_context("turn %u", n);
        e.cpu->gpr[RBX] = alias[n & 1] + 4;
        CHECK_EQ(RUN("\xC6\x03\x07\xB8\x05\x00\x00\x00\xF4"), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 7);
        CHECK_EQ(run_at(n & 2 ? FAR : CPU_ENV_CODE, 0), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 7);
    }
    /* by a store that also goes on in the next page, by a locked one, by PUSH, by REP STOSB */
    e.cpu->gpr[RCX] = 7;
    e.cpu->gpr[RBX] = FAR + 5;
    CHECK_EQ(RUN("\xF0\x00\x0B\x90\xB8\x05\x00\x00\x00\xF4"), HALTED); /* lock add [rbx], cl */
    CHECK_EQ(e.cpu->gpr[RAX], 12);
    e.cpu->gpr[RDI] = FAR + 4;
    e.cpu->gpr[RAX] = 9;
    e.cpu->gpr[RCX] = 1;
    CHECK_EQ(RUN("\xF3\xAA\x90\xB8\x05\x00\x00\x00\xF4"), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 9);
    put_code(CPU_ENV_CODE, "\x53\xB8\x05\x00\x00\x00\x90\x90\x90\x90\xF4", 11); /* push rbx */
    e.cpu->gpr[RBX] = UINT64_C(0x9090909000000008);
    e.cpu->gpr[RSP] = CPU_ENV_CODE + 10;
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 8);
    end();
}

/* --- J4 --- */

static void test_j04_ring(void)
{
    begin();
    put_code(CPU_ENV_CODE, "\x0F\x20\xD8\x90\xF4", 5); /* mov rax, cr3 */
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    for (unsigned int n = 0; n < 6; n++) {
        CHECK_EQ(run_at(CPU_ENV_CODE, n & 1 ? 3 : 0), n & 1 ? X86_GP : HALTED);
        if (n & 1)
            CHECK_EQ(at.rip, CPU_ENV_CODE);
    }
    end();
}

static void test_j04_code_size(void)
{
    begin();
    /* 64-bit: inc rax. 32-bit: dec eax; inc eax */
    put_code(CPU_ENV_CODE, "\x48\xFF\xC0\xF4", 4);
    for (unsigned int n = 0; n < 4; n++) {
        e.cpu->gpr[RAX] = UINT32_MAX;
        CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], BIT(32));
        e.cpu->gpr[RAX] = UINT32_MAX;
        cpu_env_set_compat(&e);
        e.cpu->rip = CPU_ENV_CODE;
        CHECK_EQ(run_on(), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], UINT32_MAX);
    }
    end();
}

static void expect_after(uint64_t *reg, uint64_t set, uint64_t clear, int vector)
{
    uint64_t before = *reg;
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
    *reg = (before | set) & ~clear;
    x86_update_mode(e.cpu);
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), vector);
    if (vector != HALTED)
        CHECK_EQ(at.rip, CPU_ENV_CODE);
    *reg = before;
    x86_update_mode(e.cpu);
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
}

static void test_j04_vector_state(void)
{
    begin();
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    put_code(CPU_ENV_CODE, "\x0F\x57\xC0\x0F\x5E\xC0\xF4", 7); /* xorps, divps: 0/0 */
    expect_after(&e.cpu->cr0, X86_CR0_TS, 0, X86_NM);
    expect_after(&e.cpu->cr0, X86_CR0_EM, 0, X86_UD);
    expect_after(&e.cpu->cr4, 0, X86_CR4_OSFXSR, X86_UD);
    e.cpu->fpu.mxcsr = 0x1F00; /* invalid operations are not masked */
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), X86_XM);
    CHECK_EQ(at.rip, CPU_ENV_CODE + 3);
    e.cpu->fpu.mxcsr = X86_MXCSR_RESET;
    put_code(CPU_ENV_CODE, "\xC5\xF4\x58\xC2\xF4", 5); /* vaddps ymm0, ymm1, ymm2 */
    expect_after(&e.cpu->cr4, 0, X86_CR4_OSXSAVE, X86_UD);
    expect_after(&e.cpu->xcr0, 0, X86_XCR0_AVX, X86_UD);
    /* inside of one block: mov to CR0 sets TS before an instruction that was translated */
    e.cpu->gpr[RAX] = e.cpu->cr0 | X86_CR0_TS;
    CHECK_EQ(RUN("\x0F\x58\xC1\x0F\x22\xC0\x0F\x58\xC1\xF4"), X86_NM);
    CHECK_EQ(at.rip, CPU_ENV_CODE + 6);
    e.cpu->cr0 &= ~X86_CR0_TS;
    /* LDMXCSR unmasks, and the next one raises */
    e.cpu->gpr[RBX] = CPU_ENV_DATA;
    cpu_env_put32(&e, CPU_ENV_DATA, 0x1F00);
    CHECK_EQ(RUN("\x0F\x57\xC0\x0F\xAE\x13\x0F\x5E\xC0\xF4"), X86_XM);
    CHECK_EQ(at.rip, CPU_ENV_CODE + 6);
    end();
}

static void test_j04_smap(void)
{
    begin();
    e.cpu->cr4 |= X86_CR4_SMAP;
    x86_update_mode(e.cpu);
    for (uint64_t page = 0; page < CPU_ENV_RAM; page += PAGE_SIZE)
        *cpu_env_pte(&e, page) &= ~X86_PTE_U;
    map_far(0, FRAME_A | FLAGS);
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RBX] = FAR;
    for (unsigned int n = 0; n < 4; n++) {
        e.cpu->rflags = X86_FLAG_ONE;
        CHECK_EQ(RUN("\x8A\x03\xF4"), X86_PF);
        CHECK_EQ(at.error, X86_PF_P);
        e.cpu->rflags = X86_FLAG_ONE;
        CHECK_EQ(RUN("\x0F\x01\xCB\x8A\x03\x88\x03\x0F\x01\xCA\x90\x8A\x03\xF4"), X86_PF);
        CHECK_EQ(at.rip, CPU_ENV_CODE + 11); /* after stac, two accesses, clac, nop */
        e.cpu->rflags = X86_FLAG_ONE | X86_FLAG_AC;
        CHECK_EQ(run_at(CPU_ENV_CODE + 3, 0), X86_PF);
        CHECK_EQ(at.rip, CPU_ENV_CODE + 11);
    }
    end();
}

/* --- J5 --- */

/* Reads, changes the entry, drops the translation by `drop`, reads again. */
static uint64_t read_again(uint64_t linear, const char *drop, size_t size)
{
    uint8_t code[64];
    size_t n = 0;
    memcpy(code, "\x48\x8B\x03\x48\x8B\x03\x48\x89\x11",
           9); /* mov rax, [rbx], twice; mov [rcx], rdx */
    n = 9;
    memcpy(code + n, drop, size);
    n += size;
    memcpy(code + n, "\x48\x8B\x33\xF4", 4); /* mov rsi, [rbx] */
    put_code(CPU_ENV_CODE, code, n + 4);
    cpu_env_put64(&e, FAR_PTE, FRAME_A | FLAGS | X86_PTE_G);
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RBX] = linear;
    e.cpu->gpr[RCX] = FAR_PTE;
    e.cpu->gpr[RDX] = FRAME_B | FLAGS;
    e.cpu->gpr[RBP] = e.cpu->cr3;
    e.cpu->gpr[R8] = e.cpu->cr4;
    e.cpu->gpr[R9] = e.cpu->cr4 ^ X86_CR4_PGE;
    e.cpu->gpr[RSP] = CPU_ENV_STACK0;
    CHECK_EQ(run_at(CPU_ENV_CODE, 0), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 0xAAAA);
    return e.cpu->gpr[RSI];
}

static void test_j05_stale_addresses(void)
{
    begin();
    e.cpu->cr4 |= X86_CR4_PGE;
    x86_update_mode(e.cpu);
    map_far(0, FRAME_A | FLAGS);
    cpu_env_put64(&e, CPU_ENV_PML4 + 256 * 8, cpu_env_get64(&e, CPU_ENV_PML4));
    cpu_env_put64(&e, FRAME_A, 0xAAAA);
    cpu_env_put64(&e, FRAME_B, 0xBBBB);
    const uint64_t linear[] = {FAR, UPPER + FAR};
    for (unsigned int n = 0; n < 2; n++) {
        CHECK_EQ(read_again(linear[n], "\x0F\x01\x3B", 3), 0xBBBB); /* invlpg [rbx] */
        /* mov cr4, r9; mov cr4, r8 */
        CHECK_EQ(read_again(linear[n], "\x41\x0F\x22\xE1\x41\x0F\x22\xE0", 8), 0xBBBB);
    }
    e.cpu->cr4 &= ~X86_CR4_PGE; /* G means nothing */
    x86_update_mode(e.cpu);
    for (unsigned int n = 0; n < 2; n++)
        CHECK_EQ(read_again(linear[n], "\x0F\x22\xDD", 3), 0xBBBB); /* mov cr3, rbp */
    end();
}

/* Rights that were taken away; and code that is elsewhere now. */
static void test_j05_stale_rights_and_code(void)
{
    begin();
    map_far(0, FRAME_A | FLAGS);
    e.cpu->gpr[RBX] = FAR + 0x800;
    e.cpu->gpr[RCX] = FAR_PTE;
    e.cpu->gpr[RDX] = FRAME_A | (FLAGS & ~X86_PTE_W);
    /* mov [rbx], al; mov [rcx], rdx; invlpg [rbx]; mov [rbx], al */
    CHECK_EQ(RUN("\x88\x03\x48\x89\x11\x0F\x01\x3B\x88\x03\xF4"), X86_PF);
    CHECK_EQ(at.rip, CPU_ENV_CODE + 8);
    CHECK_EQ(at.error, X86_PF_P | X86_PF_W);
    put_code(FRAME_A, "\xB8\x01\x00\x00\x00\xC3", 6); /* mov eax, 1; ret */
    put_code(FRAME_B, "\xB8\x02\x00\x00\x00\xC3", 6);
    map_far(0, FRAME_A | FLAGS);
    x86_tlb_flush(e.cpu);
    e.cpu->gpr[RBX] = FAR;
    e.cpu->gpr[RDX] = FRAME_B | FLAGS;
    /* call rbx, twice; mov esi, eax; mov [rcx], rdx; invlpg [rbx]; call rbx */
    CHECK_EQ(RUN("\xFF\xD3\xFF\xD3\x89\xC6\x48\x89\x11\x0F\x01\x3B\xFF\xD3\xF4"), HALTED);
    CHECK_EQ(e.cpu->gpr[RSI], 1);
    CHECK_EQ(e.cpu->gpr[RAX], 2);
    e.cpu->gpr[RDX] = FRAME_B | FLAGS | X86_PTE_NX;
    CHECK_EQ(RUN("\xFF\xD3\xFF\xD3\x89\xC6\x48\x89\x11\x0F\x01\x3B\xFF\xD3\xF4"), X86_PF);
    CHECK_EQ(at.rip, FAR);
    CHECK_EQ(at.error, X86_PF_P | X86_PF_I);
    end();
}

/* --- J6 --- */

enum { ROM = 0xF0000000 };
static uint8_t rom[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

static void add_rom(void)
{
    /* mov byte [rip + 1], 9, which is the immediate of: mov eax, 5; hlt */
    memcpy(rom, "\xC6\x05\x01\x00\x00\x00\x09\xB8\x05\x00\x00\x00\xF4", 13);
    CHECK_EQ(guest_mem_add(&e.vm.mem, gpa(ROM), sizeof(rom), rom, false), OK);
}

static void test_j06_code_without_ram(void)
{
    before_engine = add_rom;
    begin();
    before_engine = NULL;
    map_far(0, ROM | FLAGS);
    map_far(1, UINT64_C(0x20000000) | FLAGS); /* nothing: all ones */
    map_far(2, UINT64_C(0xFEE00000) | FLAGS); /* local APIC: ID 0, then reserved */
    for (unsigned int n = 0; n < 3; n++) {
        CHECK_EQ(run_at(FAR, 0), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], 5);
        CHECK_EQ(run_at(FAR + PAGE_SIZE, 0), X86_UD);
        CHECK_EQ(at.rip, FAR + PAGE_SIZE);
        e.cpu->gpr[RAX] = 0; /* add [rax], al, as far as there are zeroes */
        int vector = run_at(FAR + 2 * PAGE_SIZE, 0);
        CHECK(vector == HALTED || vector >= 0);
    }
    CHECK_EQ(rom[8], 5);
    /* the last instruction of RAM goes on where there is none */
    map_far(3, FRAME_A | FLAGS);
    map_far(4, UINT64_C(0x20000000) | FLAGS);
    put_code(FRAME_A + 0xFFD, "\xB8\x11\x22", 3);
    e.cpu->gpr[RAX] = 0;
    CHECK_EQ(run_at(FAR + 3 * PAGE_SIZE + 0xFFD, 0), X86_UD);
    CHECK_EQ(e.cpu->gpr[RAX], 0xFFFF2211);
    end();
}

/* --- J7 --- */

/* More blocks than there is room for: each is one jump to the next. The same ones again get more room,
 * up to a bound. */
static void test_j07_full_cache(void)
{
    enum { CHAIN = 0x100000, JUMPS = 400000 };
    begin();
    for (unsigned int n = 0; n < JUMPS; n++)
        memcpy(e.ram + CHAIN + 2 * n, "\xEB\x00", 2);
    e.ram[CHAIN + 2 * JUMPS] = 0xF4;
    for (unsigned int n = 0; n < 4; n++) {
        CHECK_EQ(run_at(CHAIN, 0), HALTED);
        CHECK_EQ(e.cpu->rip, CHAIN + 2 * JUMPS + 1);
    }
    CHECK(stats()->flushes >= 2);
    CHECK(soft_translator(e.cpu)->limit > CODE_FIRST);
    CHECK(soft_translator(e.cpu)->used <= CODE_SIZE);
    end();
}

/* Code that is rewritten at every turn is not translated at every turn. */
static void test_j07_thrashing_page(void)
{
    begin();
    /* inc dword [rip + 1], the immediate of: mov eax, 0; loop to the beginning */
    e.cpu->gpr[RCX] = 20000;
    CHECK_EQ(RUN("\xFF\x05\x01\x00\x00\x00\xB8\x00\x00\x00\x00\xE2\xF3\xF4"), HALTED);
    CHECK_EQ(e.cpu->gpr[RAX], 20000);
    CHECK(stats()->translated < 1000);
    end();
}

/* --- J8 --- */

static void test_j08_end_of_ram(void)
{
    begin();
    map_far(0, (CPU_ENV_RAM - 2 * PAGE_SIZE) | FLAGS);
    map_far(1, CPU_ENV_RAM | FLAGS); /* behind RAM: nothing, reads as ones */
    memset(e.ram + CPU_ENV_RAM - 2 * PAGE_SIZE, 0x11, PAGE_SIZE);
    for (unsigned int n = 0; n < 3; n++) {
        e.cpu->gpr[RBX] = FAR + PAGE_SIZE - 4;
        CHECK_EQ(RUN("\x48\x8B\x03\x48\x8B\x03\xF4"), HALTED); /* mov rax, [rbx] */
        CHECK_EQ(e.cpu->gpr[RAX], UINT64_C(0xFFFFFFFF11111111));
        uint32_t exits = e.exits;
        e.cpu->gpr[RAX] = UINT64_C(0x2222222211111111);
        CHECK_EQ(RUN("\x48\x89\x03\xF4"), HALTED);
        CHECK(e.exits > exits);
        CHECK_EQ(cpu_env_get32(&e, CPU_ENV_RAM - PAGE_SIZE - 4), 0x11111111);
        e.cpu->gpr[RBX] = FAR + PAGE_SIZE - 16; /* vmovups ymm0, [rbx]; vmovups [rbx], ymm0 */
        CHECK_EQ(RUN("\xC5\xFC\x10\x03\xC5\xFC\x11\x03\xF4"), HALTED);
        CHECK_EQ(e.cpu->fpu.xmm[0][0], 0x11);
        CHECK_EQ(e.cpu->fpu.ymm_high[0][0], 0xFF);
        e.cpu->gpr[RBX] = FAR + PAGE_SIZE; /* all of it behind RAM */
        CHECK_EQ(RUN("\x48\x8B\x03\x48\x8B\x03\xF4"), HALTED);
        CHECK_EQ(e.cpu->gpr[RAX], UINT64_MAX);
    }
    end();
}

int main(void)
{
    UNIT_RUN(test_j01_length_limit);
    UNIT_RUN(test_j02_split_instruction);
    UNIT_RUN(test_j03_running_block_is_rewritten);
    UNIT_RUN(test_j04_ring);
    UNIT_RUN(test_j04_code_size);
    UNIT_RUN(test_j04_vector_state);
    UNIT_RUN(test_j04_smap);
    UNIT_RUN(test_j05_stale_addresses);
    UNIT_RUN(test_j05_stale_rights_and_code);
    UNIT_RUN(test_j06_code_without_ram);
    UNIT_RUN(test_j07_full_cache);
    UNIT_RUN(test_j07_thrashing_page);
    UNIT_RUN(test_j08_end_of_ram);
    return unit_done();
}
