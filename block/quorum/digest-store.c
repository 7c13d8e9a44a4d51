/*
 * Quorum block driver: digests that outlive a close: pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Reading and writing pages, one at a time or neighbours at once, with a limit
 * to how long that may take (P3), and giving the node up when it fails.  What
 * makes what is written count is in digest-stamp.c.
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "digest.h"
#include "digest-format.h"
#include "digest-store-int.h"
#include "losses.h"
#include "state-int.h"
#include "trace.h"

QEMU_BUILD_BUG_ON(QUORUM_DIGESTS_UNITS != QUORUM_DIGEST_PAGE_UNITS);
QEMU_BUILD_BUG_ON(QUORUM_DIGESTS_RESERVED != QUORUM_DIGEST_ELSEWHERE);

/* How many pages are written at once, if they are neighbours. */
#define QUORUM_STORE_RUN    64

/*
 * How many pages are written each time that the state is tidied up, about: of
 * 8 GiB, which is more than is read or written meanwhile.
 */
#define QUORUM_STORE_NEWS   4096

/* Pages that are being read or written.  On the stack of who does it. */
typedef struct QuorumStoreClaim {
    uint32_t first, past;
    QLIST_ENTRY(QuorumStoreClaim) next;
} QuorumStoreClaim;

int64_t quorum_store_timeout_ns(const BDRVQuorumState *s)
{
    return (s->opts.child_timeout_ms ?: QUORUM_CHILD_TIMEOUT_DEFAULT) *
           (int64_t)SCALE_MS;
}

/* Wait until something has happened, with the lock of the state held. */
static void coroutine_fn quorum_store_wait_locked(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;

    store->waiting++;
    quorum_state_wake(s->state);
    qemu_co_queue_wait(&store->waiters, &s->state->lock);
    store->waiting--;
}

/* --- off --- */

uint64_t quorum_store_label_locked(QuorumState *st, const QemuUUID *stamp)
{
    st->label.digests = stamp ? *stamp : (QemuUUID) { };
    quorum_state_dirty_label_locked(st);
    return st->want + 1;
}

void quorum_store_fail_locked(QuorumDigestStore *store, const char *why,
                              int ret)
{
    BDRVQuorumState *s = store->bs->opaque;

    if (store->stage == QUORUM_STORE_OFF) {
        return;
    }
    store->stage = QUORUM_STORE_OFF;
    quorum_digests_keep_no_more(s->digests);
    store->off_want = quorum_store_label_locked(s->state, NULL);
    g_free(store->error);
    store->error = g_strdup_printf("it %s: %s", why, strerror(-ret));
    warn_report("quorum '%s': the node of digests is not used any more until "
                "the quorum is opened again: %s",
                bdrv_get_node_name(store->bs), store->error);
    trace_quorum_digests_off(store->bs->node_name, store->error);
}

void coroutine_fn quorum_store_fail(QuorumDigestStore *store, const char *why,
                                    int ret)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    quorum_store_fail_locked(store, why, ret);
    qemu_co_queue_restart_all(&store->waiters);
}

/* In a coroutine, so that those that wait again are not woken again. */
static void coroutine_fn quorum_store_wake_entry(void *opaque)
{
    QuorumDigestStore *store = opaque;
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    qemu_co_queue_restart_all(&store->waiters);
}

bool quorum_store_look(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    int64_t now = quorum_now_ns();
    bool late = false, busy;
    QuorumStoreIo *io;

    if (!store) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&s->state->lock) {
        QLIST_FOREACH(io, &store->ios, next) {
            late |= now - io->start_ns > quorum_store_timeout_ns(s);
        }
        busy = store->waiting || !QLIST_EMPTY(&store->ios);
        if (late) {
            quorum_store_fail_locked(store, "did not answer in time",
                                     -ETIMEDOUT);
        }
    }
    if (busy) {
        /* Some may have waited long enough. */
        aio_co_enter(qemu_get_aio_context(),
                     qemu_coroutine_create(quorum_store_wake_entry, store));
    }
    if (late && bdrv_can_abandon(store->child)) {
        bdrv_abandon(store->child);
    }
    return busy;
}

/* --- I/O --- */

QuorumStoreIo *quorum_store_io_new(QuorumDigestStore *store, QuorumStoreOp op,
                                   int64_t offset, int64_t bytes)
{
    QuorumStoreIo *io = g_new0(QuorumStoreIo, 1);

    *io = (QuorumStoreIo) {
        .store = store,
        .op = op,
        .offset = offset,
        .bytes = bytes,
        .buf = qemu_memalign(QUORUM_DIGESTS_PAGE,
                             MAX(bytes, QUORUM_DIGESTS_PAGE)),
        .users = 1,
    };
    return io;
}

void quorum_store_io_unref(QuorumStoreIo *io)
{
    if (qatomic_fetch_dec(&io->users) == 1) {
        qemu_vfree(io->buf);
        g_free(io);
    }
}

static int coroutine_fn GRAPH_RDLOCK quorum_store_ask(QuorumStoreIo *io)
{
    QuorumDigestStore *store = io->store;
    BDRVQuorumState *s = store->bs->opaque;
    BdrvChild *child = store->child;
    int ret;

    if (io->op == QUORUM_STORE_READ) {
        return bdrv_co_pread(child, io->offset, io->bytes, io->buf, 0);
    }
    if (!(child->perm & BLK_PERM_WRITE)) {
        return -EROFS;
    }
    if (qatomic_read(&s->state->fenced)) {
        return -EBUSY;          /* another program may use it */
    }
    /* What was discarded is unknown, and may be much: the node stays sparse. */
    ret = io->op == QUORUM_STORE_FLUSH ? bdrv_co_flush(child->bs) :
          buffer_is_zero(io->buf, io->bytes)
          ? bdrv_co_pwrite_zeroes(child, io->offset, io->bytes,
                                  BDRV_REQ_MAY_UNMAP)
          : bdrv_co_pwrite(child, io->offset, io->bytes, io->buf, 0);
    if (ret >= 0 && bdrv_is_late_since(child, store->late_generation) &&
        bdrv_late(child) != BDRV_LATE_ENDED) {
        return -ESTALE;         /* it was sent twice, and may come again */
    }
    return ret;
}

/*
 * This can count as GRAPH_RDLOCK because who asks has taken the lock once more
 * for this coroutine, which gives it back.
 */
static void coroutine_fn GRAPH_RDLOCK quorum_store_io_entry(void *opaque)
{
    QuorumStoreIo *io = opaque;
    QuorumDigestStore *store = io->store;
    BlockDriverState *bs = store->bs;
    BDRVQuorumState *s = bs->opaque;
    int ret = quorum_store_ask(io);

    WITH_QEMU_LOCK_GUARD(&s->state->lock) {
        io->ret = ret;
        io->done = true;
        QLIST_REMOVE(io, next);
        qemu_co_queue_restart_all(&store->waiters);
    }
    quorum_store_io_unref(io);
    bdrv_graph_co_rdunlock_again();
    bdrv_dec_in_flight(bs);
}

int coroutine_fn quorum_store_do(QuorumStoreIo *io)
{
    QuorumDigestStore *store = io->store;
    BlockDriverState *bs = store->bs;
    BDRVQuorumState *s = bs->opaque;
    QuorumState *st = s->state;

    WITH_QEMU_LOCK_GUARD(&st->lock) {
        if (store->stage == QUORUM_STORE_OFF) {
            return -ECANCELED;
        }
        io->start_ns = quorum_now_ns();
        QLIST_INSERT_HEAD(&store->ios, io, next);
    }
    qatomic_inc(&io->users);
    quorum_state_wake(st);
    bdrv_inc_in_flight(bs);
    bdrv_graph_co_rdlock_again();
    qemu_coroutine_enter(qemu_coroutine_create(quorum_store_io_entry, io));

    QEMU_LOCK_GUARD(&st->lock);
    while (!io->done && store->stage != QUORUM_STORE_OFF) {
        quorum_store_wait_locked(store);
    }
    return io->done ? MIN(io->ret, 0) : -ETIMEDOUT;
}

int coroutine_fn quorum_store_flush(QuorumDigestStore *store)
{
    QuorumStoreIo *io = quorum_store_io_new(store, QUORUM_STORE_FLUSH, 0, 0);
    int ret = quorum_store_do(io);

    quorum_store_io_unref(io);
    return ret;
}

/* --- losses --- */

void quorum_store_notice_loss(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    uint64_t last = quorum_latest_loss(store->child);

    QEMU_LOCK_GUARD(&s->state->lock);
    if (unlikely(last > store->losses)) {
        store->losses = last;
        quorum_digests_lost(s->digests);
    }
}

/* --- one I/O per page --- */

static bool quorum_store_is_claimed_locked(const QuorumDigestStore *store,
                                           uint32_t page)
{
    const QuorumStoreClaim *claim;

    QLIST_FOREACH(claim, &store->claims, next) {
        if (page >= claim->first && page < claim->past) {
            return true;
        }
    }
    return false;
}

/*
 * Claim page @page, waiting until @end_ns at most.  Returns false if that is
 * over, or the store not in use.
 */
static bool coroutine_fn quorum_store_claim(QuorumDigestStore *store,
                                            QuorumStoreClaim *claim,
                                            uint32_t page, int64_t end_ns)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    while (store->stage == QUORUM_STORE_IN_USE &&
           (store->num_claims == QUORUM_DIGEST_LOADS ||
            quorum_store_is_claimed_locked(store, page))) {
        if (quorum_now_ns() >= end_ns) {
            return false;
        }
        quorum_store_wait_locked(store);
    }
    if (store->stage != QUORUM_STORE_IN_USE) {
        return false;
    }
    *claim = (QuorumStoreClaim) { .first = page, .past = page + 1 };
    QLIST_INSERT_HEAD(&store->claims, claim, next);
    store->num_claims++;
    return true;
}

/* Claim the next page, too, if it is free. */
static bool quorum_store_claim_next(QuorumDigestStore *store,
                                    QuorumStoreClaim *claim)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    if (quorum_store_is_claimed_locked(store, claim->past)) {
        return false;
    }
    claim->past++;
    return true;
}

static void quorum_store_unclaim(QuorumDigestStore *store,
                                 QuorumStoreClaim *claim)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    QLIST_REMOVE(claim, next);
    store->num_claims--;
    qemu_co_queue_restart_all(&store->waiters);
}

/* --- loading --- */

/* Load page @page, which is claimed. */
static void coroutine_fn GRAPH_RDLOCK
quorum_store_load_page(QuorumDigestStore *store, uint32_t page)
{
    BDRVQuorumState *s = store->bs->opaque;
    g_autofree uint64_t *digests = g_new(uint64_t, QUORUM_DIGESTS_UNITS);
    QuorumStoreIo *io;
    bool known = false;
    int ret;

    if (!quorum_digests_load_begin(s->digests, page)) {
        return;
    }
    io = quorum_store_io_new(store, QUORUM_STORE_READ,
                             quorum_digests_page_offset(page),
                             QUORUM_DIGESTS_PAGE);
    ret = quorum_store_do(io);
    quorum_store_notice_loss(store);
    if (ret == 0) {
        /* One that is damaged may be whole when it is read another time. */
        known = quorum_digests_decode_page(io->buf, page, store->page_key,
                                           digests) ||
                buffer_is_zero(io->buf, QUORUM_DIGESTS_PAGE);
        stat64_add(&store->loaded_pages, 1);
    }
    quorum_digests_load_end(s->digests, page, known ? digests : NULL);
    quorum_store_io_unref(io);
    trace_quorum_digests_load(store->bs->node_name, page, ret);
}

void coroutine_fn quorum_store_do_fetch(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    int64_t end_ns = quorum_now_ns() + quorum_store_timeout_ns(s);
    QuorumStoreClaim claim;
    uint32_t page;

    /* A page may have to go again to make room for others. */
    while (quorum_digests_find_elsewhere(s->digests, offset, bytes, &page) &&
           quorum_now_ns() < end_ns &&
           quorum_store_claim(s->store, &claim, page, end_ns)) {
        quorum_store_load_page(s->store, page);
        quorum_store_unclaim(s->store, &claim);
    }
}

/* --- writing --- */

bool coroutine_fn quorum_store_begin_writing(QuorumDigestStore *store,
                                             int64_t end_ns)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    while (store->writing && quorum_now_ns() < end_ns) {
        quorum_store_wait_locked(store);
    }
    if (store->writing) {
        return false;
    }
    store->writing = true;
    return true;
}

void quorum_store_end_writing(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    store->writing = false;
    qemu_co_queue_restart_all(&store->waiters);
}

/*
 * Copy page @page, which is claimed, to @buf.  Returns whether it is to be
 * written.  What is elsewhere is loaded, unless it is not the @first page.
 */
static bool coroutine_fn GRAPH_RDLOCK
quorum_store_copy_page(QuorumDigestStore *store, uint32_t page, uint8_t *buf,
                       bool first)
{
    BDRVQuorumState *s = store->bs->opaque;
    g_autofree uint64_t *digests = g_new(uint64_t, QUORUM_DIGESTS_UNITS);
    QuorumDigestsCopy copy = quorum_digests_copy(s->digests, page, digests);

    if (copy == QUORUM_DIGESTS_LOAD_FIRST && first) {
        quorum_store_load_page(store, page);
        copy = quorum_digests_copy(s->digests, page, digests);
    }
    if (copy != QUORUM_DIGESTS_COPIED) {
        return false;
    }
    if (buffer_is_zero(digests, QUORUM_DIGESTS_UNITS * sizeof(*digests))) {
        memset(buf, 0, QUORUM_DIGESTS_PAGE);
    } else {
        quorum_digests_encode_page(page, store->page_key, digests, buf);
    }
    return true;
}

/*
 * Write page @page, which is claimed, and those that follow it and are to be
 * written, too, before @end.  Returns how many pages have been dealt with, or
 * -errno.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_write_run(QuorumDigestStore *store, QuorumStoreClaim *claim,
                       uint32_t end, bool news)
{
    BDRVQuorumState *s = store->bs->opaque;
    uint32_t page = claim->first;
    int max = MIN(QUORUM_STORE_RUN, end - page);
    QuorumStoreIo *io;
    int n = 0, ret = 0;

    io = quorum_store_io_new(store, QUORUM_STORE_WRITE,
                             quorum_digests_page_offset(page),
                             (int64_t)max * QUORUM_DIGESTS_PAGE);
    while (n < max) {
        uint32_t next = page + n;

        if (n && (!quorum_digests_next_to_write(s->digests, &next, next + 1,
                                                news) ||
                  !quorum_store_claim_next(store, claim))) {
            break;
        }
        if (!quorum_store_copy_page(store, page + n,
                                    io->buf + n * QUORUM_DIGESTS_PAGE, !n)) {
            break;
        }
        n++;
    }
    io->bytes = (int64_t)n * QUORUM_DIGESTS_PAGE;
    if (n) {
        ret = quorum_store_do(io);
    }
    quorum_store_io_unref(io);
    if (ret < 0) {
        quorum_store_fail(store, "could not be written", ret);
        return ret;
    }
    stat64_add(&store->written_pages, n);
    trace_quorum_digests_write(store->bs->node_name, page, n);
    return MAX(n, 1);
}

void coroutine_fn quorum_store_write_pages(QuorumDigestStore *store,
                                           uint32_t page, uint32_t end,
                                           bool news, int max, int64_t end_ns)
{
    BDRVQuorumState *s = store->bs->opaque;
    QuorumStoreClaim claim;

    while (max > 0 && quorum_now_ns() < end_ns &&
           quorum_digests_next_to_write(s->digests, &page, end, news) &&
           quorum_store_claim(store, &claim, page, end_ns)) {
        int n = quorum_store_write_run(store, &claim, end, news);

        quorum_store_unclaim(store, &claim);
        if (n < 0) {
            return;
        }
        page += n;
        max -= n;
    }
}

bool quorum_store_may_write_locked(const QuorumDigestStore *store)
{
    const BDRVQuorumState *s = store->bs->opaque;

    return s->state->session && store->stage == QUORUM_STORE_IN_USE &&
           store->renewed && quorum_now_ns() >= store->write_ns;
}

static bool quorum_store_may_write(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    return quorum_store_may_write_locked(store);
}

void coroutine_fn quorum_store_clean(BlockDriverState *bs,
                                     const int64_t *offsets, int n,
                                     int64_t bytes)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    int64_t end_ns = quorum_now_ns() + quorum_store_timeout_ns(s);
    bool any = false;
    int ret;

    for (int i = 0; store && i < n; i++) {
        any |= !quorum_digests_is_clean(s->digests, offsets[i], bytes);
    }
    if (!any || !quorum_store_may_write(store) ||
        !quorum_store_begin_writing(store, end_ns)) {
        return;
    }
    for (int i = 0; i < n; i++) {
        int64_t first = offsets[i] / QUORUM_DIGESTS_COVERS;
        int64_t end;

        while (i + 1 < n && offsets[i + 1] == offsets[i] + bytes) {
            i++;                /* together they take fewer writes */
        }
        end = DIV_ROUND_UP(offsets[i] + bytes, QUORUM_DIGESTS_COVERS);
        quorum_store_write_pages(store, first, MIN(end, UINT32_MAX), false,
                                 INT_MAX, end_ns);
    }
    ret = quorum_store_flush(store);
    if (ret < 0) {
        quorum_store_fail(store, "could not be flushed", ret);
    } else {
        quorum_store_notice_loss(store);
        quorum_digests_flushed(s->digests);
    }
    quorum_store_end_writing(store);
}

void coroutine_fn quorum_store_write_news(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    int64_t end_ns = quorum_now_ns() + quorum_store_timeout_ns(s);
    uint32_t page = 0;

    if (store && quorum_store_may_write(store) &&
        quorum_digests_next_to_write(s->digests, &page, UINT32_MAX, true) &&
        quorum_store_begin_writing(store, end_ns)) {
        quorum_store_write_pages(store, page, UINT32_MAX, true,
                                 QUORUM_STORE_NEWS, end_ns);
        quorum_store_end_writing(store);
    }
}
