/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * 16550A UART.
 *
 * The line has no speed. A byte that is written to THR is with the back end before the write ends,
 * so the transmitter is always empty and its FIFO never holds anything; received bytes are there at
 * once, as far as the receive FIFO has room. A guest that floods its serial port keeps nobody but
 * itself busy: each byte costs it an exit, and the back end bounds what it buffers and logs
 * (bad-inputs D8). Input that does not fit is not lost: uart_receive takes what fits, and the back
 * end is told when the guest has made room. So overruns happen in loopback mode only.
 *
 * Modem lines: the other side is there (DCD, DSR, CTS asserted). Interrupts do not depend on OUT2,
 * which gates them on PC boards: guests that know of it set it.
 *
 * The divisor latch is two bytes of memory, and 0 in it is nothing special (bad-inputs D4). The
 * receive timeout is four characters at 115200 baud.
 *
 * Not done: parity, framing and stop bits, which nothing can get wrong here; DMA signals.
 *
 * Locking: the board lock; back-end functions are called under it.
 */
#include "device/uart.h"

#include "core/err.h"
#include "core/mem.h"

enum {
    REGISTERS = 8,

    IER_RECEIVE = 1 << 0,
    IER_THR_EMPTY = 1 << 1,
    IER_LINE = 1 << 2,
    IER_MODEM = 1 << 3,
    IER_BITS = 0x0F,

    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THR_EMPTY = 0x02,
    IIR_RECEIVE = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0C,
    IIR_FIFOS = 0xC0,

    FCR_ENABLE = 1 << 0,
    FCR_CLEAR_RECEIVE = 1 << 1,
    FCR_KEPT = 0xC9,
    FCR_TRIGGER_SHIFT = 6,

    LCR_BREAK = 1 << 6,
    LCR_DLAB = 1 << 7,

    MCR_LOOP = 1 << 4,
    MCR_BITS = 0x1F,

    LSR_READY = 1 << 0,
    LSR_OVERRUN = 1 << 1,
    LSR_BREAK = 1 << 4,
    LSR_EMPTY = 3 << 5, /* THR, and shift register */
    LSR_FIFO_ERROR = 1 << 7,
    LSR_STICKY = LSR_OVERRUN | LSR_BREAK,

    MSR_RING = 1 << 6,
    MSR_CONNECTED = 0xB0, /* DCD, DSR, CTS */

    TIMEOUT_NS = 347000,
};

/* --- interrupts ------------------------------------------------------------------------------- */

static bool fifos_enabled(const struct uart *u)
{
    return (u->fcr & FCR_ENABLE) != 0;
}

static unsigned int trigger_level(const struct uart *u)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    return fifos_enabled(u) ? level[u->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The most urgent pending interrupt (data sheet, table IV). */
static uint8_t pending(const struct uart *u)
{
    if ((u->ier & IER_LINE) && u->lsr != 0)
        return IIR_LINE;
    if ((u->ier & IER_RECEIVE) && u->fifo_count >= trigger_level(u))
        return IIR_RECEIVE;
    if ((u->ier & IER_RECEIVE) && u->timeout)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THR_EMPTY) && u->thr_interrupt)
        return IIR_THR_EMPTY;
    if ((u->ier & IER_MODEM) && u->msr_delta != 0)
        return IIR_MODEM;
    return IIR_NONE;
}

/* Most accesses leave the line as it is, and nobody is told. After a reset or load it is said once: what is at the
 * other end was reset or loaded, too. */
static void update(struct uart *u)
{
    bool level = pending(u) != IIR_NONE;
    if (u->line_said && u->line == level)
        return;
    u->line_said = true;
    u->line = level;
    irq_line_set(&u->irq, level);
}

/* --- receiver --------------------------------------------------------------------------------- */

/* Characters wait in the FIFO and nobody touches it: the timeout starts anew (data sheet, "FIFO
 * Interrupt Mode Operation"). */
static void restart_timeout(struct uart *u)
{
    u->timeout = false;
    u->timeout_at = VM_TIMER_NEVER;
    if (fifos_enabled(u) && u->fifo_count > 0)
        u->timeout_at = vm_clock_ns(u->vm) + TIMEOUT_NS;
    vm_timer_set(u->vm, &u->timer, u->timeout_at);
}

static void uart_fire(void *owner)
{
    struct uart *u = owner;
    lock_take(&u->vm->board_lock);
    if (vm_clock_ns(u->vm) >= u->timeout_at) {
        u->timeout_at = VM_TIMER_NEVER;
        u->timeout = true;
        update(u);
    }
    lock_release(&u->vm->board_lock);
}

static unsigned int fifo_room(const struct uart *u)
{
    unsigned int size = fifos_enabled(u) ? UART_FIFO : 1;
    return size - u->fifo_count;
}

/* A break is reported when its character is the next to be read. */
static void show_break(struct uart *u)
{
    uint16_t bit = (uint16_t)(1u << u->fifo_head);
    if (u->fifo_count > 0 && (u->fifo_break & bit)) {
        u->fifo_break &= (uint16_t)~bit;
        u->lsr |= LSR_BREAK;
    }
}

static void fifo_put(struct uart *u, uint8_t byte, bool is_break)
{
    if (fifo_room(u) == 0) {
        u->lsr |= LSR_OVERRUN;
        return;
    }
    unsigned int at = (u->fifo_head + u->fifo_count) % UART_FIFO;
    u->fifo[at] = byte;
    if (is_break)
        u->fifo_break |= (uint16_t)(1u << at);
    u->fifo_count++;
    show_break(u);
    restart_timeout(u);
}

static void fifo_clear(struct uart *u)
{
    u->fifo_head = 0;
    u->fifo_count = 0;
    u->fifo_break = 0;
    restart_timeout(u);
}

/* There may be room for what uart_receive refused. */
static void tell_room(struct uart *u)
{
    if (!u->refused || fifo_room(u) == 0 || (u->mcr & MCR_LOOP))
        return;
    u->refused = false;
    if (u->backend->room)
        u->backend->room(u->owner);
}

size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t size)
{
    size_t taken = 0;
    lock_take(&u->vm->board_lock);
    if (!(u->mcr & MCR_LOOP)) /* else the line is cut off */
        while (taken < size && fifo_room(u) > 0)
            fifo_put(u, bytes[taken++], false);
    u->refused = u->refused || taken < size;
    update(u);
    lock_release(&u->vm->board_lock);
    return taken;
}

bool uart_receive_break(struct uart *u)
{
    lock_take(&u->vm->board_lock);
    bool taken = !(u->mcr & MCR_LOOP) && fifo_room(u) > 0;
    if (taken)
        fifo_put(u, 0, true);
    update(u);
    lock_release(&u->vm->board_lock);
    return taken;
}

/* --- registers: functions by number, separately for reading and writing ----------------------- */

static uint8_t read_receiver(struct uart *u)
{
    if (u->fifo_count == 0)
        return 0;
    uint8_t byte = u->fifo[u->fifo_head];
    u->fifo_head = (uint8_t)((u->fifo_head + 1) % UART_FIFO);
    u->fifo_count--;
    show_break(u);
    restart_timeout(u);
    tell_room(u);
    return byte;
}

static uint8_t read_ier(struct uart *u)
{
    return u->ier;
}

/* Reading ends a transmitter interrupt, if that is what is read. */
static uint8_t read_iir(struct uart *u)
{
    uint8_t iir = pending(u);
    if (iir == IIR_THR_EMPTY)
        u->thr_interrupt = false;
    return iir | (fifos_enabled(u) ? IIR_FIFOS : 0);
}

static uint8_t read_lcr(struct uart *u)
{
    return u->lcr;
}

static uint8_t read_mcr(struct uart *u)
{
    return u->mcr;
}

static uint8_t read_lsr(struct uart *u)
{
    uint8_t lsr = u->lsr | LSR_EMPTY;
    if (u->fifo_count > 0)
        lsr |= LSR_READY;
    if (fifos_enabled(u) && (u->fifo_break != 0 || (u->lsr & LSR_BREAK)))
        lsr |= LSR_FIFO_ERROR;
    u->lsr = 0;
    return lsr;
}

/* In loopback mode the modem inputs are the modem outputs: CTS = RTS, DSR = DTR, RI = OUT1,
 * DCD = OUT2. */
static uint8_t modem_inputs(const struct uart *u)
{
    uint8_t m = u->mcr;
    if (!(m & MCR_LOOP))
        return MSR_CONNECTED;
    return (uint8_t)((m & 0x02) << 3 | (m & 0x01) << 5 | (m & 0x04) << 4 | (m & 0x08) << 4);
}

static uint8_t read_msr(struct uart *u)
{
    uint8_t msr = modem_inputs(u) | u->msr_delta;
    u->msr_delta = 0;
    return msr;
}

static uint8_t read_scr(struct uart *u)
{
    return u->scr;
}

/* The write ends the transmitter interrupt, and the byte's departure raises it again: two changes
 * of the line, since its other end sees edges. A driver whose handler writes the next byte without
 * reading IIR waits for the second. */
static void write_transmitter(struct uart *u, uint8_t value)
{
    u->thr_interrupt = false;
    update(u);
    if (u->mcr & MCR_LOOP)
        fifo_put(u, value, false);
    else
        u->backend->write(u->owner, &value, 1);
    u->thr_interrupt = true; /* it is empty again */
}

/* Enabling the transmitter interrupt while the transmitter is empty raises it. */
static void write_ier(struct uart *u, uint8_t value)
{
    if ((value & ~u->ier) & IER_THR_EMPTY)
        u->thr_interrupt = true;
    u->ier = value & IER_BITS;
}

/* Changing the enable bit clears the FIFOs; without it no other bit is programmed. */
static void write_fcr(struct uart *u, uint8_t value)
{
    bool enable = (value & FCR_ENABLE) != 0;
    bool clear = enable != fifos_enabled(u) || (enable && (value & FCR_CLEAR_RECEIVE));
    u->fcr = enable ? value & FCR_KEPT : 0;
    if (clear)
        fifo_clear(u);
    tell_room(u);
}

/* A break that is sent while in loopback mode is received. */
static void write_lcr(struct uart *u, uint8_t value)
{
    if ((value & ~u->lcr & LCR_BREAK) && (u->mcr & MCR_LOOP))
        fifo_put(u, 0, true);
    u->lcr = value;
}

/* Delta bits: lines 7, 5, 4 at any change, the ring indicator when it goes away. */
static void write_mcr(struct uart *u, uint8_t value)
{
    uint8_t before = modem_inputs(u);
    u->mcr = value & MCR_BITS;
    uint8_t after = modem_inputs(u), changed = before ^ after;
    if (after & MSR_RING)
        changed &= (uint8_t)~MSR_RING;
    u->msr_delta |= changed >> 4;
    tell_room(u);
}

static void write_nothing(struct uart *u, uint8_t value)
{
    (void)u;
    (void)value;
}

static void write_scr(struct uart *u, uint8_t value)
{
    u->scr = value;
}

static uint8_t (*const readers[REGISTERS])(struct uart *u) = {
    read_receiver, read_ier, read_iir, read_lcr, read_mcr, read_lsr, read_msr, read_scr,
};

static void (*const writers[REGISTERS])(struct uart *u, uint8_t value) = {
    write_transmitter, write_ier,     write_fcr,     write_lcr,
    write_mcr,         write_nothing, write_nothing, write_scr,
};

static void divisor_access(struct uart *u, struct bus_access *a)
{
    unsigned int shift = a->offset == 0 ? 0 : 8;
    if (a->write)
        u->divisor = (uint16_t)((u->divisor & ~(0xFFu << shift)) | (a->value & 0xFF) << shift);
    else
        a->value = u->divisor >> shift & 0xFF;
}

static void uart_access(void *device, struct bus_access *a)
{
    struct uart *u = device;
    unsigned int number = a->offset & (REGISTERS - 1);
    if (number < 2 && (u->lcr & LCR_DLAB))
        divisor_access(u, a);
    else if (a->write)
        writers[number](u, (uint8_t)a->value);
    else
        a->value = readers[number](u);
    update(u);
}

static const struct bus_ops uart_ops = {"uart", 1, 1, false, uart_access};

/* --- state ------------------------------------------------------------------------------------ */

static void put(const struct uart *u, struct state_writer *w)
{
    state_put_u8(w, u->ier);
    state_put_u8(w, u->lcr);
    state_put_u8(w, u->mcr);
    state_put_u8(w, u->scr);
    state_put_u8(w, u->fcr);
    state_put_u8(w, u->lsr);
    state_put_u8(w, u->msr_delta);
    state_put_u16(w, u->divisor);
    state_put_bytes(w, u->fifo, sizeof(u->fifo));
    state_put_u16(w, u->fifo_break);
    state_put_u8(w, u->fifo_head);
    state_put_u8(w, u->fifo_count);
    state_put_bool(w, u->thr_interrupt);
    state_put_bool(w, u->timeout);
    state_put_u64(w, u->timeout_at);
}

static void get(struct uart *u, struct state_reader *r)
{
    u->ier = state_get_u8(r);
    u->lcr = state_get_u8(r);
    u->mcr = state_get_u8(r);
    u->scr = state_get_u8(r);
    u->fcr = state_get_u8(r);
    u->lsr = state_get_u8(r);
    u->msr_delta = state_get_u8(r);
    u->divisor = state_get_u16(r);
    state_get_bytes(r, u->fifo, sizeof(u->fifo));
    u->fifo_break = state_get_u16(r);
    u->fifo_head = state_get_u8(r);
    u->fifo_count = state_get_u8(r);
    u->thr_interrupt = state_get_bool(r);
    u->timeout = state_get_bool(r);
    u->timeout_at = state_get_u64(r);
}

static void uart_save(const void *object, struct state_writer *w)
{
    const struct uart *u = object;
    lock_take(&u->vm->board_lock);
    put(u, w);
    lock_release(&u->vm->board_lock);
}

static bool registers_are_valid(const struct uart *u)
{
    return (u->ier & ~IER_BITS) == 0 && (u->mcr & ~MCR_BITS) == 0 && (u->fcr & ~FCR_KEPT) == 0 &&
           (u->fcr == 0 || fifos_enabled(u)) && (u->lsr & ~LSR_STICKY) == 0 && u->msr_delta <= 0x0F;
}

/* Breaks are behind the first character; the timeout runs or is pending, for characters that are
 * there. */
static bool fifo_is_valid(const struct uart *u)
{
    unsigned int size = fifos_enabled(u) ? UART_FIFO : 1;
    if (u->fifo_head >= UART_FIFO || u->fifo_count > size)
        return false;
    for (unsigned int i = 0; i < UART_FIFO; i++) {
        unsigned int place = (i - u->fifo_head) % UART_FIFO;
        if ((u->fifo_break >> i & 1) && (place == 0 || place >= u->fifo_count))
            return false;
    }
    bool waiting = fifos_enabled(u) && u->fifo_count > 0;
    bool runs = u->timeout_at != VM_TIMER_NEVER;
    return waiting ? runs != u->timeout : !runs && !u->timeout;
}

static int uart_check(const void *object, struct state_reader *r)
{
    (void)object;
    struct uart u;
    get(&u, r);
    int err = state_get_end(r);
    if (err != OK)
        return err;
    return registers_are_valid(&u) && fifo_is_valid(&u) ? OK : ERR_CORRUPT;
}

static int uart_load(void *object, struct state_reader *r)
{
    struct uart *u = object;
    lock_take(&u->vm->board_lock);
    get(u, r);
    u->line_said = false;
    vm_timer_set(u->vm, &u->timer, u->timeout_at);
    lock_release(&u->vm->board_lock);
    return OK;
}

static const struct state_ops state_ops = {"uart", 1, uart_save, uart_check, uart_load};

/* --- life ------------------------------------------------------------------------------------- */

/* Master reset (data sheet, table I); the divisor is what firmware leaves. */
void uart_reset(struct uart *u)
{
    lock_assert_held(&u->vm->board_lock);
    u->ier = u->lcr = u->mcr = u->scr = u->fcr = u->lsr = u->msr_delta = 0;
    u->divisor = 1;
    u->thr_interrupt = false;
    fifo_clear(u);
    u->line_said = false;
    update(u);
    tell_room(u);
}

int uart_create(struct uart *u, struct vm *vm, uint16_t port, uint32_t instance,
                struct irq_line irq, const struct uart_backend *backend, void *owner)
{
    *u = (struct uart){.vm = vm, .irq = irq, .backend = backend, .owner = owner};
    vm_timer_init(&u->timer, uart_fire, u);
    lock_take(&vm->board_lock);
    uart_reset(u);
    lock_release(&vm->board_lock);
    int err = bus_add(&vm->port_bus, port, REGISTERS, &uart_ops, u, &vm->board_lock);
    return err == OK ? state_register(&vm->state, &state_ops, u, instance) : err;
}
