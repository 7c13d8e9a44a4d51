/*
 * How long does the driver hold its lock when one child is dead?
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Half of all granules of the child's stale map are set.  tools/bench/bench.py
 * builds this against our tree.
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "block/quorum/sync.h"

enum { CHILDREN = 3, THRESHOLD = 2, ROUNDS = 100 };

/* The dead child misses a write, or a flush if @bytes is 0.  In ns. */
static int64_t miss(QuorumSync *sync, int64_t bytes, bool fua)
{
    bool missed[CHILDREN] = { true };
    QuorumWrite w;
    int64_t start;
    bool ok;

    if (bytes) {
        quorum_sync_write_begin(sync, &w, 0, bytes, fua,
                                (bool[CHILDREN]) { false });
        w.missed = missed;
    } else {
        quorum_sync_flush_begin(sync);
    }
    start = g_get_monotonic_time();
    if (bytes) {
        ok = quorum_sync_write_settle(sync, &w, THRESHOLD, false, false) ==
            QUORUM_WRITE_HELD;
    } else {
        quorum_sync_flush_failed(sync, 0, 0);
        ok = quorum_sync_flush_settle(sync, missed, THRESHOLD, true, false,
                                      false) == QUORUM_FLUSH_DONE;
    }
    g_assert(ok);
    return g_get_monotonic_time() - start;
}

int main(void)
{
    const int64_t length = 64 * GiB;    /* 16 Mi granules */
    QuorumSync *sync = quorum_sync_new("bench", CHILDREN);
    int64_t longest = 0;

    for (int i = 0; i < CHILDREN; i++) {
        quorum_sync_set_present(sync, i, true);
    }
    quorum_sync_resize(sync, length);
    miss(sync, QUORUM_UNIT, false);
    miss(sync, 0, false);
    for (int64_t pos = 0; pos < length; pos += 2 * QUORUM_UNIT) {
        quorum_sync_mark_stale(sync, 0, pos, QUORUM_UNIT, "bench");
    }
    for (int i = 0; i < ROUNDS; i++) {
        bool missed[CHILDREN] = { false };
        QuorumWrite all;

        /* All of the node is unflushed; the dead child has taken nothing. */
        quorum_sync_write_begin(sync, &all, 0, length, false, missed);
        quorum_sync_write_abandon(sync, &all);
        longest = MAX(longest, miss(sync, QUORUM_UNIT, i % 2));
        longest = MAX(longest, miss(sync, 0, false));
    }
    quorum_sync_free(sync);
    printf("completed in %f seconds\n", longest / 1e6);
    return 0;
}
