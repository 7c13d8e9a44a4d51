/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What "qemu-img bench" can't do: several iothreads use one node, and reads of
 * one that is writable.  tools/bench/bench.py builds this once against our tree and
 * once against pristine QEMU.
 *
 * usage: threads OPTIONS THREADS REQUESTS BYTES read|write
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "crypto/init.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define DEPTH 16            /* coroutines in each thread */

typedef struct Thread {
    IOThread *iothread;
    int64_t next;           /* the next request's offset; each has its part */
    int requests;           /* that are left */
    int running;            /* coroutines */
} Thread;

static BlockBackend *blk;
static int64_t bytes;
static bool is_write;
static QemuSemaphore ended;

static void coroutine_fn worker(void *opaque)
{
    Thread *thread = opaque;
    g_autofree uint8_t *buf = g_malloc0(bytes);

    while (thread->requests > 0) {
        int64_t offset = thread->next;
        int ret;

        thread->requests--;
        thread->next += bytes;
        ret = is_write ? blk_co_pwrite(blk, offset, bytes, buf, 0)
                       : blk_co_pread(blk, offset, bytes, buf, 0);
        g_assert_cmpint(ret, >=, 0);
    }
    if (--thread->running == 0) {
        qemu_sem_post(&ended);
    }
}

static void start(void *opaque)
{
    Thread *thread = opaque;

    thread->running = DEPTH;
    for (int i = 0; i < DEPTH; i++) {
        qemu_coroutine_enter(qemu_coroutine_create(worker, thread));
    }
}

int main(int argc, char **argv)
{
    QDict *options = qdict_new();
    g_auto(GStrv) words = NULL;
    g_autofree Thread *threads = NULL;
    int n, requests;
    int64_t begin, part;

    g_assert_cmpint(argc, ==, 6);
    words = g_strsplit(argv[1], ",", -1);
    for (char **word = words; *word; word++) {
        char *value = strchr(*word, '=');

        *value++ = '\0';
        qdict_put_str(options, *word, value);
    }
    n = atoi(argv[2]);
    requests = atoi(argv[3]);
    bytes = atoi(argv[4]);
    is_write = !strcmp(argv[5], "write");

    module_call_init(MODULE_INIT_TRACE);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();

    blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR, &error_fatal);
    qemu_sem_init(&ended, 0);
    part = blk_getlength(blk) / n / bytes * bytes;
    threads = g_new0(Thread, n);
    for (int i = 0; i < n; i++) {
        threads[i] = (Thread) {
            .iothread = iothread_new(),
            .next = i * part,
            .requests = MIN(requests / n, part / bytes),
        };
    }
    g_assert_cmpint(requests / n, <=, part / bytes);

    begin = g_get_monotonic_time();
    for (int i = 0; i < n; i++) {
        aio_bh_schedule_oneshot(iothread_get_aio_context(threads[i].iothread),
                                start, &threads[i]);
    }
    for (int i = 0; i < n; i++) {
        qemu_sem_wait(&ended);
    }
    printf("completed in %f seconds\n",
           (g_get_monotonic_time() - begin) / 1e6);

    for (int i = 0; i < n; i++) {
        iothread_join(threads[i].iothread);
    }
    blk_unref(blk);
    return 0;
}
