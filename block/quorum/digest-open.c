/*
 * Quorum block driver: digests that outlive a close: opening
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The node comes and goes with the quorum.  Its headers are read when the state
 * nodes have been: then it is known whether what is on it counts.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qobject/qdict.h"
#include "checked.h"
#include "digest.h"
#include "digest-format.h"
#include "digest-store-int.h"
#include "late.h"
#include "losses.h"
#include "state-int.h"
#include "trace.h"

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

int coroutine_fn quorum_store_co_load(BlockDriverState *bs, bool activated,
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
    if (ret < 0 && *errp && activated) {
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
    BDRVQuorumState *s = bs->opaque;
    QuorumDigestStore *store;
    g_autoptr(Error) local_err = NULL;
    BdrvChild *child;

    child = bdrv_open_child(NULL, options, QUORUM_STORE_CHILD, bs,
                            &child_of_bds, BDRV_CHILD_METADATA, true,
                            &local_err);
    if (local_err) {
        if (!s->opts.open_degraded || !quorum_opts_is_away(local_err)) {
            error_propagate(errp, g_steal_pointer(&local_err));
            return -EINVAL;
        }
        warn_report("quorum: " QUORUM_STORE_CHILD " is done without: %s",
                    error_get_pretty(local_err));
        quorum_opts_delete_child(bs->options, QUORUM_STORE_CHILD);
        quorum_opts_delete_child(bs->explicit_options, QUORUM_STORE_CHILD);
        return 0;
    }
    if (!child) {
        return 0;
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
