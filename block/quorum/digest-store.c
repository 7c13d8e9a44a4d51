/*
 * Quorum block driver: digests that outlive a close
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "crypto/random.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/memalign.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "checked.h"
#include "digest.h"
#include "digest-format.h"
#include "digest-store.h"
#include "late.h"
#include "losses.h"
#include "state-int.h"
#include "trace.h"

QEMU_BUILD_BUG_ON(QUORUM_DIGESTS_UNITS != QUORUM_DIGEST_PAGE_UNITS);
QEMU_BUILD_BUG_ON(QUORUM_DIGESTS_RESERVED != QUORUM_DIGEST_ELSEWHERE);

/* How often a header is written that the node loses. */
#define QUORUM_STORE_TRIES  3

/* How many pages are written at once, if they are neighbours. */
#define QUORUM_STORE_RUN    64

/*
 * How many pages are written each time that the state is tidied up, about: of
 * 8 GiB, which is more than is read or written meanwhile.
 */
#define QUORUM_STORE_NEWS   4096

typedef enum QuorumStoreStage {
    QUORUM_STORE_UNUSED,        /* the state nodes have not been read */
    QUORUM_STORE_FRESH,
    QUORUM_STORE_IN_USE,
    QUORUM_STORE_OFF,
} QuorumStoreStage;

typedef enum QuorumStoreOp {
    QUORUM_STORE_READ,
    QUORUM_STORE_WRITE,
    QUORUM_STORE_FLUSH,
} QuorumStoreOp;

/* What the node is asked for: owned by who waits for it and who does it. */
typedef struct QuorumStoreIo {
    QuorumDigestStore *store;
    QuorumStoreOp op;
    int64_t offset, bytes;
    uint8_t *buf;
    int users;
    bool done;
    int ret;
    int64_t start_ns;
    QLIST_ENTRY(QuorumStoreIo) next;
} QuorumStoreIo;

/* Pages that are being read or written.  On the stack of who does it. */
typedef struct QuorumStoreClaim {
    uint32_t first, past;
    QLIST_ENTRY(QuorumStoreClaim) next;
} QuorumStoreClaim;

struct QuorumDigestStore {
    BlockDriverState *bs;
    BdrvChild *child;           /* graph lock */

    /* Set when it is loaded. */
    int64_t length;             /* of the node */
    int64_t disk_bytes;         /* the part of the disk that is kept */
    uint64_t page_key;          /* when its use has begun */

    /* Under QuorumState.lock. */

    QuorumStoreStage stage;
    char *error;                /* why it is off, or does not count; or NULL */
    QuorumDigestsHeader header; /* what was last written */
    int place;                  /* where the next header goes */
    bool renewed;               /* the stamp is one of this session */
    bool writing;               /* there is one who writes */
    unsigned late_generation;   /* bdrv_late_generation() when it was used */
    int64_t write_ns;           /* no page is written before then */
    uint64_t losses;            /* those of the node that are dealt with */

    /* QuorumState.want, when the label has no stamp, or another one. */
    uint64_t off_want;
    uint64_t stamp_want;

    QLIST_HEAD(, QuorumStoreIo) ios;
    QLIST_HEAD(, QuorumStoreClaim) claims;
    int num_claims;
    int waiting;                /* in the queue: */
    CoQueue waiters;

    Stat64 loaded_pages;
    Stat64 written_pages;
};

static QuorumStoreStage quorum_store_stage(const QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    return store->stage;
}

/* How long one I/O may take, and how long a request waits for all of them. */
static int64_t quorum_store_timeout_ns(const BDRVQuorumState *s)
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

/* From the next round on, the label has @stamp, or none if that is NULL. */
static uint64_t quorum_store_label_locked(QuorumState *st,
                                          const QemuUUID *stamp)
{
    st->label.digests = stamp ? *stamp : (QemuUUID) { };
    quorum_state_dirty_label_locked(st);
    return st->want + 1;
}

/*
 * The store has failed because of @why, with @ret: it is off.  Until that is
 * durable, marks stay.
 */
static void quorum_store_fail_locked(QuorumDigestStore *store, const char *why,
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

static void coroutine_fn quorum_store_fail(QuorumDigestStore *store,
                                           const char *why, int ret)
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

static QuorumStoreIo *quorum_store_io_new(QuorumDigestStore *store,
                                          QuorumStoreOp op, int64_t offset,
                                          int64_t bytes)
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

static void quorum_store_io_unref(QuorumStoreIo *io)
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
    if (ret >= 0 && bdrv_late_generation() != store->late_generation &&
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

/* P3: do @io, or give up when the store does.  Returns 0 or -errno. */
static int coroutine_fn GRAPH_RDLOCK quorum_store_do(QuorumStoreIo *io)
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

static int coroutine_fn GRAPH_RDLOCK quorum_store_flush(QuorumDigestStore *s)
{
    QuorumStoreIo *io = quorum_store_io_new(s, QUORUM_STORE_FLUSH, 0, 0);
    int ret = quorum_store_do(io);

    quorum_store_io_unref(io);
    return ret;
}

/* --- losses --- */

/*
 * The node has answered: before the answer is believed, see whether it has lost
 * what was not flushed.  Its driver knows that before it answers (see
 * bdrv_loss_generation()).
 */
static void GRAPH_RDLOCK quorum_store_notice_loss(QuorumDigestStore *store)
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

/* Become the one who writes, until @end_ns at most. */
static bool coroutine_fn quorum_store_begin_writing(QuorumDigestStore *store,
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

static void quorum_store_end_writing(QuorumDigestStore *store)
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

/*
 * Write pages from @page to @end that are dirty, or with @news, have news:
 * about @max of them, and until @end_ns.  Called by the one who writes.
 */
static void coroutine_fn GRAPH_RDLOCK
quorum_store_write_pages(QuorumDigestStore *store, uint32_t page, uint32_t end,
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

/* Whether pages may be written now. */
static bool quorum_store_may_write_locked(const QuorumDigestStore *store)
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

/* --- stamps --- */

/* Write @header, so that it is there after a loss, too. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_write_header(QuorumDigestStore *store,
                          const QuorumDigestsHeader *header)
{
    QuorumStoreIo *io;
    uint64_t losses;
    int ret, tries = 0;

    do {
        losses = quorum_latest_loss(store->child);
        io = quorum_store_io_new(store, QUORUM_STORE_WRITE,
                                 quorum_digests_header_offset(store->place),
                                 QUORUM_DIGESTS_PAGE);
        quorum_digests_encode_header(header, io->buf);
        ret = quorum_store_do(io);
        quorum_store_io_unref(io);
        if (ret == 0) {
            ret = quorum_store_flush(store);
        }
        if (ret < 0) {
            return ret;
        }
    } while (quorum_latest_loss(store->child) != losses &&
             ++tries < QUORUM_STORE_TRIES);
    return tries < QUORUM_STORE_TRIES ? 0 : -EIO;
}

/* Write @header, durably; then it is that of the store. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_put_header(QuorumDigestStore *store,
                        const QuorumDigestsHeader *header)
{
    BDRVQuorumState *s = store->bs->opaque;
    int ret = quorum_store_write_header(store, header);

    if (ret < 0) {
        quorum_store_fail(store, "could not be written", ret);
        return ret;
    }
    QEMU_LOCK_GUARD(&s->state->lock);
    if (store->stage != QUORUM_STORE_IN_USE) {
        return -ECANCELED;
    }
    store->header = *header;
    store->place = !store->place;
    store->renewed = true;
    /* P2 */
    store->stamp_want = quorum_store_label_locked(s->state, &header->stamp);
    return 0;
}

/*
 * Keep as much of a disk of @disk_bytes as the node has room for; it is @fresh,
 * or says what it said before.  If there is no memory for that, the store
 * fails.
 */
static bool coroutine_fn quorum_store_keep(QuorumDigestStore *store,
                                           int64_t disk_bytes, bool fresh)
{
    BDRVQuorumState *s = store->bs->opaque;
    uint64_t pages = MIN(quorum_digests_pages(disk_bytes),
                         quorum_digests_capacity(store->length));
    bool ok = quorum_digests_keep(s->digests,
                                  MAX(MIN(pages, UINT32_MAX - 1), 1), fresh);

    if (!ok) {
        quorum_store_fail(store, "takes too much memory", -ENOMEM);
    }
    return ok;
}

/*
 * The store is fresh, and no label that is durable names a stamp of its: begin
 * to use it.  What is on it has another page key.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_begin(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    int64_t disk_bytes = quorum_sync_length(s->sync);
    QuorumDigestsHeader h = {
        .seq = store->header.seq + 1,
        .set = s->state->label.set,
        .alg = quorum_checked_alg(&s->opts),
        .disk_bytes = disk_bytes,
    };

    qemu_uuid_generate(&h.stamp);
    memcpy(h.key, quorum_digests_key(s->digests), sizeof(h.key));
    if (qcrypto_random_bytes(&h.page_key, sizeof(h.page_key), NULL) < 0) {
        h.page_key = ldq_be_p(&h.stamp);
    }
    h.page_key = h.page_key ?: 1;
    if (!quorum_store_keep(store, disk_bytes, true)) {
        return -ENOMEM;
    }
    WITH_QEMU_LOCK_GUARD(&s->state->lock) {
        store->stage = QUORUM_STORE_IN_USE;
        store->header = h;
        store->page_key = h.page_key;
        store->disk_bytes = disk_bytes;
        store->late_generation = bdrv_late_generation();
        store->write_ns = 0;
        g_clear_pointer(&store->error, g_free);
    }
    return quorum_store_put_header(store, &h);
}

/* Renew the stamp of the store, which is in use. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_rotate(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    QuorumState *st = s->state;
    QuorumDigestsHeader h;
    bool durable;

    WITH_QEMU_LOCK_GUARD(&st->lock) {
        durable = st->durable >= store->stamp_want;
    }
    if (!durable && quorum_state_commit(st) < 0) {
        return -EIO;            /* the previous stamp must be the label's */
    }
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        h = store->header;
        h.previous = st->label.digests;
    }
    h.seq++;
    h.disk_bytes = store->disk_bytes;
    qemu_uuid_generate(&h.stamp);
    return quorum_store_put_header(store, &h);
}

/* Whether the store may have a stamp of this session, and has none. */
static bool quorum_store_wants_stamp_locked(const QuorumState *st)
{
    const BDRVQuorumState *s = st->bs->opaque;
    const QuorumDigestStore *store = s->store;

    return store && st->session && (st->label.flags & QUORUM_STATE_BEGUN) &&
           st->config_want && st->durable >= st->config_want &&
           st->durable >= store->off_want &&
           st->durable >= store->stamp_want && !store->writing &&
           (store->stage == QUORUM_STORE_FRESH ||
            (store->stage == QUORUM_STORE_IN_USE && !store->renewed));
}

bool quorum_store_is_due(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;

    if (!s->store) {
        return false;
    }
    QEMU_LOCK_GUARD(&st->lock);
    return quorum_store_wants_stamp_locked(st) ||
           (quorum_store_may_write_locked(s->store) &&
            quorum_digests_is_pressed(s->digests));
}

/* Called by the one who writes. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_renew_stamp(QuorumDigestStore *store)
{
    QuorumStoreStage stage = quorum_store_stage(store);

    return stage == QUORUM_STORE_FRESH ? quorum_store_begin(store) :
           stage == QUORUM_STORE_IN_USE ? quorum_store_rotate(store)
                                        : -ECANCELED;
}

void coroutine_fn quorum_store_tick(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    bool stamp;
    int ret;

    if (!store) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->state->lock) {
        stamp = quorum_store_wants_stamp_locked(s->state);
        store->writing |= stamp;
    }
    if (stamp) {
        ret = quorum_store_renew_stamp(store);
        quorum_store_end_writing(store);
        /* The label is written with the next round. */
        trace_quorum_digests_renew(bs->node_name, ret);
    } else if (quorum_digests_is_pressed(s->digests)) {
        quorum_store_write_news(bs);
    }
}

/* --- closing, and forgetting --- */

bool quorum_store_has_news(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    uint32_t page = 0;

    if (!s->store) {
        return false;
    }
    return s->store->stage == QUORUM_STORE_FRESH
           ? !quorum_digests_is_empty(s->digests) :
           s->store->stage == QUORUM_STORE_IN_USE &&
           quorum_digests_next_to_write(s->digests, &page, UINT32_MAX, true);
}

/* Write all pages, if there is time for it, but at least what is dirty. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_write_all_pages(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    int64_t timeout = quorum_store_timeout_ns(s);
    int64_t now = quorum_now_ns();
    uint32_t page = 0;

    quorum_store_write_pages(store, 0, UINT32_MAX, true, INT_MAX,
                             now + timeout / 2);
    quorum_store_write_pages(store, 0, UINT32_MAX, false, INT_MAX,
                             now + timeout);
    return quorum_digests_next_to_write(s->digests, &page, UINT32_MAX, false)
           ? -ETIMEDOUT : 0;
}

/*
 * All pages are written, also those behind the end of the disk, which say that
 * nothing is known: once that is durable, they need not be looked at any more.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_shorten(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    int64_t length = quorum_sync_length(s->sync);
    int ret = 0;

    if (store->disk_bytes > length) {
        ret = quorum_store_flush(store);
        store->disk_bytes = length;
    }
    return ret;
}

/* Write everything, and again what the node has lost meanwhile. */
static void coroutine_fn GRAPH_RDLOCK
quorum_store_write_all(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    int ret;

    for (int i = 0; i < QUORUM_STORE_TRIES; i++) {
        uint32_t page = 0;

        ret = quorum_store_write_all_pages(store);
        if (ret < 0) {
            quorum_store_fail(store, "is too slow", ret);
            return;
        }
        ret = quorum_store_shorten(store);
        /* The flush for the header comes later, and covers the pages. */
        if (ret == 0) {
            ret = quorum_store_rotate(store);
        }
        if (ret < 0) {
            quorum_store_fail(store, "could not be written", ret);
            return;
        }
        quorum_store_notice_loss(store);
        quorum_digests_flushed(s->digests);
        if (!quorum_digests_next_to_write(s->digests, &page, UINT32_MAX,
                                          false)) {
            return;
        }
    }
    quorum_store_fail(store, "loses what is written", -EIO);
}

int coroutine_fn quorum_store_close(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    QuorumState *st = s->state;
    int64_t end_ns;
    bool durable;

    if (!store) {
        return 0;
    }
    end_ns = quorum_now_ns() + quorum_store_timeout_ns(s);
    if (!quorum_store_begin_writing(store, end_ns)) {
        quorum_store_fail(store, "is too slow", -ETIMEDOUT);
    } else {
        if (quorum_store_stage(store) == QUORUM_STORE_FRESH) {
            quorum_store_begin(store);
        }
        if (quorum_store_stage(store) == QUORUM_STORE_IN_USE) {
            quorum_store_write_all(store);
        }
        quorum_store_end_writing(store);
    }
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        durable = st->durable >= store->off_want;
    }
    return durable ? 0 : quorum_state_commit(st);
}

int coroutine_fn quorum_store_forget(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    QuorumState *st = s->state;
    int64_t end_ns = quorum_now_ns() + quorum_store_timeout_ns(s);
    int ret;

    if (!store) {
        quorum_digests_forget_all(s->digests);
        return 0;
    }
    ret = quorum_state_is_writable(st) ? quorum_state_do_prepare(bs, 0, 0)
                                       : -EROFS;
    if (!quorum_store_begin_writing(store, end_ns)) {
        quorum_digests_forget_all(s->digests);
        error_setg(errp, "The node of digests of quorum '%s' is too slow",
                   bdrv_get_node_name(bs));
        return -ETIMEDOUT;
    }
    WITH_QEMU_LOCK_GUARD(&st->lock) {
        if (store->stage == QUORUM_STORE_IN_USE) {
            store->stage = QUORUM_STORE_FRESH;
            quorum_digests_keep_no_more(s->digests);
            store->off_want = quorum_store_label_locked(st, NULL);
        }
        store->renewed = false;
        qemu_co_queue_restart_all(&store->waiters);
    }
    quorum_digests_forget_all(s->digests);
    if (ret == 0) {
        ret = quorum_state_commit(st);
    }
    quorum_store_end_writing(store);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "The digests of quorum '%s' are forgotten "
                         "only until it is opened again, as that could not be "
                         "written down on the state nodes",
                         bdrv_get_node_name(bs));
    }
    return ret;
}

/* --- marks --- */

void quorum_store_begin_session_locked(QuorumState *st)
{
    BDRVQuorumState *s = st->bs->opaque;
    QuorumDigestStore *store = s->store;

    if (store && store->stage == QUORUM_STORE_IN_USE) {
        store->renewed = false;
        if (!(store->child->perm & BLK_PERM_WRITE)) {
            quorum_store_fail_locked(store, "is read-only", -EROFS);
        }
    } else if (!qemu_uuid_is_null(&st->label.digests)) {
        quorum_store_label_locked(st, NULL);
    }
}

bool quorum_store_may_unmark_locked(const QuorumState *st, int64_t offset,
                                    int64_t bytes)
{
    const BDRVQuorumState *s = st->bs->opaque;
    const QuorumDigestStore *store = s->store;

    /* Without a store, the label has had no stamp since the session began. */
    if (!store) {
        return true;
    }
    if (store->stage == QUORUM_STORE_IN_USE) {
        return store->renewed &&
               quorum_digests_is_clean(s->digests, offset, bytes);
    }
    return st->durable >= store->off_want;
}

/* --- opening --- */

/*
 * Why what is on the store does not count, or NULL if it does, of which *@found
 * and its header were read.
 */
static const char *GRAPH_RDLOCK
quorum_store_complaint(const QuorumDigestStore *store, QuorumDigestsFound found)
{
    const BDRVQuorumState *s = store->bs->opaque;
    const QuorumStateLabel *l = &s->state->label;
    const QuorumDigestsHeader *h = &store->header;

    if (found == QUORUM_DIGESTS_BLANK) {
        return "it is blank";
    }
    if (found == QUORUM_DIGESTS_DAMAGED) {
        return "its header is damaged";
    }
    if (!qemu_uuid_is_equal(&h->set, &l->set)) {
        return "it belongs to another disk";
    }
    if (qemu_uuid_is_null(&l->digests)) {
        return "the disk was used without it, or it had failed";
    }
    if (!qemu_uuid_is_equal(&h->stamp, &l->digests) &&
        !qemu_uuid_is_equal(&h->previous, &l->digests)) {
        return "it was rolled back, or the disk was used without it";
    }
    if (h->alg != quorum_checked_alg(&s->opts)) {
        return "its digests were made by another hash";
    }
    if (quorum_digests_capacity(store->length) <
        quorum_digests_pages(h->disk_bytes)) {
        return "it is shorter than it was";
    }
    if (s->opts.state_force) {
        return "state-force=on: the newest state may be missing";
    }
    if (bdrv_late(store->child) != BDRV_LATE_ENDED) {
        return "what was written to it before may still come";
    }
    return NULL;
}

/* What is marked counts as changed. */
static void quorum_store_forget_marked(const QuorumState *st)
{
    const BDRVQuorumState *s = st->bs->opaque;
    int64_t bits = quorum_state_intent_bits(st);
    int shift = st->label.intent_shift;
    int64_t first, past;

    for (first = find_first_bit(st->wanted, bits); first < bits;
         first = find_next_bit(st->wanted, bits, past)) {
        past = find_next_zero_bit(st->wanted, bits, first);
        quorum_digests_forget(s->digests, first << shift,
                              (past - first) << shift);
    }
}

/* The header counts: use what is on the store. */
static void coroutine_fn quorum_store_use(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    QuorumState *st = s->state;
    int64_t length = quorum_sync_length(s->sync);

    /* There may be pages of what the disk has had. */
    store->disk_bytes = MAX(store->header.disk_bytes, length);
    quorum_digests_set_key(s->digests, store->header.key);
    if (!quorum_store_keep(store, store->disk_bytes, false)) {
        return;
    }
    quorum_store_forget_marked(st);
    /* What was cut off while no quorum was there, and may grow back. */
    quorum_digests_forget(s->digests, length, store->disk_bytes - length);
    store->page_key = store->header.page_key;
    QEMU_LOCK_GUARD(&st->lock);
    store->stage = QUORUM_STORE_IN_USE;
    if (!(st->label.flags & QUORUM_STATE_CLEAN)) {
        /* Pages that the QEMU which has died has sent may still come. */
        store->write_ns = quorum_now_ns() + QUORUM_LATE_QUARANTINE_NS;
    }
}

/* Begin with what an earlier load has left. */
static void GRAPH_RDLOCK quorum_store_reset(QuorumDigestStore *store)
{
    quorum_store_unload(store->bs->opaque);
    g_clear_pointer(&store->error, g_free);
    store->stage = QUORUM_STORE_FRESH;
    store->header = (QuorumDigestsHeader) { };
    store->renewed = false;
    store->off_want = store->stamp_want = 0;
    store->write_ns = 0;
    store->late_generation = bdrv_late_generation();
    store->losses = quorum_latest_loss(store->child);
    if (qemu_in_main_thread()) {
        /* Another quorum may have given it up before. */
        quorum_state_attached(store->child);
    }
}

/* Read the headers: 0, or -errno with @errp set if the node holds data. */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_read_header(QuorumDigestStore *store, QuorumDigestsFound *found,
                         Error **errp)
{
    ERRP_GUARD();
    int64_t bytes = MIN(QEMU_ALIGN_DOWN(store->length, QUORUM_DIGESTS_PAGE),
                        QUORUM_DIGESTS_PROBE);
    QuorumStoreIo *io = quorum_store_io_new(store, QUORUM_STORE_READ, 0, bytes);
    int ret = quorum_store_do(io);

    if (ret < 0) {
        quorum_store_fail(store, "could not be read", ret);
    } else {
        *found = quorum_digests_find_header(io->buf, bytes, &store->header,
                                            &store->place, errp);
        if (*found == QUORUM_DIGESTS_ALIEN) {
            error_prepend(errp, "The node of digests '%s' ",
                          bdrv_get_node_name(store->child->bs));
            ret = -EINVAL;
        }
    }
    quorum_store_io_unref(io);
    return ret;
}

int coroutine_fn quorum_store_co_load(BlockDriverState *bs, bool again,
                                      Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    QuorumDigestsFound found;
    const char *why;
    int64_t needed;
    int ret;

    if (!store) {
        return 0;
    }
    quorum_store_reset(store);
    store->length = bdrv_co_getlength(store->child->bs);
    needed = quorum_digests_size(quorum_sync_length(s->sync));
    if (store->length < 0) {
        quorum_store_fail(store, "could not be read", store->length);
        return 0;
    }
    if (store->length < needed) {
        error_setg(errp, "The node of digests '%s' is too short: it has %"
                   PRId64 " bytes, and for a disk of %" PRId64 " bytes it needs"
                   " %" PRId64, bdrv_get_node_name(store->child->bs),
                   store->length, quorum_sync_length(s->sync), needed);
        ret = -EINVAL;
    } else {
        ret = quorum_store_read_header(store, &found, errp);
    }
    if (ret < 0 && *errp && again) {
        /* The disk has grown, say: a guest must not lose it for that. */
        quorum_store_fail(store, "can't be used any more", ret);
        error_reportf_err(*errp, "quorum '%s': ", bdrv_get_node_name(bs));
        *errp = NULL;
    }
    if (ret < 0) {
        return *errp ? ret : 0;
    }
    why = quorum_store_complaint(store, found);
    if (!why) {
        quorum_store_use(store);
    } else {
        store->error = found == QUORUM_DIGESTS_BLANK ? NULL : g_strdup(why);
    }
    if (store->error && store->stage == QUORUM_STORE_FRESH) {
        warn_report("quorum: what is on the node of digests '%s' does not "
                    "count: %s", bdrv_get_node_name(store->child->bs), why);
    }
    trace_quorum_digests_open(bs->node_name, why ?: "in use");
    return 0;
}

int quorum_store_attach(BlockDriverState *bs, QDict *options, Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store;
    BdrvChild *child;

    child = bdrv_open_child(NULL, options, QUORUM_STORE_CHILD, bs,
                            &child_of_bds, BDRV_CHILD_METADATA, true, errp);
    if (!child) {
        return *errp ? -EINVAL : 0;
    }
    store = s->store = g_new0(QuorumDigestStore, 1);
    store->bs = bs;
    store->child = child;
    QLIST_INIT(&store->ios);
    QLIST_INIT(&store->claims);
    qemu_co_queue_init(&store->waiters);
    stat64_init(&store->loaded_pages, 0);
    stat64_init(&store->written_pages, 0);
    if (!s->digests || !s->state) {
        error_setg(errp, "Option '" QUORUM_OPT_DIGESTS "' needs %s",
                   s->digests ? "option 'state', as state nodes know whether "
                   "what is on it is right: give state.0, state.1, ..., one "
                   "for each child"
                   : "read-pattern=checked, which remembers digests");
        return -EINVAL;
    }
    return 0;
}

void quorum_store_detach(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;

    if (!store) {
        return;
    }
    bdrv_unref_child(bs, store->child);
    g_free(store->error);
    g_clear_pointer(&s->store, g_free);
}

void quorum_store_unload(BDRVQuorumState *s)
{
    if (s->store) {
        s->store->stage = QUORUM_STORE_UNUSED;
        quorum_digests_keep_no_more(s->digests);
    }
}

/* --- what others may ask --- */

bool quorum_store_is_node(const BDRVQuorumState *s, const BdrvChild *child)
{
    return s->store && s->store->child == child;
}

bool quorum_store_check_opts(const BDRVQuorumState *s,
                             const QuorumOptions *opts, Error **errp)
{
    const char *option =
        opts->read_pattern != s->opts.read_pattern ? QUORUM_OPT_READ_PATTERN :
        opts->digest != s->opts.digest ? QUORUM_OPT_DIGEST :
        opts->digest_cache_size != s->opts.digest_cache_size
        ? QUORUM_OPT_DIGEST_CACHE_SIZE : NULL;

    if (s->store && option) {
        error_setg(errp, "Cannot change the option '%s' while the digests are "
                   "kept on a node, as option '" QUORUM_OPT_DIGESTS "' says",
                   option);
        return false;
    }
    return true;
}

void quorum_store_gather_options(BlockDriverState *bs, QDict *target)
{
    BDRVQuorumState *s = bs->opaque;
    QDict *options = s->store ? s->store->child->bs->full_open_options : NULL;

    if (options) {
        qdict_put(target, QUORUM_OPT_DIGESTS, qobject_ref(options));
    }
}

QuorumDigestsInfo *quorum_store_info(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store = s->store;
    QuorumDigestsInfo *info;

    if (!store) {
        return NULL;
    }
    QEMU_LOCK_GUARD(&s->state->lock);
    if (store->stage == QUORUM_STORE_UNUSED) {
        return NULL;
    }
    info = g_new0(QuorumDigestsInfo, 1);
    info->node_name = g_strdup(bdrv_get_node_name(store->child->bs));
    info->state = store->stage == QUORUM_STORE_IN_USE
                  ? QUORUM_DIGESTS_STATE_IN_USE :
                  store->stage == QUORUM_STORE_FRESH
                  ? QUORUM_DIGESTS_STATE_FRESH : QUORUM_DIGESTS_STATE_OFF;
    info->error = g_strdup(store->error);
    return info;
}

void quorum_store_fill_stats(const BDRVQuorumState *s,
                             QuorumCheckedStats *stats)
{
    stats->has_loaded_pages = stats->has_written_pages = s->store;
    if (s->store) {
        stats->loaded_pages = stat64_get(&s->store->loaded_pages);
        stats->written_pages = stat64_get(&s->store->written_pages);
    }
}
