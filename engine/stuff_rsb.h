/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * For enter.S of both engines: 32 calls that nobody returns from, so that the processor's stack of return addresses has
 * none that the guest has left there (Intel, "Retpoline: A Branch Target Injection Mitigation", RSB stuffing; AMD,
 * "Software Techniques for Managing Speculation", V2-3). Each leads, if the processor runs ahead, to an INT3. Flags are
 * changed, and 256 bytes of stack used.
 */
#ifndef LODGE_ENGINE_STUFF_RSB_H
#define LODGE_ENGINE_STUFF_RSB_H

#define STUFF_RSB                                                                                                      \
    .rept 32;                                                                                                          \
    call 771f;                                                                                                         \
    int3;                                                                                                              \
771:;                                                                                                                  \
    .endr;                                                                                                             \
    add $(32 * 8), %rsp;                                                                                               \
    lfence

#endif
