/*
 * Quorum block driver: permissions, and children that come and go
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * All that runs here is global state, in the main loop under the BQL.  Children
 * change with all requests drained and under the graph write lock, as a part of
 * a transaction: if it fails, the slots are what they were.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "block/block-io.h"
#include "block/qdict.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "quorum-int.h"
#include "opts.h"

/*
 * A child that lacks an efficient write-zeroes gets ordinary zeroes written, so
 * NO_FALLBACK can be promised only if all have it; FUA and MAY_UNMAP the core
 * emulates or drops for each child.
 */
void quorum_refresh_flags(BlockDriverState *bs)
{
    BDRVQuorumState *s = bs->opaque;
    BdrvRequestFlags zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                                  BDRV_REQ_WRITE_UNCHANGED |
                                  BDRV_REQ_NO_FALLBACK;
    BdrvRequestFlags truncate_flags = BDRV_REQ_ZERO_WRITE;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (quorum_slot_is_in(&s->slots[i])) {
            zero_flags &= ~BDRV_REQ_NO_FALLBACK |
                          child->bs->supported_zero_flags;
            truncate_flags &= child->bs->supported_truncate_flags;
        }
    }
    bs->supported_zero_flags = zero_flags;
    bs->supported_truncate_flags = truncate_flags;
}

/* --- the graph around us --- */

void quorum_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                       BlockReopenQueue *reopen_queue, uint64_t perm,
                       uint64_t shared, uint64_t *nperm, uint64_t *nshared)
{
    BDRVQuorumState *s = bs->opaque;
    bool inactive = bs->open_flags & BDRV_O_INACTIVE;

    *nperm = perm & DEFAULT_PERM_PASSTHROUGH;
    /*
     * A repair writes to the children even if nobody writes to us; a child that
     * is read-only, or is being reopened so, just is not repaired.
     */
    if ((s->opts.rewrite_corrupted || s->scrub_repairs) && !inactive && c &&
        bdrv_is_writable_after_reopen(c->bs, reopen_queue)) {
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
 * it had other data, the others have outvoted it.  But a place that is out
 * stays so, whatever node is there: remove the child and add the new one.
 */
bool quorum_recurse_can_replace(BlockDriverState *bs,
                                BlockDriverState *to_replace)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (quorum_slot_is_in(&s->slots[i]) &&
            quorum_is_only_parent(bs, child) &&
            bdrv_recurse_can_replace(child->bs, to_replace)) {
            return true;
        }
    }
    return false;
}

bool quorum_recurse_can_snapshot(BlockDriverState *bs)
{
    /* One overlay over us, or one over each child?  A node name says which. */
    return false;
}

/* --- children that come and go --- */

/* What is put back if a change of the children fails */
typedef struct QuorumChange {
    BlockDriverState *bs;
    QuorumSlotsChange *slots;
    QuorumOptions opts;
    BdrvRequestFlags zero_flags;
    BdrvRequestFlags truncate_flags;
} QuorumChange;

static void GRAPH_WRLOCK quorum_change_commit(void *opaque)
{
    QuorumChange *change = opaque;

    quorum_slots_change_end(change->bs->opaque, change->slots, true);
}

static void GRAPH_WRLOCK quorum_change_abort(void *opaque)
{
    QuorumChange *change = opaque;
    BlockDriverState *bs = change->bs;
    BDRVQuorumState *s = bs->opaque;

    s->opts = change->opts;
    quorum_slots_change_end(s, change->slots, false);
    /* The children that come back are not attached again yet. */
    bs->supported_zero_flags = change->zero_flags;
    bs->supported_truncate_flags = change->truncate_flags;
}

static TransactionActionDrv quorum_change_drv = {
    .commit = quorum_change_commit,
    .abort = quorum_change_abort,
    .clean = g_free,
};

/*
 * Set @from[i] to the slot in which @nodes[i] is now, or to -1; a slot that
 * stays vacant stays what it is.  A node may be there more than once, if nobody
 * writes to it.
 */
static void GRAPH_RDLOCK quorum_find_nodes(BDRVQuorumState *s,
                                           BlockDriverState **nodes, int n,
                                           int *from)
{
    g_autofree bool *taken = g_new0(bool, s->num_slots);

    for (int i = 0; i < n; i++) {
        bool stays = i < s->num_slots &&
                     child_bs(s->slots[i].child) == nodes[i];

        from[i] = stays ? i : -1;
        if (stays) {
            taken[i] = true;
        }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < s->num_slots && nodes[i] && from[i] < 0; j++) {
            if (!taken[j] && child_bs(s->slots[j].child) == nodes[i]) {
                from[i] = j;
                taken[j] = true;
            }
        }
    }
}

/* Whether the child in @slot has a vote wherever it is not stale. */
static bool GRAPH_RDLOCK quorum_slot_counts(const QuorumSlot *slot)
{
    return quorum_slot_is_in(slot) && !qatomic_read(&slot->rebuilding);
}

/*
 * Check that the node can do with the children in @nodes, slot i being what
 * slot @from[i] was, or if that is negative, vacant or a newcomer.
 */
static bool GRAPH_RDLOCK
quorum_check_children(BlockDriverState *bs, const QuorumOptions *opts,
                      BlockDriverState **nodes, const int *from, int n,
                      bool in_sync, Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    int occupied = 0, voters = 0, old_voters = 0;

    for (int i = 0; i < n; i++) {
        occupied += nodes[i] != NULL;
        if (from[i] >= 0) {
            voters += quorum_slot_counts(&s->slots[from[i]]);
        } else if (nodes[i]) {
            voters += in_sync;
            if (nodes[i]->total_sectors != bs->total_sectors) {
                error_setg(errp, "Cannot add node '%s' to quorum '%s': its "
                           "length is %" PRId64 " bytes instead of %" PRId64,
                           bdrv_get_node_name(nodes[i]), bdrv_get_node_name(bs),
                           nodes[i]->total_sectors << BDRV_SECTOR_BITS,
                           bs->total_sectors << BDRV_SECTOR_BITS);
                return false;
            }
        }
    }
    for (int i = 0; i < s->num_slots; i++) {
        old_voters += quorum_slot_counts(&s->slots[i]);
    }

    /* What is bad already may stay so, but not become worse. */
    if (occupied < opts->threshold ||
        (voters < opts->threshold &&
         (voters < old_voters || opts->threshold > s->opts.threshold))) {
        if (occupied < opts->threshold) {
            error_setg(errp, "The number of children cannot be lower than "
                       "the vote threshold %d", opts->threshold);
        } else {
            error_setg(errp, "The number of children cannot be lower than "
                       "the vote threshold %d; of those that would be left, "
                       "%d count: the others are not in sync, or of another "
                       "length", opts->threshold, voters);
        }
        return false;
    }
    return true;
}

int quorum_change_children(BlockDriverState *bs, const QuorumOptions *opts,
                           BlockDriverState **nodes, int n, bool in_sync,
                           Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree int *from = g_new(int, n);
    g_autofree BdrvChild **children = g_new0(BdrvChild *, n);
    QuorumChange *change;

    quorum_find_nodes(s, nodes, n, from);
    if (!quorum_check_children(bs, opts, nodes, from, n, in_sync, errp)) {
        return -EINVAL;
    }

    /* First attach, so that a node that moves keeps what it inherits. */
    for (int i = 0; i < n; i++) {
        g_autofree char *name = quorum_child_name(i);

        if (from[i] == i) {
            children[i] = s->slots[i].child;
        } else if (nodes[i]) {
            children[i] = bdrv_attach_child_tran(bs, nodes[i], name,
                                                 &child_of_bds,
                                                 BDRV_CHILD_DATA, tran, errp);
            if (!children[i]) {
                return -EINVAL;
            }
        }
    }
    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && (i >= n || from[i] != i)) {
            int ret = bdrv_detach_child_tran(bs, child, tran, detached, errp);

            if (ret < 0) {
                return ret;
            }
        }
    }

    change = g_new(QuorumChange, 1);
    *change = (QuorumChange) {
        .bs = bs,
        .slots = quorum_slots_change_begin(s, from, n),
        .opts = s->opts,
        .zero_flags = bs->supported_zero_flags,
        .truncate_flags = bs->supported_truncate_flags,
    };
    s->opts = *opts;
    for (int i = 0; i < n; i++) {
        s->slots[i].child = children[i];
        if (nodes[i] && from[i] < 0 && !in_sync) {
            /* What was on the node before we got it has no vote. */
            quorum_set_rebuilding(s, i);
        }
    }
    quorum_refresh_flags(bs);
    tran_add(tran, &quorum_change_drv, change);
    return 0;
}

/* Which slot is meant by @name, NULL for the first vacant one; or -1. */
static int GRAPH_RDLOCK quorum_choose_slot(BlockDriverState *bs,
                                           const char *name,
                                           BlockDriverState *node,
                                           Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int i = 0;

    while (i < s->num_slots && s->slots[i].child && !name) {
        i++;
    }
    while (name && i <= s->num_slots) {
        g_autofree char *this_name = quorum_child_name(i);

        if (!strcmp(name, this_name)) {
            break;
        }
        i++;
    }
    if (i > s->num_slots) {
        error_setg(errp, "Cannot put node '%s' into '%s' of quorum '%s': there "
                   "is children.0 to children.%d, and the next one would be "
                   "children.%d", bdrv_get_node_name(node), name,
                   bdrv_get_node_name(bs), s->num_slots - 1, s->num_slots);
        return -1;
    }
    if (i == QUORUM_CHILDREN_MAX) {
        error_setg(errp, "Cannot add node '%s' to quorum '%s': it has %d "
                   "children already, and can't have more",
                   bdrv_get_node_name(node), bdrv_get_node_name(bs), i);
        return -1;
    }
    return i;
}

/* Make @node, or if that is NULL, nobody, the child in slot @i. */
static int GRAPH_WRLOCK
quorum_set_child(BlockDriverState *bs, int i, BlockDriverState *node,
                 bool in_sync, Transaction *tran, GSList **detached,
                 Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    QuorumOptions opts = s->opts;
    int n = MAX(s->num_slots, i + 1);
    g_autofree BlockDriverState **nodes = g_new0(BlockDriverState *, n);

    for (int j = 0; j < s->num_slots; j++) {
        nodes[j] = s->slots[j].child ? s->slots[j].child->bs : NULL;
    }
    nodes[i] = node;
    return quorum_change_children(bs, &opts, nodes, n, in_sync, tran, detached,
                                  errp);
}

int quorum_add_child(BlockDriverState *bs, const char *name,
                     BlockDriverState *node, bool in_sync, Transaction *tran,
                     GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int i;

    if (s->opts.blkverify) {
        error_setg(errp, "Cannot add a child to a quorum in blkverify mode");
        return -EINVAL;
    }
    i = quorum_choose_slot(bs, name, node, errp);
    if (i < 0) {
        return -EINVAL;
    }
    return quorum_set_child(bs, i, node, in_sync, tran, detached, errp);
}

int quorum_del_child(BlockDriverState *bs, BdrvChild *child, Transaction *tran,
                     GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    int i = 0;

    while (s->slots[i].child != child) {
        i++;
    }
    return quorum_set_child(bs, i, NULL, true, tran, detached, errp);
}

/* --- reopening --- */

/* What a reopen asks for */
typedef struct QuorumReopen {
    QuorumOptions opts;
    BlockDriverState **nodes;   /* by slot, NULL: vacant; with references */
    int n;
} QuorumReopen;

static void GRAPH_UNLOCKED quorum_reopen_free(BDRVReopenState *state)
{
    QuorumReopen *r = state->opaque;

    for (int i = 0; i < r->n; i++) {
        bdrv_unref(r->nodes[i]);
    }
    g_free(r->nodes);
    g_free(r);
    state->opaque = NULL;
}

static bool quorum_options_name_children(QDict *options)
{
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        if (strstart(qdict_entry_key(e), QUORUM_OPT_CHILDREN, NULL)) {
            return true;
        }
    }
    return false;
}

/*
 * A list of children that is shorter than ours takes away the others.  Say so
 * with false as their value, before the core takes out the options of those
 * that it reopens with us: later nobody could tell them apart.
 */
void quorum_reopen_parse_children(BlockDriverState *bs, QDict *options)
{
    BDRVQuorumState *s = bs->opaque;

    if (!quorum_options_name_children(options)) {
        return;
    }
    for (int i = 0; i < s->num_slots; i++) {
        g_autofree char *key = quorum_child_name(i);
        g_autofree char *prefix = g_strconcat(key, ".", NULL);
        bool named = qdict_haskey(options, key);

        for (const QDictEntry *e = qdict_first(options); e && !named;
             e = qdict_next(options, e)) {
            named = strstart(qdict_entry_key(e), prefix, NULL);
        }
        if (s->slots[i].child && !named) {
            qdict_put_bool(options, key, false);
        }
    }
}

/*
 * Which node children.@i is to be, with a reference, according to the value of
 * its key in @options: *@node.  Returns false if it is not mentioned, or with
 * @errp set.
 */
static bool GRAPH_RDLOCK
quorum_reopen_child(BlockDriverState *bs, QDict *options, int i,
                    BlockDriverState **node, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree char *key = quorum_child_name(i);
    QObject *value = qdict_get(options, key);
    const char *name = qdict_get_try_str(options, key);
    BdrvChild *child = i < s->num_slots ? s->slots[i].child : NULL;

    *node = NULL;
    if (qobject_to(QBool, value)) {
        return false;
    }
    if (value && quorum_key_is_vacant(options, key)) {
        return true;
    }
    if (!value) {
        /* If it is ours, the core has taken out its options. */
        *node = child ? child->bs : NULL;
    } else if (name) {
        *node = bdrv_find_node(name);
        if (!*node) {
            error_setg(errp, "Cannot make '%s' %s of quorum '%s': there is no "
                       "node of this name", name, key, bdrv_get_node_name(bs));
            return false;
        }
        /* A job may have put a filter there that nobody knows of. */
        if (child && bdrv_skip_implicit_filters(child->bs) == *node) {
            *node = child->bs;
        }
    } else {
        error_setg(errp, "Invalid value of option '%s': it must be the name of "
                   "a node, or null", key);
        return false;
    }
    if (*node) {
        bdrv_ref(*node);
    }
    return *node != NULL;
}

/* Fill in @r->nodes from @options, where their keys are deleted. */
static bool GRAPH_RDLOCK quorum_reopen_children(BlockDriverState *bs,
                                                QDict *options, QuorumReopen *r,
                                                Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    int gap = -1;

    r->nodes = g_new0(BlockDriverState *, QUORUM_CHILDREN_MAX);
    if (!quorum_options_name_children(options)) {
        for (; r->n < s->num_slots; r->n++) {
            if (s->slots[r->n].child) {
                r->nodes[r->n] = s->slots[r->n].child->bs;
                bdrv_ref(r->nodes[r->n]);
            }
        }
        return true;
    }
    for (const QDictEntry *e = qdict_first(options); e;
         e = qdict_next(options, e)) {
        const char *index;

        if (strstart(qdict_entry_key(e), QUORUM_OPT_CHILDREN, &index) &&
            strchr(index, '.')) {
            error_setg(errp, "Cannot open a child by '%s' when reopening "
                       "quorum '%s': add a node, and give its name",
                       qdict_entry_key(e), bdrv_get_node_name(bs));
            return false;
        }
    }

    for (int i = 0; i < QUORUM_CHILDREN_MAX; i++) {
        g_autofree char *key = quorum_child_name(i);
        BlockDriverState *node;
        bool mentioned = quorum_reopen_child(bs, options, i, &node, errp);

        if (*errp) {
            return false;
        }
        qdict_del(options, key);
        if (!mentioned) {
            gap = gap < 0 ? i : gap;
            continue;
        }
        for (int j = 0; node && j < r->n; j++) {
            if (r->nodes[j] == node) {
                error_setg(errp, "Node '%s' cannot be both children.%d and %s "
                           "of quorum '%s'", bdrv_get_node_name(node), j, key,
                           bdrv_get_node_name(bs));
                bdrv_unref(node);
                return false;
            }
        }
        r->nodes[i] = node;
        r->n = i + 1;
        if (gap >= 0) {
            error_setg(errp, "Option children is not a valid array: there is "
                       "%s, but no children.%d", key, gap);
            return false;
        }
    }
    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && child->bs->implicit && r->nodes[i] != child->bs) {
            error_setg(errp, "Cannot replace implicit %s child of %s",
                       child->name, bdrv_get_node_name(bs));
            return false;
        }
    }
    return true;
}

int quorum_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue,
                          Error **errp)
{
    BlockDriverState *bs = state->bs;
    BDRVQuorumState *s = bs->opaque;
    QuorumReopen *r = g_new0(QuorumReopen, 1);
    int occupied = 0;
    bool ok;
    int ret = -EINVAL;

    state->opaque = r;
    if (s->scrub_repairs && !(state->flags & BDRV_O_RDWR)) {
        error_setg(errp, "Cannot make node '%s' read-only while a scrub "
                   "repairs it; cancel the scrub first",
                   bdrv_get_node_name(bs));
        ret = -EBUSY;
        goto fail;
    }
    if (!quorum_opts_normalise(state->options, errp) ||
        !quorum_opts_normalise(state->explicit_options, errp)) {
        goto fail;
    }
    bdrv_graph_rdlock_main_loop();
    ok = quorum_reopen_children(bs, state->options, r, errp);
    bdrv_graph_rdunlock_main_loop();
    if (!ok) {
        goto fail;
    }
    for (int i = 0; i < r->n; i++) {
        occupied += r->nodes[i] != NULL;
    }
    ret = quorum_read_options(&r->opts, state->options, r->n, occupied, errp);
    if (ret < 0) {
        goto fail;
    }
    if (r->opts.blkverify != s->opts.blkverify) {
        error_setg(errp, "Cannot change the option '" QUORUM_OPT_BLKVERIFY "'");
        ret = -EINVAL;
        goto fail;
    }
    return 0;

fail:
    quorum_reopen_free(state);
    return ret;
}

/* From here on permissions are asked for as the new options want it. */
int quorum_reopen_change_children(BDRVReopenState *state, Transaction *tran,
                                  GSList **detached, Error **errp)
{
    QuorumReopen *r = state->opaque;

    return quorum_change_children(state->bs, &r->opts, r->nodes, r->n, false,
                                  tran, detached, errp);
}

void quorum_reopen_commit(BDRVReopenState *state)
{
    g_autoptr(QDict) options = NULL;
    g_autoptr(QDict) explicit_options = NULL;

    /* The core forgets only those of children that exist. */
    qdict_extract_subqdict(state->options, &options, QUORUM_OPT_CHILDREN);
    qdict_extract_subqdict(state->explicit_options, &explicit_options,
                           QUORUM_OPT_CHILDREN);
    quorum_reopen_free(state);
}

/* What has been changed, the transaction changes back. */
void quorum_reopen_abort(BDRVReopenState *state)
{
    quorum_reopen_free(state);
}
