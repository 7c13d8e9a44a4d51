/*
 * Unit test of what the quorum driver knows of its children, in several threads
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The simulator (test-quorum-sim.c) runs the whole driver, in one thread.  This
 * runs block/quorum/stale-map.c and settle.c alone, in several: writes, FUA
 * writes and repairs beside flushes, on three replicas of which one at a time
 * fails some of what it is asked to do, and loses what it has not flushed when
 * it fails to.  The replicas keep no data, only which write a block has seen
 * last.
 *
 * As two replicas are well, all must be acknowledged (promise 7).  And whenever
 * a range is held, all replicas that are not stale in it have what was
 * acknowledged there, and there are two of them at least (promises 1 and 3).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/graph-lock.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "../../block/quorum/quorum-int.h"
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
    int kept[BLOCKS];       /* ... and flushed */
} Replica;

static BDRVQuorumState state;
static Replica replicas[REPLICAS];
static int last_write;
static int acked[BLOCKS];       /* under the block's range */
static int victim;              /* who may fail now */
static int unsettled;           /* what has failed, and is not settled yet */

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
    /* Others may come and go before anybody hears of it. */
    if (fail) {
        g_usleep(g_rand_int_range(rand, 0, 100));
        quorum_note_loss(&state, i);
    }
    return !fail;
}

/* --- what must be true --- */

/* The range is held. */
static void check_range(int first, int blocks)
{
    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_lock(&replicas[i].lock);
    }
    qemu_mutex_lock(&state.lock);
    for (int b = first; b < first + blocks; b++) {
        int holders = 0;

        for (int i = 0; i < REPLICAS; i++) {
            if (quorum_is_stale(&state, i, (int64_t)b * QUORUM_UNIT,
                                QUORUM_UNIT)) {
                continue;
            }
            if (replicas[i].seen[b] == acked[b]) {
                holders++;
            } else {
                /*
                 * It has just failed to flush, and that is not settled yet.
                 * (To be settled, it needs the lock that we hold.)
                 */
                g_assert_cmpint(i, ==, qatomic_read(&victim));
                g_assert_cmpint(qatomic_read(&unsettled), >, 0);
            }
        }
        g_assert_cmpint(holders, >=, THRESHOLD);
    }
    qemu_mutex_unlock(&state.lock);
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

static void coroutine_fn write_range(int first, int blocks, bool fua,
                                     GRand *rand)
{
    bool failed[REPLICAS] = {};
    int number = qatomic_inc_fetch(&last_write);
    int losses = 0;
    QuorumWrite w;
    bool ok;

    if (fua) {
        qemu_co_rwlock_rdlock(&state.sync_lock);
    }
    quorum_write_begin(&state, &w, (int64_t)first * QUORUM_UNIT,
                       (int64_t)blocks * QUORUM_UNIT, fua, failed);
    for (int i = 0; i < REPLICAS; i++) {
        thread_stress_pause(rand);
        failed[i] = !replica_write(i, first, blocks, number,
                                   fails(i, rand, 16), rand);
        if (fua && !failed[i]) {
            failed[i] = !replica_flush(i, fails(i, rand, 4), rand);
            losses += failed[i];
        }
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ok = quorum_write_settle(&state, &w);
    }
    g_assert_true(ok);
    for (int b = first; b < first + blocks; b++) {
        qatomic_set(&acked[b], number);
    }
    qatomic_sub(&unsettled, losses);
    if (fua) {
        check_kept(first, blocks, &acked[first]);
        qemu_co_rwlock_unlock(&state.sync_lock);
    }
}

/* Let a replica that is stale in the range catch up. */
static void coroutine_fn repair_range(int first, int blocks, GRand *rand)
{
    bool failed[REPLICAS] = {};
    QuorumWrite w;

    quorum_write_begin(&state, &w, (int64_t)first * QUORUM_UNIT,
                       (int64_t)blocks * QUORUM_UNIT, false, failed);
    for (int b = first; b < first + blocks; b++) {
        int64_t offset = (int64_t)b * QUORUM_UNIT;

        for (int i = 0; i < REPLICAS; i++) {
            bool stale;

            WITH_QEMU_LOCK_GUARD(&state.lock) {
                stale = quorum_is_stale(&state, i, offset, QUORUM_UNIT);
            }
            if (!stale) {
                continue;
            }
            thread_stress_pause(rand);
            if (replica_write(i, b, 1, acked[b], fails(i, rand, 16), rand)) {
                GRAPH_RDLOCK_GUARD();
                quorum_repair_settle(&state, &w, i, offset, QUORUM_UNIT);
            }
        }
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        quorum_write_end(&state, &w);
    }
}

/* There is one flush at a time. */
static void coroutine_fn flush(GRand *rand)
{
    g_autofree int *before = g_new(int, BLOCKS);
    bool failed[REPLICAS];
    int losses = 0;
    bool ok;

    qemu_co_rwlock_wrlock(&state.sync_lock);
    for (int b = 0; b < BLOCKS; b++) {
        before[b] = qatomic_read(&acked[b]);
    }
    quorum_flush_begin(&state);
    for (int i = 0; i < REPLICAS; i++) {
        thread_stress_pause(rand);
        failed[i] = !replica_flush(i, fails(i, rand, 4), rand);
        losses += failed[i];
    }
    WITH_GRAPH_RDLOCK_GUARD() {
        ok = quorum_flush_settle(&state, failed);
    }
    qatomic_sub(&unsettled, losses);
    g_assert_true(ok);

    check_kept(0, BLOCKS, before);
    qemu_co_rwlock_unlock(&state.sync_lock);
}

/* Let all be well, then choose who is to fail next. */
static void coroutine_fn heal(GRand *rand)
{
    RangeLockRequest range;
    bool well = false;

    range_lock_co_lock(&state.range_lock, &range, 0, BLOCKS * QUORUM_UNIT);
    check_range(0, BLOCKS);
    qatomic_set(&victim, -1);
    while (!well) {
        write_range(0, BLOCKS, false, rand);
        flush(rand);
        well = !qatomic_read(&unsettled);
        WITH_QEMU_LOCK_GUARD(&state.lock) {
            well &= !state.stale_slots;
        }
    }
    check_range(0, BLOCKS);
    qatomic_set(&victim, g_rand_int_range(rand, 0, REPLICAS));
    range_lock_co_unlock(&state.range_lock, &range);
}

static void coroutine_fn writer(GRand *rand)
{
    int blocks = g_rand_int_range(rand, 1, 9);
    int quarter = g_rand_int_range(rand, 0, 4);
    int first = quarter * (BLOCKS / 4) + g_rand_int_range(rand, 0, HOT);
    RangeLockRequest range;

    thread_stress_pause(rand);
    range_lock_co_lock(&state.range_lock, &range, first * QUORUM_UNIT,
                       blocks * QUORUM_UNIT);
    check_range(first, blocks);
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
    range_lock_co_unlock(&state.range_lock, &range);
}

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (id != 1) {
            writer(rand);
        } else if (g_rand_int_range(rand, 0, 16)) {
            flush(rand);
        } else {
            heal(rand);
        }
    }
}

/* The maps of a quorum of all replicas. */
static void start(BDRVQuorumState *s, int64_t bytes)
{
    static BdrvChild children[REPLICAS];    /* nobody looks into them */

    s->opts.threshold = THRESHOLD;
    quorum_slots_init(s, REPLICAS);
    for (int i = 0; i < REPLICAS; i++) {
        s->slots[i].child = &children[i];
    }
    quorum_maps_resize(s, bytes);
}

/* A write that no replica fails is acknowledged. */
static void write_well(BDRVQuorumState *s, int64_t offset, int64_t bytes,
                       bool fua)
{
    bool failed[REPLICAS] = { false };
    QuorumWrite w;
    bool ok;

    quorum_write_begin(s, &w, offset, bytes, fua, failed);
    ok = quorum_write_settle(s, &w);
    g_assert_true(ok);
}

/* A flush that replica 0 fails, and only that, is acknowledged. */
static void flush_without_replica_0(BDRVQuorumState *s)
{
    bool failed[REPLICAS] = { true };
    bool ok;

    quorum_flush_begin(s);
    quorum_note_loss(s, 0);
    ok = quorum_flush_settle(s, failed);
    g_assert_true(ok);
}

static void test_stress(void)
{
    start(&state, BLOCKS * QUORUM_UNIT);
    range_lock_init(&state.range_lock);
    qemu_co_rwlock_init(&state.sync_lock);
    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_init(&replicas[i].lock);
    }

    thread_stress(THREADS, COROUTINES, stress_entry);
    check_range(0, BLOCKS);
    g_assert_cmpint(unsettled, ==, 0);

    for (int i = 0; i < REPLICAS; i++) {
        qemu_mutex_destroy(&replicas[i].lock);
    }
    range_lock_destroy(&state.range_lock);
    quorum_slots_destroy(&state);
}

/*
 * A node that grows beyond what a map has bits for gets coarser maps: what was
 * stale or unflushed still is, and no more than its granule.
 */
static void test_grow(void)
{
    const int64_t small = 64 * GiB, large = 64 * TiB;
    const int64_t place = 48 * GiB + 5 * QUORUM_UNIT;
    BDRVQuorumState s = { 0 };

    start(&s, small);
    quorum_set_stale(&s, 1, place, 1);
    g_assert_cmpint(quorum_stale_bytes(&s, 1), ==, QUORUM_UNIT);
    write_well(&s, 10 * GiB, MiB, false);

    quorum_maps_resize(&s, large);
    g_assert_cmpint(s.stale_shift, >, ctz32(QUORUM_UNIT));
    g_assert_cmpint(quorum_stale_bytes(&s, 1), ==, 1LL << s.stale_shift);
    WITH_QEMU_LOCK_GUARD(&s.lock) {
        g_assert_true(quorum_is_stale(&s, 1, place, QUORUM_UNIT));
        g_assert_false(quorum_is_stale(&s, 1, place - (1LL << s.stale_shift),
                                       1));
    }

    /* Replica 0 fails a flush: what was written before the node grew is lost */
    flush_without_replica_0(&s);
    g_assert_cmpint(quorum_stale_bytes(&s, 0), ==, 1LL << s.unflushed_shift);
    WITH_QEMU_LOCK_GUARD(&s.lock) {
        g_assert_true(quorum_is_all_stale(&s, 0, 10 * GiB, MiB));
    }

    quorum_maps_resize(&s, small);
    g_assert_cmpint(quorum_stale_bytes(&s, 1), ==, 1LL << s.stale_shift);
    quorum_slots_destroy(&s);
}

/* What had cured a replica is cut off: then it can't be lost. */
static void test_cured_is_cut_off(void)
{
    BDRVQuorumState s = { 0 };

    start(&s, 2 * MiB);
    quorum_set_stale(&s, 0, MiB, QUORUM_UNIT);
    write_well(&s, MiB, QUORUM_UNIT, false);
    g_assert_cmpint(s.stale_slots, ==, 0);

    quorum_maps_resize(&s, MiB);
    flush_without_replica_0(&s);
    g_assert_cmpint(s.stale_slots, ==, 0);
    g_assert_null(s.slots[0].stale);
    quorum_slots_destroy(&s);
}

/*
 * A FUA write that takes its time keeps those that end meanwhile from being
 * forgotten.  Only so many are remembered: the oldest count as unflushed.
 */
static void test_many_fua(void)
{
    const int most = 1024;
    BDRVQuorumState s = { 0 };
    QuorumWrite slow;
    bool ok;

    start(&s, GiB);
    quorum_write_begin(&s, &slow, 0, QUORUM_UNIT, true,
                       (bool[REPLICAS]) { false });
    for (int n = 0; n < most + 2; n++) {
        write_well(&s, MIN(n, 100) * MiB, QUORUM_UNIT, true);
        g_assert_cmpint(s.num_fua_done, <=, most);
    }
    ok = quorum_write_settle(&s, &slow);
    g_assert_true(ok);
    g_assert_cmpint(s.num_fua_done, ==, 0);

    flush_without_replica_0(&s);
    g_assert_cmpint(quorum_stale_bytes(&s, 0), ==, 2 * MiB);
    quorum_slots_destroy(&s);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);

    /* The seed is printed, and replayed by --seed=... */
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/quorum-slot/grow", test_grow);
    g_test_add_func("/quorum-slot/cured-is-cut-off", test_cured_is_cut_off);
    g_test_add_func("/quorum-slot/many-fua", test_many_fua);
    g_test_add_func("/quorum-slot/stress", test_stress);
    return g_test_run();
}
