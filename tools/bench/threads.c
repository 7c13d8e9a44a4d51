/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What "qemu-img bench" can't do: several iothreads use one node, and reads of
 * one that is writable.  tools/bench/bench.py builds this once against our tree and
 * once against pristine QEMU.
 *
 * usage: threads OPTIONS THREADS REQUESTS BYTES read|write|hot
 *
 * Each thread has a part of the disk, but with "hot" all read the same HOT_BYTES,
 * which have been read once before the time begins.
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "iothread.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "node.h"

#define DEPTH 16            /* coroutines in each thread */
#define HOT_BYTES (2 * MiB)

typedef struct Thread {
    IOThread *iothread;
    int64_t start, end;     /* its part of the disk */
    int64_t next;           /* the next request's offset */
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
        if (thread->next + bytes > thread->end) {
            thread->next = thread->start;
        }
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

/* Read it for the first time. */
static void warm_up(void)
{
    g_autofree uint8_t *buf = g_malloc0(bytes);

    for (int64_t offset = 0; offset < HOT_BYTES; offset += bytes) {
        g_assert_cmpint(blk_pread(blk, offset, bytes, buf, 0), >=, 0);
    }
}

int main(int argc, char **argv)
{
    g_autofree Thread *threads = NULL;
    int n, requests;
    int64_t begin, part;
    bool hot;

    g_assert_cmpint(argc, ==, 6);
    n = atoi(argv[2]);
    requests = atoi(argv[3]);
    bytes = atoi(argv[4]);
    is_write = !strcmp(argv[5], "write");
    hot = !strcmp(argv[5], "hot");

    blk = open_node(argv[1]);
    qemu_sem_init(&ended, 0);
    part = hot ? HOT_BYTES : blk_getlength(blk) / n / bytes * bytes;
    if (hot) {
        warm_up();
    }
    threads = g_new0(Thread, n);
    for (int i = 0; i < n; i++) {
        threads[i] = (Thread) {
            .iothread = iothread_new(),
            .start = hot ? 0 : i * part,
            .requests = requests / n,
        };
        threads[i].next = threads[i].start;
        threads[i].end = threads[i].start + part;
    }
    g_assert_true(hot || requests / n <= part / bytes);

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

    /* What is repaired behind reads belongs to the threads, too. */
    bdrv_drain_all();
    for (int i = 0; i < n; i++) {
        iothread_join(threads[i].iothread);
    }
    blk_unref(blk);
    return 0;
}
