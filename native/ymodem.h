/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * YMODEM's sender: one file to whoever receives on the other end of a line. Pure: bytes and the time in, frames out; the line
 * and the file are the caller's. (ymodem.c)
 */
#ifndef LODGE_NATIVE_YMODEM_H
#define LODGE_NATIVE_YMODEM_H

#include "core/types.h"

enum {
    YMODEM_BLOCK = 1024,
    YMODEM_HEADER = 128,
    YMODEM_FRAME = 3 + YMODEM_BLOCK + 2,
    YMODEM_RETRIES = 10, /* of one frame */
};

enum ymodem_state {
    YMODEM_WAITS,  /* for a receiver */
    YMODEM_HEADS,  /* the header is out */
    YMODEM_OPENED, /* it was taken; waits to be asked for data */
    YMODEM_SENDS,  /* a block is out */
    YMODEM_ENDS,   /* the end of the file is out */
    YMODEM_CLOSED, /* it was taken; waits to be asked for another file */
    YMODEM_LEAVES, /* that there is no other is out */

    YMODEM_DONE,      /* the receiver has the file */
    YMODEM_CANCELLED, /* by the receiver */
    YMODEM_SILENT,    /* it says nothing any more, or never did */
    YMODEM_FAILED,    /* it does not take a frame, however often it is sent */
};

struct ymodem_file {
    const char *name;
    uint64_t size;
    uint64_t time; /* seconds since 1970 */
    uint32_t mode; /* Unix's */
    void (*read)(void *owner, uint64_t offset, void *to, size_t n); /* inside of the file */
    void *owner;
};

struct ymodem {
    struct ymodem_file file;
    uint32_t state;    /* enum ymodem_state */
    uint32_t resent;   /* how often the frame that is out has been sent again */
    uint64_t offset;   /* of the block that is out */
    uint64_t deadline; /* until when the receiver may be silent */
    uint8_t block;     /* the number of what is out, modulo 256 */
    bool cancel;       /* the last byte was CAN */
    bool to_send;      /* frame[] is to be sent now */
    uint32_t frame_size;
    uint8_t frame[YMODEM_FRAME];
};

/* *file is copied; what its name points to stays the caller's. */
void ymodem_begin(struct ymodem *y, const struct ymodem_file *file, uint64_t now_ns);
/* A byte from the receiver. `sent`: all that was to be sent is out, so it may be an answer. */
void ymodem_input(struct ymodem *y, uint8_t byte, bool sent, uint64_t now_ns);
/* What is to be sent now, once; NULL: nothing. */
const uint8_t *ymodem_output(struct ymodem *y, size_t *size);
/* Time has passed: a receiver that has been silent for too long is given up. */
void ymodem_tick(struct ymodem *y, uint64_t now_ns);
static inline bool ymodem_is_over(const struct ymodem *y)
{
    return y->state >= YMODEM_DONE;
}
/* What tells a receiver that its sender has given up: for the line, at any time. */
extern const uint8_t ymodem_abort[16];

/* CRC-16 of XMODEM: polynomial 1021H, not reflected, from 0. Pass 0 first, the last result after. */
uint16_t ymodem_crc(uint16_t crc, const void *p, size_t n);

#endif
