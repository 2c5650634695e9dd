/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * Paging and the software TLB. Permissions are compared, for every combination of entry bits,
 * control bits, privilege and access, with a predicate written from SDM 3A 4.6 alone; each access
 * is done on an empty TLB, again on the filled one, and after another kind of access filled it.
 */
#include <string.h>

#include "core/err.h"
#include "tests/lib/cpu_env.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/unit.h"
#include "x86/level.h"
#include "x86/mmu.h"

enum { PAGE = CPU_ENV_DATA, NEXT = PAGE + 4096, TARGET = 0x100000 };
#define LEAF (X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A)

static struct cpu_env e;

static void map(uint64_t linear, uint64_t entry)
{
    *cpu_env_pte(&e, linear) = entry;
    x86_tlb_flush(e.cpu);
}

static int do_access(uint64_t linear, int access)
{
    uint32_t v = 0;
    if (access & X86_WRITE)
        return access & X86_SYSTEM ? x86_write_slow(e.cpu, linear, &v, 4, access)
                                   : x86_write32(e.cpu, linear, 0);
    if (access & X86_EXEC) {
        const uint8_t *host;
        return x86_fetch_host(e.cpu, linear, &host, NULL);
    }
    return access & X86_SYSTEM ? x86_read_slow(e.cpu, linear, &v, 4, access)
                               : x86_read32(e.cpu, linear, &v);
}

/* --- permissions --- */

struct rights_case {
    bool user_page, writable, nx, dirty; /* entry */
    bool wp, smap, smep, ac;
    unsigned int cpl;
    int access;
};

/* SDM 3A 4.6.1, sentence by sentence. */
static bool may(const struct rights_case *c)
{
    bool supervisor_access = c->cpl < 3 || c->access & X86_SYSTEM;
    bool explicit = !(c->access & X86_SYSTEM);
    if (!supervisor_access) {
        if (!c->user_page)
            return false;
        if (c->access & X86_EXEC)
            return !c->nx;
        return !(c->access & X86_WRITE) || c->writable;
    }
    if (c->access & X86_EXEC)
        return !c->nx && !(c->user_page && c->smep);
    if (c->user_page && c->smap && !(c->ac && explicit && c->cpl < 3))
        return false;
    return !(c->access & X86_WRITE) || c->writable || !c->wp;
}

static uint32_t expected_error(const struct rights_case *c)
{
    uint64_t error = X86_PF_P;
    if (c->access & X86_WRITE)
        error |= X86_PF_W;
    if (c->cpl == 3 && !(c->access & X86_SYSTEM))
        error |= X86_PF_U;
    if (c->access & X86_EXEC)
        error |= X86_PF_I; /* NXE is on */
    return (uint32_t)error;
}

static void check_case(const struct rights_case *c, int before)
{
    uint64_t pte = PAGE | X86_PTE_P | (c->user_page ? X86_PTE_U : 0) |
                   (c->writable ? X86_PTE_W : 0) | (c->nx ? X86_PTE_NX : 0) |
                   (c->dirty ? X86_PTE_D : 0);
    map(PAGE, pte);
    if (before >= 0)
        (void)do_access(PAGE + 8, before);
    for (int pass = 0; pass < 2; pass++) {
        int status = do_access(PAGE + 16, c->access);
        CHECK_EQ(status, may(c) ? X86_OK : X86_FAULT);
        if (status == X86_FAULT) {
            CHECK_EQ(e.cpu->fault.vector, X86_PF);
            CHECK_EQ(e.cpu->fault.error, expected_error(c));
            CHECK_EQ(e.cpu->fault.payload, PAGE + 16);
        }
    }
    uint64_t after = *cpu_env_pte(&e, PAGE);
    if (may(c)) {
        CHECK(after & X86_PTE_A);
        CHECK(!(c->access & X86_WRITE) || after & X86_PTE_D);
    }
    if (before < 0 && !(may(c) && c->access & X86_WRITE))
        CHECK_EQ((after & X86_PTE_D) != 0, c->dirty);
}

static void set_control(const struct rights_case *c)
{
    uint64_t wp = c->wp ? X86_CR0_WP : 0;
    e.cpu->cr0 = (e.cpu->cr0 & ~X86_CR0_WP) | wp;
    e.cpu->cr4 &= ~(X86_CR4_SMAP | X86_CR4_SMEP);
    e.cpu->cr4 |= (c->smap ? X86_CR4_SMAP : 0) | (c->smep ? X86_CR4_SMEP : 0);
    e.cpu->rflags = X86_FLAG_ONE | (c->ac ? X86_FLAG_AC : 0);
    x86_update_mode(e.cpu);
}

static void test_permissions(void)
{
    static const int accesses[] = {X86_READ, X86_WRITE, X86_EXEC, X86_READ | X86_SYSTEM,
                                   X86_WRITE | X86_SYSTEM};
    cpu_env_create(&e, CPU_ENV_LONG);
    for (unsigned int cpl = 0; cpl < 4; cpl += 3) {
        cpu_env_set_cpl(&e, cpl);
        for (unsigned int bits = 0; bits < 256; bits++) {
            struct rights_case c = {bits & 1,  bits & 2,  bits & 4,   bits & 8, bits & 16,
                                    bits & 32, bits & 64, bits & 128, cpl,      0};
            set_control(&c);
            for (unsigned int a = 0; a < ARRAY_SIZE(accesses); a++) {
                c.access = accesses[a];
                unit_context("cpl %u bits %02x access %d", cpl, bits, c.access);
                check_case(&c, -1);
                check_case(&c, X86_READ);
                check_case(&c, X86_EXEC);
                check_case(&c, X86_READ | X86_SYSTEM);
            }
        }
    }
    unit_context(NULL);
    cpu_env_destroy(&e);
}

/* Contexts must not leak into each other: a page that CPL 0 used is still closed to CPL 3. */
static void test_contexts(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    map(PAGE, PAGE | X86_PTE_P | X86_PTE_W); /* supervisor */
    CHECK_EQ(do_access(PAGE, X86_WRITE), X86_OK);
    cpu_env_set_cpl(&e, 3);
    CHECK_EQ(do_access(PAGE, X86_READ), X86_FAULT);
    CHECK_EQ(e.cpu->fault.error, X86_PF_P | X86_PF_U);
    CHECK_EQ(do_access(PAGE, X86_READ | X86_SYSTEM), X86_OK);
    CHECK_EQ(do_access(PAGE, X86_READ), X86_FAULT);
    cpu_env_destroy(&e);
}

/* --- entries of all sizes and modes --- */

static void put_marker(uint64_t physical, uint32_t marker)
{
    cpu_env_put32(&e, physical, marker);
}

static void check_reads(uint64_t linear, uint32_t marker)
{
    uint32_t v = 0;
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_read32(e.cpu, linear, &v), X86_OK);
    CHECK_EQ(v, marker);
}

static void check_fault(uint64_t linear, uint64_t error)
{
    uint32_t v;
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_read32(e.cpu, linear, &v), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_PF);
    CHECK_EQ(e.cpu->fault.error, error);
    CHECK_EQ(e.cpu->fault.payload, linear);
}

static void test_large_pages(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    put_marker(0x212345 & ~3u, 0x11223344);
    /* 2 MiB: linear 0xE00000 (PD entry 7) -> 0x200000 */
    cpu_env_put64(&e, CPU_ENV_PD + 7 * 8, 0x200000 | LEAF | X86_PTE_PS);
    check_reads(0xE12344, 0x11223344);
    CHECK(!(cpu_env_get64(&e, CPU_ENV_PD + 7 * 8) & X86_PTE_D));
    CHECK_EQ(do_access(0xE12344, X86_WRITE), X86_OK);
    CHECK(cpu_env_get64(&e, CPU_ENV_PD + 7 * 8) & X86_PTE_D);
    cpu_env_put64(&e, CPU_ENV_PD + 7 * 8, 0x200000 | BIT(13) | LEAF | X86_PTE_PS);
    check_fault(0xE12344, X86_PF_P | X86_PF_R);
    cpu_env_put64(&e, CPU_ENV_PD + 7 * 8, 0x200000 | BIT(12) | LEAF | X86_PTE_PS); /* PAT bit */
    check_reads(0xE12344, 0);

    /* 1 GiB: linear 1 GiB + x -> x */
    put_marker(0x345678, 0x55667788);
    cpu_env_put64(&e, CPU_ENV_PDPT + 8, 0 | LEAF | X86_PTE_PS);
    check_reads(GIB(1) + 0x345678, 0x55667788);
    cpu_env_put64(&e, CPU_ENV_PDPT + 8, BIT(29) | LEAF | X86_PTE_PS);
    check_fault(GIB(1) + 0x345678, X86_PF_P | X86_PF_R);
    cpu_env_put64(&e, CPU_ENV_PDPT + 8, 0 | LEAF | X86_PTE_PS);
    e.cpu->level = x86_level_find("v2"); /* without 1 GiB pages PS is reserved */
    check_fault(GIB(1) + 0x345678, X86_PF_P | X86_PF_R);
    cpu_env_destroy(&e);
}

static void test_reserved_bits(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    for (unsigned int bit = e.cpu->level->physical_bits; bit < 52; bit++) {
        *cpu_env_pte(&e, PAGE) = PAGE | LEAF | BIT(bit);
        check_fault(PAGE, X86_PF_P | X86_PF_R);
    }
    for (unsigned int bit = 52; bit < 63; bit++) { /* ignored */
        *cpu_env_pte(&e, PAGE) = PAGE | LEAF | BIT(bit);
        check_reads(PAGE, 0);
    }
    *cpu_env_pte(&e, PAGE) = PAGE | LEAF | X86_PTE_NX;
    check_reads(PAGE, 0);
    e.cpu->efer &= ~X86_EFER_NXE;
    x86_update_mode(e.cpu);
    check_fault(PAGE, X86_PF_P | X86_PF_R);
    *cpu_env_pte(&e, PAGE) = (PAGE | LEAF | BIT(45)) & ~X86_PTE_P; /* not present comes first */
    check_fault(PAGE, 0);
    *cpu_env_pte(&e, PAGE) = PAGE | LEAF;
    cpu_env_put64(&e, CPU_ENV_PML4, CPU_ENV_PDPT | LEAF | X86_PTE_PS);
    check_fault(PAGE, X86_PF_P | X86_PF_R);
    cpu_env_destroy(&e);
}

static void test_pae(void)
{
    cpu_env_create(&e, CPU_ENV_PAGED);
    put_marker(PAGE, 0xABCD);
    check_reads(PAGE, 0xABCD);
    CHECK_EQ(do_access(PAGE, X86_WRITE), X86_OK);
    *cpu_env_pte(&e, PAGE) = PAGE | LEAF | BIT(52); /* reserved here */
    check_fault(PAGE, X86_PF_P | X86_PF_R);
    *cpu_env_pte(&e, PAGE) = PAGE | LEAF | X86_PTE_NX;
    x86_tlb_flush(e.cpu);
    CHECK_EQ(do_access(PAGE, X86_EXEC), X86_FAULT);
    CHECK_EQ(e.cpu->fault.error, X86_PF_P | X86_PF_I);

    /* the registers count, not memory, until CR3 is written */
    cpu_env_put64(&e, CPU_ENV_PDPT, 0);
    check_reads(PAGE, 0);
    CHECK_EQ(x86_write_cr3(e.cpu, CPU_ENV_PDPT), X86_OK);
    check_fault(PAGE, 0);
    cpu_env_put64(&e, CPU_ENV_PDPT, CPU_ENV_PD | X86_PTE_P | X86_PTE_W); /* W is reserved */
    CHECK_EQ(x86_write_cr3(e.cpu, CPU_ENV_PDPT), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_GP);
    CHECK_EQ(x86_write_cr3(e.cpu, 0xF0000000), X86_FAULT); /* not in memory: all ones */
    CHECK_EQ(e.cpu->cr3, CPU_ENV_PDPT);
    cpu_env_destroy(&e);
}

static void start_32bit(void)
{
    cpu_env_create(&e, CPU_ENV_PROTECTED);
    cpu_env_put32(&e, 0x1000, 0x2000 | LEAF); /* first 4 MiB by pages, identity */
    for (uint32_t i = 0; i < 1024; i++)
        cpu_env_put32(&e, 0x2000 + i * 4, i << 12 | LEAF);
    CHECK_EQ(x86_write_cr3(e.cpu, 0x1000), X86_OK);
    CHECK_EQ(x86_write_cr0(e.cpu, e.cpu->cr0 | X86_CR0_PG), X86_OK);
    CHECK_EQ(e.cpu->paging, X86_PAGING_32BIT);
}

static void test_32bit(void)
{
    start_32bit();
    put_marker(PAGE, 77);
    check_reads(PAGE, 77);
    CHECK_EQ(cpu_env_get32(&e, 0x2000 + (PAGE >> 12) * 4) & X86_PTE_D, 0);
    CHECK_EQ(do_access(PAGE, X86_WRITE), X86_OK);
    CHECK(cpu_env_get32(&e, 0x2000 + (PAGE >> 12) * 4) & X86_PTE_D);
    cpu_env_put32(&e, 0x2000 + (PAGE >> 12) * 4, PAGE | X86_PTE_P);
    CHECK_EQ(do_access(PAGE, X86_READ), X86_OK);
    x86_tlb_flush(e.cpu);
    CHECK_EQ(do_access(PAGE, X86_WRITE), X86_FAULT);
    CHECK_EQ(e.cpu->fault.error, X86_PF_P | X86_PF_W);

    /* without PSE bit 7 is ignored; with it the entry maps 4 MiB, bits 20:13 being 39:32 */
    put_marker(0x401238, 99);
    cpu_env_put32(&e, 0x1000 + 4 * 4, 0x400000 | LEAF | (uint32_t)X86_PTE_PS);
    cpu_env_put32(&e, 0x400000 + 1 * 4, 0x401000 | LEAF);
    check_reads(0x1001238, 99);
    CHECK_EQ(x86_write_cr4(e.cpu, e.cpu->cr4 | X86_CR4_PSE), X86_OK);
    check_reads(0x1001238, 99);
    check_reads(0x1000004, 0x401000 | LEAF); /* now the table itself is what is mapped */
    cpu_env_put32(&e, 0x1000 + 4 * 4, 0x400000 | LEAF | (uint32_t)X86_PTE_PS | 1 << 21);
    check_fault(0x1001238, X86_PF_P | X86_PF_R);
    cpu_env_put32(&e, 0x1000 + 4 * 4,
                  0x400000 | LEAF | (uint32_t)X86_PTE_PS | 1 << 20); /* bit 39 */
    check_fault(0x1001238, X86_PF_P | X86_PF_R);
    struct gpa physical;
    cpu_env_put32(&e, 0x1000 + 4 * 4, 0x400000 | LEAF | (uint32_t)X86_PTE_PS | 5 << 13);
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_translate(e.cpu, 0x1001238, X86_READ, &physical), X86_OK);
    CHECK_EQ(physical.v, (UINT64_C(5) << 32) + 0x401238);
    cpu_env_destroy(&e);
}

/* --- tables in the wrong places --- */

static void test_bad_tables(void)
{
    uint64_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    /* beyond RAM, at every level: all ones, so reserved bits */
    const uint64_t tables[] = {CPU_ENV_PML4, CPU_ENV_PDPT, CPU_ENV_PD};
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        uint64_t old = cpu_env_get64(&e, tables[i]);
        cpu_env_put64(&e, tables[i], 0x3FFFFFF000 | LEAF);
        check_fault(PAGE, X86_PF_P | X86_PF_R);
        cpu_env_put64(&e, tables[i], old);
    }
    e.cpu->cr3 = 0x7000000000;
    check_fault(PAGE, X86_PF_P | X86_PF_R);
    /* every entry points at its own table */
    e.cpu->cr3 = CPU_ENV_PML4;
    for (uint64_t i = 0; i < 512; i++)
        cpu_env_put64(&e, CPU_ENV_PML4 + i * 8, CPU_ENV_PML4 | LEAF);
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_read64(e.cpu, 0x123456789000, &v), X86_OK);
    CHECK_EQ(v & ~(X86_PTE_A | X86_PTE_D), (CPU_ENV_PML4 | LEAF) & ~X86_PTE_A);
    cpu_env_destroy(&e);

    /* 32-bit entries that are not there map the last page, which is not there either */
    start_32bit();
    cpu_env_put32(&e, 0x1000 + 8, 0xF0000000 | LEAF);
    e.exits = 0;
    uint32_t w = 0;
    CHECK_EQ(x86_read32(e.cpu, 0x800000, &w), X86_OK);
    CHECK_EQ(w, UINT32_MAX);
    CHECK_EQ(e.exits, 1);
    CHECK_EQ(e.last_exit.mmio.address.v, 0xFFFFF000);
    cpu_env_destroy(&e);
}

/* Random tables, random accesses, all modes: nothing to compare, but sanitizers watch. */
static void test_random_tables(void)
{
    uint64_t seed = 12345;
    for (int mode = CPU_ENV_PAGED; mode <= CPU_ENV_LONG; mode++) {
        cpu_env_create(&e, (enum cpu_env_mode)mode);
        for (int round = 0; round < 200; round++) {
            for (uint64_t a = CPU_ENV_PML4; a < CPU_ENV_GDT; a += 8) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                uint64_t near = (seed >> 20 & 0x7FF000) | (seed >> 52 & 0xFFF) | X86_PTE_P;
                cpu_env_put64(&e, a, seed >> 40 & 3 ? near : seed);
            }
            memcpy(e.cpu->pdpte, e.ram + CPU_ENV_PDPT, sizeof(e.cpu->pdpte));
            cpu_env_set_cpl(&e, seed >> 33 & 1 ? 3 : 0);
            x86_tlb_flush(e.cpu);
            for (int i = 0; i < 200; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                uint8_t buf[64] = {0};
                uint64_t linear = mode == CPU_ENV_LONG ? seed >> 17 : (uint32_t)(seed >> 30);
                if (i & 1)
                    (void)x86_read_slow(e.cpu, linear, buf, 1 + (uint32_t)(seed >> 58), X86_READ);
                else
                    (void)x86_write_slow(e.cpu, linear, buf, 1 + (uint32_t)(seed >> 58), X86_WRITE);
                (void)do_access(linear, X86_EXEC);
            }
        }
        CHECK(e.cpu->tlb_misses > 0);
        cpu_env_destroy(&e);
    }
}

/* --- marking --- */

static void test_lost_race(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    *cpu_env_pte(&e, PAGE) = PAGE | X86_PTE_P | X86_PTE_W;
    struct mmu_walk w = {.linear = PAGE};
    CHECK(mmu_walk(e.cpu, &w));
    *cpu_env_pte(&e, PAGE) = 0; /* another processor unmaps */
    CHECK(!mmu_mark(e.cpu, &w, true));
    CHECK_EQ(*cpu_env_pte(&e, PAGE), 0);
    cpu_env_destroy(&e);
}

static void test_tables_in_rom(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    uint8_t *rom = seam_pages_alloc(1);
    CHECK_EQ(guest_mem_add(&e.vm.mem, gpa(0x10000000), PAGE_SIZE, rom, false), OK);
    store_u64(rom, TARGET | X86_PTE_P | X86_PTE_W);
    cpu_env_put64(&e, CPU_ENV_PD + 6 * 8, 0x10000000 | LEAF); /* page table in ROM: 0xC00000 */
    CHECK_EQ(x86_write32(e.cpu, 0xC00010, 5), X86_OK);
    CHECK_EQ(cpu_env_get32(&e, TARGET + 0x10), 5);
    CHECK_EQ(load_u64(rom), TARGET | X86_PTE_P | X86_PTE_W); /* neither A nor D */
    x86_cpu_destroy(e.cpu);
    seam_pages_free(rom, 1);
    seam_pages_free(e.ram, CPU_ENV_RAM >> PAGE_SHIFT);
}

/* --- ROM and MMIO --- */

static struct exit seen[16];
static unsigned int seen_count;

static int record_exit(struct vcpu *v, struct exit *x)
{
    (void)v;
    if (seen_count < ARRAY_SIZE(seen))
        seen[seen_count] = *x;
    seen_count++;
    if (!x->mmio.write)
        x->mmio.value = 0x8877665544332211;
    return OK;
}

static void test_rom(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    uint8_t *rom = seam_pages_alloc(1);
    CHECK_EQ(guest_mem_add(&e.vm.mem, gpa(0x10000000), PAGE_SIZE, rom, false), OK);
    store_u32(rom + 8, 0xDDCCBBAA);
    map(PAGE, 0x10000000 | LEAF | X86_PTE_D);
    uint32_t v;
    void *host;
    const uint8_t *code;
    struct gpa physical;
    for (int pass = 0; pass < 2; pass++) {
        CHECK_EQ(x86_read32(e.cpu, PAGE + 8, &v), X86_OK);
        CHECK_EQ(v, 0xDDCCBBAA);
        CHECK_EQ(x86_write32(e.cpu, PAGE + 8, 1), X86_OK);
        CHECK_EQ(x86_mem_host(e.cpu, PAGE + 8, 4, X86_WRITE, &host), X86_OK);
        CHECK(host == NULL);
        CHECK_EQ(x86_rmw_begin(e.cpu, PAGE + 8, 4, true, &host), X86_OK);
        CHECK(host == NULL);
        CHECK_EQ(x86_mem_host(e.cpu, PAGE + 8, 4, X86_READ, &host), X86_OK);
        CHECK(host == rom + 8);
        CHECK_EQ(x86_fetch_host(e.cpu, PAGE + 8, &code, &physical), X86_OK);
        CHECK(code == rom + 8);
        CHECK_EQ(physical.v, 0x10000008);
    }
    CHECK_EQ(e.exits, 0);
    x86_cpu_destroy(e.cpu);
    seam_pages_free(rom, 1);
    seam_pages_free(e.ram, CPU_ENV_RAM >> PAGE_SHIFT);
}

static void test_mmio_pieces(void)
{
    /* table: offset in page, size, expected pieces */
    static const struct {
        uint32_t offset, size;
        uint8_t pieces[8];
    } cases[] = {
        {0, 8, {8}},     {0, 4, {4}},    {4, 8, {4, 4}}, {2, 4, {2, 2}},  {1, 8, {1, 2, 4, 1}},
        {8, 16, {8, 8}}, {3, 2, {1, 1}}, {0, 1, {1}},    {6, 10, {2, 8}},
    };
    cpu_env_create(&e, CPU_ENV_LONG);
    e.vm.handle_exit = record_exit;
    map(PAGE, 0xE0000000 | LEAF);
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
        for (int write = 0; write < 2; write++) {
            uint8_t buf[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
            unit_context("case %zu write %d", c, write);
            seen_count = 0;
            if (write)
                CHECK_EQ(
                    x86_write_slow(e.cpu, PAGE + cases[c].offset, buf, cases[c].size, X86_WRITE),
                    X86_OK);
            else
                CHECK_EQ(x86_read_slow(e.cpu, PAGE + cases[c].offset, buf, cases[c].size, X86_READ),
                         X86_OK);
            uint64_t at = 0xE0000000 + cases[c].offset;
            uint32_t done = 0;
            for (unsigned int i = 0; i < 8 && cases[c].pieces[i]; i++) {
                CHECK_EQ(seen[i].mmio.address.v, at + done);
                CHECK_EQ(seen[i].mmio.size, cases[c].pieces[i]);
                CHECK_EQ(seen[i].mmio.write, write);
                if (write)
                    CHECK_EQ(seen[i].mmio.value & 0xFF, done + 1);
                else
                    CHECK_EQ(buf[done], 0x11);
                done += cases[c].pieces[i];
            }
            CHECK_EQ(done, cases[c].size);
        }
    }
    unit_context(NULL);
    cpu_env_destroy(&e);
}

static void test_apic_page(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    map(PAGE, 0xFEE00000 | LEAF);
    uint32_t v = 0;
    uint8_t b = 0;
    CHECK_EQ(x86_write32(e.cpu, PAGE + 0x80, 0x50), X86_OK); /* TPR */
    CHECK_EQ(x86_read32(e.cpu, PAGE + 0x80, &v), X86_OK);
    CHECK_EQ(v, 0x50);
    CHECK_EQ(lapic_get_cr8(e.cpu), 5);
    CHECK_EQ(x86_read8(e.cpu, PAGE + 0x80, &b), X86_OK);
    CHECK_EQ(b, 0x50);
    CHECK_EQ(x86_write8(e.cpu, PAGE + 0x80, 0x10), X86_OK); /* not a 32-bit access: dropped */
    CHECK_EQ(lapic_get_cr8(e.cpu), 5);
    CHECK_EQ(e.exits, 0);
    cpu_env_destroy(&e);
}

/* --- page crossing --- */

static void test_crossing(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    uint64_t v = 0;
    map(PAGE, TARGET | LEAF);
    map(NEXT, (TARGET + 0x5000) | LEAF); /* not adjacent physically */
    CHECK_EQ(x86_write64(e.cpu, NEXT - 3, 0x8877665544332211), X86_OK);
    CHECK_EQ(x86_read64(e.cpu, NEXT - 3, &v), X86_OK);
    CHECK_EQ(v, 0x8877665544332211);
    CHECK_EQ(e.ram[TARGET + 0xFFF], 0x33);
    CHECK_EQ(e.ram[TARGET + 0x5000], 0x44);

    /* the second page faults: nothing is stored, CR2 is its first byte */
    map(NEXT, 0);
    CHECK_EQ(x86_write64(e.cpu, NEXT - 3, 0), X86_FAULT);
    CHECK_EQ(e.cpu->fault.payload, NEXT);
    CHECK_EQ(e.cpu->fault.error, X86_PF_W);
    CHECK_EQ(e.ram[TARGET + 0xFFF], 0x33);
    void *host;
    CHECK_EQ(x86_rmw_begin(e.cpu, NEXT - 1, 2, false, &host), X86_FAULT);
    map(NEXT, 0xE0000000 | LEAF);
    CHECK_EQ(x86_rmw_begin(e.cpu, NEXT - 1, 2, false, &host), X86_OK);
    CHECK(host == NULL);
    e.exits = 0;
    CHECK_EQ(x86_write16(e.cpu, NEXT - 1, 0xAABB), X86_OK); /* RAM and MMIO */
    CHECK_EQ(e.ram[TARGET + 0xFFF], 0xBB);
    CHECK_EQ(e.exits, 1);
    CHECK_EQ(e.last_exit.mmio.value, 0xAA);
    cpu_env_destroy(&e);
}

static void test_rmw(void)
{
    void *host;
    cpu_env_create(&e, CPU_ENV_LONG);
    for (int pass = 0; pass < 2; pass++) { /* miss, hit */
        CHECK_EQ(x86_rmw_begin(e.cpu, PAGE + 60, 4, true, &host), X86_OK);
        CHECK(host == e.ram + PAGE + 60);
        CHECK_EQ(x86_rmw_begin(e.cpu, PAGE + 61, 4, true, &host), X86_OK);
        CHECK(host == NULL); /* crosses a line */
        CHECK_EQ(x86_rmw_begin(e.cpu, PAGE + 61, 4, false, &host), X86_OK);
        CHECK(host == e.ram + PAGE + 61);
    }
    vcpu_enter(&e.cpu->vcpu); /* as its thread does */
    x86_lock_begin(e.cpu);
    CHECK_EQ(x86_write32(e.cpu, PAGE + 61, 42), X86_OK);
    x86_lock_end(e.cpu);
    vcpu_leave(&e.cpu->vcpu);
    CHECK_EQ(cpu_env_get32(&e, PAGE + 61), 42);
    cpu_env_destroy(&e);
}

/* --- what keeps pages out of the fast path --- */

static void test_code_written(void)
{
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->code_page = (uint64_t)(uintptr_t)(e.ram + PAGE);
    CHECK_EQ(x86_write32(e.cpu, NEXT, 1), X86_OK);
    CHECK(!e.cpu->code_written);
    CHECK_EQ(x86_write32(e.cpu, PAGE + 4, 1), X86_OK); /* miss */
    CHECK(e.cpu->code_written);
    e.cpu->code_written = false;
    CHECK_EQ(x86_write32(e.cpu, PAGE + 8, 1), X86_OK); /* hit */
    CHECK(e.cpu->code_written);
    e.cpu->code_written = false;
    CHECK_EQ(x86_write64(e.cpu, PAGE - 4, 1), X86_OK); /* only the second page */
    CHECK(e.cpu->code_written);
    cpu_env_destroy(&e);
}

/* --- pages of code that the processor writes by itself --- */

static uint64_t dropped[64];
static unsigned int drops;

static void note_dropped(struct vm *vm, const uint8_t *host, size_t size)
{
    (void)vm;
    CHECK_EQ(size, 4096);
    if (drops < ARRAY_SIZE(dropped))
        dropped[drops] = (uint64_t)(host - e.ram);
    drops++;
}

/* Few pages that lie far apart, and more than are remembered one by one. */
static void test_late_code(void)
{
    static _Atomic uint32_t state[CPU_ENV_RAM / 4096];
    static const unsigned int counts[] = {1, 2, X86_LATE_PAGES, X86_LATE_PAGES + 1, 40};
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->vcpu.vm->mem.slot[0].page_state = state;
    e.cpu->vcpu.vm->code_written = note_dropped;
    for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
        unsigned int count = counts[c], stride = CPU_ENV_RAM / 4096 / count;
        memset(state, 0, sizeof(state));
        drops = 0;
        for (unsigned int n = 0; n < count; n++)
            atomic_fetch_or(&state[n * stride], GUEST_PAGE_CODE);
        x86_write_late(e.cpu, e.ram + 4096); /* no code there */
        CHECK(!e.cpu->late_code);
        for (unsigned int twice = 0; twice < 2; twice++)
            for (unsigned int n = 0; n < count; n++)
                x86_write_late(e.cpu, e.ram + (uint64_t)n * stride * 4096 + 8);
        CHECK(e.cpu->late_code);
        x86_drop_late_code(e.cpu);
        CHECK(!e.cpu->late_code);
        CHECK_EQ(drops, count);
        for (unsigned int n = 0; n < count; n++) {
            CHECK_EQ(dropped[n], (uint64_t)n * stride * 4096);
            CHECK(!(atomic_load(&state[n * stride]) & GUEST_PAGE_LATE));
        }
    }
    e.cpu->vcpu.vm->mem.slot[0].page_state = NULL;
    cpu_env_destroy(&e);
}

static void test_alignment_check(void)
{
    uint32_t v;
    uint64_t wide[2];
    void *host;
    cpu_env_create(&e, CPU_ENV_LONG);
    e.cpu->cr0 |= X86_CR0_AM;
    e.cpu->rflags |= X86_FLAG_AC;
    x86_update_mode(e.cpu);
    CHECK_EQ(x86_read32(e.cpu, PAGE + 1, &v), X86_OK); /* CPL 0: never */
    cpu_env_set_cpl(&e, 3);
    for (int pass = 0; pass < 2; pass++) {
        CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
        CHECK_EQ(x86_read32(e.cpu, PAGE + 2, &v), X86_FAULT);
        CHECK_EQ(e.cpu->fault.vector, X86_AC);
        CHECK(e.cpu->fault.has_error && e.cpu->fault.error == 0);
        CHECK_EQ(x86_write16(e.cpu, PAGE + 2, 0), X86_OK);
        CHECK_EQ(x86_write16(e.cpu, PAGE + 3, 0), X86_FAULT);
        CHECK_EQ(x86_rmw_begin(e.cpu, PAGE + 4, 8, true, &host), X86_FAULT);
        CHECK_EQ(x86_read_bytes(e.cpu, PAGE + 3, wide, 16), X86_OK);
        CHECK_EQ(x86_read_slow(e.cpu, PAGE + 1, &v, 4, X86_READ | X86_SYSTEM), X86_OK);
    }
    *cpu_env_pte(&e, NEXT) = 0; /* a page fault comes first */
    x86_tlb_flush(e.cpu);
    CHECK_EQ(x86_read32(e.cpu, NEXT - 2, &v), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_PF);
    cpu_env_destroy(&e);
}

static void set_breakpoint(unsigned int n, uint64_t address, unsigned int kind, unsigned int len)
{
    e.cpu->dr[n] = address;
    e.cpu->dr7 = X86_DR7_FIXED | BIT(2 * n) | (uint64_t)(len << 2 | kind) << (16 + 4 * n);
    x86_tlb_flush(e.cpu);
}

static void test_data_breakpoints(void)
{
    uint32_t v;
    void *host;
    cpu_env_create(&e, CPU_ENV_LONG);
    set_breakpoint(2, PAGE + 0x100, 1, 3); /* 4 bytes, writes */
    CHECK_EQ(x86_read32(e.cpu, PAGE + 0x100, &v), X86_OK);
    CHECK_EQ(e.cpu->debug_pending, 0);
    for (int pass = 0; pass < 2; pass++) {
        CHECK_EQ(x86_write32(e.cpu, PAGE + 0x104, 1), X86_OK);
        CHECK_EQ(e.cpu->debug_pending, 0);
        CHECK_EQ(x86_write32(e.cpu, PAGE + 0xFE, 1), X86_OK); /* overlaps by two bytes */
        CHECK_EQ(e.cpu->debug_pending, 4);
        e.cpu->debug_pending = 0;
        CHECK_EQ(x86_mem_host(e.cpu, PAGE, 4, X86_WRITE, &host), X86_OK);
        CHECK(host == NULL);
        CHECK_EQ(x86_mem_host(e.cpu, PAGE, 4, X86_READ, &host), X86_OK);
        CHECK(host != NULL);
    }
    set_breakpoint(0, PAGE + 0x101, 3, 0); /* one byte, reads and writes */
    for (int pass = 0; pass < 2; pass++) {
        CHECK_EQ(x86_read32(e.cpu, PAGE + 0x100, &v), X86_OK);
        CHECK_EQ(e.cpu->debug_pending, 1);
        e.cpu->debug_pending = 0;
        CHECK_EQ(x86_read32(e.cpu, PAGE + 0x102, &v), X86_OK);
        CHECK_EQ(e.cpu->debug_pending, 0);
    }
    cpu_env_destroy(&e);
}

/* --- flushing --- */

static void test_flush(void)
{
    uint32_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    put_marker(TARGET, 1);
    put_marker(TARGET + 4096, 2);
    map(PAGE, TARGET | LEAF);
    CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
    *cpu_env_pte(&e, PAGE) = (TARGET + 4096) | LEAF;
    CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
    CHECK_EQ(v, 1); /* still the old one: there is a TLB */
    uint64_t generation = e.cpu->tlb_generation[0];
    x86_tlb_flush_page(e.cpu, PAGE);
    CHECK_EQ(e.cpu->tlb_generation[0], generation);
    CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
    CHECK_EQ(v, 2);

    /* a piece of a large page: INVLPG of any address in it must drop all pieces */
    cpu_env_put64(&e, CPU_ENV_PD + 7 * 8, 0x000000 | LEAF | X86_PTE_PS);
    put_marker(0x300000, 3);
    CHECK_EQ(x86_read32(e.cpu, 0xF00000, &v), X86_OK);
    cpu_env_put64(&e, CPU_ENV_PD + 7 * 8, 0x200000 | LEAF | X86_PTE_PS);
    x86_tlb_flush_page(e.cpu, 0xE00000);
    CHECK_EQ(x86_read32(e.cpu, 0xF00000, &v), X86_OK);
    CHECK_EQ(v, 3);

    /* generations wrap: nothing old comes back to life */
    for (uint32_t i = 0; i < 9000; i++) {
        *cpu_env_pte(&e, PAGE) = (TARGET + (i & 1) * 4096) | LEAF;
        x86_tlb_flush(e.cpu);
        CHECK(e.cpu->tlb_generation[0] >= 1 && e.cpu->tlb_generation[0] < 4096);
        CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
        CHECK_EQ(v, 1 + (i & 1));
    }
    cpu_env_destroy(&e);
}

static void test_cr3_write_flushes(void)
{
    uint32_t v;
    cpu_env_create(&e, CPU_ENV_LONG);
    put_marker(TARGET, 1);
    map(PAGE, TARGET | LEAF);
    CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_OK);
    *cpu_env_pte(&e, PAGE) = 0;
    CHECK_EQ(x86_write_cr3(e.cpu, CPU_ENV_PML4), X86_OK);
    CHECK_EQ(x86_read32(e.cpu, PAGE, &v), X86_FAULT);
    cpu_env_destroy(&e);
}

/* --- fetch --- */

static void test_fetch(void)
{
    uint8_t buf[15];
    uint32_t got;
    cpu_env_create(&e, CPU_ENV_LONG);
    memset(e.ram + PAGE, 0x90, 0x2000);
    e.cpu->rip = PAGE;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_OK);
    CHECK_EQ(got, 15);
    e.cpu->rip = NEXT - 5;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_OK);
    CHECK_EQ(got, 15);
    map(NEXT, 0);
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_OK);
    CHECK_EQ(got, 5);
    CHECK_EQ(e.cpu->fault.vector, X86_PF);
    CHECK_EQ(e.cpu->fault.payload, NEXT);
    e.cpu->rip = NEXT;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_FAULT);
    CHECK_EQ(e.cpu->fault.error, X86_PF_I);

    map(PAGE, 0xE0000000 | LEAF); /* MMIO: an invalid instruction, and no device is asked */
    e.cpu->rip = PAGE;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_OK);
    CHECK_EQ(buf[0], 0xFF);
    CHECK_EQ(buf[14], 0xFF);
    CHECK_EQ(e.exits, 0);
    CHECK_EQ(x86_step(e.cpu), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_UD);

    e.cpu->rip = UINT64_C(0x0000800000000000);
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_GP);
    cpu_env_destroy(&e);

    cpu_env_create(&e, CPU_ENV_REAL); /* the limit of CS */
    e.cpu->rip = 0xFFFE;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_OK);
    CHECK_EQ(got, 2);
    CHECK_EQ(e.cpu->fault.vector, X86_GP);
    e.cpu->rip = 0x10000;
    CHECK_EQ(x86_fetch_bytes(e.cpu, buf, &got), X86_FAULT);
    cpu_env_destroy(&e);
}

/* A 15-byte instruction across two pages, the second absent, then present. */
static void test_step_across_pages(void)
{
    static const uint8_t add[] = {0x48, 0x81, 0xC0, 0x78, 0x56, 0x34, 0x12}; /* add rax, imm32 */
    cpu_env_create(&e, CPU_ENV_LONG);
    memcpy(e.ram + NEXT - 3, add, sizeof(add));
    e.cpu->rip = NEXT - 3;
    map(NEXT, 0);
    CHECK_EQ(x86_step(e.cpu), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_PF);
    CHECK_EQ(e.cpu->fault.payload, NEXT);
    CHECK_EQ(e.cpu->rip, NEXT - 3);
    map(NEXT, NEXT | LEAF);
    CHECK_EQ(x86_step(e.cpu), X86_OK);
    CHECK_EQ(e.cpu->gpr[RAX], 0x12345678);
    CHECK_EQ(e.cpu->rip, NEXT + 4);
    static const uint8_t prefixes[16] = {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                         0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90};
    cpu_env_code(&e, prefixes, sizeof(prefixes));
    CHECK_EQ(x86_step(e.cpu), X86_FAULT);
    CHECK_EQ(e.cpu->fault.vector, X86_GP);
    cpu_env_destroy(&e);
}

static void test_peek(void)
{
    struct gpa physical;
    cpu_env_create(&e, CPU_ENV_LONG);
    *cpu_env_pte(&e, PAGE) = TARGET | X86_PTE_P;
    CHECK(x86_translate_peek(e.cpu, PAGE + 5, &physical));
    CHECK_EQ(physical.v, TARGET + 5);
    CHECK_EQ(*cpu_env_pte(&e, PAGE), TARGET | X86_PTE_P); /* not accessed */
    CHECK(!x86_translate_peek(e.cpu, CPU_ENV_RAM, &physical));
    cpu_env_destroy(&e);
}

int main(void)
{
    UNIT_RUN(test_permissions);
    UNIT_RUN(test_contexts);
    UNIT_RUN(test_large_pages);
    UNIT_RUN(test_reserved_bits);
    UNIT_RUN(test_pae);
    UNIT_RUN(test_32bit);
    UNIT_RUN(test_bad_tables);
    UNIT_RUN(test_random_tables);
    UNIT_RUN(test_lost_race);
    UNIT_RUN(test_tables_in_rom);
    UNIT_RUN(test_rom);
    UNIT_RUN(test_mmio_pieces);
    UNIT_RUN(test_apic_page);
    UNIT_RUN(test_crossing);
    UNIT_RUN(test_rmw);
    UNIT_RUN(test_code_written);
    UNIT_RUN(test_late_code);
    UNIT_RUN(test_alignment_check);
    UNIT_RUN(test_data_breakpoints);
    UNIT_RUN(test_flush);
    UNIT_RUN(test_cr3_write_flushes);
    UNIT_RUN(test_fetch);
    UNIT_RUN(test_step_across_pages);
    UNIT_RUN(test_peek);
    return unit_done();
}
