/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The unit tests' frame. A test program is:
 *
 *   static void test_something(void) { CHECK(x == y); CHECK_EQ(a, b); }
 *   int main(void) { UNIT_RUN(test_something); return unit_done(); }
 *
 * Each test prints "ok NAME" or, after its failed checks, "not ok NAME"; the exit status is 0 only
 * if at least one test ran and none failed.
 */
#ifndef LODGE_TESTS_LIB_UNIT_H
#define LODGE_TESTS_LIB_UNIT_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

void unit_fail(const char *file, int line, const char *text);
void unit_check_eq(const char *file, int line, const char *text, uint64_t a, uint64_t b);
void unit_check_str(const char *file, int line, const char *text, const char *a, const char *b);
void unit_run(const char *name, void (*test)(void));
int unit_done(void);
/* Failed checks of the running test. */
unsigned int unit_failures(void);
/* Text that the next failures of this test carry ("case 12: add al"); NULL or "" ends it. */
void unit_context(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define CHECK(x)         ((x) ? (void)0 : unit_fail(__FILE__, __LINE__, #x))
#define CHECK_EQ(a, b)   unit_check_eq(__FILE__, __LINE__, #a " == " #b, (uint64_t)(a), (uint64_t)(b))
#define CHECK_STR(a, b)  unit_check_str(__FILE__, __LINE__, #a " is " #b, (a), (b))
#define UNIT_RUN(test)   unit_run(#test, test)

#endif
