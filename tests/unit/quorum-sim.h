/*
 * Simulation of quorum nodes: what its parts share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef QUORUM_SIM_H
#define QUORUM_SIM_H

#include "block/block_int.h"
#include "system/block-backend.h"
#include "quorum-sim-schedule.h"

#define MAX_PENDING     256
#define MAX_ANSWERS     2048
#define MAX_LATE        64
#define MAX_SLEEPERS    64
#define NEVER           INT_MAX

/* Tags */
#define TAG_ZERO        0       /* what zeroes look like to the guest */
#define TAG_INIT        1       /* what the disk holds at first */
#define TAG_REQ         2       /* of the first request */
#define TAG_SCRIBBLED   0x80    /* put into memory of the first request later */
#define TAG_GAP         0xd0    /* zeroes that growth leaves in between */
#define TAG_LIE         0xe0    /* lies that several children may agree on */
#define TAG_GARBAGE     0xf0    /* what comes into sight on a child */
#define TAG_TORN        0xff    /* a cell that is not filled with one byte */
#define NUM_VALUES      (TAG_REQ + MAX_REQS + 4)
QEMU_BUILD_BUG_ON(NUM_VALUES > TAG_SCRIBBLED ||
                  TAG_SCRIBBLED + MAX_REQS + 4 > TAG_GAP);

/* --- checks --- */

typedef enum Check {
    CHECK_HELD,
    CHECK_DURABLE,
    CHECK_KNOWN,
    CHECK_VOTED,
    CHECK_SILENT,
    CHECK_FIFO,
    CHECK_LINEAR,
    CHECK_ORDER,
    CHECK_ALARM,
    CHECK_REPAIR,
    CHECK_SCRUB,
    CHECK_CHANGE,
    CHECK_LENGTH,
    CHECK_ONE_BAD,
    CHECK_STATUS,
    CHECK_STUCK,
    CHECK_ENOUGH,
    CHECK_LAGGING,
    CHECK_LATENCY,
    CHECK_BACK,
    CHECK_TOLD,
    CHECK_ONCE,
    CHECK_RESTART,
    CHECK_CHOSEN,
    CHECK__MAX,
} Check;

typedef struct CheckText {
    const char *name;
    const char *meaning;
    bool skipped;
} CheckText;

/* --- the state of a run --- */

typedef enum OpType {
    OP_READ,
    OP_WRITE,
    OP_ZERO,
    OP_FLUSH,
    OP_RESIZE,
} OpType;

typedef struct Child {
    BlockDriverState *bs;       /* NULL: the slot is vacant */
    int index;
    bool is_new;                /* was not there at first */
    int ops;                    /* that have ended */
    uint64_t bad_cells;         /* can't be read */
    bool dead;
    bool failed;                /* has failed, lied, or been cut in vain */
    int length;                 /* in cells */
    bool maybe_excluded;        /* by a resize */
    int failed_at;              /* when a flush or a resize last did */
    uint8_t image[MAX_CELLS];
    uint8_t durable[MAX_CELLS]; /* what a power cut leaves */
    uint8_t older[MAX_CELLS];   /* what liars like to tell */
    int changed[MAX_CELLS];     /* when image was written */
    int safe_at[MAX_CELLS];     /* of which time durable is */
    /* When an acknowledged write missed the unit, or 0 */
    int stale_since[MAX_CELLS];
    int whole_at[MAX_CELLS];    /* when all of the unit was last written */
    uint64_t ever_failed;       /* cells that something has failed for */
    uint64_t lost;              /* cells that a failed flush has lost */
    /* Caches that are lost: see quorum-sim-child.c */
    bool untold;                /* it was restarted, and has yet to say so */
    bool ever_lost;             /* it may have lost something */
    uint64_t doomed;            /* cells that are shown, and not stored */
    /* Children that do not answer: quorum-sim-hang.c */
    bool hangs;
    bool abandoned;             /* all requests fail */
    bool lags;                  /* the driver has given it up */
    int lags_since;
    bool was_cut;               /* late writes may come without end */
    uint64_t ever_late;         /* cells of writes that came late */
    /* Of what was late when time last passed: when it began, or 0 */
    int late_start;
    bool late_unsure;           /* it may have begun before */
    int answered_at;            /* when an operation last ended well */
    int good_probes;            /* that have ended well since it was tried */

    uint64_t counters[6];       /* as the node tells of them */
    int64_t stale_bytes;
} Child;

/* An operation on a child, on the stack of its coroutine */
typedef struct Op {
    Coroutine *co;
    Child *child;
    OpType type;
    int id;
    int start;
    int cell, num;
    uint64_t mask;
    BdrvRequestFlags flags;
    int holds;                  /* how often it was made to wait */
    bool captured;              /* val is what the read returns */
    bool failed;                /* a flush that has lost something already */
    uint64_t applied;           /* cells that have been stored */
    uint64_t lost_by_flush;     /* cells that a failed flush loses */
    uint64_t flips;             /* cells in which one bit is wrong */
    uint8_t val[MAX_CELLS];
    Req *dice_req;              /* the request that it seems to belong to */
    Req *req;                   /* the write that it belongs to, or NULL */
    uint64_t cover;             /* cells that are of that write, or repaired */
    bool repair;
    bool again;                 /* its write is tried again: is it a repair? */
    uint8_t snap[MAX_CELLS];    /* of a flush: the image at its start */
    int length;                 /* of a resize */
    bool exact;
    int64_t start_ns;           /* by the clock */
    bool hangs;
    bool abandoned;
    bool refused;               /* was abandoned before it was sent */
    bool cut;                   /* fails, and may still come */
    int ret;
    bool done;
} Op;

/* A write that has failed, and may still come */
typedef struct Late {
    Child *child;
    int id;                     /* of its Op */
    uint64_t mask;              /* cells */
    uint8_t val[MAX_CELLS];
    int64_t answered_ns;        /* when its child was there again, or 0 */
} Late;

/* A coroutine of the driver that waits for a time */
typedef struct Sleeper {
    Coroutine *co;
    int64_t due_ns;
} Sleeper;

/* What a child said to a read */
typedef struct Answer {
    int time;
    int child;
    int ret;
    uint64_t mask;
    uint64_t stale;             /* cells in which it was stale */
    uint8_t val[MAX_CELLS];
} Answer;

/* A child has left: what it held of what was acknowledged by then */
typedef struct Change {
    int time;
    uint64_t held;              /* cells */
} Change;

typedef struct Sim {
    Schedule *s;
    int now;                    /* grows with each step and each event */
    Child child[MAX_CHILDREN];

    /* The node that is tried, and how its disk is cut up */
    struct {
        BlockBackend *blk;
        bool running;           /* neither being opened nor closed */
        bool dead;              /* what it does has no effect any more */
        int cells_per_unit;
        int cells_per_granule;  /* of the stale maps */
        uint8_t *scratch;       /* room for the whole disk */
    } node;

    /* Operations of children that have not ended, any of which may be next */
    struct {
        Op *op[MAX_PENDING];
        int num;
        int total;              /* with those that have ended */
    } pending;

    /* Time, and what it brings */
    struct {
        int64_t now_ns;
        Sleeper *sleepers[MAX_SLEEPERS];
        int num_sleepers;
        Late late[MAX_LATE];
        int num_late;
        int idle;               /* how often nothing else could happen */
        int relents;            /* how often all had to thaw for that */
        bool calm;              /* nothing goes wrong any more */
        bool draining;          /* no request starts */
    } time;

    /* How far the guest is with its requests */
    struct {
        int length;             /* of the disk, in cells */
        int next_req;           /* of s->reqs; those before have started */
        int in_flight;
    } guest;

    /* Where decisions come from if not from a script */
    struct {
        bool recording;         /* choices come from rng, and are kept */
        uint64_t rng;
        int choice;             /* of s->choices */
        Req *req;               /* whose dice are rolled */
        int child;              /* and for which child */
        int rolled[MAX_REQS + 4][MAX_CHILDREN];
    } dice;

    /* What a fuzzer has made up */
    struct {
        const uint8_t *next;    /* NULL: decisions come from seeds */
        size_t left;
        uint8_t fate;           /* of this step of a child; 0: nothing */
        int fate_dice;
    } script;

    /* What was said and seen, for checks that look back */
    struct {
        Answer answers[MAX_ANSWERS];
        int num_answers;
        Change changes[MAX_REQS];
        int num_changes;
        /* Cells that a resize which failed would have cut off */
        uint64_t cut_in_vain;
        int mended_at[MAX_CELLS];       /* when a cell was no longer one */
        int grown_at[MAX_CELLS];        /* when a cell came into sight */
        /* Cells that a scrub which prefers a child may have filled anyhow */
        uint64_t decided;
        uint64_t leftover;      /* of failed requests, since a restart */
        int written_at[MAX_CELLS];      /* when a child ended a write there */
        /* By cell and value: first end and last start of its requests */
        int first_end[MAX_CELLS][NUM_VALUES];
        int last_start[MAX_CELLS][NUM_VALUES];
    } seen;

    /* Since the node was last opened, and before: quorum-sim-state.c */
    struct {
        int since;              /* 0: it was opened once */
        bool crashed;           /* ever */
        /* Mask of values that were there before, and can't be any more */
        uint64_t gone[MAX_CELLS];
    } restart;

    /* What has gone wrong, and may excuse what is found later */
    struct {
        int count;              /* that have happened */
        bool power_cut;         /* has happened */
        int dropped;            /* mask: lost writes since the last flush */
        bool losing;            /* and not all flushes since have ended */
        int lost_until;         /* when they had ended */
        int unheard;            /* when the node's own flush failed, or 0 */
        int last;               /* when something last went wrong */
        int last_loss;          /* when a child last lost something */
        int flush_start;        /* of the guest's last flush that has ended */
    } faults;

    /* What the run has come to */
    struct {
        bool violated;
        Check check;
        char *text;
        GString *trace;         /* NULL: no trace */
    } verdict;
} Sim;

extern Sim sim;

/* --- quorum-sim-run.c: the guest --- */

/* One thing happens.  False if there is nothing left to happen. */
bool sim_step(void);

/* Open and close the node.  False, with a violation, if it can't be opened. */
bool sim_node_open(void);
void sim_node_close(void);

/* Until nothing goes on by itself */
void sim_poll_until_idle(void);

/* Once, before anything else */
void sim_init(void);

/* The limits that the driver has in QEMU */
extern QuorumLimits sim_limits;

/* How many cells the disk has, to the driver */
int sim_node_cells(void);

/* Whether the node is about to flush although no one has asked for that */
bool sim_node_flushes_by_itself(void);

/*
 * The disk has up to @cells from now on: granules grow until a stale map of it
 * is small enough, as the driver does it.  Here they never get finer again:
 * what was marked stays as wide as it was.
 */
void sim_set_granules(int cells);

/*
 * Run @s.  Choices are recorded in it if @record is set, and taken from it if
 * not.  What is wrong is in sim.verdict then.
 */
void sim_run(Schedule *s, bool record, bool with_trace);

/* --- quorum-sim-resize.c: resizes --- */

/* How much of the disk is there to stay, whatever becomes of a resize */
int sim_usable_cells(void);

/* Whether nothing in flight is in the way of the resize @r. */
bool sim_resize_may_start(const Req *r);

/*
 * Find cells for @r, which is about to start, as near as can be to those it
 * wants.  False if they are all in the way of a resize.
 */
bool sim_find_place(Req *r);

/* Resize the disk.  Returns 0 or -errno. */
int coroutine_fn sim_resize(Req *r);

/* The write @r has been acknowledged, and may have made the disk longer. */
void sim_note_growth(Req *r);

/* A resize in flight may have been done already. */
void sim_note_cut(void);

/* Look at a resize that has ended. */
void sim_check_resize(Req *r);

/*
 * The resize @r asks @child: not if it is an exact shrink that has failed, so
 * that no more children are cut off in vain than must be.
 */
void sim_check_shrink(const Req *r, int child);

/* Look at a write that has made the disk longer. */
void sim_check_growth(Req *r);

/* Nothing is in flight: look at all lengths. */
void sim_check_lengths(void);

/*
 * Whether the node may be closed, and opened again, at the end of a schedule:
 * that forgets who was stale, which is no danger where threshold is a majority,
 * all children were there from the start, and those that
 * lie and lose are not enough to outvote the others.
 */
bool sim_may_restart(void);

/* The node has been opened again: look at its length. */
void sim_note_restart(void);

/* --- quorum-sim-state.c: state nodes, and restarts --- */

void sim_state_init(void);
void sim_state_reset(void);

/* Open a state node for each child, and add them to @options. */
void sim_state_open(QDict *options);
void sim_state_close(void);

/* What may go on there: how many operations, and let one of them. */
int sim_state_pending(void);
void sim_state_step(int index);

/* Time passes, and the driver tidies up, if it has asked for that. */
int sim_state_choices(void);
void sim_state_tick(void);

/* Close the node and open it again, as @r says. */
void sim_restart(Req *r);

/*
 * A child is asked for something while the node is being closed: whether QEMU
 * has died by now.
 */
bool sim_state_dies(void);

/* Cells of @mask in which the driver has yet to choose an outcome */
uint64_t sim_unresolved(uint64_t mask);

/*
 * @value has been read in @cell, or is written there by a repair; if all was
 * @voted on, nothing else of that time may be read any more.
 */
void sim_check_chosen(int cell, uint8_t value, bool voted);

/* The node was opened when @cell had @value already. */
bool sim_is_from_before(uint8_t value);

/* --- quorum-sim-dice.c: where decisions come from --- */

uint64_t sim_rng_next(uint64_t *state);

/* The next byte of sim.script; 0 when that is used up */
uint8_t sim_script_next(void);

/*
 * A choice of the scheduler, 0 to @bound - 1.  They are recorded, so that the
 * order of things can be shrunk: 0 is always the dullest.
 */
int sim_choose_next(int bound);

/*
 * Faults come from dice of their own for each request and child, so that they
 * stay when something else is left out: say whose are used from now on.  Of a
 * script, one byte is all the dice until the next call; 0 is without faults.
 */
void sim_use_dice(Req *r, int child);
int sim_choose(int bound);
bool sim_chance(int permille);

/* Any subset of @mask; nothing by default */
uint64_t sim_choose_subset(uint64_t mask);

/* --- quorum-sim-child.c: what a child stores, and what is wrong with it --- */

void sim_child_reset(Child *c, int index);

/* The node in the slot of @c has been replaced by c->bs, or has left. */
void sim_child_changed(Child *c);

void sim_child_store(Child *c, int cell, uint8_t value);

/* @c is written up to @end, or before it.  It has whole sectors. */
void sim_child_grow(Child *c, int end);

/* @c does what it should not. */
void sim_child_fault(Child *c);

/* What @c may say instead of what it stores */
uint8_t sim_choose_lie(Child *c, int cell);

/* A flush of @c has failed: forget some of what was not flushed. */
void sim_child_drop(Child *c);

/* Something happens to what the children store. */
void sim_rot(void);

/* Caches of children get lost. */
void sim_lose(void);

/* @c is about to answer: first, it tells that it was restarted. */
void sim_child_answers(Child *c);

/* What was not flushed is lost, or not, by the dice of @r. */
void sim_power_cut(Req *r);

/* --- quorum-sim-op.c: how the operations of children go on, and end --- */

/* QEMU dies: any part of what is in flight is done. */
void sim_ops_cut_off(Req *r);

/* Let the pending operation at @index go on, perhaps to its end. */
void sim_op_step(int index);

/* --- quorum-sim-hang.c: time, and children that do not answer --- */

/* Time begins; and it takes some time for anything to happen. */
void sim_time_reset(void);
void sim_time_tick(void);
void sim_set_time(int64_t ns);

/* Which pending operations can go on: how many, and which is the @nth. */
int sim_count_runnable(void);
int sim_nth_runnable(int nth);

/* How many things may happen with time, and let one of them happen */
int sim_time_choices(void);
void sim_time_step(int what);

/*
 * Nothing but time can go on.  False if that is no use: nothing waits for it.
 */
bool sim_time_forced(void);

/* Whether @op goes on no further, from this step on. */
bool sim_op_hangs(Op *op);

/* The write @op has failed: what it has not done may come later. */
void sim_op_late(Op *op);

/* @op has ended. */
void sim_op_ended(const Op *op);

/* Cells of @c in which a write may still come */
uint64_t sim_late_cells(const Child *c);

/* Whether @op may be there to see if the child answers */
bool sim_may_be_probe(const Op *op);

/* Look at an operation that has begun. */
void sim_check_asked(Op *op);

/* Look which children the driver has given up, or taken back. */
void sim_check_lagging(void);

/* Drain the node, while all goes on. */
void sim_drain_begin(void);
void sim_drain_end(void);

/*
 * Nothing goes wrong any more: all children come back.  And when they have been
 * scrubbed after that, they are alike.
 */
void sim_come_back(void);
void sim_check_back(void);

/* Callbacks of the children's drivers */
void GRAPH_RDLOCK sim_abandon(BlockDriverState *bs);
void GRAPH_RDLOCK sim_unabandon(BlockDriverState *bs);
bool GRAPH_RDLOCK sim_can_abandon(BlockDriverState *bs);
BdrvLate GRAPH_RDLOCK sim_late(BlockDriverState *bs);

/* --- quorum-sim-driver.c: the children as block drivers --- */

/* Two drivers: with and without FUA. */
extern BlockDriver sim_driver;
extern BlockDriver sim_fua_driver;

/* Make a node for @c. */
BlockDriverState *sim_child_open(Child *c);

/*
 * How often writes were given up so that a vote makes children sure, and how
 * often they were written again, for that or because children had lost them.
 */
size_t sim_writes_unsure(void);
size_t sim_writes_tried_again(void);

/*
 * Whether the driver may have written @r more than once: as a whole, and what
 * the guest has put into its memory meanwhile.
 */
bool sim_is_tried_again(const Req *r);

/* --- quorum-sim-trace.c: telling what happens --- */

extern CheckText sim_checks[CHECK__MAX];
extern const char *const sim_req_name[];
extern const char *const sim_op_name[];

void G_GNUC_PRINTF(1, 2) sim_trace(const char *fmt, ...);

/* The first violation counts. */
void G_GNUC_PRINTF(2, 3) sim_violation(Check check, const char *fmt, ...);

/* @s, and what happened in its run, which had a trace; owned by the caller */
char *sim_schedule_text(const Schedule *s);

/* "0-3:W1 4-7:initial"; owned by the caller */
char *sim_values_text(const uint8_t *val, uint64_t mask);
const char *sim_value_text(uint8_t value);

/* How often a branch of the driver was taken; owned by the caller */
char *sim_branch_text(QuorumBranch branch);

/* --- quorum-sim-oracle.c: what may be --- */

/* What a cell in @buf holds */
uint8_t sim_decode_cell(const uint8_t *buf);

uint64_t sim_cells_mask(int cell, int num);
int sim_cell_unit(int cell);
uint64_t sim_unit_mask(int unit);
int sim_num_units(void);

/* Masks of children: that have faults, and that may lie anywhere */
int sim_bad_children(const Schedule *s);
int sim_any_liars(void);
bool sim_is_liar(const Child *c, int cell);

/* Whether a child may lose writes when a flush fails */
bool sim_any_drops(void);

/* Whether the driver may take a child for unsure, or may have */
bool sim_any_lost(void);

/*
 * Whether the children without faults are enough without endything, and enough
 * not to be outvoted by the others.
 */
bool sim_well_enough(void);

/*
 * Whether @r has changed, or may have changed, cells; which ones; and those
 * that, once it is acknowledged, are not what they were before
 */
bool sim_is_write(const Req *r);        /* resizes are, too */
uint64_t sim_touched(const Req *r);
uint64_t sim_replaced(const Req *r);

/* Whether @value is what a request for zeroes left, or growth */
bool sim_is_zeroes(uint8_t value);

/* The cells that @r fills with zeroes that are its own */
uint64_t sim_zeroed_by(const Req *r);

/*
 * Whether @r and @other are in flight, or end now, and both fill some of @mask
 * with zeroes: then an operation of a child may belong to either.
 */
bool sim_are_alike(const Req *r, const Req *other, uint64_t mask);

/* Whether a request in flight of @type, REQ_SCRUB or REQ_CHECK, is for @mask */
bool sim_is_scrubbed(ReqType type, uint64_t mask);

/* Whether nothing else was in flight at any time during @r */
bool sim_was_alone(const Req *r);

/*
 * Whether the guest has been told by a flush that its last write of @cell
 * before @start may be lost
 */
bool sim_is_told(int cell, int start);

/*
 * Whether @value was certainly in @cell before @than, which a write has put
 * there that was acknowledged before @start
 */
bool sim_is_older(int cell, uint8_t value, uint8_t than, int start);

/*
 * May a read that lasted from @start to @end find @value in @cell?  Not if a
 * later write was acknowledged before.  After a @power_cut only flushed writes
 * count.  Writes before the cell came into sight don't: it was cut off since.
 */
bool sim_permitted(int cell, uint8_t value, int start, int end,
                   bool power_cut);

/*
 * Whether it is certain that the node takes @c for stale in any of @mask; and
 * from now on it is.
 */
bool sim_is_stale(const Child *c, uint64_t mask);
uint64_t sim_stale_cells(const Child *c);
void sim_set_stale(Child *c, uint64_t mask);

/*
 * Whether the node may take @c for stale in any of @mask: something has failed
 * in one of its granules.
 */
bool sim_may_be_stale(const Child *c, uint64_t mask);

/* @mask, and the rest of all granules that it touches */
uint64_t sim_granules_mask(uint64_t mask);

/* A flush has failed on a child, which may be one that no one has asked for. */
void sim_note_flush_failed(void);

/* A flush of @c has failed, and has @lost cells, or not. */
void sim_note_drop(const Child *c, bool lost);

/*
 * A request that may have been a flush has ended: @r.  (After a resize there is
 * one that the guest has not asked for, and hears of by its own next one.)
 *
 * A FUA write counts as flushed when no other flush or FUA write is in flight:
 * one that fails may have lost what this one had written, before it was
 * flushed, and the guest is to hear of that by the other one.
 */
void sim_note_flush(Req *r);

/* Remember what @c held, which is about to leave. */
void sim_note_change(const Child *c);

/*
 * How many children that have left since held what of @cell was acknowledged
 * before @start: those that were there when it was written have flushed it, but
 * newcomers have not.
 */
int sim_count_gone(int cell, int start);

/* --- quorum-sim-check.c: what must not be, as it happens --- */

/* Look at a write that has come to a child. */
void sim_check_op(Op *op);

/* Look at a cell that a write of a child stores. */
void sim_check_stored(const Op *op, int cell);

/* Look at a request that has come back. */
void sim_guest_ended(Req *r);

/* Look at what a chunk of a scrub has found, and r->ret, in bytes. */
void sim_check_scrub(Req *r, int64_t wrong, int64_t unrepairable);

/* Look at zeroes that block status has told of. */
void sim_check_zeroes(Req *r, int num);

/* --- quorum-sim-final.c: what must not be, when nothing is in flight --- */

void sim_check_known(void);
void sim_check_counters(void);
void sim_check_order(void);
void sim_check_linear(void);

#endif /* QUORUM_SIM_H */
