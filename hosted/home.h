/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Lodge authors */
/*
 * The hosted home's data of its VM: vm->home. One process runs one VM, so that a broken one takes
 * nobody with it.
 *
 * Threads: the main thread is the VM's timer thread and event loop (vm_process.c); one thread per
 * vCPU (vcpu_thread.c); one per output stream (outstream.c). All exist before the guest runs, since
 * the sandbox lets nobody create one.
 */
#ifndef LODGE_HOSTED_HOME_H
#define LODGE_HOSTED_HOME_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/vm.h"
#include "hosted/console.h"
#include "hosted/control.h"
#include "hosted/files.h"
#include "hosted/freeze.h"
#include "hosted/log.h"
#include "hosted/options.h"
#include "hosted/outstream.h"
#include "hosted/ram.h"
#include "hosted/restore.h"
#include "hosted/vcpu_thread.h"
#include "machine/pc.h"
#include "x86/level.h"

struct home {
    struct vm vm;
    char who[VM_NAME_SIZE + 2]; /* "NAME: " for messages, or "" if the VM was given no name */
    struct run_options options;
    const struct x86_level *level;
    struct x86_level own_level; /* what level points at when it is "host" */
    const struct engine *engine;

    const struct restore_origin *origin; /* NULL: it boots */
    int tell;                            /* whoever waits until it runs, -1: nobody */
    _Atomic bool unverified;             /* restore_verify has not seen all of the file yet */
    struct file_kept kernel, initrd; /* fd -1: there is none */
    struct ram ram; /* options.config.memory bytes */
    struct guest_mem_late late; /* what of them still is in the files: boot_files.c */
    pthread_mutex_t late_lock;  /* leaf: who brings it */
    bool late_failed;           /* under late_lock: it cannot be had */

    int signal_fd;
    int timer_fd;
    int wake_fd; /* eventfd: the VM stopped, or the last vCPU thread came out */

    pthread_mutex_t timer_lock; /* leaf: orders timer_armed and timerfd_settime */
    uint64_t timer_armed;       /* deadline that timer_fd has, or UINT64_MAX */

    struct outstream out; /* guest's serial port to standard output */
    struct outstream err; /* our messages to standard error */
    struct log_limit log_limit;
    struct console console;
    struct vcpu_threads threads;
    struct thread stream_thread[2], verify_thread;
    struct freeze freeze;   /* main thread */
    struct control control; /* main thread */

    int signal;            /* main thread: the signal that ended the VM, 0: none */
    bool operator_reset;   /* main thread: the menu asked for the reset under way */
    _Atomic int out_error; /* errno with which standard output failed, 0: none */
    uint64_t resets;
};

#endif
