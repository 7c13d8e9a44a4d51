/*
 * Quorum block driver: options, opening, creating, limits, the driver table
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * See quorum/quorum-int.h for what the driver promises, quorum/read.c and
 * quorum/write.c for what happens to a request, quorum/graph.c for children
 * that come and go, and docs/interop/quorum.rst for how to use it.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qapi/qapi-events-block-core.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "system/block-backend.h"
#include "quorum/quorum-int.h"
#include "quorum/opts.h"
#include "quorum/vote.h"

#define QUORUM_OPT_VOTE_THRESHOLD    "vote-threshold"
#define QUORUM_OPT_REWRITE_CORRUPTED "rewrite-corrupted"
#define QUORUM_OPT_READ_PATTERN      "read-pattern"
#define QUORUM_OPT_OPEN_DEGRADED     "open-degraded"

static QemuOptsList quorum_runtime_opts = {
    .name = "quorum",
    .head = QTAILQ_HEAD_INITIALIZER(quorum_runtime_opts.head),
    .desc = {
        {
            .name = QUORUM_OPT_VOTE_THRESHOLD,
            .type = QEMU_OPT_NUMBER,
            .help = "How many equal answers make a version believable",
        },
        {
            .name = QUORUM_OPT_BLKVERIFY,
            .type = QEMU_OPT_BOOL,
            .help = "Exit at the first difference between two children",
        },
        {
            .name = QUORUM_OPT_REWRITE_CORRUPTED,
            .type = QEMU_OPT_BOOL,
            .help = "Repair the children that were outvoted on a read",
        },
        {
            .name = QUORUM_OPT_READ_PATTERN,
            .type = QEMU_OPT_STRING,
            .help = "quorum: ask all children and vote; "
                    "threshold: ask just enough of them, and vote; "
                    "fifo: ask one after the other until one answers",
        },
        {
            .name = QUORUM_OPT_OPEN_DEGRADED,
            .type = QEMU_OPT_BOOL,
            .help = "Do without a child that can't be opened",
        },
        { /* end of list */ }
    },
};

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
    NULL
};

/* --- slots --- */

char *quorum_child_name(int i)
{
    return g_strdup_printf(QUORUM_OPT_CHILDREN "%d", i);
}

/*
 * Find the length that the children agree on and count those out that have
 * another one (promise 7).
 */
static int GRAPH_RDLOCK quorum_vote_length(BlockDriverState *bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree int64_t *lengths = g_new(int64_t, s->num_slots);
    g_autofree int *version = g_new(int, s->num_slots);
    int winner;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        lengths[i] = child ? bdrv_getlength(child->bs) : -ENOMEDIUM;
    }
    quorum_group_values(lengths, s->num_slots, version);
    winner = quorum_winner(version, s->num_slots, s->opts.threshold, NULL);

    if (winner < 0) {
        g_autoptr(GString) list = g_string_new(NULL);

        for (int i = 0; i < s->num_slots; i++) {
            if (!s->slots[i].child) {
                continue;
            }
            g_string_append_printf(list, "%schildren.%d: ",
                                   list->len ? ", " : "", i);
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

    quorum_maps_resize(s, lengths[winner]);
    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        g_autofree char *why = NULL;

        if (!slot->child) {
            continue;
        }
        if (version[i] == winner) {
            if (qatomic_read(&slot->out) && quorum_stale_bytes(s, i)) {
                /* What was written while it was out it does not have. */
                quorum_set_stale(s, i, 0, lengths[winner]);
            }
            qatomic_set(&slot->out, false);
            continue;
        }
        if (bs->open_flags & BDRV_O_INACTIVE) {
            /* It belongs to somebody else, who may be about to mend it. */
            qatomic_set(&slot->out, true);
        } else {
            quorum_put_out(s, i);
        }
        if (lengths[i] < 0) {
            why = g_strdup_printf("its length is not known: %s",
                                  strerror(-lengths[i]));
        } else {
            why = g_strdup_printf("its length is %" PRId64 " bytes instead "
                                  "of %" PRId64, lengths[i], lengths[winner]);
        }
        warn_report("quorum: children.%d (node '%s') is left out: %s", i,
                    bdrv_get_node_name(slot->child->bs), why);
        quorum_report_bad(QUORUM_OP_TYPE_READ, 0, lengths[winner], slot->child,
                          why);
    }
    return 0;
}

/* --- opening and closing --- */

/*
 * The options that open the file @name, with a protocol prefix as it is allowed
 * where images are created (bdrv_co_create_file()).  NULL with @errp set if
 * there is no such protocol.
 */
static QDict *quorum_file_options(const char *name, Error **errp)
{
    ERRP_GUARD();
    BlockDriver *drv = bdrv_find_protocol(name, true, errp);
    g_autoptr(QDict) options = qdict_new();

    if (!drv) {
        return NULL;
    }
    qdict_put_str(options, "driver", drv->format_name);
    qdict_put_str(options, "filename", name);
    if (drv->bdrv_parse_filename) {
        /* As the core does it: the name goes once it has been parsed. */
        drv->bdrv_parse_filename(name, options, errp);
        if (*errp) {
            return NULL;
        }
        if (!drv->bdrv_needs_filename) {
            qdict_del(options, "filename");
        }
    }
    return g_steal_pointer(&options);
}

/*
 * quorum:THRESHOLD/TOTAL:FILE1:...:FILEn.  The children are raw: an image
 * format that the file name is opened with goes over the quorum, and must not
 * be seen again below it.
 */
static void quorum_parse_filename(const char *filename, QDict *options,
                                  Error **errp)
{
    g_autoptr(QuorumFileName) name = quorum_filename_split(filename, errp);

    if (!name) {
        return;
    }
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *key = qdict_entry_key(e);

        if (!strcmp(key, QUORUM_OPT_VOTE_THRESHOLD) ||
            strstart(key, "children", NULL)) {
            error_setg(errp, "%s can't be given beside the file name '%s', "
                       "which says it already", key, filename);
            return;
        }
    }
    for (int i = 0; i < name->total; i++) {
        g_autofree char *key = quorum_child_name(i);
        g_autofree char *file_key = g_strdup_printf("%s.file.", key);
        g_autoptr(QDict) file = quorum_file_options(name->names[i], errp);
        g_autofree char *driver_key = g_strdup_printf("%s.driver", key);

        if (!file) {
            return;
        }
        qdict_put_str(options, driver_key, "raw");
        for (const QDictEntry *e = qdict_first(file); e;
             e = qdict_next(file, e)) {
            g_autofree char *to = g_strconcat(file_key, qdict_entry_key(e),
                                              NULL);

            qdict_put_obj(options, to, qobject_ref(qdict_entry_value(e)));
        }
    }
    qdict_put_int(options, QUORUM_OPT_VOTE_THRESHOLD, name->threshold);
}

int quorum_read_options(QuorumOptions *o, QDict *options, int slots,
                        int occupied, Error **errp)
{
    ERRP_GUARD();
    QemuOpts *opts = qemu_opts_create(&quorum_runtime_opts, NULL, 0,
                                      &error_abort);
    const char *pattern;
    int64_t threshold;
    int value;
    int ret = -EINVAL;

    if (!qemu_opts_absorb_qdict(opts, options, errp)) {
        goto out;
    }

    threshold = qemu_opt_get_number(opts, QUORUM_OPT_VOTE_THRESHOLD,
                                    slots / 2 + 1);
    o->blkverify = qemu_opt_get_bool(opts, QUORUM_OPT_BLKVERIFY, false);
    o->rewrite_corrupted = qemu_opt_get_bool(opts, QUORUM_OPT_REWRITE_CORRUPTED,
                                             false);
    pattern = qemu_opt_get(opts, QUORUM_OPT_READ_PATTERN);
    value = qapi_enum_parse(&QuorumReadPattern_lookup, pattern,
                            pattern ? -EINVAL : QUORUM_READ_PATTERN_QUORUM,
                            NULL);

    if (threshold < 1) {
        error_setg(errp, "Parameter 'vote-threshold' expects a value >= 1");
        goto out;
    }
    if (threshold > occupied) {
        error_setg(errp, "threshold may not exceed children count");
        error_append_hint(errp, "vote-threshold is %" PRId64 ", and %d "
                          "children are given.\n", threshold, occupied);
        goto out;
    }
    if (value < 0) {
        error_setg(errp, "Please set read-pattern as fifo or quorum");
        error_append_hint(errp, "read-pattern is '%s'; threshold is possible, "
                          "too.\n", pattern);
        goto out;
    }
    o->threshold = threshold;
    o->read_pattern = value;

    o->open_degraded = qemu_opt_get_bool(opts, QUORUM_OPT_OPEN_DEGRADED, false);
    if (o->open_degraded && threshold <= slots / 2) {
        error_setg(errp, "open-degraded=on needs a vote-threshold of more than "
                   "half the children: %d of %d, not %" PRId64,
                   slots / 2 + 1, slots, threshold);
        goto out;
    }
    if (o->blkverify && (slots != 2 || occupied != 2 || threshold != 2)) {
        error_setg(errp, "blkverify=on can only be set if there are "
                   "exactly two files and vote-threshold is 2");
        goto out;
    }
    if (o->blkverify && o->rewrite_corrupted) {
        error_setg(errp,
                   "rewrite-corrupted=on cannot be used with blkverify=on");
        goto out;
    }
    if (o->blkverify && o->read_pattern != QUORUM_READ_PATTERN_QUORUM) {
        error_setg(errp, "read-pattern=%s cannot be used with blkverify=on",
                   pattern);
        goto out;
    }
    ret = 0;
out:
    qemu_opts_del(opts);
    return ret;
}

bool quorum_key_is_vacant(QDict *options, const char *key)
{
    QObject *value = qdict_get(options, key);
    QString *string = qobject_to(QString, value);

    /* In dotted syntax, which has no null, an empty string stands for it. */
    return qobject_to(QNull, value) || (string && !*qstring_get_str(string));
}

/* The image is ours now: what its children look like is to be judged anew. */
static void coroutine_fn GRAPH_RDLOCK
quorum_co_invalidate_cache(BlockDriverState *bs, Error **errp)
{
    quorum_vote_length(bs, errp);
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
    bdrv_graph_wrunlock();
}

static void quorum_close(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;

    quorum_detach_children(bs);
    quorum_slots_destroy(s);
    range_lock_destroy(&s->range_lock);
    buffer_pool_destroy(&s->pool);
}

/*
 * The core forgets only the options of children that exist: do it for the place
 * @key, which is vacant.
 */
static void quorum_forget_options(QDict *options, const char *key)
{
    g_autofree char *prefix = g_strconcat(key, ".", NULL);
    g_autoptr(QDict) below = NULL;

    qdict_del(options, key);
    qdict_extract_subqdict(options, &below, prefix);
}

/* The child in slot @i could not be opened because of @err. */
static void quorum_report_vacant(int i, Error *err)
{
    g_autofree char *name = quorum_child_name(i);

    warn_report("quorum: %s is left vacant: %s", name, error_get_pretty(err));
    qapi_event_send_quorum_report_bad(QUORUM_OP_TYPE_READ,
                                      error_get_pretty(err), name, 0, 0);
}

static int quorum_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    Error *local_err = NULL;
    int slots, ret;
    int occupied = 0;

    if (!quorum_vote_init(errp)) {
        return -ENOTSUP;
    }

    /* The node's own options are what it is described by later. */
    if (!quorum_opts_normalise(options, errp) ||
        !quorum_opts_normalise(bs->options, errp) ||
        !quorum_opts_normalise(bs->explicit_options, errp)) {
        return -EINVAL;
    }
    slots = quorum_opts_count_children(options, errp);
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

    for (int i = 0; i < slots; i++) {
        g_autofree char *key = quorum_child_name(i);

        occupied += !quorum_key_is_vacant(options, key);
    }
    ret = quorum_read_options(&s->opts, options, slots, occupied, errp);
    if (ret < 0) {
        return ret;
    }

    buffer_pool_init(&s->pool, QUORUM_POOL_BYTES, qemu_real_host_page_size());
    range_lock_init(&s->range_lock);
    qemu_co_rwlock_init(&s->sync_lock);
    quorum_slots_init(s, slots);
    for (int i = 0; i < slots; i++) {
        g_autofree char *key = quorum_child_name(i);

        if (quorum_key_is_vacant(options, key)) {
            qdict_del(options, key);
            quorum_forget_options(bs->options, key);
            quorum_forget_options(bs->explicit_options, key);
            continue;
        }
        s->slots[i].child = bdrv_open_child(NULL, options, key, bs,
                                            &child_of_bds, BDRV_CHILD_DATA,
                                            false, &local_err);
        if (s->slots[i].child) {
            continue;
        }
        if (!s->opts.open_degraded || --occupied < s->opts.threshold) {
            error_propagate(errp, local_err);
            ret = -EINVAL;
            goto fail;
        }
        quorum_report_vacant(i, local_err);
        s->slots[i].error = g_strdup(error_get_pretty(local_err));
        error_free(local_err);
        local_err = NULL;
        quorum_forget_options(bs->options, key);
        quorum_forget_options(bs->explicit_options, key);
    }

    bdrv_graph_rdlock_main_loop();
    ret = quorum_vote_length(bs, errp);
    quorum_refresh_flags(bs);
    bdrv_graph_rdunlock_main_loop();
    if (ret < 0) {
        goto fail;
    }
    bs->supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED;
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

/* --- limits --- */

/*
 * Limits of the children for writing zeroes, which the core does not hand up:
 * zeroes are cut into pieces here, for all children alike, so that a child that
 * can't write a piece efficiently has not done a part of it.
 */
static void GRAPH_RDLOCK quorum_refresh_limits(BlockDriverState *bs,
                                               Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    uint32_t alignment = bs->bl.request_alignment;
    int64_t most = 0;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;
        BlockDriverState *p;

        for (p = child ? child->bs : NULL; p; p = bdrv_primary_bs(p)) {
            alignment = MAX(alignment, MAX(p->bl.pwrite_zeroes_alignment,
                                           p->bl.request_alignment));
            most = MIN_NON_ZERO(most, p->bl.max_pwrite_zeroes);
        }
    }
    bs->bl.pwrite_zeroes_alignment = alignment;
    bs->bl.max_pwrite_zeroes = most ? MAX(QEMU_ALIGN_DOWN(most, alignment),
                                          alignment) : 0;
}

/* --- describing --- */

/*
 * As the list that the options take, so that what is printed opens again:
 * index-exact, and with the threshold even if it was the default, which depends
 * on the number of slots.  A child that is not in sync is left out, so that
 * whoever opens what is printed does not believe it.
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

        if (options && !qatomic_read(&s->slots[i].rebuilding)) {
            qlist_append(children, qobject_ref(options));
        } else {
            qlist_append_null(children);
        }
    }
    qdict_put(target, "children", children);
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
        if (quorum_slot_is_in(&s->slots[i]) &&
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

    .bdrv_refresh_limits        = quorum_refresh_limits,
    .bdrv_child_perm            = quorum_child_perm,
    .bdrv_recurse_can_replace   = quorum_recurse_can_replace,
    .bdrv_recurse_can_snapshot  = quorum_recurse_can_snapshot,
    .bdrv_add_child_tran        = quorum_add_child,
    .bdrv_del_child_tran        = quorum_del_child,

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
