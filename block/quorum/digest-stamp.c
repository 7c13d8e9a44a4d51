/*
 * Quorum block driver: digests that outlive a close: stamps
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * When what is on the node counts (P1 and P2): a header with a stamp, and the
 * label with the same one, are written when a session has begun, and when the
 * disk is closed; and no mark goes before what the node says there is right.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "crypto/random.h"
#include "qapi/error.h"
#include "checked.h"
#include "digest.h"
#include "digest-format.h"
#include "digest-store-int.h"
#include "losses.h"
#include "state-int.h"
#include "trace.h"

/* How often a header is written that the node loses. */
#define QUORUM_STORE_TRIES  3

static QuorumStoreStage quorum_store_stage(const QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;

    QEMU_LOCK_GUARD(&s->state->lock);
    return store->stage;
}

bool quorum_store_is_in_use(const BDRVQuorumState *s)
{
    return s->store && quorum_store_stage(s->store) == QUORUM_STORE_IN_USE;
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

bool coroutine_fn quorum_store_keep(QuorumDigestStore *store,
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

/*
 * Renew the stamp of the store, which is in use, and has pages of @disk_bytes
 * that count.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_rotate(QuorumDigestStore *store, int64_t disk_bytes)
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
    h.disk_bytes = disk_bytes;
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
           stage == QUORUM_STORE_IN_USE ?
           quorum_store_rotate(store, store->disk_bytes) : -ECANCELED;
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
 * The next session does not if it loads the store.  If it is this one that goes
 * on, it writes all pages that it keeps, and its own header says so.
 */
static int coroutine_fn GRAPH_RDLOCK
quorum_store_write_last_header(QuorumDigestStore *store)
{
    BDRVQuorumState *s = store->bs->opaque;
    int64_t length = quorum_sync_length(s->sync);
    int ret = 0;

    if (store->disk_bytes > length) {
        ret = quorum_store_flush(store);
    }
    /* The flush for the header comes later, and covers the pages. */
    return ret < 0 ? ret :
           quorum_store_rotate(store, MIN(store->disk_bytes, length));
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
        ret = quorum_store_write_last_header(store);
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
