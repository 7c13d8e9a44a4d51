/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast is what was read or written once before?
 *
 * usage: again OPTIONS read|write BYTES COUNT DEPTH
 *
 * First all of the node is read, or written, once, in requests of at least
 * 1 MiB, which is not measured; then come COUNT requests of BYTES, from the
 * begin of the node to its end and so on, DEPTH of them in flight.  The
 * counters of our driver are printed in between and at the end.  What is
 * written is what the images of the bench hold.
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "node.h"

#define PATTERN 0x5a        /* as in contest.py */

static BlockBackend *blk;
static int64_t length, bytes;
static bool is_write;
static int64_t next, left;
static int running;

static void coroutine_fn worker(void *opaque)
{
    uint8_t *buf = qemu_memalign(4096, bytes);

    memset(buf, PATTERN, bytes);
    while (left > 0) {
        int64_t offset = next % (length / bytes) * bytes;
        int ret;

        next++;
        left--;
        ret = is_write ? blk_co_pwrite(blk, offset, bytes, buf, 0)
                       : blk_co_pread(blk, offset, bytes, buf, 0);
        g_assert_cmpint(ret, >=, 0);
    }
    qemu_vfree(buf);
    running--;
}

/* @count requests of @size bytes; returns seconds. */
static double load(int64_t size, int64_t count, int depth)
{
    int64_t start = g_get_monotonic_time();

    bytes = size;
    next = 0;
    left = count;
    running = depth;
    for (int i = 0; i < depth; i++) {
        qemu_coroutine_enter(qemu_coroutine_create(worker, NULL));
    }
    while (running) {
        main_loop_wait(false);
    }
    return (g_get_monotonic_time() - start) / 1e6;
}

int main(int argc, char **argv)
{
    int64_t size, count, largest;
    double took;
    int depth;

    g_assert_cmpint(argc, ==, 6);
    is_write = !strcmp(argv[2], "write");
    size = atoll(argv[3]);
    count = atoll(argv[4]);
    depth = atoi(argv[5]);
    largest = MAX(size, 1 * MiB);

    blk = open_node(argv[1]);
    length = blk_getlength(blk);
    g_assert_cmpint(length % largest, ==, 0);
    printf("at first in %f seconds\n", load(largest, length / largest, depth));
    print_stats();
    took = load(size, count, depth);
    printf("completed in %f seconds\n", took);
    print_stats();
    blk_unref(blk);
    return 0;
}
