/*
 * Quorum block driver: opening, closing, creating, the driver table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * This is the face of the driver.  See quorum/quorum-int.h for what it
 * promises, quorum/request.h for the life of a request, quorum/graph.h for
 * children that come and go, and docs/interop/quorum.rst for how to use it.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block_int.h"
#include "block/block-io.h"
#include "migration/blocker.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-core.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qemu/timer.h"
#include "system/block-backend.h"
#include "quorum/checked.h"
#include "quorum/copy.h"
#include "quorum/debug.h"
#include "quorum/digest-store.h"
#include "quorum/graph.h"
#include "quorum/info.h"
#include "quorum/late.h"
#include "quorum/losses.h"
#include "quorum/quorum-int.h"
#include "quorum/read.h"
#include "quorum/repair.h"
#include "quorum/request.h"
#include "quorum/resync.h"
#include "quorum/state.h"
#include "quorum/vote.h"
#include "quorum/write.h"

static const char *const quorum_strong_runtime_opts[] = {
    QUORUM_OPT_VOTE_THRESHOLD,
    QUORUM_OPT_BLKVERIFY,
    QUORUM_OPT_REWRITE_CORRUPTED,
    QUORUM_OPT_READ_PATTERN,
    NULL
};

static const char *const quorum_mutable_opts[] = {
    QUORUM_OPT_VOTE_THRESHOLD,
    QUORUM_OPT_REWRITE_CORRUPTED,
    QUORUM_OPT_READ_PATTERN,
    QUORUM_OPT_OPEN_DEGRADED,
    QUORUM_OPT_CHILD_TIMEOUT,
    QUORUM_OPT_EARLY_READS,
    QUORUM_OPT_AUTO_RESYNC,
    QUORUM_OPT_STABLE_WRITES,
    QUORUM_OPT_STATE_FORCE,
    QUORUM_OPT_DIRTY_LIMIT,
    QUORUM_OPT_DIGEST,
    QUORUM_OPT_DIGEST_CACHE_SIZE,
    NULL
};

/* --- the length --- */

/* The error if there is no winner among @lengths[slot]. */
static int GRAPH_RDLOCK quorum_no_length(BDRVQuorumState *s,
                                         const int64_t *lengths, Error **errp)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (int i = 0; i < s->num_slots; i++) {
        if (!s->slots[i].child) {
            continue;
        }
        g_string_append_printf(list, "%schildren.%d: ", list->len ? ", " : "",
                               i);
        if (lengths[i] < 0) {
            g_string_append(list, strerror(-lengths[i]));
        } else {
            g_string_append_printf(list, "%" PRId64 " bytes", lengths[i]);
        }
    }
    error_setg(errp, "The children do not agree on a length, which "
               "vote-threshold=%d asks of %d of them (%s)",
               s->opts.threshold, s->opts.threshold, list->str);
    return -EINVAL;
}

/*
 * Exclude and report the child in slot @i, whose length is not known, or can't
 * be other than @winner.
 */
static void GRAPH_RDLOCK quorum_exclude_child(BlockDriverState *bs, int i,
                                              int64_t length, int64_t winner)
{
    BDRVQuorumState *s = bs->opaque;
    BdrvChild *child = s->slots[i].child;
    g_autofree char *why = NULL;

    if (length < 0) {
        why = g_strdup_printf("its length is not known: %s", strerror(-length));
    } else {
        why = g_strdup_printf("its length is %" PRId64 " bytes instead "
                              "of %" PRId64, length, winner);
    }
    /*
     * An inactive image belongs to the other side of a migration, which may be
     * about to give the child its right length.
     */
    quorum_sync_exclude(s->sync, i, bs->open_flags & BDRV_O_INACTIVE, why);
    warn_report("quorum: children.%d (node '%s') is left out: %s", i,
                bdrv_get_node_name(child->bs), why);
}

/* The child in slot @i ends at @length, before the node does. */
static void GRAPH_RDLOCK quorum_judge_short_child(BlockDriverState *bs, int i,
                                                  int64_t length,
                                                  int64_t winner)
{
    BDRVQuorumState *s = bs->opaque;

    warn_report("quorum: children.%d (node '%s') is shorter than the others: "
                "%" PRId64 " bytes instead of %" PRId64 "; a scrub repairs it",
                i, bdrv_get_node_name(s->slots[i].child->bs), length, winner);
    quorum_sync_mark_stale(s->sync, i, length, winner - length, "shorter");
}

/*
 * Find the length of the node, and judge those that have another one
 * (promise 7).
 */
static int GRAPH_RDLOCK quorum_vote_length(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    bool may_differ = quorum_length_is_majority(s) &&
                      !(bs->open_flags & BDRV_O_INACTIVE);
    g_autofree int64_t *lengths = g_new(int64_t, s->num_slots);
    int64_t winner;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        lengths[i] = child ? bdrv_getlength(child->bs) : -ENOMEDIUM;
    }
    winner = quorum_winning_length(s, lengths);
    if (winner < 0) {
        return quorum_no_length(s, lengths, errp);
    }

    quorum_sync_resize(s->sync, winner);
    for (int i = 0; i < s->num_slots; i++) {
        if (!s->slots[i].child) {
            continue;
        }
        if (lengths[i] < 0 || (lengths[i] != winner && !may_differ)) {
            quorum_exclude_child(bs, i, lengths[i], winner);
            continue;
        }
        if (quorum_sync_is_excluded(s->sync, i)) {
            /* If it was excluded while others were written, it lacks that. */
            quorum_sync_include(s->sync, i,
                                quorum_sync_stale_bytes(s->sync, i) > 0);
        }
        if (lengths[i] < winner) {
            quorum_judge_short_child(bs, i, lengths[i], winner);
        } else if (lengths[i] > winner) {
            quorum_sync_set_touched_end(s->sync, lengths[i]);
        }
    }
    /* Others had the image, and did not say which child has missed a write. */
    quorum_sync_set_unverified(s->sync, quorum_opts_verify(&s->opts) &&
                                        !s->state);
    quorum_tell_states(bs);
    return 0;
}

/* --- opening and closing --- */

/* The image is active now: judge what its children look like again. */
static void coroutine_fn GRAPH_RDLOCK
quorum_co_invalidate_cache(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int ret = quorum_vote_length(bs, errp);

    /* Others have written meanwhile. */
    quorum_checked_unload(s);
    if (ret >= 0 && s->state) {
        quorum_state_co_load(bs, errp);
        quorum_tell_states(bs);
    }
    quorum_resync_kick(bs);
}

/* The image goes to the other side of a migration. */
static int GRAPH_RDLOCK quorum_inactivate(BlockDriverState *bs)
{
    int ret;

    /* The core drains later, and a write in flight must not be forgotten. */
    bdrv_drained_begin(bs);
    ret = quorum_state_clean(bs);
    if (ret == 0) {
        quorum_checked_unload(bs->opaque);
    }
    bdrv_drained_end(bs);
    return ret;
}

static void quorum_detach_children(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    bdrv_graph_wrlock();
    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].child) {
            bdrv_unref_child(bs, s->slots[i].child);
            s->slots[i].child = NULL;
        }
    }
    quorum_store_detach(bs);
    quorum_state_detach(bs);
    bdrv_graph_wrunlock();
}

static void quorum_close(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    if (!(bs->open_flags & BDRV_O_INACTIVE)) {
        quorum_state_clean(bs);
    }
    /*
     * While children are closed, the main loop goes on: what looks at them from
     * there ends before.  It may have begun to ask some of them, and nothing
     * begins after the drain, for nothing polls.
     */
    bdrv_drain(bs);
    qemu_bh_delete(s->migration_bh);
    quorum_late_cleanup(bs);
    quorum_resync_destroy(s);
    quorum_detach_children(bs);
    if (s->migration_blocker) {
        migrate_del_blocker(&s->migration_blocker);
    }
    quorum_slots_free(s->slots, s->num_slots);
    quorum_sync_free(s->sync);
    quorum_digests_free(s->digests);
    range_lock_destroy(&s->range_lock);
    quorum_copies_destroy(s);
    buffer_pool_destroy(&s->pool);
    fair_budget_destroy(&s->budget);
    quorum_repairs_destroy(s);
}

/* The slot @key is vacant: the core deletes only options of real children. */
static void quorum_delete_options(BlockDriverState *bs, const char *key)
{
    quorum_opts_delete_child(bs->options, key);
    quorum_opts_delete_child(bs->explicit_options, key);
}

/* The child in slot @i could not be opened because of @err. */
static void quorum_report_vacant(BlockDriverState *bs, int i, Error *err)
{
    g_autofree char *name = quorum_child_name(i);

    warn_report("quorum: %s is left vacant: %s", name, error_get_pretty(err));
    /* As with other children that open, this is the first that is told. */
    qapi_event_send_quorum_child_state(bdrv_get_node_name(bs), name, NULL,
                                       QUORUM_CHILD_STATE_VACANT,
                                       QUORUM_CHILD_STATE_OK,
                                       error_get_pretty(err));
}

/* Do without the child in slot @i because of @err, which is freed. */
static void quorum_leave_vacant(BlockDriverState *bs, int i, Error *err)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *key = quorum_child_name(i);

    quorum_report_vacant(bs, i, err);
    s->slots[i].error = g_strdup(error_get_pretty(err));
    error_free(err);
    quorum_delete_options(bs, key);
}

/* The same with one that has been opened. */
static void quorum_vacate(BlockDriverState *bs, int i, Error *err)
{
    BDRVQuorumState *s = bs->opaque;

    bdrv_graph_wrlock();
    bdrv_unref_child(bs, g_steal_pointer(&s->slots[i].child));
    bdrv_graph_wrunlock();
    quorum_sync_set_present(s->sync, i, false);
    quorum_leave_vacant(bs, i, err);
}

/*
 * How many slots @options describe, or -errno with @errp set; *@occupied: how
 * many of them are given a child.
 */
static int quorum_count_slots(QDict *options, int *occupied, Error **errp)
{
    int slots = quorum_opts_count_children(options, errp);

    if (slots < 0) {
        return slots;
    }
    if (slots < 1) {
        error_setg(errp, "Number of provided children must be 1 or more");
        return -EINVAL;
    }
    if (slots > QUORUM_CHILDREN_MAX) {
        error_setg(errp, "Number of provided children must be %d or less, "
                   "not %d", QUORUM_CHILDREN_MAX, slots);
        return -EINVAL;
    }
    *occupied = 0;
    for (int i = 0; i < slots; i++) {
        g_autofree char *key = quorum_child_name(i);

        *occupied += !quorum_key_is_vacant(options, key);
    }
    return slots;
}

/*
 * Open the child in slot @i, or leave the slot vacant if that is what @options
 * say, or if *@occupied children are enough without it.
 */
static int quorum_open_slot(BlockDriverState *bs, QDict *options, int i,
                            int *occupied, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *key = quorum_child_name(i);
    Error *local_err = NULL;

    if (quorum_key_is_vacant(options, key)) {
        qdict_del(options, key);
        quorum_delete_options(bs, key);
        return 0;
    }
    s->slots[i].child = bdrv_open_child(NULL, options, key, bs, &child_of_bds,
                                        BDRV_CHILD_DATA, false, &local_err);
    if (s->slots[i].child) {
        quorum_sync_set_present(s->sync, i, true);
        bdrv_graph_rdlock_main_loop();
        quorum_know_new_child(s, i);
        bdrv_graph_rdunlock_main_loop();
        return 0;
    }
    if (!s->opts.open_degraded) {
        error_propagate(errp, local_err);
        return -EINVAL;
    }
    if (!quorum_opts_is_away(local_err)) {
        error_append_hint(&local_err, "open-degraded=on does without a child "
                          "that is not there; this one is in use, or its node "
                          "name is wrong.\n");
        error_propagate_prepend(errp, local_err, "%s: ", key);
        return -EINVAL;
    }
    if (--*occupied < s->opts.threshold) {
        error_propagate(errp, local_err);
        return -EINVAL;
    }
    quorum_leave_vacant(bs, i, local_err);
    return 0;
}

/* Whether @child could be written to, if a parent of the quorum asked for it */
static bool GRAPH_RDLOCK quorum_can_write(BdrvChild *child, Error **errp)
{
    uint64_t perm = child->perm;
    int ret = bdrv_child_try_set_perm(child, perm | BLK_PERM_WRITE,
                                      child->shared_perm, errp);

    /* Asking for less never fails. */
    bdrv_child_try_set_perm(child, perm, child->shared_perm, NULL);
    return ret >= 0;
}

/*
 * Do without the children, of @occupied ones, that can be read and not written
 * to: as long as they are there, nothing can write to the quorum.  If too few
 * would be left, it is one that can be read.
 */
static void quorum_vacate_read_only(BlockDriverState *bs, int occupied)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree Error **errors = g_new0(Error *, s->num_slots);

    for (int i = 0; i < s->num_slots; i++) {
        if (!s->slots[i].child) {
            continue;
        }
        bdrv_graph_rdlock_main_loop();
        quorum_can_write(s->slots[i].child, &errors[i]);
        bdrv_graph_rdunlock_main_loop();
        if (errors[i] && !quorum_opts_is_away(errors[i])) {
            /* It is told to the parent that asks for it in earnest. */
            error_free(g_steal_pointer(&errors[i]));
        }
        occupied -= errors[i] != NULL;
    }
    for (int i = 0; i < s->num_slots; i++) {
        if (!errors[i]) {
            continue;
        }
        if (occupied < s->opts.threshold) {
            error_free(errors[i]);
            continue;
        }
        quorum_vacate(bs, i, errors[i]);
    }
}

/*
 * Open the state nodes.  A child whose state node is away is done without, too:
 * it would be taken for a newcomer, for good, and what it has may be needed
 * when the state node is back.
 */
static int quorum_open_states(BlockDriverState *bs, QDict *options, int slots,
                              Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree Error **away = g_new0(Error *, slots);
    int ret = quorum_state_attach(bs, options, slots, away, errp);

    for (int i = 0; i < slots; i++) {
        if (ret == 0 && away[i] && s->slots[i].child) {
            error_prepend(&away[i], "its state node can't be opened: ");
            quorum_vacate(bs, i, away[i]);
        } else {
            error_free(away[i]);
        }
    }
    return ret;
}

/* All of the state but the options: @slots vacant slots. */
static void quorum_init_state(BlockDriverState *bs, int slots)
{
    BDRVQuorumState *s = bs->opaque;

    fair_budget_init(&s->budget, quorum_limits.coroutines);
    buffer_pool_init(&s->pool, quorum_limits.pool_bytes,
                     qemu_real_host_page_size());
    quorum_copies_init(s);
    range_lock_init(&s->range_lock);
    qemu_co_rwlock_init(&s->flush_lock);
    stat64_init(&s->last_flush_ns, quorum_now_ns());
    stat64_init(&s->cut_from, INT64_MAX);
    qemu_spin_init(&s->in_flight_lock);
    QLIST_INIT(&s->in_flight);
    stat64_init(&s->next_failure, 0);
    s->migration_bh = aio_bh_new(qemu_get_aio_context(),
                                 quorum_unblock_migration, bs);
    quorum_repairs_init(s);
    quorum_late_init(bs);
    quorum_resync_init(bs);
    s->sync = quorum_sync_new(bs->node_name, slots);
    s->slots = quorum_slots_new(slots);
    s->num_slots = slots;
}

/* All children are there: judge them, and what is written down of them. */
static int GRAPH_RDLOCK quorum_judge_children(BlockDriverState *bs, int flags,
                                              Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int ret;

    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].child) {
            quorum_late_attached(bs, s->slots[i].child);
        }
    }
    ret = quorum_vote_length(bs, errp);
    for (int i = 0; i < s->num_slots && ret == 0; i++) {
        if (s->slots[i].child) {
            quorum_late_joined(bs, i);
        }
    }
    if (ret == 0 && s->state && !(flags & BDRV_O_INACTIVE)) {
        ret = quorum_state_load(bs, errp);
        quorum_tell_states(bs);
    }
    return ret;
}

/*
 * Read all @options but the children into the state.  Returns how many slots
 * there are, of which *@occupied are given a child, or -errno with @errp set.
 */
static int quorum_open_options(BlockDriverState *bs, QDict *options,
                               int *occupied, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int slots, ret;

    /* The node's own options are what it is described by later. */
    if (!quorum_opts_normalise(options, errp) ||
        !quorum_opts_normalise(bs->options, errp) ||
        !quorum_opts_normalise(bs->explicit_options, errp)) {
        return -EINVAL;
    }
    slots = quorum_count_slots(options, occupied, errp);
    if (slots < 0) {
        return slots;
    }
    ret = quorum_read_options(&s->opts, options, slots, *occupied, errp);
    return ret < 0 ? ret : slots;
}

static int quorum_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumDigests *digests;
    int slots, occupied;
    int ret;

    if (!quorum_vote_init(errp)) {
        return -ENOTSUP;
    }
    slots = quorum_open_options(bs, options, &occupied, errp);
    if (slots < 0) {
        return slots;
    }
    if (!quorum_checked_make(s, &s->opts, &digests, errp)) {
        return -ENOMEM;
    }
    quorum_init_state(bs, slots);
    quorum_checked_use(s, digests);
    if (s->opts.open_degraded) {
        bs->open_timeout_ms = s->opts.child_timeout_ms ?:
                              QUORUM_CHILD_TIMEOUT_DEFAULT;
    }
    for (int i = 0; i < slots; i++) {
        ret = quorum_open_slot(bs, options, i, &occupied, errp);
        if (ret < 0) {
            goto fail;
        }
    }
    if (s->opts.open_degraded && (flags & BDRV_O_RDWR) &&
        !(flags & BDRV_O_INACTIVE)) {
        quorum_vacate_read_only(bs, occupied);
    }

    ret = quorum_open_states(bs, options, slots, errp);
    if (ret < 0) {
        goto fail;
    }
    ret = quorum_store_attach(bs, options, errp);
    if (ret < 0) {
        goto fail;
    }

    bdrv_graph_rdlock_main_loop();
    ret = quorum_judge_children(bs, flags, errp);
    bdrv_graph_rdunlock_main_loop();
    if (ret < 0) {
        goto fail;
    }
    /* What was begun now is there when the node is opened again. */
    qdict_del(bs->options, QUORUM_OPT_STATE_INIT);
    qdict_del(bs->explicit_options, QUORUM_OPT_STATE_INIT);
    /*
     * FUA and MAY_UNMAP the core emulates or drops for each child, and resizes
     * write zeroes where a child does not promise them.  Whether the children
     * can do without a fallback may change without this node's being told, so
     * it is found out for each request.
     */
    bs->supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags = bs->supported_write_flags |
                               BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;

fail:
    quorum_close(bs);
    return ret;
}

/* --- creating --- */

static QemuOptsList quorum_create_opts = {
    .name = "quorum-create-opts",
    .head = QTAILQ_HEAD_INITIALIZER(quorum_create_opts.head),
    .desc = {
        {
            .name = BLOCK_OPT_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Virtual disk size",
        },
        {
            .name = BLOCK_OPT_PREALLOC,
            .type = QEMU_OPT_STRING,
            .help = "Preallocation mode of the children",
        },
        { /* end of list */ }
    },
};

/* Whether the file @name can be opened. */
static bool coroutine_fn GRAPH_UNLOCKED quorum_file_exists(const char *name)
{
    BlockBackend *blk = blk_co_new_open(name, NULL, NULL,
                                        BDRV_O_PROTOCOL | BDRV_O_NO_IO, NULL);

    if (!blk) {
        return false;
    }
    blk_co_unref(blk);
    return true;
}

static void coroutine_fn GRAPH_UNLOCKED quorum_delete_file(const char *name)
{
    BlockBackend *blk = blk_co_new_open(name, NULL, NULL,
                                        BDRV_O_PROTOCOL | BDRV_O_RDWR, NULL);

    if (blk) {
        bdrv_graph_co_rdlock();
        bdrv_co_delete_file(blk_bs(blk), NULL);
        bdrv_graph_co_rdunlock();
        blk_co_unref(blk);
    }
}

/*
 * Create the files that are named in @filename, all or none: those that were
 * not there before do not stay if one of them fails.
 */
static int coroutine_fn GRAPH_UNLOCKED
quorum_co_create_opts(BlockDriver *drv, const char *filename, QemuOpts *opts,
                      Error **errp)
{
    ERRP_GUARD();
    g_autoptr(QuorumFileName) name = quorum_filename_split(filename, errp);
    g_autofree bool *existed = NULL;
    int ret = 0;
    int i;

    if (!name) {
        return -EINVAL;
    }
    existed = g_new0(bool, name->total);
    for (i = 0; i < name->total && ret == 0; i++) {
        existed[i] = quorum_file_exists(name->names[i]);
        ret = bdrv_co_create_file(name->names[i], opts, errp);
        if (ret < 0) {
            error_prepend(errp, "Could not create file %d of %d, '%s': ",
                          i + 1, name->total, name->names[i]);
        }
    }
    while (ret < 0 && --i >= 0) {
        if (!existed[i]) {
            quorum_delete_file(name->names[i]);
        }
    }
    return ret;
}

/* --- describing --- */

/*
 * As the list that the options take, so that what is printed opens again:
 * index-exact, and with the threshold even if it was the default, which depends
 * on the number of slots.  A child that is rebuilding or excluded is printed as
 * a vacant slot: opened again, it would be taken for one that is in sync,
 * unless state nodes say better.
 */
static void GRAPH_RDLOCK
quorum_gather_child_options(BlockDriverState *bs, QDict *target,
                            bool backing_overridden)
{
    BDRVQuorumState *s = bs->opaque;
    QList *children = qlist_new();

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;
        /* A node that has lost its driver has none, unless asked before. */
        QDict *options = child ? child->bs->full_open_options : NULL;

        /* A state node knows whom not to believe. */
        if (options && (s->state ||
                        (!quorum_sync_is_rebuilding(s->sync, i) &&
                         !quorum_sync_is_excluded(s->sync, i)))) {
            qlist_append(children, qobject_ref(options));
        } else {
            qlist_append_null(children);
        }
    }
    qdict_put(target, "children", children);
    quorum_state_gather_options(bs, target);
    quorum_store_gather_options(bs, target);
    if (!qdict_haskey(target, QUORUM_OPT_VOTE_THRESHOLD)) {
        qdict_put_int(target, QUORUM_OPT_VOTE_THRESHOLD, s->opts.threshold);
    }
}

static char *quorum_dirname(BlockDriverState *bs, Error **errp)
{
    /* The children may well be in different folders, or in none. */
    error_setg(errp, "Cannot generate a base directory for quorum nodes");
    return NULL;
}

static int GRAPH_RDLOCK quorum_has_zero_init(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        if (quorum_is_member(s, i) &&
            !bdrv_has_zero_init(s->slots[i].child->bs)) {
            return 0;
        }
    }
    return 1;
}

static BlockDriver bdrv_quorum = {
    .format_name                = "quorum",
    .protocol_name              = "quorum",
    .instance_size              = sizeof(BDRVQuorumState),
    .strong_runtime_opts        = quorum_strong_runtime_opts,
    .mutable_opts               = quorum_mutable_opts,
    .create_opts                = &quorum_create_opts,

    .bdrv_parse_filename        = quorum_parse_filename,
    .bdrv_co_create_opts        = quorum_co_create_opts,
    .bdrv_has_zero_init         = quorum_has_zero_init,

    .bdrv_open                  = quorum_open,
    .bdrv_close                 = quorum_close,
    .bdrv_reopen_prepare        = quorum_reopen_prepare,
    .bdrv_reopen_commit         = quorum_reopen_commit,
    .bdrv_reopen_abort          = quorum_reopen_abort,
    .bdrv_reopen_parse_children = quorum_reopen_parse_children,
    .bdrv_reopen_change_children = quorum_reopen_change_children,
    .bdrv_gather_child_options  = quorum_gather_child_options,
    .bdrv_dirname               = quorum_dirname,
    .bdrv_get_specific_stats    = quorum_get_stats,
    .bdrv_get_specific_info     = quorum_get_specific_info,

    .bdrv_child_perm            = quorum_child_perm,
    .bdrv_set_perm              = quorum_resync_set_perm,
    .bdrv_recurse_can_replace   = quorum_recurse_can_replace,
    .bdrv_recurse_can_snapshot  = quorum_recurse_can_snapshot,
    .bdrv_can_lose_child        = quorum_can_lose_child,
    .bdrv_add_child_tran        = quorum_add_child,
    .bdrv_del_child_tran        = quorum_del_child,

    .bdrv_inactivate            = quorum_inactivate,
    .bdrv_co_invalidate_cache   = quorum_co_invalidate_cache,
    .bdrv_co_preadv             = quorum_co_preadv,
    .bdrv_co_pwritev            = quorum_co_pwritev,
    .bdrv_co_pwrite_zeroes      = quorum_co_pwrite_zeroes,
    .bdrv_co_pdiscard           = quorum_co_pdiscard,
    .bdrv_co_flush              = quorum_co_flush,
    .bdrv_co_truncate           = quorum_co_truncate,
    .bdrv_co_block_status       = quorum_co_block_status,
    .bdrv_co_getlength          = quorum_co_getlength,
    .bdrv_co_get_allocated_file_size = quorum_co_get_allocated_file_size,
    .bdrv_co_get_info           = quorum_co_get_info,
    .bdrv_co_is_inserted        = quorum_co_is_inserted,
};

static void bdrv_quorum_init(void)
{
    bdrv_register(&bdrv_quorum);
}

block_init(bdrv_quorum_init);
