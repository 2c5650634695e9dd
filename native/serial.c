/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * A 16550 at 0x3F8 (National Semiconductor PC16550D data sheet, section 8).
 *
 * At 115200 bits a second a byte takes 87 us: tens of thousands of instructions. So writers put bytes into a ring
 * and go on; the port is filled, 16 bytes at a time, when it says that its transmitter is empty: by its interrupt,
 * and by whoever writes or polls and finds it so. The transmitter's interrupt is enabled only while the ring holds
 * something. A ring that is full loses its oldest bytes, since a terminal that hangs must not hang the machine, and
 * the newest ones say most; in their place the terminal gets a note of how many there were.
 *
 * Received bytes wait in a ring for the console's thread; there the newest are lost (what was typed first is meant
 * first).
 *
 * A port that is not there reads as all ones and does not loop back what its modem control register says (8.6.7).
 *
 * Locking: one spin lock, below the log's; nothing here logs. The callback of serial_on_receive is called without
 * it. write_now takes no lock: others are stopped, and the worst is a byte twice. State: the one port.
 */
#include "native/serial.h"

#include "core/fmt.h"
#include "core/mem.h"
#include "native/io.h"
#include "native/ring.h"
#include "native/spin.h"

enum {
    COM1 = 0x3F8,
    DATA = COM1,    /* receive, transmit; with DLAB: divisor, low */
    IER = COM1 + 1, /* interrupts; with DLAB: divisor, high */
    IIR = COM1 + 2, /* read: why it interrupts, and is there a FIFO */
    FCR = COM1 + 2, /* write: FIFO */
    LCR = COM1 + 3,
    MCR = COM1 + 4,
    LSR = COM1 + 5,
    MSR = COM1 + 6,

    IER_RECEIVED = 1 << 0,
    IER_EMPTY = 1 << 1,
    IER_LINE = 1 << 2,
    IIR_NONE = 1 << 0,
    IIR_FIFO = 0xC0,
    FCR_ENABLE = 0x87, /* on, both emptied, interrupt at 8 bytes or after a pause */
    LCR_8N1 = 0x03,
    LCR_DLAB = 0x80,
    MCR_DTR = 1 << 0,
    MCR_RTS = 1 << 1,
    MCR_OUT2 = 1 << 3, /* on PCs: the interrupt line is driven */
    MCR_LOOP = 1 << 4,
    MSR_CTS_DCD = 0x90, /* RTS and OUT2, looped back */
    LSR_READY = 1 << 0,
    LSR_OVERRUN = 1 << 1,
    LSR_ERRORS = 0x1C, /* parity, framing, break */
    LSR_BREAK = 1 << 4,
    LSR_EMPTY = 1 << 5, /* can be filled again */
    LSR_SENT = 1 << 6,  /* and the last bit is out */

    DIVISOR = 1, /* 115200 */
    FIFO = 16,

    SEND_RING = 32 << 10,
    RECEIVE_RING = 1024,
    BURSTS = 64,      /* of FIFO bytes, in one go: only emulators are that fast */
    RECEIVES = 64,    /* bytes, in one go */
    CAUSES = 16,      /* of one interrupt */
    POLLS = 20000,    /* about 20 ms; a full FIFO takes 1.4 */
    POLLS_STUCK = 50, /* of a port that has not moved before */
    DRAIN_BYTES = SEND_RING + 128,
};

static uint8_t send_memory[SEND_RING], receive_memory[RECEIVE_RING];
static struct {
    struct spin lock;
    bool present, interrupts, stuck;
    uint8_t ier, fifo;
    struct ring send, receive;
    uint64_t send_at, receive_at; /* positions of the port and of serial_read */
    char note[48];
    uint32_t note_at, note_size;
    struct serial_counts count;
    void (*received)(void);
} port;

/* --- setting up -------------------------------------------------------------------------------- */

static bool is_there(void)
{
    io_out8(IER, 0);
    if ((io_in8(IER) & 0x0F) != 0)
        return false;
    io_out8(MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS);
    bool looped = (io_in8(MSR) & 0xF0) == MSR_CTS_DCD;
    io_out8(MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
    return looped;
}

bool serial_init(void)
{
    ring_init(&port.send, send_memory, sizeof(send_memory));
    ring_init(&port.receive, receive_memory, sizeof(receive_memory));
    port.send_at = port.receive_at = 0;
    if (!is_there())
        return false;
    io_out8(LCR, LCR_DLAB);
    io_out8(DATA, DIVISOR);
    io_out8(IER, 0);
    io_out8(LCR, LCR_8N1);
    io_out8(FCR, FCR_ENABLE);
    port.fifo = (io_in8(IIR) & IIR_FIFO) == IIR_FIFO ? FIFO : 1;
    port.present = true;
    return true;
}

/* --- sending ----------------------------------------------------------------------------------- */

static bool to_send(void)
{
    return port.note_at < port.note_size || port.send_at < port.send.end;
}

static void note_loss(uint64_t bytes)
{
    port.count.lost += bytes;
    port.note_at = 0;
    port.note_size =
        (uint32_t)fmt(port.note, sizeof(port.note), "\r\n[%llu bytes lost]\r\n", (unsigned long long)bytes);
}

/* The next byte, if to_send. What is lost while a note goes out gets the next one. */
static uint8_t next_byte(void)
{
    uint64_t begin = ring_begin(&port.send), missed;
    uint8_t byte = 0;

    if (port.send_at < begin && port.note_at == port.note_size) {
        note_loss(begin - port.send_at);
        port.send_at = begin;
    }
    if (port.note_at < port.note_size)
        return (uint8_t)port.note[port.note_at++];
    (void)ring_read(&port.send, &port.send_at, &byte, 1, &missed);
    return byte;
}

static void send_burst(void)
{
    for (uint32_t i = 0; i < port.fifo && to_send(); i++) {
        io_out8(DATA, next_byte());
        port.count.sent++;
    }
}

static void set_ier(void)
{
    uint8_t ier = IER_RECEIVED | IER_LINE;

    if (!port.interrupts)
        return;
    if (to_send())
        ier |= IER_EMPTY;
    if (ier != port.ier)
        io_out8(IER, ier);
    port.ier = ier;
}

static void send_some(void)
{
    for (uint32_t i = 0; i < BURSTS && to_send(); i++) {
        if (!(io_in8(LSR) & LSR_EMPTY))
            break;
        send_burst();
    }
    set_ier();
}

/* --- receiving --------------------------------------------------------------------------------- */

static void received_byte(uint8_t status, uint8_t byte)
{
    if (status & LSR_OVERRUN)
        port.count.received_lost++;
    if (status & LSR_ERRORS)
        port.count.line_errors++;
    if (status & LSR_BREAK)
        return; /* its byte is none */
    if (port.receive.end - port.receive_at == port.receive.size) {
        port.count.received_lost++;
        return;
    }
    ring_write(&port.receive, &byte, 1);
    port.count.received++;
}

static bool receive_some(void)
{
    uint64_t before = port.receive.end;

    for (uint32_t i = 0; i < RECEIVES; i++) {
        uint8_t status = io_in8(LSR);
        if (!(status & LSR_READY))
            break;
        received_byte(status, io_in8(DATA));
    }
    return port.receive.end != before;
}

/* --- callers ----------------------------------------------------------------------------------- */

void serial_poll(void)
{
    bool received;

    if (!port.present)
        return;
    spin_lock(&port.lock);
    received = receive_some();
    send_some();
    spin_unlock(&port.lock);
    if (received && port.received)
        port.received();
}

/* Edge-triggered: all causes are served, or there is no other edge. Reading IIR takes back the transmitter's. */
void serial_interrupt(void)
{
    for (uint32_t i = 0; i < CAUSES && port.present && !(io_in8(IIR) & IIR_NONE); i++) {
        (void)io_in8(MSR);
        serial_poll();
    }
}

void serial_enable_interrupts(void)
{
    if (!port.present)
        return;
    spin_lock(&port.lock);
    port.interrupts = true;
    set_ier();
    spin_unlock(&port.lock);
    serial_poll();
}

static void queue(const char *bytes, size_t size)
{
    ring_write(&port.send, bytes, size);
}

void serial_write(const char *bytes, size_t size)
{
    if (!port.present)
        return;
    spin_lock(&port.lock);
    queue(bytes, size);
    send_some();
    spin_unlock(&port.lock);
}

/* No port: what is written is discarded, and there is always room for that. */
size_t serial_room(void)
{
    uint64_t queued;

    if (!port.present)
        return SEND_RING;
    spin_lock(&port.lock);
    queued = port.send.end - port.send_at;
    spin_unlock(&port.lock);
    return queued < SEND_RING ? (size_t)(SEND_RING - queued) : 0;
}

bool serial_sent(void)
{
    bool sent;

    spin_lock(&port.lock);
    sent = !to_send();
    spin_unlock(&port.lock);
    return sent;
}

size_t serial_read(char *buf, size_t size)
{
    uint64_t missed;
    size_t n;

    spin_lock(&port.lock);
    n = ring_read(&port.receive, &port.receive_at, buf, size, &missed);
    spin_unlock(&port.lock);
    return n;
}

void serial_on_receive(void (*received)(void))
{
    spin_lock(&port.lock);
    port.received = received;
    spin_unlock(&port.lock);
}

void serial_count(struct serial_counts *c)
{
    spin_lock(&port.lock);
    *c = port.count;
    spin_unlock(&port.lock);
}

/* --- without locks and rings ------------------------------------------------------------------- */

static bool await(uint8_t status)
{
    uint32_t polls = port.stuck ? POLLS_STUCK : POLLS;

    for (uint32_t i = 0; i < polls; i++)
        if (io_in8(LSR) & status) {
            port.stuck = false;
            return true;
        }
    port.stuck = true;
    return false;
}

static void send_all(void)
{
    for (uint32_t sent = 0; to_send() && sent < DRAIN_BYTES && await(LSR_EMPTY); sent += port.fifo)
        send_burst();
}

void serial_write_now(const char *bytes, size_t size)
{
    if (!port.present)
        return;
    queue(bytes, size);
    send_all();
}

void serial_drain(void)
{
    if (!port.present)
        return;
    spin_lock(&port.lock);
    send_all();
    (void)await(LSR_SENT);
    spin_unlock(&port.lock);
}

/* --- the log's sink ---------------------------------------------------------------------------- */

static void sink(const char *bytes, size_t size, void (*write)(const char *bytes, size_t size))
{
    for (size_t at = 0, n; at < size; at += n) {
        for (n = 0; at + n < size && bytes[at + n] != '\n'; n++)
            continue;
        write(bytes + at, n);
        if (at + n < size) {
            write("\r\n", 2);
            n++;
        }
    }
}

static void sink_queue(const char *bytes, size_t size)
{
    if (!port.present)
        return;
    spin_lock(&port.lock);
    sink(bytes, size, queue);
    send_some();
    spin_unlock(&port.lock);
}

static void sink_write_now(const char *bytes, size_t size)
{
    sink(bytes, size, serial_write_now);
}

const struct log_sink serial_sink = {sink_queue, sink_write_now};
