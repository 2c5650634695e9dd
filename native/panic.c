/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The hypervisor's end: what, where, registers and a backtrace, to every console; then all CPUs halt. The first CPU
 * that comes here speaks; it stops the others by NMI (smp.c), which are then silent, and so is one that comes second. A
 * panic within the panic halts at once. Written without locks, memory or interrupts, by polling with a bound (log_now).
 *
 * The backtrace follows frame pointers: the code is compiled with them. Each must lie in mapped memory above the one
 * before, so a broken chain ends it. For lines: `addr2line -e build/lodge-native.debug`.
 */
#include "native/panic.h"

#include <stdarg.h>
#include <stdatomic.h>

#include "core/fmt.h"
#include "core/seam.h"
#include "isa/x86.h"
#include "native/cpu.h"
#include "native/engine.h"
#include "native/insn.h"
#include "native/layout.h"
#include "native/log.h"
#include "native/memory.h"
#include "native/symbols.h"
#include "native/trap.h"

enum { DEPTH = 32, LINE = 200 };

static _Atomic bool on;
static uint32_t stopped; /* others, by the one that speaks */

extern uint8_t image_start[], image_text_end[];

static void say(const char *format, ...) printf_like(1, 2);
static void say(const char *format, ...)
{
    char line[LINE];
    va_list ap;
    size_t n;

    va_start(ap, format);
    n = fmt_v(line, sizeof(line) - 1, format, ap);
    va_end(ap);
    if (n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n] = '\n';
    log_now(line, n + 1);
}

/* Returns on the CPU that speaks. */
static void begin(void)
{
    if (atomic_exchange(&on, true))
        cpu_stop_here();
    stopped = cpu_stop_others(true);
    engine_stop_here();
}

static bool may_read(uint64_t at)
{
    uint64_t physical;

    return at % 8 == 0 && at >> 47 == 0x1FFFF && (paging_lookup(at, &physical) || at >= LAYOUT_IMAGE);
}

static void place(const char *how, uint64_t address)
{
    uint64_t offset;
    const char *name = symbol_of(address, &offset);

    say("  %s 0x%016llx %s+0x%llx", how, (unsigned long long)address, name, (unsigned long long)offset);
}

static void backtrace(uint64_t rip, uint64_t rbp)
{
    place("at  ", rip);
    for (uint32_t i = 0; i < DEPTH && may_read(rbp) && may_read(rbp + 8); i++) {
        const uint64_t *frame = (const uint64_t *)rbp;

        if (frame[1] < (uint64_t)image_start || frame[1] >= (uint64_t)image_text_end)
            return;
        place("from", frame[1]);
        if (frame[0] <= rbp)
            return;
        rbp = frame[0];
    }
}

static void registers(const struct trap_frame *f)
{
    static const char names[16][4] = {"rax", "rcx", "rdx", "rbx", "cr2", "rbp", "rsi", "rdi",
                                      "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};

    for (uint32_t i = 0; i < 16; i += 4)
        say("  %s %016llx  %s %016llx  %s %016llx  %s %016llx", names[i], (unsigned long long)f->gpr[i], names[i + 1],
            (unsigned long long)f->gpr[i + 1], names[i + 2], (unsigned long long)f->gpr[i + 2], names[i + 3],
            (unsigned long long)f->gpr[i + 3]);
    say("  rip %016llx  rsp %016llx  rflags %llx  cs %llx  ss %llx", (unsigned long long)f->rip,
        (unsigned long long)f->rsp, (unsigned long long)f->rflags, (unsigned long long)f->cs,
        (unsigned long long)f->ss);
}

static void control_registers(void)
{
    say("  cr0 %llx  cr3 %llx  cr4 %llx  efer %llx", (unsigned long long)read_cr0(), (unsigned long long)read_cr3(),
        (unsigned long long)read_cr4(), (unsigned long long)rdmsr(MSR_EFER));
}

static noreturn void end(void)
{
    say("Lodge has stopped; %u of %u processors are halted.", stopped + 1, cpu_count);
    for (;;)
        halt_forever();
}

noreturn void seam_panic(const char *file, int line, const char *message)
{
    begin();
    say("\nLodge: panic on CPU %u at %s:%d: %s", this_cpu()->index, file, line, message);
    control_registers();
    backtrace((uint64_t)__builtin_return_address(0), *(const uint64_t *)__builtin_frame_address(0));
    end();
}

noreturn void panic_trap(const struct trap_frame *f)
{
    static const char names[][4] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS",
                                    "#NP", "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"};

    begin();
    say("\nLodge: panic on CPU %u: exception %llu (%s), error code 0x%llx", this_cpu()->index,
        (unsigned long long)f->vector, f->vector < ARRAY_SIZE(names) ? names[f->vector] : "?",
        (unsigned long long)f->error);
    registers(f);
    control_registers();
    backtrace(f->rip, f->gpr[RBP]);
    end();
}

noreturn void panic_words(const char *format, ...)
{
    char words[LINE];
    va_list ap;

    begin();
    va_start(ap, format);
    fmt_v(words, sizeof(words), format, ap);
    va_end(ap);
    say("\nLodge: %s", words);
    end();
}
