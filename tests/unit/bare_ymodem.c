/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * YMODEM's sender (native/ymodem.c) against a receiver of the test's, written from the protocol's description, on a line that loses and
 * spoils what the test wants.
 */
#include <stdlib.h>
#include <string.h>

#include "native/ymodem.h"
#include "tests/lib/unit.h"

enum { SOH = 1, STX = 2, EOT = 4, ACK = 6, NAK = 0x15, CAN = 0x18 };
enum { FILE_MAX = 300 * 1024 };

static const uint64_t second = 1000000000;

static uint8_t content[FILE_MAX];
static struct ymodem y;
static uint64_t now;

static struct {
    uint8_t bytes[FILE_MAX + YMODEM_BLOCK];
    uint64_t got;
    char header[YMODEM_HEADER];
    uint8_t expected; /* number of the next frame */
    unsigned int frames, duplicates, ends, last_headers;
    bool opened;
} r;

static void read_content(void *owner, uint64_t offset, void *to, size_t n)
{
    CHECK(owner == content);
    CHECK(offset <= y.file.size && n <= y.file.size - offset);
    memcpy(to, content + offset, n);
}

static void begin(uint64_t size)
{
    struct ymodem_file f = {"web.saved", size, 01234567, 0100600, read_content, content};

    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i * 7 + i / 1000);
    memset(&r, 0, sizeof(r));
    now = 5 * second;
    ymodem_begin(&y, &f, now);
}

static void say(uint8_t byte)
{
    ymodem_input(&y, byte, true, now);
}

/* A frame that is right in itself: its number; -1: there is none to be sent. */
static int next_frame(const uint8_t **payload, size_t *size)
{
    size_t n;
    const uint8_t *f = ymodem_output(&y, &n);

    if (!f)
        return -1;
    r.frames++;
    if (n == 1) {
        CHECK_EQ(f[0], EOT);
        *size = 0;
        return EOT;
    }
    *size = f[0] == STX ? YMODEM_BLOCK : YMODEM_HEADER;
    CHECK(f[0] == STX || f[0] == SOH);
    CHECK_EQ(n, *size + 5);
    CHECK_EQ(f[1] ^ f[2], 0xFF);
    CHECK_EQ(ymodem_crc(0, f + 3, *size + 2), 0); /* with its own CRC behind, it is 0 */
    *payload = f + 3;
    return f[1];
}

static void take_block(const uint8_t *payload, int number, size_t size)
{
    if (number == (uint8_t)(r.expected - 1)) {
        r.duplicates++;
    } else {
        CHECK_EQ(number, r.expected);
        CHECK_EQ(size, YMODEM_BLOCK);
        memcpy(r.bytes + r.got, payload, size);
        r.got += size;
        r.expected++;
    }
    say(ACK);
}

/* Takes one frame and answers as a receiver does (Forsberg, chapter 6). False: nothing came. */
static bool receive(void)
{
    const uint8_t *payload = NULL;
    size_t size;
    int number = next_frame(&payload, &size);

    if (number < 0)
        return false;
    if (size == 0) {
        say(++r.ends == 1 ? NAK : ACK); /* the first is to be asked for again */
        if (r.ends == 2)
            say('C');
    } else if (!r.opened) {
        CHECK_EQ(number, 0);
        CHECK_EQ(size, YMODEM_HEADER);
        memcpy(r.header, payload, size);
        r.opened = true;
        r.expected = 1;
        say(ACK);
        say('C');
    } else if (r.ends > 0) {
        CHECK(number == 0 && payload[0] == 0);
        r.last_headers++;
        say(ACK);
    } else {
        take_block(payload, number, size);
    }
    return true;
}

static void check_received(uint64_t size)
{
    CHECK_EQ(y.state, YMODEM_DONE);
    CHECK_EQ(r.got, (size + YMODEM_BLOCK - 1) / YMODEM_BLOCK * YMODEM_BLOCK);
    CHECK_EQ(memcmp(r.bytes, content, size), 0);
    for (uint64_t i = size; i < r.got; i++)
        CHECK_EQ(r.bytes[i], 0x1A);
    CHECK_EQ(r.last_headers, 1);
}

static void receive_all(void)
{
    while (receive())
        continue;
}

/* --- */

static void test_crc(void)
{
    CHECK_EQ(ymodem_crc(0, "123456789", 9), 0x31C3); /* the catalogue's check value for CRC-16/XMODEM */
    CHECK_EQ(ymodem_crc(ymodem_crc(0, "1234", 4), "56789", 5), 0x31C3);
    CHECK_EQ(ymodem_crc(0, "", 0), 0);
}

static void test_good(void)
{
    static const uint64_t sizes[] = {0, 1, 1023, 1024, 1025, 4096, 255 * 1024, 256 * 1024 + 3, FILE_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        char header[YMODEM_HEADER] = "web.saved";

        begin(sizes[i]);
        CHECK(!receive()); /* it waits to be asked */
        say('C');
        receive_all();
        check_received(sizes[i]);
        CHECK_EQ(r.frames, 1 + (sizes[i] + 1023) / 1024 + 2 + 1);
        sprintf(header + 10, "%llu 1234567 100600", (unsigned long long)sizes[i]);
        CHECK_EQ(memcmp(r.header, header, sizeof(header)), 0);
        say('C'); /* it is over */
        CHECK(!receive());
    }
}

static void test_long_name(void)
{
    char name[200];
    struct ymodem_file f = {name, UINT64_MAX, UINT64_MAX, UINT32_MAX, read_content, content};
    const uint8_t *payload;
    size_t size;

    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    ymodem_begin(&y, &f, now);
    say('C');
    CHECK_EQ(next_frame(&payload, &size), 0);
    CHECK_EQ(strlen((const char *)payload), 71);
    CHECK_EQ(payload[YMODEM_HEADER - 1], 0);
    CHECK_EQ(memcmp(payload + 72, "18446744073709551615 1", 22), 0);
}

/* Every frame is damaged once. */
static void test_asked_again(void)
{
    const uint8_t *payload;
    size_t size;
    unsigned int lost = 0;

    begin(10000);
    say('C');
    for (bool damaged = true;; damaged = !damaged) {
        if (damaged && !ymodem_is_over(&y)) {
            int number = next_frame(&payload, &size);

            if (number < 0)
                break;
            lost++;
            say(NAK);
        } else if (!receive()) {
            break;
        }
    }
    check_received(10000);
    CHECK_EQ(lost, 1 + 10 + 2 + 1);
    CHECK_EQ(r.duplicates, 0);
}

/* Each answer to a block is lost: after 10 s the receiver asks for the next one, gets the last again, and knows it. */
static void test_lost_answers(void)
{
    struct ymodem before;

    begin(5000);
    say('C');
    CHECK(receive());
    for (unsigned int n = 0; n < 5; n++) {
        before = y;
        CHECK(receive());
        y = before; /* the ACK did not come; the frame is out */
        y.to_send = false;
        now += 10 * second;
        ymodem_tick(&y, now);
        CHECK(!receive()); /* nothing is repeated unasked */
        say(NAK);
        CHECK(receive());
    }
    receive_all();
    check_received(5000);
    CHECK_EQ(r.duplicates, 5);
}

/* The header's ACK is lost: what comes is C. */
static void test_lost_header_answer(void)
{
    const uint8_t *payload;
    size_t size;

    begin(100);
    say('C');
    CHECK_EQ(next_frame(&payload, &size), 0);
    say('C');
    CHECK(receive()); /* once more */
    receive_all();
    check_received(100);
    begin(100); /* its C is lost: it asks again with NAK */
    say('C');
    CHECK_EQ(next_frame(&payload, &size), 0);
    memcpy(r.header, payload, size);
    r.opened = true;
    r.expected = 1;
    say(ACK);
    CHECK(!receive());
    say(NAK);
    receive_all();
    check_received(100);
}

/* What comes while a frame is on its way is no answer to it. */
static void test_early_answers(void)
{
    const uint8_t *payload;
    size_t size;

    begin(3000);
    say('C');
    CHECK(receive());
    CHECK_EQ(next_frame(&payload, &size), 1);
    ymodem_input(&y, ACK, false, now);
    ymodem_input(&y, NAK, false, now);
    ymodem_input(&y, 'C', false, now);
    CHECK(next_frame(&payload, &size) < 0);
    say(NAK);
    say(ACK); /* the frame has not even been taken from us */
    CHECK(receive());
    CHECK_EQ(r.expected, 2);
    receive_all();
    check_received(3000);
}

/* A receiver that never likes a frame. */
static void test_refused(void)
{
    for (unsigned int at = 0; at < 5; at++) { /* header, block 1, block 2, EOT, last header */
        const uint8_t *payload;
        size_t size;
        unsigned int n = 0;

        begin(2000);
        say('C');
        for (unsigned int i = 0; i < at + (at > 3); i++)
            CHECK(receive());
        while (next_frame(&payload, &size) >= 0) {
            n++;
            say(NAK);
        }
        CHECK_EQ(n, 1 + YMODEM_RETRIES);
        CHECK_EQ(y.state, YMODEM_FAILED);
    }
}

static void test_cancel(void)
{
    for (unsigned int at = 0; at < 4; at++) {
        begin(2000);
        if (at > 0)
            say('C');
        for (unsigned int i = 1; i < at; i++)
            CHECK(receive());
        say(CAN);
        say('x');
        say(CAN);
        CHECK(!ymodem_is_over(&y));
        ymodem_input(&y, CAN, false, now); /* at any time */
        CHECK_EQ(y.state, YMODEM_CANCELLED);
        CHECK(!receive());
    }
    begin(10); /* it has the file by then */
    say('C');
    CHECK(receive() && receive() && receive() && receive());
    CHECK_EQ(y.state, YMODEM_LEAVES);
    say(CAN);
    say(CAN);
    CHECK_EQ(y.state, YMODEM_DONE);
}

static void wait_until_over(enum ymodem_state state, uint64_t seconds)
{
    const uint8_t *payload;
    size_t size;

    (void)next_frame(&payload, &size);
    now += seconds * second - 1;
    ymodem_tick(&y, now);
    CHECK(!ymodem_is_over(&y));
    now++;
    ymodem_tick(&y, now);
    CHECK_EQ(y.state, state);
}

static void test_silence(void)
{
    begin(2000);
    wait_until_over(YMODEM_SILENT, 60);
    begin(2000);
    say('C');
    wait_until_over(YMODEM_SILENT, 60);
    begin(2000);
    say('C');
    (void)receive();
    now += 59 * second;
    (void)receive();
    wait_until_over(YMODEM_SILENT, 60);
    begin(10); /* the file is there, and it leaves without a word */
    say('C');
    CHECK(receive() && receive() && receive() && receive());
    wait_until_over(YMODEM_DONE, 5);
}

/* Whatever comes, a transfer has an end, nothing outside of the file is read, and noise keeps nothing alive. */
static void test_garbage(void)
{
    static const uint8_t words[] = {ACK, NAK, 'C', CAN, 'G', 0, 0xFF, EOT};

    srand(1);
    for (unsigned int run = 0; run < 300; run++) {
        const uint8_t *payload;
        size_t size;
        uint64_t began;

        begin((uint64_t)rand() % 20000);
        began = now;
        while (!ymodem_is_over(&y)) {
            uint8_t byte = (uint8_t)rand();

            if (rand() % 2)
                byte = words[rand() % (run % 2 ? 3 : 8)];
            ymodem_input(&y, byte, rand() % 4 != 0, now);
            (void)next_frame(&payload, &size);
            now += second / 10;
            ymodem_tick(&y, now);
        }
        CHECK((now - began) / second <= 60ull * 30 * (YMODEM_RETRIES + 1));
    }
    begin(100);
    for (unsigned int i = 0; i < 61 * 10 && !ymodem_is_over(&y); i++) {
        say('x');
        now += second / 10;
        ymodem_tick(&y, now);
    }
    CHECK_EQ(y.state, YMODEM_SILENT);
}

int main(void)
{
    UNIT_RUN(test_crc);
    UNIT_RUN(test_good);
    UNIT_RUN(test_long_name);
    UNIT_RUN(test_asked_again);
    UNIT_RUN(test_lost_answers);
    UNIT_RUN(test_lost_header_answer);
    UNIT_RUN(test_early_answers);
    UNIT_RUN(test_refused);
    UNIT_RUN(test_cancel);
    UNIT_RUN(test_silence);
    UNIT_RUN(test_garbage);
    return unit_done();
}
