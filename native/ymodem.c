/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * YMODEM, batch, blocks of 1 KiB, CRC-16 (C. Forsberg, "XMODEM/YMODEM Protocol Reference", 1988, chapters 3 to 5 and 7): what terminal
 * programs on every system can receive.
 *
 *     receiver   C             ACK C           ACK                 NAK       ACK C             ACK
 *     sender       header           block 1       ... block n, EOT     EOT         header of zeroes
 *
 * The receiver drives (7.3): it asks for what it misses, after 10 s at the latest, and the sender never repeats anything by itself. So a
 * lost answer costs 10 s, and there is never a second answer to one frame that could be taken for one to the next. Bytes that came
 * while a frame was still going out cannot be answers to it, and are none. What the receiver says is a byte out of six; everything
 * else is noise. Noise keeps nothing alive: the time for an answer runs from the frame. Each frame is sent again a few times only, so
 * whatever comes from the line, a transfer has an end.
 *
 * Two CAN in a row end it at once, from a receiver or an operator's keyboard (Ctrl-X).
 */
#include "native/ymodem.h"

#include "core/fmt.h"
#include "core/mem.h"

enum {
    SOH = 0x01, /* begins a frame of 128 bytes */
    STX = 0x02, /* ... of 1024 */
    EOT = 0x04,
    ACK = 0x06,
    NAK = 0x15,
    CAN = 0x18,
    PAD = 0x1A, /* CPMEOF: behind the end of a file, in its last block */
    WANT = 'C', /* a receiver that checks CRCs asks for a file */
};

static const uint64_t patience_ns = 60000000000, last_patience_ns = 5000000000;

const uint8_t ymodem_abort[16] = {CAN, CAN, CAN, CAN, CAN, CAN, CAN, CAN, '\b', '\b', '\b', '\b', '\b', '\b', '\b', '\b'};

uint16_t ymodem_crc(uint16_t crc, const void *p, size_t n)
{
    const uint8_t *bytes = p;

    for (size_t i = 0; i < n; i++) {
        uint32_t x = crc >> 8 ^ bytes[i]; /* what eight steps of the shift register come to */

        x ^= x >> 4;
        crc = (uint16_t)((uint32_t)crc << 8 ^ x << 12 ^ x << 5 ^ x);
    }
    return crc;
}

/* --- frames -------------------------------------------------------------------------------------- */

static void send(struct ymodem *y, enum ymodem_state state, uint64_t now_ns)
{
    y->state = state;
    y->resent = 0;
    y->to_send = true;
    y->deadline = now_ns + patience_ns;
}

static void send_again(struct ymodem *y, uint64_t now_ns)
{
    if (y->resent == YMODEM_RETRIES) {
        y->state = YMODEM_FAILED;
        return;
    }
    y->resent++;
    y->to_send = true;
    y->deadline = now_ns + patience_ns;
}

/* Around the payload, which is in its place. */
static void finish_frame(struct ymodem *y, size_t payload)
{
    uint16_t crc = ymodem_crc(0, y->frame + 3, payload);

    y->frame[0] = payload == YMODEM_BLOCK ? STX : SOH;
    y->frame[1] = y->block;
    y->frame[2] = (uint8_t)~y->block;
    y->frame[3 + payload] = (uint8_t)(crc >> 8);
    y->frame[3 + payload + 1] = (uint8_t)crc;
    y->frame_size = (uint32_t)(3 + payload + 2);
}

/* Octal, as the header has it. */
static size_t put_octal(char *to, size_t size, uint64_t value)
{
    char digits[24];
    size_t n = 0, done = 0;

    do
        digits[n++] = (char)('0' + (value & 7));
    while ((value >>= 3) != 0);
    while (n > 0 && done + 1 < size)
        to[done++] = digits[--n];
    to[done] = '\0';
    return done;
}

/* Chapter 5: name, 0, size in decimal, time and mode in octal. A name that is too long is cut. */
static void send_header(struct ymodem *y, uint64_t now_ns)
{
    enum { NAME = 72 };
    char *at = (char *)y->frame + 3, *end = at + YMODEM_HEADER;

    memset(at, 0, YMODEM_HEADER);
    (void)str_copy(at, NAME, y->file.name);
    at += str_len(at) + 1;
    at += fmt(at, (size_t)(end - at), "%llu ", (unsigned long long)y->file.size);
    at += put_octal(at, (size_t)(end - at), y->file.time);
    *at++ = ' ';
    (void)put_octal(at, (size_t)(end - at), y->file.mode);
    y->block = 0;
    finish_frame(y, YMODEM_HEADER);
    send(y, YMODEM_HEADS, now_ns);
}

static void send_last_header(struct ymodem *y, uint64_t now_ns)
{
    memset(y->frame + 3, 0, YMODEM_HEADER);
    y->block = 0;
    finish_frame(y, YMODEM_HEADER);
    send(y, YMODEM_LEAVES, now_ns);
    y->deadline = now_ns + last_patience_ns;
}

/* The block at y->offset, or the end. */
static void send_block(struct ymodem *y, uint64_t now_ns)
{
    uint64_t left = y->file.size - y->offset;
    size_t n = left < YMODEM_BLOCK ? (size_t)left : YMODEM_BLOCK;

    if (n == 0) {
        y->frame[0] = EOT;
        y->frame_size = 1;
        send(y, YMODEM_ENDS, now_ns);
        return;
    }
    y->file.read(y->file.owner, y->offset, y->frame + 3, n);
    memset(y->frame + 3 + n, PAD, YMODEM_BLOCK - n);
    y->block++;
    finish_frame(y, YMODEM_BLOCK);
    send(y, YMODEM_SENDS, now_ns);
}

/* --- what comes ---------------------------------------------------------------------------------- */

static void taken(struct ymodem *y, uint64_t now_ns)
{
    switch (y->state) {
    case YMODEM_HEADS:
        y->state = YMODEM_OPENED;
        y->deadline = now_ns + patience_ns;
        break;
    case YMODEM_SENDS:
        y->offset += y->file.size - y->offset < YMODEM_BLOCK ? y->file.size - y->offset : YMODEM_BLOCK;
        send_block(y, now_ns);
        break;
    case YMODEM_ENDS: /* it has the file */
        y->state = YMODEM_CLOSED;
        y->deadline = now_ns + last_patience_ns;
        break;
    case YMODEM_LEAVES:
        y->state = YMODEM_DONE;
        break;
    default: /* nothing is out */
        break;
    }
}

/* C, or NAK: it waits for something, or asks for it again. A frame that it did not understand is the same to it as one
 * that did not come, and the answer before may have been lost: after a header that it has, it asks with either. */
static void asked(struct ymodem *y, bool want, uint64_t now_ns)
{
    switch (y->state) {
    case YMODEM_WAITS:
        if (want) /* else it checks sums only */
            send_header(y, now_ns);
        break;
    case YMODEM_OPENED:
        send_block(y, now_ns);
        break;
    case YMODEM_CLOSED:
        send_last_header(y, now_ns);
        break;
    case YMODEM_SENDS:
        if (!want || y->offset == 0)
            send_again(y, now_ns);
        break;
    case YMODEM_HEADS:
    case YMODEM_ENDS:
    case YMODEM_LEAVES:
        send_again(y, now_ns);
        break;
    default:
        break;
    }
}

void ymodem_begin(struct ymodem *y, const struct ymodem_file *file, uint64_t now_ns)
{
    *y = (struct ymodem){.file = *file, .state = YMODEM_WAITS, .deadline = now_ns + patience_ns};
}

void ymodem_input(struct ymodem *y, uint8_t byte, bool sent, uint64_t now_ns)
{
    bool cancel = y->cancel && byte == CAN;

    y->cancel = byte == CAN;
    if (ymodem_is_over(y))
        return;
    if (cancel)
        y->state = y->state == YMODEM_CLOSED || y->state == YMODEM_LEAVES ? YMODEM_DONE : YMODEM_CANCELLED;
    else if (!sent || y->to_send)
        return;
    else if (byte == ACK)
        taken(y, now_ns);
    else if (byte == NAK || byte == WANT)
        asked(y, byte == WANT, now_ns);
}

const uint8_t *ymodem_output(struct ymodem *y, size_t *size)
{
    if (!y->to_send || ymodem_is_over(y))
        return NULL;
    y->to_send = false;
    *size = y->frame_size;
    return y->frame;
}

/* Once the end was taken, the file is there, whether or not it hears that there is no other. */
void ymodem_tick(struct ymodem *y, uint64_t now_ns)
{
    if (ymodem_is_over(y) || now_ns < y->deadline)
        return;
    y->state = y->state == YMODEM_CLOSED || y->state == YMODEM_LEAVES ? YMODEM_DONE : YMODEM_SILENT;
}
