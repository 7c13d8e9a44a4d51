/*
 * Quorum block driver: who stores what: the inside of QuorumSync
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * children.c knows the children and their states.  stale-map.c is the
 * mechanism, the maps of each child, and stale-query.c what they say.  settle.c
 * decides about writes, settle-flush.c about flushes and resizes, and unsure.c
 * about losses.  sync-state.c is what state nodes keep of it.  Only these, and
 * sync-debug.c, include this file.
 *
 * Functions whose names end in _locked are called with QuorumSync.lock held;
 * others take the lock themselves, or do without.
 */

#ifndef BLOCK_QUORUM_SYNC_INT_H
#define BLOCK_QUORUM_SYNC_INT_H

#include "qemu/hbitmap.h"
#include "qemu/stats64.h"
#include "qemu/thread.h"
#include "debug.h"
#include "sync.h"

/* A range that has all of what it is about; end is 0 if that is nothing. */
typedef struct QuorumSyncNews {
    int64_t start;
    int64_t end;
} QuorumSyncNews;

/* What is known of one child. */
typedef struct QuorumSyncChild {
    /* The slot is not vacant.  Changes with all requests drained. */
    bool present;

    /*
     * See sync.h.  Atomic: written under lock, read without.  A request that
     * has read the old value just before a change is settled with the new one.
     */
    bool excluded;
    bool rebuilding;
    bool lagging;

    bool corrupt;

    /* Under lock. */

    /* It is written down that the child lacks something: see state.h. */
    bool recorded;

    /*
     * [start, end): where it has come to lack something that may not be in its
     * map on state nodes, and where that is being written.  Empty if end is 0.
     */
    QuorumSyncNews news;
    QuorumSyncNews storing;

    /* As it was when a change of it was last noted. */
    QuorumChildState state;

    /* The child is excluded, but was so while the image was inactive. */
    bool excluded_inactive;

    /* Where the child lacks what has been acknowledged; NULL if nowhere. */
    HBitmap *stale;
    bool outvoted;              /* some of it: quorum_sync_mark_outvoted() */

    /*
     * Where the child may have lost what was acknowledged, with granules like
     * those of stale; NULL if nowhere.
     */
    HBitmap *unsure;
    bool rewrite;               /* see quorum_sync_wants_rewrite() */
    uint64_t loss_generation;   /* up to which losses are known */
    uint64_t loss_by_flush;     /* the same of flushes that failed */
    uint64_t losses;            /* how often there were any */

    /*
     * Where a write that failed on the child may still reach its disk, however
     * late; NULL if nowhere.  In the granules of stale maps.
     */
    HBitmap *late;
    int64_t late_end;           /* the same behind the end of the node, or 0 */
    uint64_t late_marks;        /* how often that was added to */

    /*
     * Ranges that were stale and have been written since the child's last
     * successful flush, so that a crash or a failed flush could take the new
     * data away: written after the latest flush began, which need not have
     * covered them, and written before it began.  A successful flush clears the
     * latter; after a failed one, or another loss, the child is unsure of both.
     * NULL if there are none.
     */
    HBitmap *recovered_since_flush;
    HBitmap *recovered_before_flush;

    /*
     * QuorumSync.flush_generation when a flush or a FUA write was last seen to
     * fail on the child, or the child to have lost something: what was in
     * flight then may be lost on it.
     */
    uint64_t failed_flush_generation;

    /* The same of a failure only, and not of a loss of another kind. */
    uint64_t flush_error_generation;

    /*
     * What a failed flush may lose of what the child has taken, as a bitmap
     * like QuorumSync.unflushed.  NULL if that is anything that is unflushed.
     * It is known while the child takes nothing: from the first write that it
     * misses, a flush that succeeds without it, or a loss, to the first one
     * that it does or the first vote that confirms it, so that an outage does
     * not cost a granule of the unflushed map for each write and flush.  Only a
     * child with a stale or an unsure map has one, so that the fast path of
     * writes need not look.
     */
    unsigned long *may_lose;
} QuorumSyncChild;

/* A FUA write that was acknowledged while others were in flight. */
typedef struct QuorumFuaDone {
    int64_t offset;
    int64_t bytes;
    uint64_t ended_tick;        /* QuorumSync.fua_ticks then */
    QSIMPLEQ_ENTRY(QuorumFuaDone) next;
} QuorumFuaDone;

struct QuorumSync {
    /* Set once. */
    const char *node;

    /* Change with all requests drained. */
    QuorumSyncChild *children;
    int num_children;

    /* Atomic: written under lock, read without. */

    /* Children that have a map of their own, are excluded, or lag behind. */
    int num_degraded;

    /* Children that are unsure somewhere. */
    int num_unsure;

    /* Children that lack something without its being written down. */
    int num_unrecorded;

    /* The queue of state changes is not empty. */
    bool has_state_changes;

    /*
     * Grows when a flush begins, and when a flush or a FUA write has failed on
     * a child, or a child has lost something: a write that sees it change has
     * been in flight meanwhile.
     */
    Stat64 flush_generation;

    /* Under lock. */
    QemuMutex lock;
    bool locked;

    /* The slots are being changed, which may be undone. */
    bool changing;

    /* What has not been fetched yet. */
    QSIMPLEQ_HEAD(, QuorumStateChange) state_changes;

    /*
     * The length of the node, as far as acknowledged writes and resizes have
     * made it, and what the maps cover; a granule of a stale map is
     * 1 << stale_shift bytes.
     */
    int64_t bytes;
    int stale_shift;

    /*
     * If it is more than bytes: children may hold anything from there up to
     * here, because a request that would have made the node longer has failed,
     * or because they were longer when the node was opened.
     */
    int64_t touched_end;

    /*
     * Where members may lack what was acknowledged before the node was opened,
     * in the granules of stale maps; NULL if nowhere.  The pointer is atomic.
     */
    HBitmap *unverified;

    /*
     * Where a crash may have left each child its own outcome of what was in
     * flight then; like unverified.
     */
    HBitmap *unresolved;

    /*
     * What was written and not flushed yet, a bit for 1 << unflushed_shift
     * bytes: a child whose flush fails may have lost any of it.  A flush moves
     * it to flushing, where it stays until the flush is settled.
     */
    unsigned long *unflushed;
    unsigned long *flushing;
    int unflushed_shift;

    /*
     * Where the guest has been told of all that may be lost; a map like
     * unflushed, NULL if nowhere.
     */
    unsigned long *told;

    /*
     * A flush is on its way, or votes.  Maps like unflushed: what was written
     * since it began, if it has voted, otherwise NULL and what is in unflushed;
     * and what of that was there when a loss was found meanwhile, NULL if none
     * was.  The flush does not tell of the latter, which it need not cover.
     */
    bool flush_in_flight;
    unsigned long *since_flush;
    unsigned long *lost_beside;

    /* Whether something is in unflushed.  Atomic. */
    bool any_unflushed;

    /*
     * A FUA write is flushed when it is acknowledged, but for one thing:
     * another FUA write that was in flight at the same time, and fails, may
     * have lost what the first one wrote before that was flushed.  So fua_ticks
     * grows whenever a FUA write begins or ends.  Those in flight are in
     * fua_writes in the order of their beginnings.  Those that were
     * acknowledged are in fua_done in the order of their ends, until all that
     * began before they ended have ended.
     */
    uint64_t fua_ticks;
    QTAILQ_HEAD(, QuorumWrite) fua_writes;
    QSIMPLEQ_HEAD(, QuorumFuaDone) fua_done;
    int num_fua_done;

    /* All writes in flight, while quorum_debug.on is set. */
    QTAILQ_HEAD(, QuorumWrite) checked_writes;
};

/* --- the lock --- */

/* Assert that all is as it must be; see sync-debug.c. */
void quorum_check_invariants_locked(const QuorumSync *sync);

static inline QuorumSync *quorum_sync_lock(QuorumSync *sync)
{
    qemu_mutex_lock(&sync->lock);
    sync->locked = true;
    return sync;
}

static inline void quorum_sync_unlock(QuorumSync *sync)
{
    if (unlikely(quorum_debug.on)) {
        quorum_check_invariants_locked(sync);
    }
    sync->locked = false;
    qemu_mutex_unlock(&sync->lock);
}

typedef QuorumSync QuorumSyncLocked;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QuorumSyncLocked, quorum_sync_unlock)

/* Hold the lock to the end of the block. */
#define QUORUM_SYNC_GUARD(sync)                                                \
    g_autoptr(QuorumSyncLocked) glue(guard_, __COUNTER__) G_GNUC_UNUSED =      \
        quorum_sync_lock(sync)

/* --- sync-debug.c: only used while quorum_debug.on is set --- */

/*
 * @w begins: assert that no write in flight overlaps it (promise 4), and
 * remember it until it ends.
 */
void quorum_check_write_begins_locked(QuorumSync *sync, QuorumWrite *w);
void quorum_check_write_ends_locked(QuorumSync *sync, QuorumWrite *w);
void quorum_check_write_ends(QuorumSync *sync, QuorumWrite *w);

/* What has been acknowledged in the range is stored by enough members. */
void quorum_check_copies_locked(const QuorumSync *sync, int64_t offset,
                                int64_t bytes, int threshold);

/* A flush begins: assert that no flush and no FUA write is beside it. */
void quorum_check_flush_begins_locked(const QuorumSync *sync);

/* --- children.c --- */

/* Whether the child in slot @i is there and not excluded.  Any thread. */
static inline bool quorum_sync_is_member(const QuorumSync *sync, int i)
{
    const QuorumSyncChild *c = &sync->children[i];

    return c->present && !qatomic_read(&c->excluded);
}

/* Whether it is also asked.  Any thread. */
static inline bool quorum_sync_is_asked(const QuorumSync *sync, int i)
{
    return quorum_sync_is_member(sync, i) &&
           !qatomic_read(&sync->children[i].lagging);
}

/* The state that follows from what is known of a child. */
QuorumChildState quorum_sync_state_locked(const QuorumSyncChild *c);

/* The child in slot @i may be in another state now: queue what has changed. */
void quorum_sync_note_state_locked(QuorumSync *sync, int i, const char *why);

/* Whether a write to the child may still come. */
static inline bool quorum_sync_child_is_late(const QuorumSyncChild *c)
{
    return c->late || c->late_end;
}

/* Whether the fast paths must not pass over the child. */
static inline bool quorum_sync_child_is_degraded(const QuorumSyncChild *c)
{
    return c->stale || c->unsure || quorum_sync_child_is_late(c) ||
           c->excluded || c->lagging;
}

/* What quorum_sync_child_is_degraded() looks at has changed. */
void quorum_sync_count_degraded_locked(QuorumSync *sync);

/* Free the maps of @c, not itself. */
void quorum_sync_free_child(QuorumSyncChild *c);

/* --- stale-map.c --- */

/* As the public functions without _locked. */
void quorum_sync_resize_locked(QuorumSync *sync, int64_t bytes);
void quorum_sync_exclude_locked(QuorumSync *sync, int i, bool inactive,
                                const char *why);
void quorum_sync_whole_granules_locked(const QuorumSync *sync, int64_t *start,
                                       int64_t *end);
void quorum_sync_widen_locked(const QuorumSync *sync, int64_t *offset,
                              int64_t *bytes);
void quorum_sync_mark_stale_locked(QuorumSync *sync, int i, int64_t offset,
                                   int64_t bytes, const char *why);

/*
 * Set the range, which is within the node, in *@map, the stale or unsure map of
 * the child in slot @i, which is made if there is none.
 */
void quorum_sync_mark_locked(QuorumSync *sync, int i, HBitmap **map,
                             int64_t offset, int64_t bytes, const char *why);

/*
 * The child in slot @i stores the range, on its medium if @flushed: it is
 * neither stale nor unsure any more in the granules that are whole in it.
 */
void quorum_sync_clear_stale_locked(QuorumSync *sync, int i, int64_t offset,
                                    int64_t bytes, bool flushed);

/*
 * Remember that the child in slot @i may still lose [@start, @end), where it
 * @was stale or unsure: a flush that has begun need not cover what it has been
 * given since.
 */
void quorum_sync_remember_recovered_locked(QuorumSync *sync, int i,
                                           HBitmap *was, int64_t start,
                                           int64_t end);

/*
 * *@where is one of the maps of the node, with granules like those of stale,
 * whose pointers are atomic: unverified or unresolved.  From now on it is @map,
 * which may be NULL, or empty.
 */
void quorum_sync_install_map_locked(QuorumSync *sync, HBitmap **where,
                                    HBitmap *map);

/* Clear *@where in the granules that are whole in the range. Takes the lock. */
void quorum_sync_clear_map(QuorumSync *sync, HBitmap **where, int64_t offset,
                           int64_t bytes);

/*
 * Whether something is set there in *@where; if so, the range is widened to
 * whole granules.  One atomic load if there is no map.  Takes the lock.
 */
bool quorum_sync_widen_over(QuorumSync *sync, HBitmap **where, int64_t *offset,
                            int64_t *bytes);

/* Whether a write to the child in slot @i may still come, in the range. */
bool quorum_sync_is_late_locked(const QuorumSync *sync, int i, int64_t offset,
                                int64_t bytes);

/* Whether a child lacks something that another one is known to have. */
bool quorum_sync_any_outvoted_locked(const QuorumSync *sync);

/* A flush begins: what the child has recovered was there before it. */
void quorum_sync_age_recovered_locked(QuorumSync *sync, int i);

/*
 * The child in slot @i has flushed what it had recovered before the flush
 * began; if it lacks nothing any more, it is not rebuilding.
 */
void quorum_sync_flushed_locked(QuorumSync *sync, int i);

/* How large the granules of the stale maps are, for a node of @bytes. */
int64_t quorum_sync_granule(int64_t bytes);

/* How many bits a map of what is unflushed has, for a node of @bytes. */
int64_t quorum_sync_unflushed_bits(int64_t bytes, int shift);

/* Set the bits of @map, of 1 << @shift bytes each, that touch the range. */
void quorum_sync_set_bits(unsigned long *map, int shift, int64_t offset,
                          int64_t bytes);

/* --- stale-query.c --- */

/* Whether the child in slot @i is stale in any of the range. */
bool quorum_sync_is_stale_locked(const QuorumSync *sync, int i, int64_t offset,
                                 int64_t bytes);

/*
 * What counts as a copy of acknowledged data: what is not stale.  If
 * QUORUM_COPY_FLUSHED, what a child has recovered since the latest flush began
 * does not count either, for the flush need not have covered it; if
 * QUORUM_COPY_SURE, what the child is unsure of, but if QUORUM_COPY_TOLD, only
 * where the guest has not been told of it.
 */
typedef enum QuorumCopy {
    QUORUM_COPY_ANY = 0,
    QUORUM_COPY_FLUSHED = 1 << 0,
    QUORUM_COPY_SURE = 1 << 1,
    QUORUM_COPY_TOLD = 1 << 2,
} QuorumCopy;

/* Whether the child in slot @i lacks a copy in that sense of any of a range. */
bool quorum_sync_lacks_locked(const QuorumSync *sync, int i, int64_t offset,
                              int64_t bytes, QuorumCopy copy);

/* How far each child either lacks the range or does not, in that sense. */
int64_t quorum_sync_uniform_range_locked(const QuorumSync *sync, int64_t offset,
                                         int64_t bytes, QuorumCopy copy);

/* --- settle.c --- */

/*
 * Find the next range from *@start on in @map, which is unflushed or flushing.
 * False if there is none.
 */
bool quorum_sync_next_unflushed_locked(const QuorumSync *sync,
                                       const unsigned long *map,
                                       int64_t *start, int64_t *bytes);

/*
 * The child in slot @i may have lost what it had taken and not flushed: @mark
 * that, as stale or unsure.
 */
typedef void QuorumSyncMarkFn(QuorumSync *sync, int i, int64_t offset,
                              int64_t bytes, const char *why);
void quorum_sync_mark_may_lose_locked(QuorumSync *sync, int i,
                                      QuorumSyncMarkFn *mark, const char *why);

/* From now on it has nothing to lose, until it takes something again. */
void quorum_sync_nothing_to_lose_locked(QuorumSync *sync, int i);

/* The range, as far as the node has it, is unflushed. */
void quorum_sync_set_unflushed_locked(QuorumSync *sync, int64_t offset,
                                      int64_t bytes);

/* How many members are not in @missed; *@any_missed: whether one is. */
int quorum_sync_count_done(const QuorumSync *sync, const bool *missed,
                           bool *any_missed);

/*
 * The smallest number, anywhere in the range, of members that have a copy of it
 * and are not in @missed.
 */
int quorum_sync_count_copies_locked(const QuorumSync *sync,
                                    const bool *missed, int64_t offset,
                                    int64_t bytes, QuorumCopy copy);

/*
 * Whether as many as @threshold members that are not in @missed have a copy of
 * all that is in @map, which is unflushed or flushing.  @w: a write that is in
 * flight, or NULL.
 */
bool quorum_sync_map_has_copies_locked(const QuorumSync *sync,
                                       const unsigned long *map,
                                       const bool *missed,
                                       QuorumCopy copy,
                                       const QuorumWrite *w,
                                       int threshold);

/*
 * The members in @missed have failed to flush, and may have lost what they had
 * taken and not flushed; enough others store that.  From now on they have
 * nothing to lose, until they take something again.
 */
void quorum_sync_unflushed_lost_locked(QuorumSync *sync,
                                       const bool *missed,
                                       const char *why);

/* While quorum_debug.on is set: enough members store all that is in @map. */
void quorum_sync_check_map_copies_locked(const QuorumSync *sync,
                                         const unsigned long *map,
                                         int threshold);

/*
 * A flush that began, or failed, while @w was in flight may have lost @w, or
 * come too early for it: take note.
 */
void quorum_sync_catch_up_locked(QuorumSync *sync, QuorumWrite *w);

/*
 * The node is about to grow to @bytes, from @pos on, its end or a place before:
 * how many members that are not in @missed have a copy of all of the granule
 * that @pos will be in.  Others are stale then in what comes there; and a child
 * that misses the growth becomes stale in all of that granule.
 */
int quorum_sync_count_growing_locked(const QuorumSync *sync,
                                     const bool *missed, int64_t pos,
                                     int64_t bytes, QuorumCopy copy);

/* --- settle-flush.c --- */

/* What is in flight on the child in slot @i counts as missed by it. */
void quorum_sync_lose_in_flight_locked(QuorumSync *sync, int i);

/* --- sync-state.c --- */

/* What children lack, or whether it is written down, has changed. */
void quorum_sync_count_unrecorded_locked(QuorumSync *sync);
void quorum_sync_add_news_locked(QuorumSync *sync, QuorumSyncChild *c,
                                 int64_t start, int64_t end);
void quorum_sync_all_is_news_locked(QuorumSync *sync);

/* --- unsure.c --- */

/* Whether the child in slot @i is unsure in any of the range. */
bool quorum_sync_is_unsure_locked(const QuorumSync *sync, int i, int64_t offset,
                                  int64_t bytes);

/* The child in slot @i is unsure in the range. */
void quorum_sync_mark_unsure_locked(QuorumSync *sync, int i, int64_t offset,
                                    int64_t bytes, const char *why);

/* It is not any more, in the granules that are whole in the range. */
void quorum_sync_clear_unsure_locked(QuorumSync *sync, int i, int64_t offset,
                                     int64_t bytes, const char *why);

/* If it is not unsure anywhere any more, it has no map of that. */
void quorum_sync_drop_empty_unsure_locked(QuorumSync *sync, int i,
                                          const char *why);

/*
 * The child in slot @i may have lost what it had taken and not flushed.  A FUA
 * write is not among that, unless a flush has failed.
 */
void quorum_sync_mark_all_unsure_locked(QuorumSync *sync, int i,
                                        const char *why);

/* So it may have what it has recovered and not flushed. */
void quorum_sync_recovered_unsure_locked(QuorumSync *sync, int i,
                                         const char *why);

/*
 * Members have not done the flush, and what they were to flush is not owed any
 * more: they have to be given it again.
 */
void quorum_sync_make_missed_unsure_locked(QuorumSync *sync,
                                           const bool *missed);

/*
 * The flush has succeeded without those that are unsure: enough others have
 * what they may have lost on their media.  So the former are stale there.
 * Else, if the others became unsure later, only because something beside it has
 * been written since, all would be, and the vote could not tell who is right.
 * Where the guest has been told of the loss, they may have been counted, and
 * stay unsure; and so they do if @threshold is no majority, which must not
 * decide against the others (promise 6).
 */
void quorum_sync_unsure_to_stale_locked(QuorumSync *sync, int threshold);

/*
 * Whether children that have flushed, i.e. are not in @missed, are unsure in
 * what the flush has covered, so that a vote may keep them from being stale
 * though they have lost nothing.  Not if there is so much of it that the guest
 * would wait for long.
 */
bool quorum_sync_worth_a_vote_locked(const QuorumSync *sync,
                                     const bool *missed);

/* The guest is told that what was to be flushed may be lost. */
void quorum_sync_tell_locked(QuorumSync *sync);

/*
 * Whether it has been told of what is at @start, where a granule of the
 * unflushed map begins.  Cuts *@bytes to what that is true of.
 */
bool quorum_sync_was_told_locked(const QuorumSync *sync, int64_t start,
                                 int64_t *bytes);

/* What it has been told of the range is no longer all: it is owed again. */
void quorum_sync_untell_locked(QuorumSync *sync, int64_t offset, int64_t bytes);

#endif /* BLOCK_QUORUM_SYNC_INT_H */
