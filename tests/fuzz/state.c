/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * libFuzzer target: the state of processors and devices, as a saved VM has it. The input is changes to the state of
 * a machine that has booted, three bytes each: where (16 bits), and what is XORed there. Checksums are made right
 * afterwards, since whoever makes a file to harm has them right.
 *
 * What is refused changes nothing. What is accepted is a machine like any: it is saved and accepted again, all its
 * ports are read, its timers run, and its processors run some hundred instructions each, under sanitizers and
 * with assertions.
 */
#include <stdlib.h>
#include <string.h>

#include "core/mem.h"
#include "core/state.h"
#include "tests/lib/fake_seam.h"
#include "tests/lib/pc_env.h"

enum { STATE_MAX = 16384, CHANGES = 64, VCPUS = 2, TURNS = 3, NS = 50 * 1000 * 1000 };
enum { LENGTH_AT = STATE_NAME + 8, CRC_AT = STATE_NAME + 12, FRAME = STATE_NAME + 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct pc_env e;
static uint8_t base[STATE_MAX], state[STATE_MAX], again[STATE_MAX];
static size_t base_size;

static void require(bool x)
{
    if (!x)
        abort();
}

static size_t save(uint8_t *to)
{
    struct state_writer w = {.buf = to, .size = STATE_MAX};
    state_save_all(&e.vm.state, &w);
    require(w.used <= STATE_MAX);
    return w.used;
}

static void begin(void)
{
    pc_env_create(&e, VCPUS);
    e.engine = &engine_soft;
    e.config.interpret = true;
    require(pc_env_build(&e) == OK && pc_env_boot(&e) == OK);
    pc_env_out(&e, 0x3F9, 1, 3); /* something that is not as after a reset */
    pc_env_out(&e, 0x43, 1, 0x34);
    pc_env_out(&e, 0x40, 1, 0x10);
    pc_env_out(&e, 0x40, 1, 0x27);
    vm_clock_set(&e.vm, 123456789);
    base_size = save(base);
}

static void make_checksums_right(size_t size)
{
    for (size_t at = 0; size - at >= FRAME;) {
        uint8_t *frame = state + at;
        uint32_t length = load_u32(frame + LENGTH_AT);
        if (length > size - at - FRAME)
            return;
        uint32_t crc = state_crc32(0, frame, CRC_AT);
        store_u32(frame + CRC_AT, state_crc32(crc, frame + FRAME, length));
        at += FRAME + length;
    }
}

static void run_vcpu(uint32_t id)
{
    struct x86_cpu *cpu = pc_cpu(&e.vm, id);
    struct exit x;
    if (vm_is_stopped(&e.vm) || cpu->activity != X86_RUNNING)
        return;
    vcpu_request(&cpu->vcpu, VCPU_REQ_KICK); /* out again after some hundred instructions */
    if (engine_soft.vcpu_run(cpu, &x) == OK && x.reason != EXIT_KICK)
        (void)vcpu_handle_exit(&cpu->vcpu, &x);
    (void)vcpu_take_requests(&cpu->vcpu, VCPU_REQ_KICK);
}

static void live(void)
{
    require(pc_hand_over_vcpus(&e.vm) == OK);
    pc_start_clock(&e.vm);
    for (unsigned int turn = 0; turn < TURNS; turn++) {
        for (uint32_t id = 0; id < VCPUS; id++)
            run_vcpu(id);
        fake_seam_advance(NS);
    }
    for (uint32_t port = 0; port < 0x700; port++)
        (void)pc_env_in(&e, (uint16_t)port, 1);
    pc_stop_clock(&e.vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (base_size == 0)
        begin();
    memcpy(state, base, base_size);
    for (unsigned int n = 0; n < CHANGES && size >= 3; n++, data += 3, size -= 3)
        state[load_u16(data) % base_size] ^= data[2];
    make_checksums_right(base_size);
    int err = state_load_all(&e.vm.state, state, base_size);
    if (err == OK) {
        size_t saved = save(again);
        require(state_load_all(&e.vm.state, again, saved) == OK);
        live();
        vm_clear_stop(&e.vm);
        require(state_load_all(&e.vm.state, base, base_size) == OK);
    }
    require(save(again) == base_size && memcmp(again, base, base_size) == 0);
    return 0;
}
