/*
 * Simulation of quorum nodes: schedules
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef QUORUM_SIM_SCHEDULE_H
#define QUORUM_SIM_SCHEDULE_H

#include "block/block_int.h"
#include "block/quorum/debug.h"

#define MAX_CHILDREN    5
#define MAX_CELLS       64
#define MAX_REQS        32
#define MAX_CHOICES     8192
#define UNIT_BYTES      4096

typedef enum ReqType {
    REQ_READ,
    REQ_WRITE,
    REQ_ZERO,
    REQ_DISCARD,
    REQ_FLUSH,
    REQ_STATUS,
    REQ_CHECK,                  /* a chunk of a scrub that repairs nothing */
    REQ_SCRUB,                  /* a chunk of a scrub that repairs */
    REQ_CHANGE,                 /* a child comes or leaves; not the guest's */
    REQ_RESIZE,
    REQ_DRAIN,                  /* of the node; not the guest's */
    REQ_RESTART,                /* of the node; not the guest's */
    REQ__MAX,
} ReqType;

/* How the node is closed, and opened again: see quorum-sim-state.c */
typedef enum Restart {
    RESTART_CLEAN,
    RESTART_CLOSING,            /* QEMU dies while it closes the node */
    RESTART_CRASH,              /* QEMU dies */
    RESTART_POWER_CUT,          /* and so do the machines of all children */
    RESTART__MAX,
} Restart;

/* A guest request: first what the schedule says, then what becomes of it. */
typedef struct Req {
    ReqType type;
    struct {
        int cell, num;
    } place;                    /* if the disk has that many cells */
    BdrvRequestFlags flags;
    bool alone;                 /* starts when nothing else is in flight */
    int split;                  /* cells in the first piece of the vector */
    bool grows;                 /* begins so far behind the end of the disk */
    int ahead;
    bool stale;                 /* scrub what is stale from there on */
    int child;                  /* the slot that changes, or is preferred */
    bool prefers;               /* a scrub prefers that child */
    bool resync;                /* not a scrub: what a resync does next */
    bool leaves;                /* the slot becomes vacant, if it is not */
    int length;                 /* of the disk after a resize, in cells */
    bool exact;                 /* the disk must not be longer then */
    Restart restart;
    int fuse;                   /* operations until QEMU dies while it closes */

    int key;                    /* stays when other requests are dropped */
    int no_faults;              /* mask: children whose dice are all 0 */

    int id;
    int cell, num;
    uint64_t mask;              /* the cells */
    int start, end;             /* points in time; end is NEVER in flight */
    int64_t start_ns;           /* by the clock */
    int ret;
    uint8_t *buf;
    uint64_t issued[MAX_CHILDREN];  /* cells sent to the child */
    uint64_t ok[MAX_CHILDREN];      /* cells that the child says it took */
    int op_end[MAX_CHILDREN];   /* when the child's last part of it ended */
    uint64_t over[MAX_CHILDREN];    /* cells of those that have ended */
    uint64_t sent;              /* cells sent to any child */
    int old_length;             /* of the disk, before it grew or shrank */
    uint64_t grown;             /* cells that it may bring into sight */
    uint64_t gap;               /* of these, what a write leaves out */
    uint64_t unsure;            /* cells that a resize beside it may cut off */
    uint64_t unresolved;        /* cells with an outcome to choose, at first */
    int shortest[MAX_CHILDREN]; /* to which the child was cut meanwhile */
    int long_before;            /* children that had all of the disk */
    int failed;                 /* mask: children that have said so */
    int restarts;               /* of children while it was in flight */
    size_t again_before;        /* sim_writes_tried_again(), when it began */
    size_t unsure_before;       /* sim_writes_unsure() */
    bool tried_again;           /* it may have been, before it ended */
    bool given_up;              /* and given its range back in between */
    bool flushed;               /* by a flush after its end, or by itself */
    bool seen_durable;          /* that has been looked at */
    bool may_be_lost;           /* a flush has failed, and the guest knows */
    bool loss_unreported;       /* may be lost, and the guest is to hear it */
} Req;

#define SIM_FIELD(name) int name;

/*
 * What is wrong with a child, mostly chances in 1/1000.  What these faults are,
 * and which may meet, is said in quorum-sim-child.c.
 */
#define SIM_PLAN(X)                                                     \
    X(bad)              /* if not, the rest does not matter */          \
    X(read_error)                                                       \
    X(write_error)                                                      \
    X(flush_error)                                                      \
    X(bad_units)        /* mask: can't be read until written */         \
    X(dead_after)       /* operations after which all fail, or 0 */     \
    X(drops)            /* 1: a flush that fails loses writes */        \
    X(lie)              /* a read returns what is not there */          \
    X(lose)             /* a write is not stored */                     \
    X(rot)              /* what is stored changes */                    \
    X(skip_flush)       /* a flush does nothing */                      \
    X(misdirect_read)   /* a read returns another place's data */       \
    X(misdirect_write)  /* a write is stored at another place */        \
    X(resize_error)                                                     \
    X(resize_refused)   /* an error of resizes that says: never */      \
    X(no_space)         /* for what makes the child longer */           \
    X(stays_longer)     /* after a resize that need not be exact */     \
    X(hang)             /* the child stops to do anything */            \
    X(hang_one)         /* an operation does not end */                 \
    X(cut)              /* a write fails that may still come */         \
    X(restart)          /* the cache may be lost without an error */    \
    X(forgets)          /* what is in it is lost when that happens */   \
    X(shows)            /* 1: what a failed flush has lost is read on */
typedef struct Plan {
    SIM_PLAN(SIM_FIELD)
} Plan;
#define PLAN_FIELDS (sizeof(Plan) / sizeof(int))

/* How often things are as they are in a schedule: chances in 1/1000 */
#define SIM_RATES(X)                                                    \
    /* the node */                                                      \
    X(three_children)   /* and not any number */                        \
    X(majority)         /* vote-threshold is one, and not any number */ \
    X(pattern_quorum)                                                   \
    X(pattern_threshold)                                                \
    X(rewrite)          /* rewrite-corrupted is on */                   \
    X(blocks)           /* of the children are larger than a byte */    \
    X(all_zero_fast)    /* all children advertise that they can */      \
    X(all_zero)         /* all children can */                          \
    X(all_zero_growth)  /* all children can grow by zeroes */           \
    /* the driver */                                                    \
    X(few_stragglers)   /* of reads that do not wait for all */         \
    X(small_budget)     /* for requests that wait for coroutines */     \
    X(small_pool)       /* for reads in pieces, and waiting for memory */ \
    X(coarse_maps)      /* granules larger than a unit */               \
    X(fine_unflushed)   /* what a failed flush loses is known well */   \
    X(short_fua_list)                                                   \
    X(no_fast_path)                                                     \
    /* requests */                                                      \
    X(many)                                                             \
    X(alone)                                                            \
    X(split)            /* the vector has two pieces */                 \
    X(fua)                                                              \
    X(may_unmap)                                                        \
    X(no_fallback)                                                      \
    X(scrub_stale)      /* only what is stale */                        \
    X(scrub_prefers)    /* a child, where a kind wants that */          \
    X(resync)           /* instead of a scrub */                        \
    X(leaves)           /* a child, and not replaced */                 \
    X(exact)                                                            \
    X(fine_regions)     /* of the intent map */                         \
    X(state_error)      /* of a bad state node, when written to */      \
    X(grows)            /* a write, behind the end */                   \
    /* faults */                                                        \
    X(lies_or_drops)    /* lies, where both can't be */                 \
    X(drops)                                                            \
    X(bad_units)                                                        \
    X(dead)                                                             \
    X(power_cut)                                                        \
    X(power_cut_flushed) /* where many flushes are */                   \
    X(hold)             /* an operation waits half done */              \
    X(flush_catches)    /* what was written meanwhile */                \
    X(power_cut_loses)  /* a cell that was not flushed */               \
    X(thaw)             /* a child that hangs, while time passes */     \
    X(no_timeout)       /* child-timeout is 0 */                        \
    X(all_abandon)      /* all children can be abandoned */             \
    X(shows)            /* what a failed flush has lost */              \
    X(together)         /* all are restarted at once */                 \
    X(tells_late)       /* of a restart, before the next answer */      \
    X(evicts)           /* what a failed flush has lost */
typedef struct Rates {
    SIM_RATES(SIM_FIELD)
} Rates;

enum {
    DAMAGE_ERRORS = 1 << 0,     /* requests fail */
    DAMAGE_DEATH = 1 << 1,      /* and from some moment on, all of them */
    DAMAGE_LIES = 1 << 2,       /* data are wrong, without an error */
    DAMAGE_MISDIRECTS = 1 << 3, /* the lies of a child that mistakes a place */
    DAMAGE_DROPS = 1 << 4,      /* a flush that fails loses writes */
    DAMAGE_HANGS = 1 << 5,      /* operations do not end */
    DAMAGE_CUTS = 1 << 6,       /* writes that fail may come later */
    DAMAGE_RESTARTS = 1 << 7,   /* caches are lost without an error */
};

/* What a test wants of its schedules */
typedef struct Kind {
    const char *name;
    int count;                  /* schedules in a default run */
    int max_bad;                /* children with faults; -1: all may be bad */
    int damage;                 /* DAMAGE_*: what may be wrong with these */
    const char *read_pattern;   /* NULL: any */
    bool repairs;               /* rewrite-corrupted is on, always */
    bool any_size;
    bool ties;                  /* writes that half of the children have */
    int more[REQ__MAX];         /* added to the weights of requests */
    bool fua;                   /* most writes are FUA, side by side */
    bool grows;                 /* some writes are behind the end */
    bool prefers;               /* scrubs may prefer a child */
    bool early;                 /* reads do not wait for all */
    bool keeps;                 /* restarts lose nothing; not all restart */
    int restarts;               /* mask of what a REQ_RESTART is; 0: no state */
    bool minority;              /* threshold is no majority */
    bool state_errors;          /* state nodes may fail */
    bool state_hides;           /* and may not be readable after a restart */
} Kind;

typedef struct Schedule {
    const Kind *kind;
    uint64_t seed;
    int weight[REQ__MAX];       /* how often which request comes */
    Rates rates;

    /* The node and its children */
    int num_children;
    int threshold;
    const char *read_pattern;
    bool rewrite_corrupted;
    int cells;                  /* at first */
    int most_cells;             /* at any time */
    int cell_bytes;
    int align;                  /* of the children's requests */
    /* Masks of children that can do it */
    int fua, zeroes, native_zeroes, zero_growth;
    /* The same: be abandoned, or say when late writes have ended */
    int can_abandon, knows_late;
    int child_timeout_ms;       /* -1: as it is by default */

    /* The driver: what it has as constants, and does if it can */
    QuorumLimits limits;
    bool no_fast_path;

    /* Faults: quorum-sim-child.c says which of them may meet */
    Plan plan[MAX_CHILDREN];
    int liars[MAX_CELLS];       /* by unit: mask of children that may lie */
    bool power_cut;             /* at the end */
    int bad_states;             /* mask: state nodes that fail now and then */
    int64_t dirty_limit;        /* option dirty-limit */

    /* The guest */
    int depth;                  /* requests in flight */
    int hot_cell;               /* where most requests go to */
    int num_reqs;
    Req reqs[MAX_REQS + 4];     /* the last ones: what is at the end */

    /* What comes next, see step(); after the last one always 0. */
    int num_choices;
    uint32_t choices[MAX_CHOICES];
} Schedule;

/* --- quorum-sim-kinds.c: what tests want --- */

extern const Kind sim_kinds[];      /* the last one has no name */
extern const Rates sim_rates;
extern const int sim_weight[REQ__MAX];

/* --- quorum-sim-schedule.c: what is to happen --- */

/*
 * Make a schedule of @kind: from @seed, or, if there is one, from sim.script.
 *
 * A script is what a fuzzer has made up.  Each decision takes the next byte of
 * it; when it is used up, the decisions are 0 and there is nothing more to do.
 * First come the node and the faults.  Requests come one by one, when the one
 * before has started, so that what a run does next is what the script says
 * next; see sim_next_request(), sim_choose_next() and sim_use_dice().
 */
void sim_make_schedule(Schedule *s, const Kind *kind, uint64_t seed);

/* Add a request to @s from sim.script; false if that is used up. */
bool sim_next_request(Schedule *s);

/* Whether children may not answer, or late: time passes in such schedules */
bool sim_has_hangs(const Schedule *s);

/* Whether caches of children may be lost, in which the driver has a say */
bool sim_has_losses(const Schedule *s);

/* Whether digests are remembered, and decide (promise 12). */
bool sim_is_checked(const Schedule *s);

/* Whether there are state nodes */
bool sim_has_state(const Schedule *s);

/* Whether the disk of @kind has other lengths in time */
bool sim_has_lengths(const Kind *kind);

#endif /* QUORUM_SIM_SCHEDULE_H */
