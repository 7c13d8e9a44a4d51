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
#include "migration/blocker.h"
#include "qapi/error.h"
#include "digest-store.h"
#include "graph.h"
#include "late.h"
#include "losses.h"
#include "request.h"
#include "state.h"

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
        stat64_init(&slots[i].counters.hedged_reads, 0);
        stat64_init(&slots[i].counters.late_reads, 0);
        stat64_init(&slots[i].counters.timeouts, 0);
        stat64_init(&slots[i].answered_ns, 0);
        stat64_init(&slots[i].late_ns, 0);
        for (int j = 0; j < ARRAY_SIZE(slots[i].next_report); j++) {
            stat64_init(&slots[i].next_report[j], 0);
        }
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

/* --- the graph around us --- */

/*
 * Whether @child ends before @bs does, and may be extended: not if another user
 * of the node relies on its length.
 */
static bool GRAPH_RDLOCK quorum_child_is_short(BlockDriverState *bs,
                                               BdrvChild *child)
{
    BdrvChild *other;

    if (!quorum_length_is_majority(bs->opaque) ||
        child->bs->total_sectors >= bs->total_sectors) {
        return false;
    }
    QLIST_FOREACH(other, &child->bs->parents, next_parent) {
        if (other != child && !(other->shared_perm & BLK_PERM_RESIZE)) {
            return false;
        }
    }
    return true;
}

/*
 * Whether it makes no difference to us that others write to @c (NULL: one that
 * is about to be attached).  While we have no parent, nothing is read from us
 * or written, so we have nothing but what is remembered to compare with; and
 * while there is no other child, there is none that would differ afterwards.
 * So a node that a guest writes to can become our child, and then the guest's
 * device be given us instead of that node, in one step of the graph.  From then
 * on we have a parent.
 */
static bool GRAPH_RDLOCK quorum_is_bystander(BlockDriverState *bs, BdrvChild *c)
{
    BDRVQuorumState *s = bs->opaque;
    BdrvChild *other;

    QLIST_FOREACH(other, &bs->children, next) {
        if (other != c && !(other->role & BDRV_CHILD_METADATA)) {
            return false;
        }
    }
    return QLIST_EMPTY(&bs->parents) && !s->state && !s->digests;
}

void quorum_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                       BlockReopenQueue *reopen_queue, uint64_t perm,
                       uint64_t shared, uint64_t *nperm, uint64_t *nshared)
{
    BDRVQuorumState *s = bs->opaque;
    bool inactive = bs->open_flags & BDRV_O_INACTIVE;

    if (role & BDRV_CHILD_METADATA) {
        /*
         * Whoever writes to the disk, or repairs it, writes to it until it is
         * closed; one that is read-only has failed when it is to be written.
         */
        bool writes = !inactive && c &&
                      (bdrv_is_writable_after_reopen(bs, reopen_queue) ||
                       s->opts.rewrite_corrupted || s->scrub_repairs) &&
                      bdrv_is_writable_after_reopen(c->bs, reopen_queue);

        *nperm = BLK_PERM_CONSISTENT_READ | (writes ? BLK_PERM_WRITE : 0);
        *nshared = BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED |
                   (inactive ? BLK_PERM_WRITE | BLK_PERM_RESIZE : 0);
        return;
    }
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
     * What becomes visible when the node grows may have to be zeroed; and a
     * child that is shorter than the node is extended before it is repaired.
     */
    if ((*nperm & BLK_PERM_RESIZE) && !inactive) {
        *nperm |= BLK_PERM_WRITE;
    }
    if ((*nperm & BLK_PERM_WRITE) && c && quorum_child_is_short(bs, c)) {
        *nperm |= BLK_PERM_RESIZE;
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
    } else if (quorum_is_bystander(bs, c)) {
        *nshared |= BLK_PERM_WRITE;
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

bool quorum_can_lose_child(BlockDriverState *bs, BdrvChild *child)
{
    BDRVQuorumState *s = bs->opaque;
    int well = 0;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *c = s->slots[i].child;

        /*
         * Excluded ones are looked at again when an image becomes active; until
         * then they are not stale.
         */
        well += c && c != child && bdrv_is_inserted(c->bs) &&
                !quorum_sync_is_rebuilding(s->sync, i) &&
                !quorum_sync_doubtful_bytes(s->sync, i);
    }
    return well >= s->opts.threshold;
}

/* --- children that come and go --- */

/* What is put back if a change of the children fails */
typedef struct QuorumChange {
    BlockDriverState *bs;
    QuorumSlot *slots;          /* the old ones */
    int num_slots;
    int *from;                  /* [slot]: which slot it was, or -1 */
    QuorumSyncChange *sync;
    QuorumStateNodesChange *state;
    QuorumOptions opts;
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
    for (int i = 0; i < n; i++) {
        if (from[i] < 0 && children[i]) {
            quorum_know_new_child(s, i);
        }
    }
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

/* The options were @old.  What other ones have found out is not enough. */
static void quorum_change_unverified(BDRVQuorumState *s,
                                     const QuorumOptions *old)
{
    bool verify = quorum_opts_verify(&s->opts);

    if (!verify || !quorum_opts_verify(old) ||
        s->opts.threshold > old->threshold) {
        quorum_sync_set_unverified(s->sync, verify);
    }
}

static void GRAPH_WRLOCK quorum_change_commit(void *opaque)
{
    QuorumChange *change = opaque;
    BDRVQuorumState *s = change->bs->opaque;

    quorum_change_slots_end(s, change, true);
    quorum_change_unverified(s, &change->opts);
    quorum_state_change_end(change->bs, change->state, true);
    quorum_tell_states(change->bs);
    /* A child that was rebuilding may be gone. */
    qemu_bh_schedule(s->migration_bh);
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
    quorum_state_change_end(bs, change->state, false);
    trace_quorum_change_end(bs->node_name, s->num_slots, s->opts.threshold,
                            false);
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
 * Check that what is stored on at least threshold children stays so, and that
 * the rest is left on no fewer than now: those that are stale can't stand in
 * for one that is taken out.
 */
static bool GRAPH_RDLOCK
quorum_check_copies(BDRVQuorumState *s, const QuorumOptions *opts,
                    BlockDriverState **nodes, const int *from, int n,
                    bool in_sync, Error **errp)
{
    g_autofree bool *missed = g_new0(bool, s->num_slots);
    g_autofree bool *stays = g_new0(bool, s->num_slots);
    int64_t length = quorum_sync_length(s->sync);
    int before, after, newcomers = 0;

    if (length == 0) {
        return true;
    }
    for (int i = 0; i < n; i++) {
        if (from[i] >= 0) {
            stays[from[i]] = true;
        } else {
            newcomers += nodes[i] && in_sync;
        }
    }
    for (int i = 0; i < s->num_slots; i++) {
        missed[i] = !quorum_slot_counts(s, i) ||
                    quorum_sync_is_lagging(s->sync, i);
    }
    before = quorum_sync_count_copies(s->sync, missed, 0, length);
    for (int i = 0; i < s->num_slots; i++) {
        missed[i] |= !stays[i];
    }
    after = quorum_sync_count_copies(s->sync, missed, 0, length) + newcomers;
    if (after < MIN(opts->threshold, before)) {
        error_setg(errp, "The number of children cannot be lower than the "
                   "vote threshold %d; some data would be left on %d: wait "
                   "until the others are not stale any more, or lower "
                   "vote-threshold", opts->threshold, after);
        return false;
    }
    return true;
}

/*
 * Whether what is above may make @bs longer at any time, so that a newcomer
 * can't be expected to have its length.
 */
static bool GRAPH_RDLOCK quorum_may_grow(BlockDriverState *bs)
{
    uint64_t perm, shared;

    bdrv_get_cumulative_perm(bs, &perm, &shared);
    return (perm & BLK_PERM_RESIZE) && quorum_length_is_majority(bs->opaque);
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
            if (nodes[i]->total_sectors != bs->total_sectors &&
                (in_sync || !quorum_may_grow(bs))) {
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
    return quorum_check_copies(s, opts, nodes, from, n, in_sync, errp);
}

void quorum_unblock_migration(void *opaque)
{
    BlockDriverState *bs = opaque;
    BDRVQuorumState *s = bs->opaque;

    /* With state nodes, the other side knows. */
    for (int i = 0; i < s->num_slots && !quorum_state_in_use(s); i++) {
        if (quorum_sync_is_rebuilding(s->sync, i)) {
            return;
        }
    }
    if (s->migration_blocker) {
        migrate_del_blocker(&s->migration_blocker);
    }
}

static void quorum_schedule_unblock(void *opaque)
{
    BDRVQuorumState *s = opaque;

    qemu_bh_schedule(s->migration_bh);
}

static TransactionActionDrv quorum_block_migration_drv = {
    .clean = quorum_schedule_unblock,
};

/*
 * A child is about to be rebuilding, as a part of @tran.  The other side of a
 * migration has been started with options of its own, and can't know that this
 * child must not vote there (see quorum_sync_set_rebuilding()).
 */
static bool quorum_block_migration(BlockDriverState *bs, Transaction *tran,
                                   Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    if (!s->migration_blocker) {
        error_setg(&s->migration_blocker, "A child of quorum '%s' is "
                   "rebuilding, and would vote after a migration; wait for the "
                   "end of a quorum-scrub and a flush, or remove the child",
                   bdrv_get_node_name(bs));
        if (migrate_add_blocker_internal(&s->migration_blocker, errp) < 0) {
            return false;
        }
    }
    tran_add(tran, &quorum_block_migration_drv, s);
    return true;
}

/* Detach the children that do not stay in their slots: @from[i] is not i. */
static int GRAPH_WRLOCK
quorum_detach_others(BlockDriverState *bs, const int *from, int n,
                     Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;

    for (int i = 0; i < s->num_slots; i++) {
        BdrvChild *child = s->slots[i].child;

        if (child && (i >= n || from[i] != i)) {
            int ret = quorum_late_detach(bs, child, tran, detached, errp);

            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}

int quorum_change_children(BlockDriverState *bs, const QuorumOptions *opts,
                           BlockDriverState **nodes, int n, bool in_sync,
                           Transaction *tran, GSList **detached, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    g_autofree int *from = g_new(int, n);
    g_autofree BdrvChild **children = g_new0(BdrvChild *, n);
    QuorumStateNodesChange *state = NULL;
    QuorumChange *change;

    assert(n <= QUORUM_CHILDREN_MAX);
    quorum_find_nodes(s, nodes, n, from);
    if (!quorum_check_children(bs, opts, nodes, from, n, in_sync, errp)) {
        return -EINVAL;
    }

    /* First attach, so that a node that moves keeps what it inherits. */
    for (int i = 0; i < n; i++) {
        g_autofree char *name = quorum_child_name(i);

        /* With state nodes, the other side knows. */
        if (nodes[i] && from[i] < 0 && !in_sync && !s->state &&
            !quorum_block_migration(bs, tran, errp)) {
            return -EINVAL;
        }
        if (from[i] == i) {
            children[i] = s->slots[i].child;
        } else if (nodes[i]) {
            children[i] = bdrv_attach_child_tran(bs, nodes[i], name,
                                                 &child_of_bds,
                                                 BDRV_CHILD_DATA, tran, errp);
            if (!children[i]) {
                return -EINVAL;
            }
            if (from[i] < 0) {
                quorum_late_attached(bs, children[i]);
            }
        }
    }
    if (quorum_detach_others(bs, from, n, tran, detached, errp) < 0 ||
        quorum_state_change_begin(bs, nodes, from, n, opts->threshold, tran,
                                  detached, &state, errp) < 0) {
        return -EINVAL;
    }
    change = g_new(QuorumChange, 1);
    *change = (QuorumChange) {
        .bs = bs,
        .state = state,
        .opts = s->opts,
    };
    quorum_change_slots(s, change, from, children, n);
    s->opts = *opts;
    for (int i = 0; i < n; i++) {
        if (from[i] != i) {
            trace_quorum_child_change(bs->node_name, i, from[i], nodes[i] ?
                                      bdrv_get_node_name(nodes[i]) : "");
        }
        if (!nodes[i] || from[i] >= 0) {
            continue;
        }
        quorum_late_joined(bs, i);
        if (!in_sync) {
            /* What was on the node before it became a child has no vote. */
            quorum_sync_set_rebuilding(s->sync, i);
            quorum_sync_set_touched_end(s->sync,
                                        quorum_child_length(children[i]));
        }
    }
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

/*
 * There are to be @n slots, the last one for @node.  More slots must not make a
 * strict majority a minority without a word: two children could outvote three
 * that have all that was acknowledged.  So a threshold that was not given
 * follows.  One that was given is for the user to change; unless there is no
 * vote anyway (COLO adds the second child of a fifo with threshold 1).
 */
static bool GRAPH_RDLOCK
quorum_adapt_threshold(BlockDriverState *bs, QuorumOptions *opts,
                       BlockDriverState *node, int n, Error **errp)
{
    BDRVQuorumState *s = bs->opaque;
    bool votes = opts->read_pattern != QUORUM_READ_PATTERN_FIFO ||
                 opts->threshold > 1 || opts->open_degraded;

    if (n == s->num_slots) {
        return true;
    }
    if (!opts->threshold_given) {
        opts->threshold = n / 2 + 1;
    } else if (votes && opts->threshold > s->num_slots / 2 &&
               opts->threshold <= n / 2) {
        error_setg(errp, "Cannot add node '%s' to quorum '%s': vote-threshold "
                   "%d would not be a majority of %d children any more; "
                   "one blockdev-reopen can change vote-threshold and children "
                   "together", bdrv_get_node_name(node), bdrv_get_node_name(bs),
                   opts->threshold, n);
        return false;
    }
    if (!opts->auto_resync_given) {
        opts->auto_resync = opts->threshold > n / 2;
    }
    return true;
}

/* Make @node the child in slot @i, or the slot vacant if @node is NULL. */
static int GRAPH_WRLOCK
quorum_set_child(BlockDriverState *bs, int i, BlockDriverState *node,
                 bool in_sync, Transaction *tran, GSList **detached,
                 Error **errp)
{
    ERRP_GUARD();
    BDRVQuorumState *s = bs->opaque;
    QuorumOptions opts = s->opts;
    int n = MAX(s->num_slots, i + 1);
    g_autofree BlockDriverState **nodes = g_new0(BlockDriverState *, n);
    int ret;

    for (int j = 0; j < s->num_slots; j++) {
        nodes[j] = s->slots[j].child ? s->slots[j].child->bs : NULL;
    }
    nodes[i] = node;
    if (!quorum_adapt_threshold(bs, &opts, node, n, errp)) {
        return -EINVAL;
    }
    ret = quorum_change_children(bs, &opts, nodes, n, in_sync, tran, detached,
                                 errp);
    if (ret < 0 && opts.threshold != s->opts.threshold) {
        error_prepend(errp, "The default vote-threshold of %d children is %d: ",
                      n, opts.threshold);
    }
    return ret;
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
    if (name && g_str_has_prefix(name, QUORUM_OPT_STATE)) {
        return quorum_state_add_node(bs, name, node, tran, errp);
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

    if (quorum_store_is_node(s, child)) {
        error_setg(errp, "Child '%s' of quorum '%s' cannot be removed: the "
                   "digests are kept there as long as it is open", child->name,
                   bdrv_get_node_name(bs));
        return -EINVAL;
    }
    if (quorum_state_is_node(child)) {
        return quorum_state_del_node(bs, child, tran, detached, errp);
    }
    while (s->slots[i].child != child) {
        i++;
    }
    return quorum_set_child(bs, i, NULL, true, tran, detached, errp);
}
