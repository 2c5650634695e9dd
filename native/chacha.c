/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* The ChaCha20 block function, as RFC 8439 has it in 2.1 to 2.3: sixteen words, twenty rounds, and the beginning
 * added to the end, without which it could be run backwards. No tables and no branches on the key. */
#include "native/chacha.h"

#include "core/mem.h"

static uint32_t rotate(uint32_t v, unsigned int n)
{
    return v << n | v >> (32 - n);
}

static void quarter(uint32_t *x, unsigned int a, unsigned int b, unsigned int c, unsigned int d)
{
    x[a] += x[b];
    x[d] = rotate(x[d] ^ x[a], 16);
    x[c] += x[d];
    x[b] = rotate(x[b] ^ x[c], 12);
    x[a] += x[b];
    x[d] = rotate(x[d] ^ x[a], 8);
    x[c] += x[d];
    x[b] = rotate(x[b] ^ x[c], 7);
}

static void two_rounds(uint32_t *x)
{
    for (unsigned int i = 0; i < 4; i++) /* columns */
        quarter(x, i, 4 + i, 8 + i, 12 + i);
    for (unsigned int i = 0; i < 4; i++) /* diagonals */
        quarter(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
}

void chacha_block(const uint32_t key[8], uint32_t counter, const uint32_t nonce[3], uint8_t out[CHACHA_BLOCK])
{
    uint32_t begin[16] = {0x61707865, 0x3320646E, 0x79622D32, 0x6B206574}, x[16];

    memcpy(begin + 4, key, CHACHA_KEY);
    begin[12] = counter;
    memcpy(begin + 13, nonce, 12);
    memcpy(x, begin, sizeof(x));
    for (unsigned int i = 0; i < 10; i++)
        two_rounds(x);
    for (unsigned int i = 0; i < 16; i++)
        store_u32(out + 4 * i, x[i] + begin[i]);
}
