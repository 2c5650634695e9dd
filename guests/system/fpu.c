/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* x87, SSE and AVX state: #NM and its conditions, #MF, #XM, FXSAVE and XSAVE, XCR0. */
#include "guests/lib/guest.h"

#define ptr(a) ((void *)(uintptr_t)(a))

static bool has_xsave, has_avx;

static void fninit(void *p)
{
    (void)p;
    __asm__ volatile("fninit");
}

static void fwait(void *p)
{
    (void)p;
    __asm__ volatile("fwait");
}

static void sse(void *p)
{
    (void)p;
    __asm__ volatile("xorps %xmm0, %xmm0");
}

static void mmx(void *p)
{
    (void)p;
    __asm__ volatile("pxor %mm0, %mm0; emms");
}

static void avx(void *p)
{
    (void)p;
    __asm__ volatile("vxorps %ymm0, %ymm0, %ymm0");
}

static void enable(void)
{
    write_cr0((read_cr0() & ~(X86_CR0_EM | X86_CR0_TS)) | X86_CR0_MP | X86_CR0_NE);
    write_cr4(read_cr4() | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | (has_xsave ? X86_CR4_OSXSAVE : 0));
}

static void xsetbv(void *value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)(uintptr_t)value), "d"(0));
}

static void test_device_not_available(void)
{
    enable();
    CHECK_EQ(guest_try(fninit, NULL), NO_FAULT);
    CHECK_EQ(guest_try(sse, NULL), NO_FAULT);
    write_cr0(read_cr0() | X86_CR0_TS);
    CHECK_EQ(guest_try(fninit, NULL), X86_NM);
    CHECK_EQ(guest_try(fwait, NULL), X86_NM); /* MP and TS */
    CHECK_EQ(guest_try(sse, NULL), X86_NM);
    CHECK_EQ(guest_try(mmx, NULL), X86_NM);
    write_cr0(read_cr0() & ~X86_CR0_MP);
    CHECK_EQ(guest_try(fwait, NULL), NO_FAULT);
    write_cr0((read_cr0() & ~X86_CR0_TS) | X86_CR0_EM);
    CHECK_EQ(guest_try(fninit, NULL), X86_NM);
    CHECK_EQ(guest_try(sse, NULL), X86_UD);
    CHECK_EQ(guest_try(mmx, NULL), X86_UD);
    enable();
    write_cr4(read_cr4() & ~X86_CR4_OSFXSR);
    CHECK_EQ(guest_try(sse, NULL), X86_UD);
    enable();
    CHECK_EQ(guest_try(mmx, NULL), NO_FAULT);
}

/* --- exceptions --- */

static void divide_x87(void *p)
{
    uint16_t control = *(uint16_t *)p;
    __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdivp; nop; fwait; fninit" : : "m"(control));
}

static void divide_sse(void *p)
{
    uint32_t control = *(uint32_t *)p;
    static const float one = 1, zero = 0;
    __asm__ volatile("ldmxcsr %0; movss %1, %%xmm0; divss %2, %%xmm0"
                     :
                     : "m"(control), "m"(one), "m"(zero));
}

static void ldmxcsr(void *p)
{
    __asm__ volatile("ldmxcsr (%0)" : : "r"(p));
}

static void test_exceptions(void)
{
    uint16_t masked = 0x37F, unmasked = 0x37B; /* ZM */
    uint32_t mxcsr = 0x1F80, mxcsr_unmasked = 0x1D80, reserved = 0x10000;
    enable();
    CHECK_EQ(guest_try(divide_x87, &masked), NO_FAULT);
    CHECK_EQ(guest_try(divide_x87, &unmasked), X86_MF);
    __asm__ volatile("fnclex; fninit");
    CHECK_EQ(guest_try(divide_sse, &mxcsr), NO_FAULT);
    CHECK_EQ(guest_try(divide_sse, &mxcsr_unmasked), X86_XM);
    write_cr4(read_cr4() & ~X86_CR4_OSXMMEXCPT);
    CHECK_EQ(guest_try(divide_sse, &mxcsr_unmasked), X86_UD);
    enable();
    CHECK_EQ(guest_try(ldmxcsr, &reserved), X86_GP);
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

/* --- state --- */

static uint8_t area[1024] __attribute__((aligned(64)));

static void fxsave(void *p)
{
    __asm__ volatile("fxsave64 (%0)" : : "r"(p) : "memory");
}

static void fxrstor(void *p)
{
    __asm__ volatile("fxrstor64 (%0)" : : "r"(p) : "memory");
}

static void movaps(void *p)
{
    __asm__ volatile("movaps (%0), %%xmm1" : : "r"(p));
}

static uint64_t xmm1(void)
{
    uint64_t v;
    __asm__ volatile("movq %%xmm1, %0" : "=r"(v));
    return v;
}

static void set_xmm1(uint64_t v)
{
    __asm__ volatile("movq %0, %%xmm1; punpcklqdq %%xmm1, %%xmm1" : : "r"(v));
}

static void test_fxsave(void)
{
    static const double value = 0.5;
    enable();
    __asm__ volatile("fninit; fldl %0" : : "m"(value));
    set_xmm1(0x1122334455667788);
    fxsave(area);
    CHECK_EQ(*(uint16_t *)area, 0x37F);
    CHECK_EQ(*(uint16_t *)(area + 2) >> 11 & 7, 7); /* TOP */
    CHECK_EQ(area[4], 0x80);
    CHECK_EQ(*(uint64_t *)(area + 32), 0x8000000000000000); /* ST0 = 0.5 */
    CHECK_EQ(*(uint64_t *)(area + 176), 0x1122334455667788);
    CHECK_EQ(*(uint64_t *)(area + 184), 0x1122334455667788);
    set_xmm1(0);
    __asm__ volatile("fninit");
    fxrstor(area);
    CHECK_EQ(xmm1(), 0x1122334455667788);
    uint16_t status;
    __asm__ volatile("fnstsw %0" : "=m"(status));
    CHECK_EQ(status >> 11 & 7, 7);
    __asm__ volatile("fninit");
    CHECK_EQ(guest_try(fxsave, area + 8), X86_GP); /* not aligned */
    CHECK_EQ(guest_try(fxrstor, area + 8), X86_GP);
    CHECK_EQ(guest_try(movaps, area + 8), X86_GP);
    area[24 + 3] = 0x80; /* reserved bits of MXCSR */
    CHECK_EQ(guest_try(fxrstor, area), X86_GP);
}

static void xsave(void *mask)
{
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"((uint32_t)(uintptr_t)mask), "d"(0) : "memory");
}

static void xrstor(void *mask)
{
    __asm__ volatile("xrstor64 %0"
                     :
                     : "m"(area), "a"((uint32_t)(uintptr_t)mask), "d"(0)
                     : "memory");
}

static void set_ymm1(const uint64_t *v)
{
    __asm__ volatile("vmovups (%0), %%ymm1" : : "r"(v) : "memory");
}

static void get_ymm1(uint64_t *v)
{
    __asm__ volatile("vmovups %%ymm1, (%0)" : : "r"(v) : "memory");
}

static void test_xsave(void)
{
    if (!has_xsave || !has_avx) {
        guest_skip("no XSAVE or no AVX");
        return;
    }
    write_cr4(read_cr4() & ~X86_CR4_OSXSAVE);
    CHECK_EQ(guest_try(xsetbv, ptr(7)), X86_UD);
    CHECK_EQ(guest_try(xsave, ptr(7)), X86_UD);
    CHECK_EQ(guest_try(avx, NULL), X86_UD);
    enable();
    CHECK_EQ(guest_try(xsetbv, ptr(1)), NO_FAULT);
    CHECK_EQ(guest_try(avx, NULL), X86_UD);
    CHECK_EQ(guest_try(xsetbv, ptr(0)), X86_GP);
    CHECK_EQ(guest_try(xsetbv, ptr(5)), X86_GP); /* AVX without SSE */
    CHECK_EQ(guest_try_user(xsetbv, ptr(7)), X86_GP);
    CHECK_EQ(guest_try(xsetbv, ptr(7)), NO_FAULT);
    CHECK_EQ(guest_try(avx, NULL), NO_FAULT);
    CHECK_EQ(cpuid(13, 0).b, 832);

    uint64_t in[4] = {1, 2, 3, 4}, out[4];
    for (unsigned int n = 0; n < sizeof(area); n++)
        area[n] = 0;
    set_ymm1(in);
    xsave(ptr(7));
    CHECK_EQ(*(uint64_t *)(area + 512) & 6, 6);
    CHECK_EQ(*(uint64_t *)(area + 160 + 16), 1);
    CHECK_EQ(*(uint64_t *)(area + 576 + 16), 3);
    __asm__ volatile("vzeroall");
    get_ymm1(out);
    CHECK_EQ(out[0] | out[3], 0);
    xrstor(ptr(7));
    get_ymm1(out);
    CHECK(out[0] == 1 && out[1] == 2 && out[2] == 3 && out[3] == 4);
    /* only what is asked for; what XSTATE_BV lacks becomes initial */
    set_ymm1((const uint64_t[4]){5, 6, 7, 8});
    xrstor(ptr(2));
    get_ymm1(out);
    CHECK(out[0] == 1 && out[1] == 2 && out[2] == 7 && out[3] == 8);
    *(uint64_t *)(area + 512) &= ~UINT64_C(4);
    xrstor(ptr(7));
    get_ymm1(out);
    CHECK(out[0] == 1 && out[2] == 0);
    *(uint64_t *)(area + 512) |= UINT64_C(1) << 40;
    CHECK_EQ(guest_try(xrstor, ptr(7)), X86_GP);
    *(uint64_t *)(area + 512) &= ~(UINT64_C(1) << 40);
    *(uint64_t *)(area + 528) = 1; /* reserved in the header */
    CHECK_EQ(guest_try(xrstor, ptr(7)), X86_GP);
}

/* Results, of a few instructions of each unit (tests elsewhere compare millions with the host). */
static void test_arithmetic(void)
{
    enable();
    uint64_t result;
    __asm__ volatile("fninit; fldpi; fld1; faddp; fstpl %0" : "=m"(result));
    CHECK_EQ(result, 0x401090FDAA22168C);
    static const uint32_t a[4] __attribute__((aligned(16))) = {1, 2, 3, 4},
                               b[4] __attribute__((aligned(16))) = {10, 20, 30, 0xFFFFFFFF};
    uint32_t c[4] __attribute__((aligned(16)));
    __asm__ volatile("movdqa (%1), %%xmm0; paddd (%2), %%xmm0; movdqa %%xmm0, (%0)"
                     :
                     : "r"(c), "r"(a), "r"(b)
                     : "memory");
    CHECK(c[0] == 11 && c[1] == 22 && c[2] == 33 && c[3] == 3);
    static const double two = 2;
    __asm__ volatile("sqrtsd %1, %%xmm0; movq %%xmm0, %0" : "=r"(result) : "m"(two));
    CHECK_EQ(result, 0x3FF6A09E667F3BCD);
}

int main(void)
{
    has_xsave = cpuid(1, 0).c >> 26 & 1;
    has_avx = cpuid(1, 0).c >> 28 & 1;
    GUEST_RUN(test_device_not_available);
    GUEST_RUN(test_exceptions);
    GUEST_RUN(test_fxsave);
    GUEST_RUN(test_xsave);
    GUEST_RUN(test_arithmetic);
    return guest_done();
}
