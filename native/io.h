/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The instructions by which a driver reaches its device: ports, memory-mapped registers, the TSC, CPUID, random
 * numbers. Nothing else in native/'s drivers is assembly, so that a unit test runs the drivers as they are: it puts
 * tests/fakes before the source tree in the include path, and this header's namesake there declares the same
 * functions, to be answered by a device of the test's.
 *
 * All of them are as strongly ordered as the processor makes them (ports and uncached memory are), and "memory"
 * keeps the compiler from moving what surrounds them.
 */
#ifndef LODGE_NATIVE_IO_H
#define LODGE_NATIVE_IO_H

#include "core/types.h"

static inline uint8_t io_in8(uint16_t port)
{
    uint8_t v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint16_t io_in16(uint16_t port)
{
    uint16_t v;

    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint32_t io_in32(uint16_t port)
{
    uint32_t v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline void io_out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void io_out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void io_out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

/* Registers in memory: p is mapped uncached (map_device). One access of exactly that width. */
static inline uint16_t io_read16(const volatile void *p)
{
    return *(const volatile uint16_t *)p;
}

static inline uint32_t io_read32(const volatile void *p)
{
    return *(const volatile uint32_t *)p;
}

static inline void io_write8(volatile void *p, uint8_t v)
{
    *(volatile uint8_t *)p = v;
}

static inline void io_write16(volatile void *p, uint16_t v)
{
    *(volatile uint16_t *)p = v;
}

static inline void io_write32(volatile void *p, uint32_t v)
{
    *(volatile uint32_t *)p = v;
}

/* The TSC, not read before what stands before it is done (LFENCE waits for that: SDM vol. 2, RDTSC; on AMD's as APM
 * vol. 3, LFENCE, says where it is serializing, which Linux and we take for granted). */
static inline uint64_t io_tsc(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void io_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

struct io_cpuid {
    uint32_t a, b, c, d;
};

static inline struct io_cpuid io_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct io_cpuid r;

    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(subleaf));
    return r;
}

/* False: none was ready. Only where CPUID has them (random.c). */
static inline bool io_rdrand(uint64_t *v)
{
    bool ok;

    __asm__ volatile("rdrand %0" : "=r"(*v), "=@ccc"(ok));
    return ok;
}

static inline bool io_rdseed(uint64_t *v)
{
    bool ok;

    __asm__ volatile("rdseed %0" : "=r"(*v), "=@ccc"(ok));
    return ok;
}

/* An exception with an empty IDT: the processor shuts down, and the board resets it (power.c). */
static inline void io_triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};

    __asm__ volatile("lidt %0; int3" : : "m"(none) : "memory");
}

#endif
