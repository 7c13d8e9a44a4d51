/*
 * Quorum block driver: what survives a restart: the inside
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * For the files state*.c, and for those of a node of digests, which share their
 * lock and timer (see digest-store-int.h).
 */

#ifndef BLOCK_QUORUM_STATE_INT_H
#define BLOCK_QUORUM_STATE_INT_H

#include "qemu/coroutine.h"
#include "qemu/lockable.h"
#include "debug.h"
#include "quorum-int.h"
#include "state.h"
#include "state-format.h"

/* No valid place of a page is known. */
#define QUORUM_STATE_NOWHERE 2

/* A state node, in the slot of its child. */
typedef struct QuorumStateNode {
    /* Graph lock. */

    BdrvChild *child;           /* NULL: the child has none */

    /* Under QuorumState.lock. */

    QuorumStateNodeState state;
    char *error;                /* why it is not OK, for people */
    int record;                 /* of the label, or -1 */

    /* A round writes to it; since when, by quorum_now_ns(). */
    bool busy;
    int64_t busy_ns;

    /* It is not written to before then. */
    int64_t retry_ns;
    int64_t backoff_ns;
    bool abandoned;

    /*
     * It has failed, and what it was asked may still be done, over what is
     * written next: so it is asked for an answer first.
     */
    bool unheard;

    /* Its labels are not ours, or say more than it has: erase them first. */
    bool erase;

    /* What was read from it may be in a cache only: flush it first. */
    bool cached;

    /* It was added, and must be blank, or have been ours before; it is not. */
    bool look;
    bool foreign;

    /* Of each page, and at the end of the label: */
    unsigned long *dirty;       /* it is to be written */
    uint8_t *newest;            /* which place is the newest valid one */

    uint64_t durable;           /* it has what was wanted up to then */
    uint64_t seq;               /* the highest that is surely there */
} QuorumStateNode;

struct QuorumState {
    BlockDriverState *bs;

    /* Set when it is opened, or with all requests drained. */
    int num_nodes;              /* slots */
    QuorumStateNode *nodes;     /* [slot] */
    bool loaded;
    bool creating;              /* nothing is promised yet: state-create.c */
    bool checking;              /* the same, or a failure is one of creating */
    bool begun;                 /* it was once: init has done what it is for */
    bool init;                  /* what the option says */
    bool changing;              /* the end of a change frees what has left */

    /*
     * Held for reading by who waits while it knows where in a map something is,
     * and alone by who lays the maps out again.  Taken after a range, and while
     * it is held, state nodes are all that is waited for.
     */
    CoRwlock layout_lock;

    /*
     * Held by who writes down what children lack, in maps or as a flag, or
     * takes the flag away.  Taken before layout_lock.
     */
    CoMutex record_lock;

    QemuMutex lock;

    /* Under lock. */

    unsigned generation;        /* of the layout of the maps in memory */

    /*
     * What all labels have in common, as it is to be written; members, states
     * of records and sequence numbers are filled in then.
     */
    QuorumStateLabel label;
    bool session;               /* it has begun, so we may write */
    uint64_t seq;               /* the highest that was ever used */

    /* Bits of the intent map: what is durable, and what shall be. */
    unsigned long *intent;
    unsigned long *wanted;
    unsigned long *touched;     /* since the last tidying */
    int64_t marked;             /* bits that are set in wanted */
    int64_t last_mark;          /* the bit that was marked last */
    uint64_t unmarked;          /* how often a mark was taken away */

    /*
     * [record]: bits of the stale map that are durable, NULL if none is; and
     * those that will be after the round at work.
     */
    unsigned long *stored[QUORUM_STATE_RECORDS];
    unsigned long *storing[QUORUM_STATE_RECORDS];

    /* [record]: some node may have a page of its stale map that is not empty */
    bool written[QUORUM_STATE_RECORDS];

    /*
     * [record]: what a member that is not here lacks, as bits of its stale map.
     */
    unsigned long *away[QUORUM_STATE_RECORDS];

    /*
     * A request that changes something adds 1 to want, and waits until enough
     * nodes have it: until durable is that much, or failed is.
     */
    uint64_t want;
    uint64_t durable;
    uint64_t failed;
    bool leader;                /* a round is at work */
    CoQueue waiters;            /* for its end, or for that of one node */

    /* Which children have changed: R3. */
    uint64_t config_want;

    /* A node was added that is to be written, also if nothing else is. */
    bool joined;

    /* Used in the main thread. */
    QEMUTimer *timer;
    bool ticking;
    unsigned look_at;           /* which node is looked at next */

    /* Another program has written: nothing more is.  Atomic. */
    bool fenced;

    int64_t tidied_ns;

    /* Pages were written since a label was, that tells so of the nodes. */
    bool untold;

    /* When all that is written down is to be written once more, or 0. */
    int64_t again_ns;
};

static inline uint32_t quorum_state_num_pages(const QuorumState *st)
{
    return quorum_state_pages(&st->label);
}

/* The bit of the label, behind those of pages. */
static inline long quorum_state_label_bit(const QuorumState *st)
{
    return quorum_state_num_pages(st);
}

/* "state.@i", the name of the state node of slot @i.  Owned by the caller. */
char *quorum_state_name(int i);

/*
 * Run @fn in a coroutine, with the graph lock, and wait for it.  In the main
 * thread, with all requests drained.
 */
typedef int coroutine_fn QuorumStateFn(BlockDriverState *bs, Error **errp);
int quorum_state_run(BlockDriverState *bs, QuorumStateFn *fn, Error **errp);

/* Whether a quorum of so many slots can have state nodes. */
bool quorum_state_check_slots(int slots, Error **errp);

/*
 * Whether a node @bs that begins with @labels, two places of a label, may
 * become state.@i: it is blank or, if @set is given, of that set.
 */
bool quorum_state_check_blank(const uint8_t *labels, BlockDriverState *bs,
                              int i, const QemuUUID *set, Error **errp);

/* A request is about to ask the node.  Called with the lock held. */
static inline void quorum_state_ask_locked(QuorumStateNode *node)
{
    node->busy = true;
    node->busy_ns = quorum_now_ns();
}

/* Memory for @node, which has nothing of the pages that there are. */
void quorum_state_alloc_node(const QuorumState *st, QuorumStateNode *node);

/* A state of @slots slots without state nodes, for bs. */
QuorumState *quorum_state_new(BlockDriverState *bs, int slots);

/* Begin a new set; no node has anything. */
void quorum_state_begin_set(QuorumState *st);

/* Another parent may have given the node of @child up: it is used again. */
void GRAPH_RDLOCK quorum_state_attached(BdrvChild *child);

/*
 * Whether there is room on @node, which has @bytes and is or becomes state.@i,
 * for what is written down: so many records as are used before those of members
 * that have left are used again.
 */
bool quorum_state_check_room(const QuorumState *st, int i,
                             BlockDriverState *node, int64_t bytes,
                             Error **errp);

/*
 * Whether @node can become state.@i, as far as can be told without reading;
 * @beside_child: there is a child that it is for.
 */
bool GRAPH_RDLOCK quorum_state_check_node(BlockDriverState *bs, int i,
                                          BlockDriverState *node,
                                          bool beside_child, Error **errp);

/* A record for a newcomer in @slot, or -1 if there are too many. */
int quorum_state_new_record(QuorumState *st, int slot);

/* The member whose record is @r has left. */
void quorum_state_leave(QuorumStateRecord *r);

/*
 * Records or the threshold may have changed: from now on, what is durable is so
 * for the old configuration, too, until quorum_state_end_change_locked().
 */
void quorum_state_note_change(QuorumState *st);

/* If the last change is durable, there is no old configuration any more. */
void quorum_state_end_change_locked(QuorumState *st);

/*
 * Whether something is durable that the state nodes in @slots have, of which
 * bit i is slot i.
 */
bool quorum_state_is_enough(const QuorumState *st, uint64_t slots);
QEMU_BUILD_BUG_ON(QUORUM_STATE_RECORDS > 64);

static inline int64_t quorum_state_intent_bits(const QuorumState *st)
{
    return quorum_state_count_bits(st->label.max_bytes, st->label.intent_shift);
}

static inline int64_t quorum_state_stale_bits(const QuorumState *st)
{
    return quorum_state_count_bits(st->label.max_bytes, st->label.stale_shift);
}

/* Bits of the intent map that stand for some of the disk. */
static inline int64_t quorum_state_disk_bits(const QuorumState *st)
{
    const BDRVQuorumState *s = st->bs->opaque;

    return MIN(quorum_state_intent_bits(st),
               DIV_ROUND_UP(quorum_sync_length(s->sync),
                            INT64_C(1) << st->label.intent_shift));
}

/*
 * Whether the maps are to be laid out again before something is done up to @end
 * of the disk; do that.  The second one may be called if it was done meanwhile,
 * and returns 0 or -errno.
 */
bool quorum_state_wants_layout(QuorumState *st, int64_t end);
int coroutine_fn GRAPH_RDLOCK quorum_state_lay_out_again(QuorumState *st,
                                                        int64_t end);

/* All pages of the node in slot @i that were ever written are to be. */
void quorum_state_dirty_all_locked(QuorumState *st, int i);

/* The stale map of record @k is to be written to all nodes. */
void quorum_state_dirty_stale_locked(QuorumState *st, int k);

/*
 * All that is known is to be written to all nodes.  As the label comes last,
 * who has the new one has the rest.
 */
void quorum_state_dirty_set_locked(QuorumState *st);

/* The label is to be written to all nodes. */
void quorum_state_dirty_label_locked(QuorumState *st);

/* Page @number is to be written to all nodes. */
void quorum_state_dirty_page_locked(QuorumState *st, uint32_t number);

/* The node in slot @i has failed; what it lacks is written later. */
void GRAPH_RDLOCK quorum_state_node_failed(QuorumState *st, int i,
                                           const char *what, int ret);

/* Let management know that the node in slot @i has failed. */
void GRAPH_RDLOCK quorum_state_tell_failure(QuorumState *st, int i,
                                            const char *error, bool fatal);

/* The slot of the child that record @k is of, or -1 if it is not here. */
int GRAPH_RDLOCK quorum_state_slot_of(const QuorumState *st, int k);

/* Add all that is marked to @map, which has the bits of a stale map. */
void quorum_state_add_marked_locked(const QuorumState *st, unsigned long *map);

/* Take away the mark of region @b; that is written with the next round. */
void quorum_state_clear_mark_locked(QuorumState *st, int64_t b);

/* Whether enough state nodes may be written to. */
bool GRAPH_RDLOCK quorum_state_is_writable(const QuorumState *st);

/* R4: from the next round on, the disk is ours, and not closed well. */
void quorum_state_begin_session_locked(QuorumState *st);

/* R4: if it was not begun yet, do that, and wait until it is durable. */
int coroutine_fn GRAPH_RDLOCK quorum_state_begin_session(QuorumState *st);

/* Wait until no node has a round at work. */
void coroutine_fn quorum_state_wait_all(QuorumState *st);

/*
 * Wait until enough nodes have all that is wanted now.  Returns 0, or -EIO.
 * Takes no lock that others hold while they wait for this.
 */
int coroutine_fn GRAPH_RDLOCK quorum_state_commit(QuorumState *st);

/*
 * The stale map of record @k is written with the next round; when that has
 * ended, and it is durable if @done, that is what is stored.
 */
void quorum_state_store_begin_locked(QuorumState *st, int k);
void quorum_state_store_end(QuorumState *st, bool done);

/*
 * Whether as many children as must vote in the region have all of it after a
 * restart, too, if they do now.  What is stored is coarser than what they lack,
 * and may be older.  Without a mark, nothing would be chosen there of what
 * fewer have.  Called with st->lock held.
 */
bool quorum_state_has_voters_locked(QuorumState *st, int64_t offset,
                                    int64_t bytes);

/* Write the stale maps of all children that lack something, or did. */
int coroutine_fn GRAPH_RDLOCK quorum_state_store(BlockDriverState *bs);

/*
 * If so many children lack something that saying of some that they are BEHIND
 * leaves too few votes in what is marked, write exact maps instead.  Returns 0,
 * or -EIO.
 */
int coroutine_fn GRAPH_RDLOCK quorum_state_end_flags(QuorumState *st);

/*
 * Children that lack nothing any more are not behind.  Returns whether that, or
 * that one is not rebuilding any more, is to be written down.
 */
bool coroutine_fn quorum_state_tidy_behind(QuorumState *st);

/* The record of the child in slot @i, or NULL. */
QuorumStateRecord *quorum_state_record_of(QuorumState *st, int i);

/*
 * That the child in slot @i is behind is written down, or is not any more.
 * Returns what it was.
 */
bool quorum_state_set_recorded_locked(QuorumState *st, int i, bool recorded);

/* What the child in slot @i lacks now, in bits of its stale map. */
unsigned long *quorum_state_lacking(QuorumState *st, int i);

int64_t quorum_state_marked_bytes(QuorumState *st);

/* The memory that belongs to a layout of the maps. */
void quorum_state_alloc_maps(QuorumState *st);
void quorum_state_free_maps(QuorumState *st);

/* Arm the timer. */
void quorum_state_wake(QuorumState *st);
void quorum_state_tick(void *opaque);

#endif /* BLOCK_QUORUM_STATE_INT_H */
