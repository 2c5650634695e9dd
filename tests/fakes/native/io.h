/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * native/io.h for unit tests: the same functions, answered by a device that the test supplies. What it leaves out
 * reads as all ones, and does nothing when written to.
 */
#ifndef LODGE_NATIVE_IO_H
#define LODGE_NATIVE_IO_H

#include "core/types.h"

struct io_cpuid {
    uint32_t a, b, c, d;
};

struct fake_io {
    uint32_t (*in)(uint16_t port, unsigned int size);
    void (*out)(uint16_t port, unsigned int size, uint32_t v);
    uint32_t (*read)(const volatile void *p, unsigned int size); /* NULL, as write: memory is plain memory */
    void (*write)(volatile void *p, unsigned int size, uint32_t v);
    uint64_t (*tsc)(void);
    struct io_cpuid (*cpuid)(uint32_t leaf, uint32_t subleaf);
    bool (*rdrand)(uint64_t *v);
    bool (*rdseed)(uint64_t *v);
    void (*triple_fault)(void);
};
extern struct fake_io fake_io;

uint8_t io_in8(uint16_t port);
uint16_t io_in16(uint16_t port);
uint32_t io_in32(uint16_t port);
void io_out8(uint16_t port, uint8_t v);
void io_out16(uint16_t port, uint16_t v);
void io_out32(uint16_t port, uint32_t v);
uint16_t io_read16(const volatile void *p);
uint32_t io_read32(const volatile void *p);
void io_write8(volatile void *p, uint8_t v);
void io_write16(volatile void *p, uint16_t v);
void io_write32(volatile void *p, uint32_t v);
uint64_t io_tsc(void);
void io_pause(void);
struct io_cpuid io_cpuid(uint32_t leaf, uint32_t subleaf);
bool io_rdrand(uint64_t *v);
bool io_rdseed(uint64_t *v);
void io_triple_fault(void);

#endif
