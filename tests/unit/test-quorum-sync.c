/*
 * Unit test of what the quorum driver knows of its children (QuorumSync)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The simulator (test-quorum-sim.c) runs the whole driver, in one thread.  This
 * runs a QuorumSync alone, in several: writes, FUA writes and repairs beside
 * flushes, on three replicas of which one at a time fails some of what it is
 * asked to do, and loses what it has not flushed when it fails to flush, or is
 * restarted, which is noticed later.  The replicas keep no data, only which
 * write a block has seen last.
 *
 * As two replicas are well, all must be acknowledged (promise 7).  And whenever
 * a range is held, all replicas that are neither stale nor unsure in it have
 * what was acknowledged there, and there are two of them at least (promises 1,
 * 3 and 10).
 * The QuorumSync checks its invariants after each critical section.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/range-lock.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/quorum/debug.h"
#include "block/quorum/sync.h"
#include "thread-stress.h"

enum {
    THREADS = 4,
    COROUTINES = 8,         /* in each thread */
    ROUNDS = 4000,          /* of each coroutine */
    REPLICAS = 3,
    THRESHOLD = 2,
    BLOCKS = 1024,          /* of QUORUM_UNIT: four bits of the unflushed map */
    HOT = 32,               /* those that are used, in each quarter */
};

typedef struct Replica {
    QemuMutex lock;
    int seen[BLOCKS];       /* the last write that it did */
    int kept[BLOCKS];       /* the last one that it flushed */
    uint64_t restarted;     /* which restart its last one was */
} Replica;

static QuorumSync *node_sync;
static RangeLock range_lock;
static CoRwlock flush_lock;
static Replica replicas[REPLICAS];
static int last_write;
static int acked[BLOCKS];       /* under the block's range */
static int victim;              /* who may fail now */
static int unsettled;           /* what has failed, and is not settled yet */
static int restarts;

/* Whether @w, which is not tried again, is acknowledged. */
static bool settle_write(QuorumSync *s, QuorumWrite *w, int threshold)
{
    return quorum_sync_write_settle(s, w, threshold, false, false) ==
           QUORUM_WRITE_HELD;
}

/* --- replicas --- */

static bool fails(int i, GRand *rand, int one_in)
{
    return i == qatomic_read(&victim) && g_rand_int_range(rand, 0, one_in) == 0;
}

/* A write that fails may be done all the same, or not. */
static bool replica_write(int i, int first, int blocks, int number, bool fail,
                          GRand *rand)
{
    Replica *r = &replicas[i];

    QEMU_LOCK_GUARD(&r->lock);
    for (int b = first; b < first + blocks; b++) {
        if (!fail || g_rand_boolean(rand)) {
            r->seen[b] = number;
        }
    }
    return !fail;
}

static bool replica_flush(int i, bool fail, GRand *rand)
{
    Replica *r = &replicas[i];

    if (fail) {
        qatomic_inc(&unsettled);
    }
    WITH_QEMU_LOCK_GUARD(&r->lock) {
        for (int b = 0; b < BLOCKS; b++) {
            if (!fail) {
                r->kept[b] = r->seen[b];
            } else if (g_rand_boolean(rand)) {
                r->seen[b] = r->kept[b];
            }
        }
    }
    /* Other requests may come and go before this is known. */
    if (fail) {
        g_usleep(g_rand_int_range(rand, 0, 100));
        quorum_sync_flush_failed(node_sync, i, 0);
    }
    return !fail;
}

/* It may lose what it has not flushed, and tells of it when it is asked. */
static void replica_restart(int i, GRand *rand)
{
    Replica *r = &replicas[i];

    QEMU_LOCK_GUARD(&r->lock);
    for (int b = 0; b < BLOCKS; b++) {
        if (g_rand_boolean(rand)) {
            r->seen[b] = r->kept[b];
        }
    }
    qatomic_set(&r->restarted, qatomic_inc_fetch(&restarts));
}

static void notice_restarts(void)
{
    for (int i = 0; i < REPLICAS; i++) {
        quorum_sync_lost(node_sync, i, qatomic_read(&replicas[i].restarted),
                         0);
    }
}

/* --- what must be true --- */

/*
 * The range is held.  A replica that is not in doubt and lacks something has
 * lost it in a flush that failed, and that is not settled yet.  The locks that
 * are taken here keep replicas from losing more; so a loss is counted in
 * @unsettled before it is read here, and remains so until the replica is stale.
 */
static void check_range(int first, int blocks)
{
    int now_victim, now_unsettled;

    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_lock(&replicas[i].lock);
    }
    notice_restarts();
    now_victim = qatomic_read(&victim);
    now_unsettled = qatomic_read(&unsettled);
    /* Order these two loads before those of the maps. */
    smp_rmb();
    for (int b = first; b < first + blocks; b++) {
        int holders = 0;

        for (int i = 0; i < REPLICAS; i++) {
            if (quorum_sync_is_doubtful(node_sync, i, (int64_t)b * QUORUM_UNIT,
                                        QUORUM_UNIT)) {
                continue;
            }
            if (replicas[i].seen[b] == acked[b]) {
                holders++;
            } else {
                g_assert_cmpint(i, ==, now_victim);
                g_assert_cmpint(now_unsettled, >, 0);
            }
        }
        g_assert_cmpint(holders, >=, THRESHOLD);
    }
    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_unlock(&replicas[i].lock);
    }
}

/* Enough replicas have flushed what was written, or something newer. */
static void check_kept(int first, int blocks, const int *numbers)
{
    for (int b = 0; b < blocks; b++) {
        int kept = 0;

        for (int i = 0; i < REPLICAS; i++) {
            QEMU_LOCK_GUARD(&replicas[i].lock);
            kept += replicas[i].kept[first + b] >= numbers[b];
        }
        g_assert_cmpint(kept, >=, THRESHOLD);
    }
}

/* --- what is done --- */

/* Returns false if it is to be sent again. */
static bool coroutine_fn try_to_write(int first, int blocks, bool fua,
                                      GRand *rand)
{
    bool missed[REPLICAS] = {};
    int number = qatomic_inc_fetch(&last_write);
    int losses = 0;
    QuorumWriteOutcome outcome;
    QuorumWrite w;

    if (fua) {
        qemu_co_rwlock_rdlock(&flush_lock);
    }
    quorum_sync_write_begin(node_sync, &w, (int64_t)first * QUORUM_UNIT,
                            (int64_t)blocks * QUORUM_UNIT, fua, missed);
    for (int i = 0; i < REPLICAS; i++) {
        thread_stress_pause(rand);
        missed[i] = !replica_write(i, first, blocks, number,
                                   fails(i, rand, 16), rand);
        if (fua && !missed[i]) {
            missed[i] = !replica_flush(i, fails(i, rand, 4), rand);
            losses += missed[i];
        }
    }
    notice_restarts();
    thread_stress_pause(rand);
    outcome = quorum_sync_write_settle(node_sync, &w, THRESHOLD,
                                       g_rand_boolean(rand), false);
    if (outcome == QUORUM_WRITE_LOST) {
        quorum_sync_write_abandon(node_sync, &w);
    } else {
        g_assert_cmpint(outcome, ==, QUORUM_WRITE_HELD);
        for (int b = first; b < first + blocks; b++) {
            qatomic_set(&acked[b], number);
        }
    }
    qatomic_sub(&unsettled, losses);
    if (fua) {
        if (outcome == QUORUM_WRITE_HELD) {
            check_kept(first, blocks, &acked[first]);
        }
        qemu_co_rwlock_unlock(&flush_lock);
    }
    return outcome == QUORUM_WRITE_HELD;
}

static void coroutine_fn write_range(int first, int blocks, bool fua,
                                     GRand *rand)
{
    while (!try_to_write(first, blocks, fua, rand)) {
        /* Its replica has been restarted. */
    }
}

/* Let a replica that is stale or unsure in the range catch up. */
static void coroutine_fn repair_range(int first, int blocks, GRand *rand)
{
    bool missed[REPLICAS] = {};
    QuorumWrite w;

    quorum_sync_write_begin(node_sync, &w, (int64_t)first * QUORUM_UNIT,
                            (int64_t)blocks * QUORUM_UNIT, false, missed);
    for (int b = first; b < first + blocks; b++) {
        int64_t offset = (int64_t)b * QUORUM_UNIT;

        for (int i = 0; i < REPLICAS; i++) {
            if (!quorum_sync_is_doubtful(node_sync, i, offset, QUORUM_UNIT)) {
                continue;
            }
            thread_stress_pause(rand);
            if (replica_write(i, b, 1, acked[b], fails(i, rand, 16), rand)) {
                quorum_sync_repair_settle(node_sync, &w, i, offset,
                                          QUORUM_UNIT);
            }
        }
    }
    quorum_sync_write_abandon(node_sync, &w);
}

/* There is one flush at a time. */
static void coroutine_fn flush(GRand *rand)
{
    g_autofree int *before = g_new(int, BLOCKS);
    bool missed[REPLICAS];
    int losses = 0;
    bool ok;

    qemu_co_rwlock_wrlock(&flush_lock);
    for (int b = 0; b < BLOCKS; b++) {
        before[b] = qatomic_read(&acked[b]);
    }
    quorum_sync_flush_begin(node_sync);
    for (int i = 0; i < REPLICAS; i++) {
        thread_stress_pause(rand);
        missed[i] = !replica_flush(i, fails(i, rand, 4), rand);
        losses += missed[i];
    }
    notice_restarts();
    thread_stress_pause(rand);
    ok = quorum_sync_flush_settle(node_sync, missed, THRESHOLD, true, false,
                                  false) ==
         QUORUM_FLUSH_DONE;
    qatomic_sub(&unsettled, losses);
    g_assert_true(ok);

    check_kept(0, BLOCKS, before);
    qemu_co_rwlock_unlock(&flush_lock);
}

/* Let all be well, then choose who is to fail next. */
static void coroutine_fn repair_all(GRand *rand)
{
    RangeLockRequest range;
    bool well = false;

    range_lock_co_lock(&range_lock, &range, 0, BLOCKS * QUORUM_UNIT);
    check_range(0, BLOCKS);
    qatomic_set(&victim, -1);
    while (!well) {
        write_range(0, BLOCKS, false, rand);
        flush(rand);
        well = !qatomic_read(&unsettled) && !quorum_sync_is_degraded(node_sync);
    }
    check_range(0, BLOCKS);
    qatomic_set(&victim, g_rand_int_range(rand, 0, REPLICAS));
    range_lock_co_unlock(&range_lock, &range);
}

static void coroutine_fn writer(GRand *rand)
{
    int blocks = g_rand_int_range(rand, 1, 9);
    int quarter = g_rand_int_range(rand, 0, 4);
    int restarted = g_rand_int_range(rand, 0, 20 * REPLICAS);
    int first = quarter * (BLOCKS / 4) + g_rand_int_range(rand, 0, HOT);
    RangeLockRequest range;

    thread_stress_pause(rand);
    range_lock_co_lock(&range_lock, &range, first * QUORUM_UNIT,
                       blocks * QUORUM_UNIT);
    check_range(first, blocks);
    /* As long as a range is held, the victim remains the same. */
    if (restarted == qatomic_read(&victim)) {
        replica_restart(restarted, rand);
    }
    /* In one quarter, where nothing else is unflushed, all writes are FUA. */
    switch (quarter == 3 ? 1 : g_rand_int_range(rand, 0, 8)) {
    case 0:
        repair_range(first, blocks, rand);
        break;
    case 1:
        write_range(first, blocks, true, rand);
        break;
    default:
        write_range(first, blocks, false, rand);
        break;
    }
    check_range(first, blocks);
    range_lock_co_unlock(&range_lock, &range);
}

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (id != 1) {
            writer(rand);
        } else if (g_rand_int_range(rand, 0, 16)) {
            flush(rand);
        } else {
            repair_all(rand);
        }
    }
}

/* A node of @bytes with all replicas. */
static QuorumSync *sync_new(int64_t bytes)
{
    QuorumSync *new = quorum_sync_new("test", REPLICAS);

    for (int i = 0; i < REPLICAS; i++) {
        quorum_sync_set_present(new, i, true);
    }
    quorum_sync_resize(new, bytes);
    return new;
}

/* A write that no replica fails is acknowledged. */
static void write_well(QuorumSync *s, int64_t offset, int64_t bytes, bool fua)
{
    bool missed[REPLICAS] = { false };
    QuorumWrite w;
    bool ok;

    quorum_sync_write_begin(s, &w, offset, bytes, fua, missed);
    ok = settle_write(s, &w, THRESHOLD);
    g_assert_true(ok);
}

/* A write that the replicas in @missed fail; returns if it is acknowledged. */
static bool write_missed(QuorumSync *s, int64_t offset, int64_t bytes, bool fua,
                         const bool *missed)
{
    bool all[REPLICAS] = { false };
    QuorumWrite w;

    quorum_sync_write_begin(s, &w, offset, bytes, fua, all);
    memcpy(all, missed, sizeof(all));
    return settle_write(s, &w, THRESHOLD);
}

/* A write that replica 0 fails, and only that, is acknowledged. */
static void write_without_replica_0(QuorumSync *s, int64_t offset,
                                    int64_t bytes)
{
    g_assert_true(write_missed(s, offset, bytes, false,
                               (bool[REPLICAS]) { true }));
}

/* A flush that replica 0 fails, and only that, is acknowledged. */
static void flush_without_replica_0(QuorumSync *s)
{
    bool missed[REPLICAS] = { true };
    bool ok;

    quorum_sync_flush_begin(s);
    quorum_sync_flush_failed(s, 0, 0);
    ok = quorum_sync_flush_settle(s, missed, THRESHOLD, true, false, false) ==
         QUORUM_FLUSH_DONE;
    g_assert_true(ok);
}

static QuorumStaleness staleness(QuorumSync *s, int i, int64_t offset,
                                 int64_t bytes)
{
    QuorumStaleness all[REPLICAS];

    quorum_sync_staleness(s, offset, bytes, all);
    return all[i];
}

/*
 * With its own checks, and without: these take the lock where the fast path
 * does without it.
 */
static void test_stress(const void *checked)
{
    bool was_on = quorum_debug.on;

    quorum_debug.on = checked;
    memset(replicas, 0, sizeof(replicas));
    memset(acked, 0, sizeof(acked));
    last_write = victim = restarts = 0;
    node_sync = sync_new(BLOCKS * QUORUM_UNIT);
    range_lock_init(&range_lock);
    qemu_co_rwlock_init(&flush_lock);
    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_init(&replicas[i].lock);
    }

    thread_stress(THREADS, COROUTINES, stress_entry);
    check_range(0, BLOCKS);
    g_assert_cmpint(unsettled, ==, 0);
    g_assert_cmpint(restarts, >, 0);

    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_destroy(&replicas[i].lock);
    }
    range_lock_destroy(&range_lock);
    quorum_sync_free(node_sync);
    quorum_debug.on = was_on;
}

/*
 * A node that grows beyond what a map has bits for gets coarser maps: what was
 * stale or unflushed still is, and no more than its granule.
 */
static void test_grow(void)
{
    const int64_t small = 64 * GiB, large = 64 * TiB;
    const int64_t place = 48 * GiB + 5 * QUORUM_UNIT;
    /* What 32 Mi bits of a stale map, and 8 Mi of the unflushed map, leave. */
    const int64_t granule = 4 * MiB, unflushed_granule = 16 * MiB;
    QuorumSync *s = sync_new(small);

    quorum_sync_mark_stale(s, 1, place, 1, "test");
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, QUORUM_UNIT);
    write_well(s, 10 * GiB, MiB, false);

    quorum_sync_resize(s, large);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, granule);
    g_assert_cmpint(staleness(s, 1, place, QUORUM_UNIT), ==,
                    QUORUM_STALE_THROUGHOUT);
    g_assert_cmpint(staleness(s, 1, place - granule, 1), ==,
                    QUORUM_STALE_NOWHERE);
    g_assert_cmpint(staleness(s, 1, place - granule, 2 * granule), ==,
                    QUORUM_STALE_PARTLY);

    /* Replica 0 fails a flush: what was written before the node grew is lost */
    flush_without_replica_0(s);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, unflushed_granule);
    g_assert_cmpint(staleness(s, 0, 10 * GiB, MiB), ==,
                    QUORUM_STALE_THROUGHOUT);

    /* A smaller node has finer maps again. */
    quorum_sync_resize(s, small);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, granule);
    quorum_sync_mark_stale(s, 2, place, 1, "test");
    g_assert_cmpint(quorum_sync_stale_bytes(s, 2), ==, QUORUM_UNIT);
    quorum_sync_free(s);
}

/* What a replica had recovered is cut off: then it can't be lost. */
static void test_recovered_is_cut_off(void)
{
    QuorumSync *s = sync_new(2 * MiB);

    quorum_sync_mark_stale(s, 0, MiB, QUORUM_UNIT, "test");
    write_well(s, MiB, QUORUM_UNIT, false);
    g_assert_false(quorum_sync_is_degraded(s));

    quorum_sync_resize(s, MiB);
    flush_without_replica_0(s);
    g_assert_false(quorum_sync_is_degraded(s));
    quorum_sync_free(s);
}

/*
 * A replica lacks nothing any more because that was cut off: it is in sync when
 * the cut is flushed, and not before.
 */
static void test_rebuilding_is_cut_off(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(2 * MiB);
    bool ok;

    quorum_sync_set_rebuilding(s, 0);
    write_well(s, MiB, MiB, false);
    quorum_sync_resize(s, 0);
    g_assert_true(quorum_sync_is_rebuilding(s, 0));
    flush_without_replica_0(s);
    g_assert_true(quorum_sync_is_rebuilding(s, 0));

    quorum_sync_flush_begin(s);
    ok = quorum_sync_flush_settle(s, missed, THRESHOLD, true, false, false) ==
         QUORUM_FLUSH_DONE;
    g_assert_true(ok);
    g_assert_false(quorum_sync_is_rebuilding(s, 0));
    quorum_sync_free(s);
}

/* An excluded replica lacks what the node grows by, too. */
static void test_excluded_while_growing(void)
{
    QuorumSync *s = sync_new(MiB);

    quorum_sync_exclude(s, 1, false, "test");
    quorum_sync_resize(s, 2 * MiB);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, 2 * MiB);
    quorum_sync_include(s, 1, false);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, 2 * MiB);
    quorum_sync_free(s);
}

/*
 * A FUA write that takes its time keeps those that end meanwhile from being
 * forgotten.  Only so many are remembered: the oldest count as unflushed.
 */
static void test_many_fua(void)
{
    const int most = quorum_limits.fua_done;
    QuorumSync *s = sync_new(GiB);
    QuorumWrite slow;
    bool ok;

    /* The range of the slow one is unlike all others. */
    quorum_sync_write_begin(s, &slow, GiB - QUORUM_UNIT, QUORUM_UNIT, true,
                            (bool[REPLICAS]) { false });
    for (int n = 0; n < most + 2; n++) {
        write_well(s, MIN(n, 100) * MiB, QUORUM_UNIT, true);
    }
    ok = settle_write(s, &slow, THRESHOLD);
    g_assert_true(ok);

    /* The two oldest have become unflushed, in a granule of 1 MiB each. */
    flush_without_replica_0(s);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 2 * MiB);
    quorum_sync_free(s);
}

/*
 * A replica that is away lacks what it misses, and what it had taken before and
 * not flushed: a granule of 1 MiB of the unflushed map.  What others have
 * written meanwhile, flushes that it fails can't lose.
 */
static void test_outage(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, MiB, QUORUM_UNIT, false);
    write_without_replica_0(s, MiB + 8 * QUORUM_UNIT, QUORUM_UNIT);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, QUORUM_UNIT);
    flush_without_replica_0(s);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, MiB);
    for (int n = 1; n < 10; n++) {
        write_without_replica_0(s, n * 10 * MiB, QUORUM_UNIT);
        flush_without_replica_0(s);
        g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==,
                        MiB + n * QUORUM_UNIT);
    }

    /* Back again, it may lose what it takes. */
    write_well(s, 200 * MiB, QUORUM_UNIT, false);
    flush_without_replica_0(s);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==,
                    2 * MiB + 9 * QUORUM_UNIT);
    g_assert_true(quorum_sync_is_stale(s, 0, 200 * MiB, 1));
    quorum_sync_free(s);
}

/*
 * A flush that a replica does covers what it had taken before, but not what it
 * has taken since and before it went away.
 */
static void test_outage_beside_flush(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);
    bool ok;

    write_well(s, 10 * MiB, QUORUM_UNIT, false);
    quorum_sync_flush_begin(s);
    write_well(s, 20 * MiB, QUORUM_UNIT, false);
    write_without_replica_0(s, 30 * MiB, QUORUM_UNIT);
    ok = quorum_sync_flush_settle(s, missed, THRESHOLD, true, false, false) ==
         QUORUM_FLUSH_DONE;
    g_assert_true(ok);

    flush_without_replica_0(s);
    g_assert_false(quorum_sync_is_stale(s, 0, 10 * MiB, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_stale(s, 0, 20 * MiB, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* A replica that was away has something to lose again after a resize. */
static void test_outage_and_resize(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(MiB);
    QuorumWrite w;

    write_without_replica_0(s, 0, QUORUM_UNIT);
    flush_without_replica_0(s);
    quorum_sync_write_begin(s, &w, MiB, MiB, false, missed);
    quorum_sync_write_abandon(s, &w);
    quorum_sync_resize(s, 2 * MiB);
    quorum_sync_set_unflushed(s, &w, MiB, MiB);
    g_assert_false(quorum_sync_is_stale(s, 0, MiB, MiB));
    flush_without_replica_0(s);
    g_assert_cmpint(staleness(s, 0, MiB, MiB), ==, QUORUM_STALE_THROUGHOUT);
    quorum_sync_free(s);
}

/*
 * A FUA write that a replica had taken before it went away counts as unflushed
 * later: so the replica may have lost it.
 */
static void test_outage_and_fua(void)
{
    QuorumSync *s = sync_new(GiB);
    QuorumWrite slow;

    quorum_sync_write_begin(s, &slow, 100 * MiB, QUORUM_UNIT, true,
                            (bool[REPLICAS]) { false });
    write_well(s, 10 * MiB, QUORUM_UNIT, true);
    write_without_replica_0(s, 20 * MiB, QUORUM_UNIT);
    quorum_sync_write_abandon(s, &slow);
    g_assert_false(quorum_sync_is_stale(s, 0, 10 * MiB, QUORUM_UNIT));
    flush_without_replica_0(s);
    g_assert_true(quorum_sync_is_stale(s, 0, 10 * MiB, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* In each granule of a write, others may be enough. */
static void test_stale_beside_each_other(void)
{
    const int64_t offset = QUORUM_UNIT / 2;
    QuorumSync *s = sync_new(GiB);

    g_assert_true(write_missed(s, 0, QUORUM_UNIT, false,
                               (bool[REPLICAS]) { true, false, false }));
    g_assert_true(write_missed(s, QUORUM_UNIT, QUORUM_UNIT, false,
                               (bool[REPLICAS]) { false, true, false }));
    write_well(s, offset, QUORUM_UNIT, false);
    write_well(s, offset, QUORUM_UNIT, true);
    g_assert_true(quorum_sync_is_stale(s, 0, 0, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_stale(s, 1, QUORUM_UNIT, QUORUM_UNIT));
    for (int i = 0; i < REPLICAS; i++) {
        bool missed[REPLICAS] = { false };

        missed[i] = true;
        g_assert_false(write_missed(s, offset, QUORUM_UNIT, false, missed));
    }
    quorum_sync_free(s);
}

/* A write that would have made the node much longer has failed. */
static void test_failed_growth(void)
{
    const int64_t small = 64 * GiB, large = 64 * TiB;
    QuorumSync *s = sync_new(small);
    bool ok;

    quorum_sync_mark_stale(s, 1, 5 * QUORUM_UNIT, 1, "test");
    ok = write_missed(s, large, MiB, false,
                      (bool[REPLICAS]) { true, true, false });
    g_assert_false(ok);
    g_assert_cmpint(quorum_sync_length(s), ==, small);
    g_assert_cmpint(quorum_sync_touched_end(s), ==, large + MiB);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 1), ==, QUORUM_UNIT);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 0);
    quorum_sync_free(s);
}

/* Who misses a write behind the end lacks what is in between, too. */
static void test_growth_with_gap(void)
{
    QuorumSync *s = sync_new(MiB);

    write_without_replica_0(s, 2 * MiB, MiB);
    g_assert_cmpint(quorum_sync_length(s), ==, 3 * MiB);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 2 * MiB);
    /* All of it is unflushed. */
    flush_without_replica_0(s);
    g_assert_true(quorum_sync_is_stale(s, 0, MiB, MiB));
    quorum_sync_free(s);
}

/*
 * The end is within a granule in which a replica is stale.  If another one
 * misses the growth, there would be one holder of what was there before.
 */
static void test_growth_within_granule(void)
{
    const int64_t end = MiB + QUORUM_UNIT / 2;
    const bool without_0[REPLICAS] = { true };
    QuorumSync *s = sync_new(end);

    quorum_sync_mark_stale(s, 1, MiB, 1, "test");
    g_assert_cmpint(quorum_sync_count_growing(s, without_0, 2 * MiB), ==, 1);
    g_assert_false(write_missed(s, end, MiB, false, without_0));
    g_assert_false(write_missed(s, 2 * MiB, MiB, false, without_0));
    g_assert_cmpint(quorum_sync_length(s), ==, end);
    g_assert_false(quorum_sync_is_stale(s, 0, 0, end));
    write_well(s, 2 * MiB, MiB, false);

    /* The granule is as large as it will be. */
    quorum_sync_resize(s, 0);
    quorum_sync_resize(s, 64 * GiB);
    quorum_sync_mark_stale(s, 1, 64 * GiB - 2 * QUORUM_UNIT, 1, "test");
    g_assert_cmpint(quorum_sync_count_growing(s, without_0,
                                              64 * GiB + MiB), ==, 2);
    g_assert_true(write_missed(s, 64 * GiB, MiB, false, without_0));
    quorum_sync_free(s);
    s = sync_new(64 * GiB + QUORUM_UNIT);
    quorum_sync_mark_stale(s, 1, 64 * GiB, 1, "test");
    g_assert_cmpint(quorum_sync_count_growing(s, without_0, 64 * TiB), ==, 1);
    g_assert_false(write_missed(s, 64 * TiB, MiB, false, without_0));
    quorum_sync_free(s);
}

/* Whether some of the range is unverified, and what it is widened to then */
static void check_unverified(QuorumSync *s, int64_t offset, int64_t bytes,
                             int64_t start, int64_t end)
{
    g_assert_true(quorum_sync_widen_unverified(s, &offset, &bytes));
    g_assert_cmpint(offset, ==, start);
    g_assert_cmpint(offset + bytes, ==, end);
}

static void check_verified(QuorumSync *s, int64_t offset, int64_t bytes)
{
    int64_t start = offset, size = bytes;

    g_assert_false(quorum_sync_widen_unverified(s, &start, &size));
    g_assert_cmpint(start, ==, offset);
    g_assert_cmpint(size, ==, bytes);
}

/* Granules that are whole in what is verified are so from then on. */
static void test_verify(void)
{
    const int64_t unit = QUORUM_UNIT, end = MiB + 512;
    QuorumSync *s = sync_new(end);

    check_verified(s, 0, end);
    quorum_sync_set_unverified(s, true);
    check_unverified(s, unit + 512, 512, unit, 2 * unit);
    quorum_sync_set_verified(s, unit - 512, unit + 1024);
    check_verified(s, unit, unit);
    check_unverified(s, unit, unit + 1, unit, 3 * unit);
    check_unverified(s, 0, unit + 1, 0, 2 * unit);

    /* The last granule is a short one.  Behind it, there is nothing. */
    check_unverified(s, MiB, 1, MiB, end);
    check_unverified(s, MiB + 1, MiB, MiB, 2 * MiB + 1);
    check_verified(s, end, MiB);
    check_verified(s, end + unit, unit);
    quorum_sync_set_verified(s, MiB, 511);
    check_unverified(s, MiB, 1, MiB, end);
    quorum_sync_set_verified(s, MiB, 512);
    check_verified(s, MiB, 512);

    /* With the last one, the map is gone. */
    quorum_sync_set_verified(s, 2 * unit, MiB);
    check_unverified(s, 0, end, 0, end);
    quorum_sync_set_verified(s, 0, unit);
    check_verified(s, 0, end);
    quorum_sync_set_unverified(s, true);
    quorum_sync_set_unverified(s, true);
    quorum_sync_set_unverified(s, false);
    check_verified(s, 0, end);
    quorum_sync_resize(s, 0);
    quorum_sync_set_unverified(s, true);
    quorum_sync_resize(s, MiB);
    check_verified(s, 0, MiB);
    quorum_sync_free(s);
}

/* What the node grows by is verified; what is cut off need not be. */
static void test_verify_and_resize(void)
{
    const int64_t large = TiB;
    int64_t start = 0, granule = 1;
    QuorumSync *s = sync_new(GiB);

    quorum_sync_set_unverified(s, true);
    quorum_sync_set_verified(s, QUORUM_UNIT, GiB);
    quorum_sync_resize(s, 2 * GiB);
    check_verified(s, QUORUM_UNIT, 2 * GiB - QUORUM_UNIT);

    quorum_sync_resize(s, large);
    quorum_sync_widen(s, &start, &granule);
    g_assert_cmpint(granule, >, QUORUM_UNIT);
    check_unverified(s, QUORUM_UNIT, 1, 0, granule);
    check_verified(s, granule, large - granule);
    quorum_sync_resize(s, 0);
    quorum_sync_resize(s, GiB);
    check_verified(s, 0, GiB);
    quorum_sync_free(s);
}

/* --- replicas that do not answer, and what comes late --- */

static void check_state_change(QuorumSync *s, int i, QuorumChildState state)
{
    g_autoptr(QuorumStateChange) change = quorum_sync_next_state_change(s);

    g_assert_nonnull(change);
    g_assert_cmpint(change->child, ==, i);
    g_assert_cmpint(change->state, ==, state);
}

/* A replica that lags lacks what it was not asked, and nothing else. */
static void test_lagging(void)
{
    QuorumSync *s = sync_new(GiB);

    g_assert_false(quorum_sync_is_degraded(s));
    quorum_sync_set_lagging(s, 0, true, "does not answer");
    check_state_change(s, 0, QUORUM_CHILD_STATE_LAGGING);
    g_assert_true(quorum_sync_is_degraded(s));
    g_assert_true(quorum_sync_is_lagging(s, 0));
    g_assert_false(quorum_sync_is_excluded(s, 0));
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 0);

    /* It is a member, so it is stale, and the state is told only once. */
    write_without_replica_0(s, MiB, QUORUM_UNIT);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, QUORUM_UNIT);
    g_assert_null(quorum_sync_next_state_change(s));

    quorum_sync_set_lagging(s, 0, false, "answers again");
    check_state_change(s, 0, QUORUM_CHILD_STATE_STALE);
    g_assert_true(quorum_sync_is_degraded(s));
    write_well(s, MiB, QUORUM_UNIT, false);
    check_state_change(s, 0, QUORUM_CHILD_STATE_OK);
    g_assert_false(quorum_sync_is_degraded(s));
    quorum_sync_free(s);
}

/* What is written where something may come late is not stored. */
static void test_late(void)
{
    QuorumSync *s = sync_new(GiB);
    bool missed[REPLICAS] = { false };
    QuorumWrite repair;

    g_assert_cmpint(quorum_sync_late_marks(s, 0), ==, 0);
    quorum_sync_mark_late(s, 0, MiB, QUORUM_UNIT);
    g_assert_cmpint(quorum_sync_late_marks(s, 0), ==, 1);
    g_assert_true(quorum_sync_is_degraded(s));
    g_assert_true(quorum_sync_is_late(s, 0, MiB - 1, 2));
    g_assert_false(quorum_sync_is_late(s, 0, 0, MiB));
    g_assert_false(quorum_sync_is_late(s, 1, 0, GiB));
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 0);

    /* Neither a write nor a repair ends its being stale. */
    write_well(s, MiB, QUORUM_UNIT, false);
    g_assert_true(quorum_sync_is_stale(s, 0, MiB, QUORUM_UNIT));
    quorum_sync_write_begin(s, &repair, MiB, QUORUM_UNIT, false, missed);
    g_assert_false(quorum_sync_repair_settle(s, &repair, 0, MiB, QUORUM_UNIT));
    quorum_sync_write_abandon(s, &repair);
    g_assert_true(quorum_sync_is_stale(s, 0, MiB, QUORUM_UNIT));

    /* Elsewhere it is as ever. */
    write_well(s, 2 * MiB, QUORUM_UNIT, false);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, QUORUM_UNIT);

    /* With two of them, there would be one copy. */
    quorum_sync_mark_late(s, 1, MiB + 1, 1);
    g_assert_false(write_missed(s, MiB, QUORUM_UNIT, false,
                                (bool[REPLICAS]) { false }));
    quorum_sync_clear_late(s, 1, quorum_sync_late_marks(s, 1));

    quorum_sync_clear_late(s, 0, quorum_sync_late_marks(s, 0));
    g_assert_true(quorum_sync_is_stale(s, 0, MiB, QUORUM_UNIT));
    write_well(s, MiB, QUORUM_UNIT, false);
    g_assert_false(quorum_sync_is_degraded(s));
    quorum_sync_free(s);
}

/* More may become late while someone finds out that nothing is. */
static void test_late_meanwhile(void)
{
    QuorumSync *s = sync_new(GiB);
    uint64_t marks;

    quorum_sync_mark_late(s, 0, 0, MiB);
    marks = quorum_sync_late_marks(s, 0);
    quorum_sync_mark_late(s, 0, 0, MiB);
    quorum_sync_clear_late(s, 0, marks);
    g_assert_true(quorum_sync_is_late(s, 0, 0, MiB));
    quorum_sync_clear_late(s, 0, quorum_sync_late_marks(s, 0));
    g_assert_false(quorum_sync_is_late(s, 0, 0, MiB));
    g_assert_cmpint(quorum_sync_late_marks(s, 0), ==, 0);

    /* The count goes on: an old one is never right again. */
    quorum_sync_mark_late(s, 0, 0, MiB);
    quorum_sync_clear_late(s, 0, marks);
    g_assert_true(quorum_sync_is_late(s, 0, 0, MiB));
    quorum_sync_free(s);
}

/* What may come late behind the end does so when the node has grown, too. */
static void test_late_and_resize(void)
{
    const int64_t end = MiB + QUORUM_UNIT / 2;
    QuorumSync *s = sync_new(end);

    /* A write that fails on replica 0 would have grown the node. */
    quorum_sync_mark_late(s, 0, 2 * MiB, MiB);
    g_assert_cmpint(quorum_sync_late_marks(s, 0), ==, 1);
    g_assert_false(quorum_sync_is_late(s, 0, 0, end));
    write_well(s, 0, QUORUM_UNIT, false);
    g_assert_cmpint(quorum_sync_stale_bytes(s, 0), ==, 0);
    write_well(s, 2 * MiB, QUORUM_UNIT, false);
    g_assert_true(quorum_sync_is_stale(s, 0, 2 * MiB, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_late(s, 0, 2 * MiB, QUORUM_UNIT));

    /* It is not forgotten when that is cut off. */
    quorum_sync_resize(s, MiB);
    g_assert_false(quorum_sync_is_late(s, 0, 0, MiB));
    quorum_sync_resize(s, 2 * MiB + QUORUM_UNIT);
    g_assert_true(quorum_sync_is_late(s, 0, 2 * MiB, QUORUM_UNIT));
    quorum_sync_clear_late(s, 0, quorum_sync_late_marks(s, 0));
    g_assert_false(quorum_sync_is_late(s, 0, 0, 4 * MiB));

    /* Nor if it was not behind the end before. */
    quorum_sync_resize(s, 2 * MiB);
    quorum_sync_mark_late(s, 0, MiB, QUORUM_UNIT);
    quorum_sync_resize(s, MiB);
    quorum_sync_resize(s, 2 * MiB);
    g_assert_true(quorum_sync_is_late(s, 0, MiB, 1));
    quorum_sync_clear_late(s, 0, quorum_sync_late_marks(s, 0));

    /* Growing within a granule that is late, or will be a part of one */
    quorum_sync_resize(s, end);
    quorum_sync_mark_late(s, 0, end - 1, 1);
    g_assert_true(quorum_sync_is_late(s, 0, end, 1));
    write_well(s, end, QUORUM_UNIT, false);
    g_assert_true(quorum_sync_is_stale(s, 0, end, QUORUM_UNIT));
    quorum_sync_free(s);
}

static int64_t random_offset(void)
{
    /* A granule that is hot, and in it sectors */
    return g_test_rand_int_range(0, 4) * QUORUM_UNIT +
           g_test_rand_int_range(0, 8) * 512;
}

static void random_missed(bool *missed)
{
    for (int i = 0; i < REPLICAS; i++) {
        missed[i] = g_test_rand_int_range(0, 4) == 0;
    }
}

/* Anything that may happen to @s while nothing but a flush is in flight. */
static void random_step(QuorumSync *s, bool flushing)
{
    int i = g_test_rand_int_range(0, REPLICAS);
    int64_t offset = random_offset();
    int64_t bytes = 512 << g_test_rand_int_range(0, 5);
    bool missed[REPLICAS];
    QuorumWrite w;

    switch (g_test_rand_int_range(0, 6)) {
    case 0:
        quorum_sync_mark_late(s, i, offset, bytes);
        break;
    case 1:
        quorum_sync_clear_late(s, i, quorum_sync_late_marks(s, i));
        break;
    case 2:
        quorum_sync_set_lagging(s, i, !quorum_sync_is_lagging(s, i), "test");
        break;
    case 3:
        quorum_sync_flush_failed(s, i, 0);
        break;
    default:
        random_missed(missed);
        quorum_sync_write_begin(s, &w, offset, bytes, !flushing &&
                                g_test_rand_int_range(0, 2),
                                (bool[REPLICAS]) { false });
        w.missed = missed;
        settle_write(s, &w, THRESHOLD);
        break;
    }
}

/* If @alone, nothing else is in flight. */
static void random_flush(QuorumSync *s, bool alone)
{
    bool missed[REPLICAS];
    bool would, reached, any = false;

    quorum_sync_flush_begin(s);
    while (alone && g_test_rand_int_range(0, 2)) {
        random_step(s, true);
    }
    random_missed(missed);
    for (int i = 0; i < REPLICAS; i++) {
        any |= missed[i];
    }
    would = quorum_sync_would_flush(s, missed, THRESHOLD);
    /* A FUA write that was refused may have made replicas unsure. */
    reached = quorum_sync_flush_settle(s, missed, THRESHOLD, true, false,
                                       false) !=
              QUORUM_FLUSH_FAILED;
    if (any) {
        g_assert_cmpint(would, ==, reached);
    }
}

/* What would be acknowledged is, and nothing else. */
static void test_would(void)
{
    int outcomes[2][2] = { { 0 } };

    for (int n = 0; n < 20000; n++) {
        QuorumSync *s = sync_new(4 * QUORUM_UNIT);
        bool missed[REPLICAS], copy[REPLICAS];
        bool fua = g_test_rand_int_range(0, 2);
        int threshold = g_test_rand_int_range(1, REPLICAS + 1);
        QuorumWriteOutcome outcome;
        QuorumWrite w;
        bool would;

        for (int steps = g_test_rand_int_range(0, 12); steps > 0; steps--) {
            random_step(s, false);
            if (g_test_rand_int_range(0, 6) == 0) {
                random_flush(s, true);
            }
        }
        quorum_sync_write_begin(s, &w, random_offset(),
                                512 << g_test_rand_int_range(0, 6), fua,
                                (bool[REPLICAS]) { false });
        if (!fua && g_test_rand_int_range(0, 4) == 0) {
            random_flush(s, false);
        } else if (g_test_rand_int_range(0, 4) == 0) {
            quorum_sync_flush_failed(s, 0, 0);
        }
        if (g_test_rand_int_range(0, 4) == 0) {
            quorum_sync_clear_late(s, 0, quorum_sync_late_marks(s, 0));
        }
        random_missed(missed);
        memcpy(copy, missed, sizeof(copy));
        w.missed = missed;
        would = quorum_sync_would_hold(s, &w, copy, NULL, threshold);
        outcome = quorum_sync_write_settle(s, &w, threshold, true, true);
        g_assert_cmpint(outcome, !=, would ? QUORUM_WRITE_REFUSED
                                           : QUORUM_WRITE_HELD);
        outcomes[fua][outcome == QUORUM_WRITE_HELD]++;
        if (outcome == QUORUM_WRITE_LOST) {
            quorum_sync_write_abandon(s, &w);
        }
        quorum_sync_free(s);
    }
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(outcomes[i / 2][i % 2], >, 500);
    }
}

/* A debugger is told which child lacks what, and which FUA writes there are. */
static void test_text(void)
{
    QuorumSync *s = sync_new(GiB);
    bool missed[REPLICAS] = { false };
    g_autofree char *text = NULL;
    QuorumWrite slow;

    quorum_sync_mark_stale(s, 1, 3 * MiB, MiB, "test");
    quorum_sync_mark_stale(s, 1, 20 * MiB, MiB, "test");
    for (int n = 0; n < 10; n++) {
        quorum_sync_mark_stale(s, 2, n * MiB, QUORUM_UNIT, "test");
    }
    quorum_sync_write_begin(s, &slow, 0, QUORUM_UNIT, true, missed);
    write_well(s, 3 * MiB, MiB, true);
    write_well(s, 20 * MiB, MiB, false);
    quorum_sync_set_unverified(s, true);
    quorum_sync_set_verified(s, 0, GiB - QUORUM_UNIT);
    text = quorum_sync_text(s);
    g_assert_nonnull(strstr(text, "quorum test: 1073741824 bytes"));
    g_assert_nonnull(strstr(text, "unverified: 4096 bytes "
                                  "[1073737728, 1073741824)"));
    g_assert_nonnull(strstr(text, "recovered since the flush began: 1048576 "
                                  "bytes [20971520, 22020096)"));
    g_assert_nonnull(strstr(text, "[7340032, 7344128) [8388608, 8392704) ..."));
    g_assert_nonnull(strstr(text, "FUA write in flight: [0, 4096)"));
    g_assert_nonnull(strstr(text, "FUA write done: [3145728, 4194304)"));
    quorum_sync_write_abandon(s, &slow);
    quorum_sync_free(s);
}

/* --- losses --- */

/* All replicas have answered a flush: those in @missed not well. */
static QuorumFlushOutcome flush_missed(QuorumSync *s, const bool *missed,
                                       bool tell)
{
    quorum_sync_flush_begin(s);
    return quorum_sync_flush_settle(s, missed, THRESHOLD, tell, false, tell);
}

static QuorumFlushOutcome flush_well(QuorumSync *s)
{
    return flush_missed(s, (bool[REPLICAS]) { false }, true);
}

/* A replica that was restarted is unsure in what was not flushed, no more. */
static void test_loss(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 10 * MiB, QUORUM_UNIT, false);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    write_well(s, 20 * MiB, QUORUM_UNIT, false);

    g_assert_true(quorum_sync_lost(s, 0, 1, 0));
    g_assert_false(quorum_sync_lost(s, 0, 1, 0));
    g_assert_cmpint(quorum_sync_losses(s, 0), ==, 1);
    g_assert_true(quorum_sync_any_unsure(s));
    g_assert_true(quorum_sync_is_unsure(s, 0, 20 * MiB, QUORUM_UNIT));
    g_assert_false(quorum_sync_is_unsure(s, 0, 10 * MiB, QUORUM_UNIT));
    g_assert_false(quorum_sync_is_unsure(s, 1, 20 * MiB, QUORUM_UNIT));
    g_assert_false(quorum_sync_is_stale(s, 0, 20 * MiB, QUORUM_UNIT));
    g_assert_cmpint(quorum_sync_state(s, 0), ==, QUORUM_CHILD_STATE_UNSURE);
    g_assert_cmpint(quorum_sync_unsure_bytes(s, 0), ==, MiB);

    /* A vote must not have begun before the loss. */
    quorum_sync_set_sure(s, 0, 20 * MiB, MiB, 0);
    g_assert_true(quorum_sync_is_unsure(s, 0, 20 * MiB, QUORUM_UNIT));
    quorum_sync_set_sure(s, 0, 20 * MiB, MiB, 1);
    g_assert_false(quorum_sync_any_unsure(s));
    g_assert_cmpint(quorum_sync_state(s, 0), ==, QUORUM_CHILD_STATE_OK);

    /* Two others hold it: the flush needs no vote, and takes it for lost. */
    quorum_sync_lost(s, 0, 2, 0);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    g_assert_false(quorum_sync_any_unsure(s));
    g_assert_true(quorum_sync_is_stale(s, 0, 20 * MiB, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* What was known before a replica came, or by a failed flush, is no loss. */
static void test_known_loss(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_know_losses(s, 0, 7, 0);
    g_assert_false(quorum_sync_lost(s, 0, 7, 0));
    g_assert_cmpint(quorum_sync_losses(s, 0), ==, 0);
    g_assert_false(quorum_sync_any_unsure(s));
    quorum_sync_free(s);
}

/*
 * Two replicas were restarted: the flush votes before it decides.  If that
 * confirms one of them, it succeeds; else it fails once.
 */
static void test_loss_and_flush(void)
{
    const int64_t place = 20 * MiB;
    int64_t start, bytes;
    QuorumSync *s = sync_new(GiB);

    write_well(s, place, QUORUM_UNIT, false);
    quorum_sync_lost(s, 0, 1, 0);
    quorum_sync_lost(s, 1, 2, 0);
    g_assert_cmpint(flush_missed(s, (bool[REPLICAS]) { false }, false), ==,
                    QUORUM_FLUSH_UNSURE);
    g_assert_true(quorum_sync_next_unsure(s, 0, &start, &bytes));
    g_assert_cmpint(start, ==, place);
    g_assert_cmpint(bytes, ==, MiB);
    g_assert_false(quorum_sync_next_unsure(s, place + MiB, &start, &bytes));
    quorum_sync_set_sure(s, 0, place, MiB, 2);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);

    write_well(s, place, QUORUM_UNIT / 2, false);
    quorum_sync_lost(s, 0, 3, 0);
    quorum_sync_lost(s, 1, 4, 0);
    g_assert_false(quorum_sync_is_told(s, place, QUORUM_UNIT));
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_UNSURE);
    g_assert_true(quorum_sync_is_told(s, place, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_unsure(s, 0, place, QUORUM_UNIT));
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* A write of a whole granule ends that a replica is unsure; no other does. */
static void test_loss_is_overwritten(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_lost(s, 0, 1, 0);
    write_well(s, 0, QUORUM_UNIT / 2, false);
    g_assert_true(quorum_sync_is_unsure(s, 0, 0, QUORUM_UNIT));
    write_well(s, 0, QUORUM_UNIT, false);
    g_assert_false(quorum_sync_is_unsure(s, 0, 0, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_unsure(s, 0, QUORUM_UNIT, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* No replica is sure: a part of a granule can't be written, a whole one can. */
static void test_all_lost(void)
{
    const bool none[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    for (int i = 0; i < REPLICAS; i++) {
        quorum_sync_lost(s, i, 1 + i, 0);
    }
    g_assert_false(write_missed(s, 0, QUORUM_UNIT / 2, false, none));
    g_assert_true(write_missed(s, 0, QUORUM_UNIT, false, none));
    g_assert_true(write_missed(s, 0, QUORUM_UNIT / 2, false, none));
    quorum_sync_free(s);
}

/* A write in flight is not done where its replica is restarted. */
static void test_loss_and_write(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);
    QuorumWrite w;

    quorum_sync_write_begin(s, &w, 0, QUORUM_UNIT, false, missed);
    quorum_sync_lost(s, 0, 1, 0);
    g_assert_true(settle_write(s, &w, THRESHOLD));
    g_assert_true(quorum_sync_is_stale(s, 0, 0, QUORUM_UNIT));

    /* One that too few have done then may be done once more. */
    memset(missed, 0, sizeof(missed));
    quorum_sync_write_begin(s, &w, MiB, QUORUM_UNIT, false, missed);
    quorum_sync_lost(s, 1, 2, 0);
    missed[2] = true;
    g_assert_cmpint(quorum_sync_write_settle(s, &w, THRESHOLD, true, true), ==,
                    QUORUM_WRITE_LOST);
    g_assert_true(quorum_sync_any_unflushed(s));
    g_assert_false(quorum_sync_is_stale(s, 1, MiB, QUORUM_UNIT));
    memset(missed, 0, sizeof(missed));
    quorum_sync_write_again(s, &w);
    missed[2] = true;
    g_assert_true(settle_write(s, &w, THRESHOLD));
    g_assert_false(quorum_sync_is_stale(s, 1, MiB, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_stale(s, 2, MiB, QUORUM_UNIT));

    /* What fails for another reason is not tried again. */
    memset(missed, 0, sizeof(missed));
    quorum_sync_write_begin(s, &w, 2 * MiB, QUORUM_UNIT, false, missed);
    missed[1] = missed[2] = true;
    g_assert_cmpint(quorum_sync_write_settle(s, &w, THRESHOLD, true, true), ==,
                    QUORUM_WRITE_REFUSED);
    quorum_sync_free(s);
}

/* Whether @w, which has yet to be done by replica 2 only, need not wait. */
static bool would_hold_without_2(QuorumSync *s, const QuorumWrite *w)
{
    const bool waited_for[REPLICAS] = { false, false, true };
    bool missed[REPLICAS] = { false, false, true };

    return quorum_sync_would_hold(s, w, missed, waited_for, THRESHOLD);
}

/*
 * A write that waits for a replica is held without it, unless in each of its
 * granules some replica might then be sure.
 */
static void test_loss_and_wait(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);
    QuorumWrite w;

    write_well(s, 0, MiB, false);
    quorum_sync_lost(s, 2, 1, 0);
    write_well(s, MiB, MiB, false);
    quorum_sync_lost(s, 0, 2, 0);
    quorum_sync_lost(s, 1, 3, 0);
    quorum_sync_write_begin(s, &w, MiB - QUORUM_UNIT / 2, QUORUM_UNIT, false,
                            missed);
    g_assert_true(would_hold_without_2(s, &w));
    quorum_sync_set_sure(s, 0, 0, MiB, 3);
    g_assert_false(would_hold_without_2(s, &w));
    quorum_sync_set_sure(s, 1, MiB, MiB, 3);
    g_assert_true(would_hold_without_2(s, &w));
    quorum_sync_write_abandon(s, &w);
    quorum_sync_free(s);
}

/* Something at 10 MiB is unflushed, and the first @n fail the FUA write @w. */
static QuorumSync *sync_failing_fua(QuorumWrite *w, bool *missed, int n)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 10 * MiB, QUORUM_UNIT, false);
    quorum_sync_write_begin(s, w, 0, QUORUM_UNIT, true, missed);
    for (int i = 0; i < n; i++) {
        quorum_sync_flush_failed(s, i, 0);
        missed[i] = true;
    }
    return s;
}

/* Who fails a FUA write that is acknowledged has lost what was unflushed. */
static void test_failed_fua(void)
{
    bool missed[REPLICAS] = { false };
    QuorumWrite w;
    QuorumSync *s = sync_failing_fua(&w, missed, 1);

    g_assert_true(settle_write(s, &w, THRESHOLD));
    g_assert_true(quorum_sync_is_stale(s, 0, 10 * MiB, QUORUM_UNIT));
    g_assert_false(quorum_sync_is_stale(s, 1, 10 * MiB, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* A FUA write that too few have done leaves those unsure that failed it. */
static void test_refused_fua(void)
{
    bool missed[REPLICAS] = { false };
    QuorumWrite w;
    QuorumSync *s = sync_failing_fua(&w, missed, 2);

    g_assert_false(settle_write(s, &w, THRESHOLD));
    for (int i = 0; i < REPLICAS; i++) {
        g_assert_cmpint(quorum_sync_is_unsure(s, i, 10 * MiB, QUORUM_UNIT), ==,
                        i < 2);
        g_assert_cmpint(quorum_sync_wants_rewrite(s, i), ==, i < 2);
    }
    quorum_sync_free(s);
}

/* What was confirmed is still in the cache, and may be lost again. */
static void test_lost_again(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_lost(s, 0, 1, 0);
    quorum_sync_set_sure(s, 0, 0, QUORUM_UNIT, 1);
    g_assert_false(quorum_sync_is_unsure(s, 0, 0, QUORUM_UNIT));
    quorum_sync_lost(s, 0, 2, 0);
    g_assert_true(quorum_sync_is_unsure(s, 0, 0, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* What was acknowledged while the flush was on its way is not told by it. */
static void test_told_meanwhile(void)
{
    const bool two[REPLICAS] = { false, true, true };
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_flush_begin(s);
    write_well(s, 8 * QUORUM_UNIT, QUORUM_UNIT, false);     /* W4 */
    quorum_sync_flush_failed(s, 1, 0);
    quorum_sync_flush_failed(s, 2, 0);
    g_assert_cmpint(quorum_sync_flush_settle(s, two, THRESHOLD, true, false,
                                             true), ==,
                    QUORUM_FLUSH_FAILED);
    /* W4 may be lost on 1 and 2, and this flush is the first one after it */
    g_assert_false(quorum_sync_is_told(s, 8 * QUORUM_UNIT, QUORUM_UNIT));
    g_assert_cmpint(flush_well(s), !=, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* The same, with restarts of all */
static void test_told_meanwhile_by_all(void)
{
    const bool none[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_flush_begin(s);
    write_well(s, 8 * QUORUM_UNIT, QUORUM_UNIT, false);     /* W4 */
    for (int i = 0; i < REPLICAS; i++) {
        quorum_sync_lost(s, i, 1 + i, 0);
    }
    g_assert_cmpint(quorum_sync_flush_settle(s, none, THRESHOLD, true, false,
                                             true), ==,
                    QUORUM_FLUSH_UNSURE);
    g_assert_cmpint(flush_well(s), !=, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* What two have flushed long ago does not depend on one that has lost it. */
static void test_flushed_long_ago(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_lost(s, 1, 1, 0);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    /* it is durable on 0 and 2 now */
    write_well(s, 8 * QUORUM_UNIT, QUORUM_UNIT, false);
    quorum_sync_lost(s, 0, 2, 0);
    quorum_sync_lost(s, 2, 3, 0);
    g_assert_true(quorum_sync_is_stale(s, 1, 0, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* What was told, and is not owed, is known though the node shrinks. */
static void test_told_and_shrunk(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    for (int i = 0; i < REPLICAS; i++) {
        quorum_sync_lost(s, i, 1 + i, 0);
    }
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_UNSURE);
    g_assert_true(quorum_sync_is_told(s, 0, QUORUM_UNIT));
    quorum_sync_resize(s, GiB / 2);
    /* If it is not known any more, it is told once more. */
    if (!quorum_sync_is_told(s, 0, QUORUM_UNIT)) {
        g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_UNSURE);
        g_assert_true(quorum_sync_is_told(s, 0, QUORUM_UNIT));
    }
    quorum_sync_free(s);
}

/* A flush has begun, and only one of those that have flushed is sure. */
static QuorumSync *sync_flushing_beside_losses(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, MiB, false);
    quorum_sync_lost(s, 0, 1, 0);
    quorum_sync_lost(s, 1, 2, 0);
    quorum_sync_flush_begin(s);
    return s;
}

/* Who has become sure since has not flushed what it is sure of. */
static void check_too_late(QuorumSync *s)
{
    const bool none[REPLICAS] = { false };

    g_assert_cmpint(quorum_sync_flush_settle(s, none, THRESHOLD, false, false,
                                             false), ==, QUORUM_FLUSH_UNSURE);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* What ends during a flush that a replica is unsure, that has not flushed. */
static void test_overwritten_too_late(void)
{
    QuorumSync *s = sync_flushing_beside_losses();

    write_well(s, 0, MiB, false);
    check_too_late(s);
}

/* What is confirmed during a flush may be a write that came after it. */
static void test_confirmed_too_late(void)
{
    QuorumSync *s = sync_flushing_beside_losses();

    quorum_sync_set_sure(s, 0, 0, MiB, 2);
    check_too_late(s);
}

/*
 * A replica that had been stale is unsure in what it may lose, not stale: be
 * it that a write or that a repair has given it that.
 */
static void test_recovered_is_lost(void)
{
    bool missed[REPLICAS] = { false };
    QuorumSync *s = sync_new(GiB);
    QuorumWrite repair;

    quorum_sync_mark_stale(s, 0, 0, QUORUM_UNIT, "test");
    quorum_sync_mark_stale(s, 0, 10 * MiB, QUORUM_UNIT, "test");
    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_write_begin(s, &repair, 10 * MiB, QUORUM_UNIT, false, missed);
    g_assert_true(quorum_sync_repair_settle(s, &repair, 0, 10 * MiB,
                                            QUORUM_UNIT));
    quorum_sync_write_abandon(s, &repair);
    g_assert_false(quorum_sync_is_degraded(s));
    quorum_sync_lost(s, 0, 1, 0);
    for (int64_t start = 0; start <= 10 * MiB; start += 10 * MiB) {
        g_assert_true(quorum_sync_is_unsure(s, 0, start, QUORUM_UNIT));
        g_assert_false(quorum_sync_is_stale(s, 0, start, QUORUM_UNIT));
    }
    quorum_sync_free(s);
}

/* A flush without enough copies fails once, also if it is not for doubt. */
static void test_told_once(void)
{
    QuorumSync *s = sync_new(GiB);

    write_well(s, 0, QUORUM_UNIT, false);
    quorum_sync_mark_stale(s, 0, 0, QUORUM_UNIT, "lost");
    quorum_sync_mark_stale(s, 1, 0, QUORUM_UNIT, "lost");
    g_assert_cmpint(flush_well(s), !=, QUORUM_FLUSH_DONE);
    g_assert_cmpint(flush_well(s), ==, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* A FUA write that was lost by one, and failed on others */
static void test_refused_fua_again(void)
{
    bool missed[REPLICAS] = { false };
    QuorumWrite w;
    QuorumSync *s = sync_failing_fua(&w, missed, 2);

    quorum_sync_lost(s, 2, 1, 0);
    g_assert_cmpint(quorum_sync_write_settle(s, &w, THRESHOLD, true, true), ==,
                    QUORUM_WRITE_REFUSED);
    g_assert_true(quorum_sync_is_unsure(s, 0, 10 * MiB, QUORUM_UNIT));
    g_assert_true(quorum_sync_is_unsure(s, 1, 10 * MiB, QUORUM_UNIT));
    quorum_sync_free(s);
}

/* What one child is known to have, a vote can give to those that lack it. */
static void test_outvoted(void)
{
    bool missed[REPLICAS] = { true };
    QuorumSync *s = sync_new(GiB);
    int64_t start, bytes;
    QuorumWrite w;

    write_well(s, 8 * QUORUM_UNIT, QUORUM_UNIT, false);
    quorum_sync_mark_stale(s, 0, 0, MiB, "test");
    g_assert_false(quorum_sync_any_outvoted(s));
    quorum_sync_mark_outvoted(s, 1, 0, QUORUM_UNIT);
    g_assert_true(quorum_sync_any_outvoted(s));

    g_assert_cmpint(flush_missed(s, missed, false), ==, QUORUM_FLUSH_UNSURE);
    g_assert_true(quorum_sync_next_unsure(s, 0, &start, &bytes));
    g_assert_cmpint(start, ==, 0);
    g_assert_cmpint(bytes, ==, QUORUM_UNIT);
    g_assert_false(quorum_sync_next_unsure(s, bytes, &start, &bytes));
    g_assert_cmpint(flush_missed(s, missed, true), ==, QUORUM_FLUSH_FAILED);

    for (int may_vote = 1; may_vote >= 0; may_vote--) {
        missed[0] = false;
        quorum_sync_write_begin(s, &w, 2 * MiB, QUORUM_UNIT, true, missed);
        missed[0] = true;
        g_assert_cmpint(quorum_sync_write_settle(s, &w, THRESHOLD, false,
                                                 may_vote), ==,
                        may_vote ? QUORUM_WRITE_UNSURE : QUORUM_WRITE_REFUSED);
    }

    write_without_replica_0(s, 0, QUORUM_UNIT);
    g_assert_false(quorum_sync_any_outvoted(s));
    g_assert_cmpint(flush_missed(s, missed, true), ==, QUORUM_FLUSH_DONE);
    quorum_sync_free(s);
}

/* Where one child is stale, whatever others are, and up to the end. */
static void test_next_stale_of(void)
{
    QuorumSync *s = sync_new(GiB - 512);

    quorum_sync_mark_stale(s, 0, 0, MiB, "test");
    quorum_sync_mark_stale(s, 1, MiB, QUORUM_UNIT, "test");
    quorum_sync_mark_stale(s, 1, GiB - MiB, MiB - 512, "test");
    g_assert_cmpint(quorum_sync_next_stale_of(s, 1, 0, INT64_MAX), ==, MiB);
    g_assert_cmpint(quorum_sync_next_stale_of(s, 1, 0, MiB), ==, -1);
    g_assert_cmpint(quorum_sync_next_stale_of(s, 1, MiB + 1, GiB), ==,
                    MiB + 1);
    g_assert_cmpint(quorum_sync_next_stale_of(s, 1, 2 * MiB, GiB), ==,
                    GiB - MiB);
    g_assert_cmpint(quorum_sync_next_stale_of(s, 1, GiB, INT64_MAX), ==, -1);
    g_assert_cmpint(quorum_sync_next_stale_of(s, 2, 0, GiB), ==, -1);
    quorum_sync_free(s);
}

/* What a child lacks is written down, or is to be (R2 in state.h). */
static void test_recorded(void)
{
    QuorumSync *s = sync_new(GiB);
    const int64_t granule = quorum_sync_granule_bytes(s);
    int64_t start, end;

    g_assert_false(quorum_sync_any_unrecorded(s));
    g_assert_false(quorum_sync_store_begin(s, 0, &start, &end));
    quorum_sync_store_end(s, 0, true);
    quorum_sync_mark_stale(s, 0, MiB, QUORUM_UNIT, "test");
    g_assert_true(quorum_sync_any_unrecorded(s));

    /* A flag is enough for all that it will lack. */
    g_assert_false(quorum_sync_set_recorded(s, 0, true));
    quorum_sync_mark_stale(s, 0, 2 * MiB, QUORUM_UNIT, "test");
    g_assert_false(quorum_sync_any_unrecorded(s));
    g_assert_true(quorum_sync_set_recorded(s, 0, false));
    g_assert_true(quorum_sync_any_unrecorded(s));

    /* A map, for what was there when it was begun, once it is stored. */
    g_assert_true(quorum_sync_store_begin(s, 0, &start, &end));
    g_assert_cmpint(start, ==, MiB);
    g_assert_cmpint(end, ==, 2 * MiB + granule);
    g_assert_true(quorum_sync_is_unrecorded(s, 0));
    quorum_sync_mark_stale(s, 0, 4 * MiB, QUORUM_UNIT, "test");
    quorum_sync_store_end(s, 0, true);
    for (int done = 0; done < 2; done++) {
        g_assert_true(quorum_sync_is_unrecorded(s, 0));
        g_assert_true(quorum_sync_store_begin(s, 0, &start, &end));
        g_assert_cmpint(start, ==, 4 * MiB);
        g_assert_cmpint(end, ==, 4 * MiB + granule);
        quorum_sync_store_end(s, 0, done);
    }
    g_assert_false(quorum_sync_any_unrecorded(s));

    quorum_sync_mark_stale(s, 0, 4 * MiB, QUORUM_UNIT, "again");
    g_assert_false(quorum_sync_any_unrecorded(s));
    quorum_sync_mark_late(s, 0, 8 * MiB, QUORUM_UNIT);
    g_assert_true(quorum_sync_is_unrecorded(s, 0));
    g_assert_false(quorum_sync_is_unrecorded(s, 1));
    quorum_sync_free(s);
}

/* Of two writes that overlap, the second one is noticed (promise 4). */
static void test_overlap(void)
{
    if (g_test_subprocess()) {
        QuorumSync *s = sync_new(GiB);
        bool missed[2][REPLICAS] = { { false } };
        QuorumWrite w[2];

        quorum_sync_write_begin(s, &w[0], 0, MiB, false, missed[0]);
        quorum_sync_write_begin(s, &w[1], MiB - 1, MiB, false, missed[1]);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*quorum_check_write_begins_locked: not true:*"
                              "quorum test: 1073741824 bytes*");
}

static void add_loss_tests(void)
{
    g_test_add_func("/quorum-sync/losses/unsure-until-confirmed", test_loss);
    g_test_add_func("/quorum-sync/losses/known", test_known_loss);
    g_test_add_func("/quorum-sync/losses/flush-fails-once",
                    test_loss_and_flush);
    g_test_add_func("/quorum-sync/losses/overwritten",
                    test_loss_is_overwritten);
    g_test_add_func("/quorum-sync/losses/of-all", test_all_lost);
    g_test_add_func("/quorum-sync/losses/beside-write", test_loss_and_write);
    g_test_add_func("/quorum-sync/losses/and-wait", test_loss_and_wait);
    g_test_add_func("/quorum-sync/losses/failed-fua", test_failed_fua);
    g_test_add_func("/quorum-sync/losses/refused-fua", test_refused_fua);
    g_test_add_func("/quorum-sync/losses/again", test_lost_again);
    g_test_add_func("/quorum-sync/losses/overwritten-too-late",
                    test_overwritten_too_late);
    g_test_add_func("/quorum-sync/losses/told-meanwhile", test_told_meanwhile);
    g_test_add_func("/quorum-sync/losses/told-meanwhile-by-all",
                    test_told_meanwhile_by_all);
    g_test_add_func("/quorum-sync/losses/told-and-shrunk",
                    test_told_and_shrunk);
    g_test_add_func("/quorum-sync/losses/flushed-long-ago",
                    test_flushed_long_ago);
    g_test_add_func("/quorum-sync/losses/confirmed-too-late",
                    test_confirmed_too_late);
    g_test_add_func("/quorum-sync/losses/recovered", test_recovered_is_lost);
    g_test_add_func("/quorum-sync/losses/told-once", test_told_once);
    g_test_add_func("/quorum-sync/losses/refused-fua-again",
                    test_refused_fua_again);
    g_test_add_func("/quorum-sync/losses/outvoted", test_outvoted);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    quorum_debug.on = true;

    /* The seed is printed, and replayed by --seed=... */
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/quorum-sync/growing/granules-double", test_grow);
    g_test_add_func("/quorum-sync/shrinking/recovered-range-is-forgotten",
                    test_recovered_is_cut_off);
    g_test_add_func("/quorum-sync/shrinking/rebuilding-ends-when-flushed",
                    test_rebuilding_is_cut_off);
    g_test_add_func("/quorum-sync/growing/excluded-child-is-stale",
                    test_excluded_while_growing);
    g_test_add_func("/quorum-sync/growing/failed-write-changes-nothing",
                    test_failed_growth);
    g_test_add_func("/quorum-sync/growing/gap-is-missed", test_growth_with_gap);
    g_test_add_func("/quorum-sync/growing/last-granule-keeps-its-copies",
                    test_growth_within_granule);
    g_test_add_func("/quorum-sync/fua/oldest-become-unflushed", test_many_fua);
    g_test_add_func("/quorum-sync/outage/costs-what-is-missed", test_outage);
    g_test_add_func("/quorum-sync/outage/beside-flush",
                    test_outage_beside_flush);
    g_test_add_func("/quorum-sync/outage/and-resize", test_outage_and_resize);
    g_test_add_func("/quorum-sync/outage/others-in-each-granule",
                    test_stale_beside_each_other);
    g_test_add_func("/quorum-sync/outage/and-fua", test_outage_and_fua);
    g_test_add_func("/quorum-sync/unverified/until-verified", test_verify);
    g_test_add_func("/quorum-sync/unverified/follows-resizes",
                    test_verify_and_resize);
    g_test_add_func("/quorum-sync/next-stale-of", test_next_stale_of);
    g_test_add_func("/quorum-sync/recorded", test_recorded);
    g_test_add_func("/quorum-sync/lagging", test_lagging);
    g_test_add_func("/quorum-sync/late/is-not-stored", test_late);
    g_test_add_func("/quorum-sync/late/more-meanwhile", test_late_meanwhile);
    g_test_add_func("/quorum-sync/late/and-resize", test_late_and_resize);
    g_test_add_func("/quorum-sync/would-be-acknowledged", test_would);
    g_test_add_func("/quorum-sync/text", test_text);
    add_loss_tests();
    g_test_add_func("/quorum-sync/overlapping-writes/are-noticed",
                    test_overlap);
    /* First with its own checks: they tell more. */
    g_test_add_data_func("/quorum-sync/stress-checked", &quorum_debug,
                         test_stress);
    g_test_add_data_func("/quorum-sync/stress", NULL, test_stress);
    return g_test_run();
}
