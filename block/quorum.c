/*
 * Quorum block driver: options, slots, permissions, the driver table
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See quorum.h for what the driver promises, quorum-io.c for what happens to a
 * request, and docs/interop/quorum.rst for how to use it.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnull.h"
#include "qobject/qstring.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "quorum.h"
#include "quorum-vote.h"

#define QUORUM_OPT_VOTE_THRESHOLD    "vote-threshold"
#define QUORUM_OPT_BLKVERIFY         "blkverify"
#define QUORUM_OPT_REWRITE_CORRUPTED "rewrite-corrupted"
#define QUORUM_OPT_READ_PATTERN      "read-pattern"
#define QUORUM_OPT_CHILDREN          "children."

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
                    "fifo: ask one after the other until one answers",
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

/* --- slots --- */

static int GRAPH_RDLOCK quorum_occupied_slots(BDRVQuorumState *s)
{
    int occupied = 0;

    for (int i = 0; i < s->num_slots; i++) {
        occupied += s->slots[i].child != NULL;
    }
    return occupied;
}

/*
 * A child that lacks an efficient write-zeroes gets ordinary zeroes written, so
 * NO_FALLBACK can be promised only if all have it; FUA and MAY_UNMAP the core
 * emulates or drops for each child.
 */
static void GRAPH_RDLOCK quorum_refresh_flags(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    BdrvRequestFlags zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                                  BDRV_REQ_WRITE_UNCHANGED |
                                  BDRV_REQ_NO_FALLBACK;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child) {
            zero_flags &= ~BDRV_REQ_NO_FALLBACK |
                          child->bs->supported_zero_flags;
        }
    }
    bs->supported_zero_flags = zero_flags;
    bs->supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED;
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
    winner = quorum_winner(version, s->num_slots, s->threshold, NULL);

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
                   s->threshold, s->threshold, list->str);
        return -EINVAL;
    }

    for (int i = 0; i < s->num_slots; i++) {
        QuorumSlot *slot = &s->slots[i];
        g_autofree char *why = NULL;

        slot->out = slot->child && version[i] != winner;
        if (!slot->out) {
            continue;
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

/* Read all options but the children, of whom there are @occupied. */
static int quorum_read_options(BDRVQuorumState *s, QDict *options, int slots,
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
    s->blkverify = qemu_opt_get_bool(opts, QUORUM_OPT_BLKVERIFY, false);
    s->rewrite_corrupted = qemu_opt_get_bool(opts, QUORUM_OPT_REWRITE_CORRUPTED,
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
        error_append_hint(errp, "read-pattern is '%s'.\n", pattern);
        goto out;
    }
    s->threshold = threshold;
    s->read_pattern = value;

    if (s->blkverify && (slots != 2 || occupied != 2 || threshold != 2)) {
        error_setg(errp, "blkverify=on can only be set if there are "
                   "exactly two files and vote-threshold is 2");
        goto out;
    }
    if (s->blkverify && s->rewrite_corrupted) {
        error_setg(errp,
                   "rewrite-corrupted=on cannot be used with blkverify=on");
        goto out;
    }
    if (s->blkverify && s->read_pattern == QUORUM_READ_PATTERN_FIFO) {
        error_setg(errp, "read-pattern=fifo cannot be used with blkverify=on");
        goto out;
    }
    ret = 0;
out:
    qemu_opts_del(opts);
    return ret;
}

static bool quorum_key_is_vacant(QDict *options, const char *key)
{
    QObject *value = qdict_get(options, key);
    QString *string = qobject_to(QString, value);

    /* In dotted syntax, which has no null, an empty string stands for it. */
    return qobject_to(QNull, value) || (string && !*qstring_get_str(string));
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
    range_lock_destroy(&s->range_lock);
    g_free(s->slots);
}

static int quorum_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int slots, ret;
    int occupied = 0;

    if (!quorum_vote_init(errp)) {
        return -ENOTSUP;
    }

    slots = qdict_array_entries(options, QUORUM_OPT_CHILDREN);
    if (slots < 0) {
        error_setg(errp, "Option children is not a valid array");
        return -EINVAL;
    }
    if (slots < 1) {
        error_setg(errp, "Number of provided children must be 1 or more");
        return -EINVAL;
    }

    for (int i = 0; i < slots; i++) {
        g_autofree char *key = g_strdup_printf(QUORUM_OPT_CHILDREN "%d", i);

        occupied += !quorum_key_is_vacant(options, key);
    }
    ret = quorum_read_options(s, options, slots, occupied, errp);
    if (ret < 0) {
        return ret;
    }

    range_lock_init(&s->range_lock);
    s->slots = g_new(QuorumSlot, slots);
    s->num_slots = slots;
    for (int i = 0; i < slots; i++) {
        quorum_slot_reset(&s->slots[i]);
    }

    for (int i = 0; i < slots; i++) {
        g_autofree char *key = g_strdup_printf(QUORUM_OPT_CHILDREN "%d", i);

        if (quorum_key_is_vacant(options, key)) {
            /* The core forgets only the options of children that exist. */
            qdict_del(options, key);
            qdict_del(bs->options, key);
            qdict_del(bs->explicit_options, key);
            continue;
        }
        s->slots[i].child = bdrv_open_child(NULL, options, key, bs,
                                            &child_of_bds, BDRV_CHILD_DATA,
                                            false, errp);
        if (!s->slots[i].child) {
            ret = -EINVAL;
            goto fail;
        }
    }

    bdrv_graph_rdlock_main_loop();
    ret = quorum_vote_length(bs, errp);
    quorum_refresh_flags(bs);
    bdrv_graph_rdunlock_main_loop();
    if (ret < 0) {
        goto fail;
    }
    return 0;

fail:
    quorum_close(bs);
    return ret;
}

/* --- describing --- */

/*
 * As the list that the options take, so that what is printed opens again:
 * index-exact, and with the threshold even if it was the default, which depends
 * on the number of slots.
 */
static void GRAPH_RDLOCK
quorum_gather_child_options(BlockDriverState *bs, QDict *target,
                            bool backing_overridden)
{
    BDRVQuorumState *s = bs->opaque;
    QList *children = qlist_new();

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child) {
            qlist_append(children, qobject_ref(child->bs->full_open_options));
        } else {
            qlist_append_null(children);
        }
    }
    qdict_put(target, "children", children);
    if (!qdict_haskey(target, QUORUM_OPT_VOTE_THRESHOLD)) {
        qdict_put_int(target, QUORUM_OPT_VOTE_THRESHOLD, s->threshold);
    }
}

static char *quorum_dirname(BlockDriverState *bs, Error **errp)
{
    /* The children may well be in different folders, or in none. */
    error_setg(errp, "Cannot generate a base directory for quorum nodes");
    return NULL;
}

/* --- the graph --- */

static void GRAPH_RDLOCK
quorum_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                  BlockReopenQueue *reopen_queue, uint64_t perm,
                  uint64_t shared, uint64_t *nperm, uint64_t *nshared)
{
    BDRVQuorumState *s = bs->opaque;
    bool inactive = bs->open_flags & BDRV_O_INACTIVE;

    *nperm = perm & DEFAULT_PERM_PASSTHROUGH;
    /*
     * A repair writes to the children even if nobody writes to us; a child that
     * was opened read-only just is not repaired.
     */
    if (s->rewrite_corrupted && !inactive && c && !bdrv_is_read_only(c->bs)) {
        *nperm |= BLK_PERM_WRITE;
    }

    /*
     * What is written or cut off behind our back is indistinguishable from
     * corruption.  The exception is an inactive image: then it belongs to
     * the destination of a migration.
     */
    *nshared = (shared | DEFAULT_PERM_UNCHANGED) &
               ~(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    if (inactive) {
        *nshared |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
    }
}

/* Whether nobody but @bs uses @child's node, and so sees what is on it. */
static bool GRAPH_RDLOCK quorum_is_only_parent(BlockDriverState *bs,
                                               BdrvChild *child)
{
    BdrvChild *edge;

    QLIST_FOREACH(edge, &child->bs->parents, next_parent) {
        if (edge != child) {
            return false;
        }
    }
    return true;
}

/*
 * A child that nobody else looks at may be replaced by a node with our data: if
 * it had other data, the others have outvoted it.
 */
static bool GRAPH_RDLOCK
quorum_recurse_can_replace(BlockDriverState *bs, BlockDriverState *to_replace)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && quorum_is_only_parent(bs, child) &&
            bdrv_recurse_can_replace(child->bs, to_replace)) {
            return true;
        }
    }
    return false;
}

static void GRAPH_WRLOCK
quorum_add_child(BlockDriverState *bs, BlockDriverState *child_bs, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *name = NULL;
    BdrvChild *child;
    int i = 0;

    if (s->blkverify) {
        error_setg(errp, "Cannot add a child to a quorum in blkverify mode");
        return;
    }
    if (child_bs->total_sectors != bs->total_sectors) {
        error_setg(errp, "Cannot add node '%s' to quorum '%s': its length is "
                   "%" PRId64 " bytes instead of %" PRId64,
                   bdrv_get_node_name(child_bs), bdrv_get_node_name(bs),
                   child_bs->total_sectors << BDRV_SECTOR_BITS,
                   bs->total_sectors << BDRV_SECTOR_BITS);
        return;
    }

    while (i < s->num_slots && s->slots[i].child) {
        i++;
    }
    name = g_strdup_printf(QUORUM_OPT_CHILDREN "%d", i);

    /* bdrv_attach_child() takes over the reference, even if it fails. */
    bdrv_ref(child_bs);
    child = bdrv_attach_child(bs, child_bs, name, &child_of_bds,
                              BDRV_CHILD_DATA, errp);
    if (!child) {
        return;
    }

    if (i == s->num_slots) {
        s->slots = g_renew(QuorumSlot, s->slots, ++s->num_slots);
    }
    quorum_slot_reset(&s->slots[i]);
    s->slots[i].child = child;
    quorum_refresh_flags(bs);
    bdrv_refresh_limits(bs, NULL, NULL);
}

static void GRAPH_WRLOCK
quorum_del_child(BlockDriverState *bs, BdrvChild *child, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    if (quorum_occupied_slots(s) <= s->threshold) {
        error_setg(errp, "The number of children cannot be lower than "
                   "the vote threshold %d", s->threshold);
        return;
    }

    for (int i = 0; i < s->num_slots; i++) {
        if (s->slots[i].child == child) {
            quorum_slot_reset(&s->slots[i]);
        }
    }
    bdrv_unref_child(bs, child);
    quorum_refresh_flags(bs);
    bdrv_refresh_limits(bs, NULL, NULL);
}

static BlockDriver bdrv_quorum = {
    .format_name                = "quorum",
    .instance_size              = sizeof(BDRVQuorumState),
    .strong_runtime_opts        = quorum_strong_runtime_opts,

    .bdrv_open                  = quorum_open,
    .bdrv_close                 = quorum_close,
    .bdrv_gather_child_options  = quorum_gather_child_options,
    .bdrv_dirname               = quorum_dirname,
    .bdrv_get_specific_stats    = quorum_get_stats,

    .bdrv_child_perm            = quorum_child_perm,
    .bdrv_recurse_can_replace   = quorum_recurse_can_replace,
    .bdrv_add_child             = quorum_add_child,
    .bdrv_del_child             = quorum_del_child,

    .bdrv_co_preadv             = quorum_co_preadv,
    .bdrv_co_pwritev            = quorum_co_pwritev,
    .bdrv_co_pwrite_zeroes      = quorum_co_pwrite_zeroes,
    .bdrv_co_flush              = quorum_co_flush,
    .bdrv_co_block_status       = quorum_co_block_status,
    .bdrv_co_getlength          = quorum_co_getlength,
    .bdrv_co_is_inserted        = quorum_co_is_inserted,
};

static void bdrv_quorum_init(void)
{
    bdrv_register(&bdrv_quorum);
}

block_init(bdrv_quorum_init);
