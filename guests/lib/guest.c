/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/* Output, tests and tables of our guests, both widths. guests/lib/guest.h says what they are. */
#include "guests/lib/guest.h"

/* --- memory functions that compilers call --- */

void *memset(void *dst, int c, size_t n);
void *memcpy(void *restrict dst, const void *restrict src, size_t n);

void *memset(void *dst, int c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)dst)[i] = (uint8_t)c;
    return dst;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((volatile uint8_t *)dst)[i] = ((const uint8_t *)src)[i];
    return dst;
}

/* --- output --- */

enum { UART_FIFO = 16, UART_FCR = 2, UART_LSR = 5, UART_LSR_EMPTY = 0x20 };

static bool buffered;
static char kept[UART_FIFO];
static unsigned int kept_length;

/* bounded: a machine without a serial port must not hang the test */
static void wait_for_transmitter(void)
{
    for (int n = 0; n < 100000 && !(inb(LODGE_PORT_SERIAL + UART_LSR) & UART_LSR_EMPTY); n++)
        pause();
}

static void flush(void)
{
    const char *from = kept;
    unsigned long count = kept_length;

    wait_for_transmitter();
    __asm__ volatile("rep outsb"
                     : "+S"(from), "+c"(count)
                     : "d"((uint16_t)LODGE_PORT_SERIAL)
                     : "memory");
    kept_length = 0;
}

void guest_buffer_output(void)
{
    outb(LODGE_PORT_SERIAL + UART_FCR, 1);
    buffered = true;
}

void guest_putc(char c)
{
    if (!buffered) {
        wait_for_transmitter();
        outb(LODGE_PORT_SERIAL, (uint8_t)c);
        return;
    }
    kept[kept_length++] = c;
    if (kept_length == sizeof(kept) || c == '\n')
        flush();
}

static void print_number(unsigned long v, unsigned int base)
{
    char digits[24];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        guest_putc(digits[--n]);
}

static void print_string(const char *s)
{
    while (*s)
        guest_putc(*s++);
}

static void print_va(const char *p, va_list ap)
{
    for (; *p; p++) {
        if (*p != '%') {
            guest_putc(*p);
            continue;
        }
        bool wide = *++p == 'l';
        p += wide;
        if (*p == 's')
            print_string(va_arg(ap, const char *));
        else if (*p == 'c')
            guest_putc((char)va_arg(ap, int));
        else if (*p == 'd')
            print_number((unsigned long)va_arg(ap, int), 10);
        else if (*p == 'p')
            print_number((uintptr_t)va_arg(ap, void *), 16);
        else
            print_number(wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned int),
                         *p == 'x' ? 16 : 10);
    }
}

void guest_print(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    print_va(format, ap);
    va_end(ap);
}

_Noreturn void guest_exit(uint8_t value)
{
    outb(LODGE_PORT_EXIT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}

_Noreturn void guest_die(const char *why)
{
    guest_print("FAIL guest: %s\n", why);
    guest_exit(1);
}

/* --- tests --- */

static const char *test_name;
static unsigned int failures, tests_run, tests_failed;
static const char *skipped;

/* "FAIL name: file:line: text", once for a test */
static bool begin_failure(const char *file, int line, const char *text)
{
    if (failures++)
        return false;
    guest_print("FAIL %s: %s:%d: %s", test_name ? test_name : "?", file, line, text);
    return true;
}

void guest_fail(const char *file, int line, const char *text)
{
    if (begin_failure(file, line, text))
        guest_print("\n");
}

void guest_check_eq(const char *file, int line, const char *text, uint64_t a, uint64_t b)
{
    if (a == b || !begin_failure(file, line, text))
        return;
    guest_print(": %x%x and %x%x", (uint32_t)(a >> 32), (uint32_t)a, (uint32_t)(b >> 32),
                (uint32_t)b);
    guest_print(" (last fault %u)\n", (unsigned int)guest_fault.vector);
}

void guest_skip(const char *why)
{
    skipped = why;
}

void guest_run(const char *name, void (*test)(void))
{
    test_name = name;
    failures = 0;
    skipped = NULL;
    tests_run++;
    test();
    if (failures)
        tests_failed++;
    else if (skipped)
        guest_print("PASS %s (skipped: %s)\n", name, skipped);
    else
        guest_print("PASS %s\n", name);
    test_name = NULL;
}

int guest_done(void)
{
    return tests_run == 0 || tests_failed != 0;
}

/* --- bodies --- */

void guest_load8(void *p)
{
    (void)*(volatile uint8_t *)p;
}

void guest_store8(void *p)
{
    *(volatile uint8_t *)p = 0xC3;
}

void guest_call(void *p)
{
    ((void (*)(void))(uintptr_t)p)();
}

void guest_nothing(void *p)
{
    (void)p;
}

/* --- numbers --- */

extern uint32_t guest_boot_info;

static bool begins_with(const char *p, const char *start)
{
    while (*start && *p == *start)
        p++, start++;
    return !*start;
}

uint64_t guest_argument(const char *name)
{
    const uint32_t *info = (const uint32_t *)(uintptr_t)guest_boot_info;
    /* PVH: cmdline_paddr at 24, if the magic is there; Multiboot: flag 2 and offset 16 */
    uint32_t at = info[0] == 0x336EC578 ? info[6] : info[0] & 4 ? info[4] : 0;
    for (const char *p = (const char *)(uintptr_t)at; at && *p; p++) {
        if (!begins_with(p, name))
            continue;
        uint64_t v = 0;
        for (const char *n = name; *n; n++)
            p++;
        for (; *p >= '0' && *p <= '9'; p++)
            v = v * 10 + (uint64_t)(*p - '0');
        return v;
    }
    return 0;
}

uint64_t guest_random(void) /* xorshift64* */
{
    static uint64_t state;
    if (!state)
        state = guest_argument("seed=");
    if (!state)
        state = 1;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545F4914F6CDD1D;
}

/* --- tables --- */

uint64_t guest_gdt[GDT_ENTRIES] __attribute__((aligned(16))) = {
    [SEL_CODE64 / 8] = 0x00AF9B000000FFFF,    [SEL_DATA / 8] = 0x00CF93000000FFFF,
    [SEL_CODE32 / 8] = 0x00CF9B000000FFFF,    [SEL_CODE16 / 8] = 0x00009B000000FFFF,
    [SEL_DATA16 / 8] = 0x000093000000FFFF,    [SEL_USER_CODE32 / 8] = 0x00CFFB000000FFFF,
    [SEL_USER_DATA / 8] = 0x00CFF3000000FFFF, [SEL_USER_CODE64 / 8] = 0x00AFFB000000FFFF,
};
uint64_t guest_idt[512] __attribute__((aligned(16)));
uint8_t guest_tss[0x68] __attribute__((aligned(128)));
struct guest_fault guest_fault;

static guest_handler *handlers[256];

extern uint8_t guest_vectors[256][16];
extern uint8_t guest_interrupt_stack_end[];
extern const uintptr_t guest_shadows[], guest_shadows_end[];
extern uint8_t guest_try_recover[];
extern uintptr_t guest_try_rsp;
extern uint32_t guest_try_active;
void guest_dispatch(struct guest_frame *f);
void guest_init(void);
_Noreturn void guest_resume(int vector);

uint64_t guest_descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    uint64_t l = attr & ATTR_G ? limit >> 12 : limit;
    return (l & 0xFFFF) | (uint64_t)(base & 0xFFFFFF) << 16 | (uint64_t)(attr & 0xF0FF) << 40 |
           (l & 0xF0000) << 32 | (uint64_t)(base >> 24) << 56;
}

void guest_set_handler(uint8_t vector, guest_handler *handler)
{
    handlers[vector] = handler;
}

void guest_set_gate(uint8_t vector, const void *target, uint8_t type, uint8_t dpl, uint8_t ist)
{
    uint64_t offset = (uintptr_t)target;
    uint64_t low = (offset & 0xFFFF) | (uint64_t)SEL_CODE << 16 | (uint64_t)ist << 32 |
                   (uint64_t)(ATTR_P | (uint32_t)dpl << 5 | type) << 40 |
                   (offset >> 16 & 0xFFFF) << 48;
#ifdef __x86_64__
    guest_idt[vector * 2] = low;
    guest_idt[vector * 2 + 1] = offset >> 32;
#else
    guest_idt[vector] = low;
#endif
}

void guest_reset_gate(uint8_t vector)
{
    bool user = vector == 3 || vector == 4 || vector == VECTOR_LEAVE;
    guest_set_gate(vector, guest_vectors[vector], 14, user ? 3 : 0, 0);
}

/* An exception under guest_try: its caller goes on. */
static void recover(struct guest_frame *f, int vector)
{
#ifdef __x86_64__
    f->rip = (uintptr_t)guest_try_recover;
    f->cs = SEL_CODE;
    f->rflags = X86_FLAG_ONE;
    f->rsp = guest_try_rsp;
    f->ss = SEL_DATA;
    f->rax = (reg_t)(long)vector;
#else
    (void)f;
    guest_resume(vector);
#endif
}

void guest_leave(struct guest_frame *f, int result)
{
    if (guest_try_active)
        recover(f, result);
}

static bool interrupts_checked;

void guest_check_interrupts(void)
{
    interrupts_checked = true;
}

/* What is wrong with an interrupt that came there, or NULL. */
static const char *impossible(const struct guest_frame *f)
{
    const uint8_t *code = (const uint8_t *)(uintptr_t)f->rip;
    if (f->vector < 32 || f->cs != SEL_CODE)
        return NULL;
    if (!(f->rflags & X86_FLAG_IF) && !(code[-2] == 0xCD && code[-1] == f->vector)) /* INT n */
        return "with IF clear";
    for (const uintptr_t *s = guest_shadows; s < guest_shadows_end; s++)
        if (f->rip == *s)
            return "in the shadow of STI or MOV SS";
    return NULL;
}

void guest_dispatch(struct guest_frame *f)
{
    uint8_t vector = (uint8_t)f->vector;
    const char *why = interrupts_checked ? impossible(f) : NULL;
    if (why) {
        guest_print("IMPOSSIBLE: interrupt %lu %s\n", f->vector, why);
        guest_exit(1);
    }
    if (handlers[vector]) {
        handlers[vector](f);
        return;
    }
    if (guest_try_active) {
        bool outer = sizeof(reg_t) == 8 || f->cs & 3 || f->rflags & X86_FLAG_VM;
        guest_fault = (struct guest_fault){
            .vector = vector,
            .error = f->error,
            .rip = f->rip,
            .rflags = f->rflags,
            .cr2 = read_cr2(),
            .rsp = outer ? f->rsp : (uintptr_t)&f->rsp,
            .cs = (uint16_t)f->cs,
            .ss = outer ? (uint16_t)f->ss : SEL_DATA,
        };
        recover(f, vector == VECTOR_LEAVE ? NO_FAULT : vector);
        return;
    }
    guest_print("FAIL %s: exception %lu error %lx at %lx, cr2 %lx\n", test_name ? test_name : "?",
                f->vector, f->error, f->rip, read_cr2());
    guest_exit(1);
}

void guest_init(void)
{
    outb(0x21, 0xFF); /* firmware may have left the 8254 and the 8259 running */
    outb(0xA1, 0xFF);
    for (unsigned int v = 0; v < 256; v++)
        guest_reset_gate((uint8_t)v);
    uint64_t stack = (uintptr_t)guest_interrupt_stack_end;
#ifdef __x86_64__
    extern uint8_t guest_df_stack_end[];
    uint64_t ist1 = (uintptr_t)guest_df_stack_end;
    memcpy(guest_tss + 4, &stack, 8);
    memcpy(guest_tss + 36, &ist1, 8);
    guest_set_gate(8, guest_vectors[8], 14, 0, 1);
    guest_gdt[SEL_TSS / 8 + 1] = (uintptr_t)guest_tss >> 32;
#else
    static const uint32_t ss0 = SEL_DATA;
    memcpy(guest_tss + 4, &stack, 4);
    memcpy(guest_tss + 8, &ss0, 4);
#endif
    guest_tss[0x66] = 0x68;
    guest_gdt[SEL_TSS / 8] = guest_descriptor((uint32_t)(uintptr_t)guest_tss, 0x67, 0x89);
    load_idt(guest_idt, sizeof(reg_t) == 8 ? 4095 : 2047);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}
