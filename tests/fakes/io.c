/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Ports, registers and instructions as a test has them (tests/fakes/native/io.h). */
#include "tests/fakes/native/io.h"

struct fake_io fake_io;

static uint32_t in(uint16_t port, unsigned int size)
{
    return fake_io.in ? fake_io.in(port, size) : UINT32_MAX;
}

static void out(uint16_t port, unsigned int size, uint32_t v)
{
    if (fake_io.out)
        fake_io.out(port, size, v);
}

uint8_t io_in8(uint16_t port)
{
    return (uint8_t)in(port, 1);
}

uint16_t io_in16(uint16_t port)
{
    return (uint16_t)in(port, 2);
}

uint32_t io_in32(uint16_t port)
{
    return in(port, 4);
}

void io_out8(uint16_t port, uint8_t v)
{
    out(port, 1, v);
}

void io_out16(uint16_t port, uint16_t v)
{
    out(port, 2, v);
}

void io_out32(uint16_t port, uint32_t v)
{
    out(port, 4, v);
}

uint16_t io_read16(const volatile void *p)
{
    return fake_io.read ? (uint16_t)fake_io.read(p, 2) : *(const volatile uint16_t *)p;
}

uint32_t io_read32(const volatile void *p)
{
    return fake_io.read ? fake_io.read(p, 4) : *(const volatile uint32_t *)p;
}

void io_write8(volatile void *p, uint8_t v)
{
    if (fake_io.write)
        fake_io.write(p, 1, v);
    else
        *(volatile uint8_t *)p = v;
}

void io_write16(volatile void *p, uint16_t v)
{
    if (fake_io.write)
        fake_io.write(p, 2, v);
    else
        *(volatile uint16_t *)p = v;
}

void io_write32(volatile void *p, uint32_t v)
{
    if (fake_io.write)
        fake_io.write(p, 4, v);
    else
        *(volatile uint32_t *)p = v;
}

uint64_t io_tsc(void)
{
    return fake_io.tsc ? fake_io.tsc() : 0;
}

void io_pause(void)
{
}

struct io_cpuid io_cpuid(uint32_t leaf, uint32_t subleaf)
{
    return fake_io.cpuid ? fake_io.cpuid(leaf, subleaf) : (struct io_cpuid){0, 0, 0, 0};
}

bool io_rdrand(uint64_t *v)
{
    return fake_io.rdrand && fake_io.rdrand(v);
}

bool io_rdseed(uint64_t *v)
{
    return fake_io.rdseed && fake_io.rdseed(v);
}

void io_triple_fault(void)
{
    if (fake_io.triple_fault)
        fake_io.triple_fault();
}
