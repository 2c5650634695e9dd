/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The ChaCha20 block function (RFC 8439, 2.3), on which random.c's generator rests. Pure. */
#ifndef LODGE_NATIVE_CHACHA_H
#define LODGE_NATIVE_CHACHA_H

#include "core/types.h"

enum { CHACHA_KEY = 32, CHACHA_BLOCK = 64 };

/* 64 bytes of key stream. The key and the nonce as the RFC's little-endian words. */
void chacha_block(const uint32_t key[8], uint32_t counter, const uint32_t nonce[3], uint8_t out[CHACHA_BLOCK]);

#endif
