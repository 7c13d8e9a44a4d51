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
#include "qapi/error.h"
#include "graph.h"
#include "trace.h"

/* --- slots --- */

QuorumSlot *quorum_slots_new(int n)
{
    QuorumSlot *slots = g_new0(QuorumSlot, n);

    for (int i = 0; i < n; i++) {
        stat64_init(&slots[i].futile_start, 0);
        stat64_init(&slots[i].futile_end, 0);
        stat64_init(&slots[i].counters.read_errors, 0);
        stat64_init(&slots[i].counters.write_errors, 0);
        stat64_init(&slots[i].counters.flush_errors, 0);
        stat64_init(&slots[i].counters.mismatches, 0);
        stat64_init(&slots[i].counters.repaired_bytes, 0);
    }
    return slots;
}

void quorum_slots_free(QuorumSlot *slots, int n)
{
    for (int i = 0; i < n; i++) {
        g_free(slots[i].error);
    }
    g_free(slots);
}

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

        if (quorum_is_member(s, i)) {
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
     * A repair writes to the children even if no parent writes to the node; a
     * child that is read-only, or is being reopened so, just is not repaired.
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

/* Whether no other node or device than @bs sees what is on @child's node. */
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
 * A child that no other parent looks at may be replaced by a node with our
 * data:  if the child had other data, the others have outvoted it.  But a slot
 * that is excluded stays so, whatever node is there: remove the child and add
 * the new one.
 */
bool quorum_recurse_can_replace(BlockDriverState *bs,
                                BlockDriverState *to_replace)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (quorum_is_member(s, i) &&
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
    QuorumSlot *slots;          /* the old ones */
    int num_slots;
    int *from;                  /* [slot]: which slot it was, or -1 */
    QuorumSyncChange *sync;
    QuorumOptions opts;
    BdrvRequestFlags zero_flags;
    BdrvRequestFlags truncate_flags;
} QuorumChange;

/*
 * Install the slots: slot i is what slot @from[i] was, or if that is negative,
 * vacant, and its child is @children[i].
 */
static void GRAPH_WRLOCK quorum_change_slots(BDRVQuorumState *s,
                                             QuorumChange *change,
                                             const int *from,
                                             BdrvChild **children, int n)
{
    QuorumSlot *slots = quorum_slots_new(n);

    change->slots = s->slots;
    change->num_slots = s->num_slots;
    change->from = g_memdup2(from, n * sizeof(*from));
    change->sync = quorum_sync_change_begin(s->sync, from, n);
    for (int i = 0; i < n; i++) {
        if (from[i] >= 0) {
            slots[i] = s->slots[from[i]];
        }
        slots[i].child = children[i];
        quorum_sync_set_present(s->sync, i, children[i]);
    }
    s->slots = slots;
    s->num_slots = n;
}

/* End quorum_change_slots(), for good or going back to what was. */
static void GRAPH_WRLOCK quorum_change_slots_end(BDRVQuorumState *s,
                                                 QuorumChange *change,
                                                 bool commit)
{
    QuorumSlot *slots = commit ? change->slots : s->slots;
    int num_slots = commit ? change->num_slots : s->num_slots;

    for (int i = 0; i < s->num_slots; i++) {
        if (change->from[i] >= 0) {
            /* Both arrays have the text; the one that stays keeps it. */
            slots[commit ? change->from[i] : i].error = NULL;
        }
    }
    if (!commit) {
        s->slots = change->slots;
        s->num_slots = change->num_slots;
    }
    quorum_sync_change_end(s->sync, change->sync, commit);
    quorum_slots_free(slots, num_slots);
    g_free(change->from);
}

static void GRAPH_WRLOCK quorum_change_commit(void *opaque)
{
    QuorumChange *change = opaque;
    BDRVQuorumState *s = change->bs->opaque;

    quorum_change_slots_end(s, change, true);
    trace_quorum_change_end(change->bs->node_name, s->num_slots,
                            s->opts.threshold, true);
}

static void GRAPH_WRLOCK quorum_change_abort(void *opaque)
{
    QuorumChange *change = opaque;
    BlockDriverState *bs = change->bs;
    BDRVQuorumState *s = bs->opaque;

    s->opts = change->opts;
    quorum_change_slots_end(s, change, false);
    trace_quorum_change_end(bs->node_name, s->num_slots, s->opts.threshold,
                            false);
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
 * stays vacant stays what it is.  A node that is not written to may be in
 * several slots.
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

/* Whether the child in slot @i has a vote wherever it is not stale. */
static bool GRAPH_RDLOCK quorum_slot_counts(BDRVQuorumState *s, int i)
{
    return quorum_is_member(s, i) && !quorum_sync_is_rebuilding(s->sync, i);
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
            voters += quorum_slot_counts(s, from[i]);
        } else if (nodes[i]) {
            voters += in_sync;
            if (nodes[i]->total_sectors != bs->total_sectors) {
                error_setg(errp, "Cannot add node '%s' to quorum '%s': its "
                           "length is %" PRId64 " bytes instead of %" PRId64,
                           bdrv_get_node_name(nodes[i]), bdrv_get_node_name(bs),
                           nodes[i]->total_sectors << BDRV_SECTOR_BITS,
                           quorum_length(bs));
                return false;
            }
        }
    }
    for (int i = 0; i < s->num_slots; i++) {
        old_voters += quorum_slot_counts(s, i);
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

    assert(n <= QUORUM_CHILDREN_MAX);
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
        .opts = s->opts,
        .zero_flags = bs->supported_zero_flags,
        .truncate_flags = bs->supported_truncate_flags,
    };
    quorum_change_slots(s, change, from, children, n);
    s->opts = *opts;
    for (int i = 0; i < n; i++) {
        if (from[i] != i) {
            trace_quorum_child_change(bs->node_name, i, from[i], nodes[i] ?
                                      bdrv_get_node_name(nodes[i]) : "");
        }
        if (nodes[i] && from[i] < 0 && !in_sync) {
            /* What was on the node before it became a child has no vote. */
            quorum_sync_set_rebuilding(s->sync, i);
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

/* Make @node the child in slot @i, or the slot vacant if @node is NULL. */
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
