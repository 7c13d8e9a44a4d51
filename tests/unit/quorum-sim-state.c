/*
 * Simulation of quorum nodes: state nodes, and restarts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * In some schedules there is a state node beside each child.  What is written
 * to it waits for its turn as the operations of the children do.
 *
 * Then the node may be restarted:
 *
 * Clean.  It is closed and opened again, with nothing in flight.
 *
 * Closing.  QEMU dies before some operation that it does while it closes the
 * node.
 *
 * Crash.  QEMU dies in the middle of anything.  What is in flight on children
 * is done, for each cell, or not; of a page that is in flight on a state node,
 * any sectors are.  From then on nothing that the driver does has an effect,
 * and what it says is not heard: its coroutines end with errors, and the node
 * is closed.
 *
 * Power cut.  The same, and what was not flushed is lost on children, for each
 * cell, and on state nodes, for each sector; or not.
 *
 * Some state nodes may fail now and then, but as many as threshold do not.  The
 * same ones may not be readable when the node is opened: their children are
 * newcomers.
 *
 * What must hold (promise 11):
 *
 *  - The node can be opened again.
 *  - What was acknowledged before is there; after a power cut, what was
 *    flushed.  Of what was in flight, each cell may have either outcome.
 *  - Whatever has been read of that once stays, over further crashes, too.
 *  - A child that was stale is stale.  One that has never failed is in, and is
 *    not stale; one that a clean restart has found in sync neither.
 *  - All else is as without a restart: nothing fails while enough is well.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "block/quorum/state-int.h"
#include "quorum-sim.h"

#define SECTOR          512
#define STATE_BYTES     (128 * KiB)
#define STATE_SECTORS   (STATE_BYTES / SECTOR)
#define MAX_STATE_OPS   64

typedef struct StateNode {
    BlockDriverState *bs;
    int index;
    uint8_t image[STATE_BYTES];
    uint8_t durable[STATE_BYTES];
    int changed[STATE_SECTORS];     /* when image was written */
    int safe_at[STATE_SECTORS];     /* of which time durable is */
    bool hidden;                    /* it can't be read */
} StateNode;

/* A write or a flush of a state node, on the stack of its coroutine */
typedef struct StateOp {
    Coroutine *co;
    StateNode *node;
    int start;
    int sector, num;            /* of a flush: 0 */
    const uint8_t *buf;
    bool fua;
    int ret;
    bool done;
} StateOp;

static StateNode nodes[MAX_CHILDREN];
static StateOp *pending[MAX_STATE_OPS];
static int num_pending;

/* How many operations QEMU does until it dies; -1: it does not */
static int fuse = -1;

/* --- what is stored --- */

static void make_durable(StateNode *node, int sector)
{
    memcpy(&node->durable[sector * SECTOR], &node->image[sector * SECTOR],
           SECTOR);
    node->safe_at[sector] = node->changed[sector];
}

/* Store those sectors of @op that are set in @mask. */
static void store(StateOp *op, uint64_t mask)
{
    for (int i = 0; i < op->num; i++) {
        int sector = op->sector + i;

        if (mask & BIT_ULL(i)) {
            memcpy(&op->node->image[sector * SECTOR], op->buf + i * SECTOR,
                   SECTOR);
            op->node->changed[sector] = sim.now;
        }
    }
}

static void use_dice(const StateNode *node)
{
    sim_use_dice(&sim.s->reqs[MAX(0, sim.guest.next_req - 1)], node->index);
}

static uint64_t all_sectors(const StateOp *op)
{
    return op->num ? sim_cells_mask(0, op->num) : 0;
}

/* @op ends; or it fails, and any part of it is done. */
static void finish(StateOp *op)
{
    StateNode *node = op->node;
    bool bad = sim.s->bad_states & (1 << node->index);

    use_dice(node);
    if (bad && sim_chance(sim.s->rates.state_error)) {
        store(op, sim_choose_subset(all_sectors(op)));
        op->ret = -EIO;
    } else {
        store(op, all_sectors(op));
        for (int i = 0; i < STATE_SECTORS; i++) {
            if (op->num ? op->fua && i >= op->sector && i < op->sector + op->num
                        : node->changed[i] < op->start) {
                make_durable(node, i);
            }
        }
    }
    sim_trace("    state %d: %s of sector %d: %s", node->index,
              op->num ? "write" : "flush", op->sector,
              op->ret < 0 ? strerror(-op->ret) : "ok");
}

/* QEMU has died: any part of @op is done. */
static void cut_off(StateOp *op)
{
    use_dice(op->node);
    store(op, sim_choose_subset(all_sectors(op)));
    op->ret = -EIO;
}

bool sim_state_dies(void)
{
    if (!sim.node.running && fuse >= 0 && !sim.node.dead && fuse-- == 0) {
        sim_trace("    QEMU dies");
        sim.node.dead = true;
    }
    return sim.node.dead;
}

/* --- operations --- */

static int coroutine_fn run(StateOp *op)
{
    bool was_dead = sim.node.dead;

    op->co = qemu_coroutine_self();
    op->start = ++sim.now;
    if (sim_state_dies()) {
        if (!was_dead) {
            cut_off(op);
        }
        return -EIO;
    }
    if (!sim.node.running) {
        ++sim.now;
        finish(op);
        return op->ret;
    }
    sim_trace("  state %d: %s of sector %d, %d of them%s", op->node->index,
              op->num ? "write" : "flush", op->sector, op->num,
              op->fua ? " fua" : "");
    g_assert(num_pending < MAX_STATE_OPS);
    pending[num_pending++] = op;
    while (!op->done) {
        qemu_coroutine_yield();
    }
    return op->ret;
}

int sim_state_pending(void)
{
    return num_pending;
}

void sim_state_step(int index)
{
    StateOp *op = pending[index];

    pending[index] = pending[--num_pending];
    finish(op);
    op->done = true;
    aio_co_wake(op->co);
}

static int coroutine_fn GRAPH_RDLOCK
state_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    StateNode *node = *(StateNode **)bs->opaque;

    if (node->hidden) {
        return -EIO;
    }
    qemu_iovec_from_buf(qiov, 0, &node->image[offset], bytes);
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK
state_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    StateOp op = {
        .node = *(StateNode **)bs->opaque,
        .sector = offset / SECTOR,
        .num = bytes / SECTOR,
        .buf = buf,
        .fua = flags & BDRV_REQ_FUA,
    };

    qemu_iovec_to_buf(qiov, 0, buf, bytes);
    return run(&op);
}

static int coroutine_fn GRAPH_RDLOCK state_co_flush(BlockDriverState *bs)
{
    StateOp op = { .node = *(StateNode **)bs->opaque };

    return run(&op);
}

static int64_t coroutine_fn GRAPH_RDLOCK
state_co_getlength(BlockDriverState *bs)
{
    return STATE_BYTES;
}

/* The one that is being opened */
static StateNode *opening;

static int state_open(BlockDriverState *bs, QDict *options, int flags,
                      Error **errp)
{
    *(StateNode **)bs->opaque = opening;
    return 0;
}

static BlockDriver state_driver = {
    .format_name        = "quorum-sim-state",
    .instance_size      = sizeof(StateNode *),
    .bdrv_open          = state_open,
    .bdrv_co_getlength  = state_co_getlength,
    .bdrv_co_preadv     = state_co_preadv,
    .bdrv_co_pwritev    = state_co_pwritev,
    .bdrv_co_flush      = state_co_flush,
};

/* --- nodes --- */

void sim_state_init(void)
{
    bdrv_register(&state_driver);
}

void sim_state_reset(void)
{
    num_pending = 0;
    fuse = -1;
    sim.node.dead = false;
    memset(&sim.restart, 0, sizeof(sim.restart));
    for (int n = 0; n < sim.s->num_children && sim_has_state(sim.s); n++) {
        memset(&nodes[n], 0, sizeof(nodes[n]));
        nodes[n].index = n;
    }
}

/* Whether it has one with all of @flags. */
static bool has_label_with(const StateNode *node, uint32_t flags)
{
    QuorumStateLabel label;

    for (int place = 0; place < 2; place++) {
        if (quorum_state_decode_label(node->image + place * QUORUM_STATE_PAGE,
                                      &label, NULL) &&
            (label.flags & flags) == flags) {
            return true;
        }
    }
    return false;
}

static bool has_label(const StateNode *node)
{
    return has_label_with(node, 0);
}

/* Some can't be read, if the set is not taken for a new one then. */
static void hide_some(void)
{
    int begun = 0;

    for (int n = 0; n < sim.s->num_children; n++) {
        begun += has_label_with(&nodes[n], QUORUM_STATE_BEGUN);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        use_dice(&nodes[n]);
        nodes[n].hidden = sim.s->kind->state_hides &&
                          begun >= sim.s->threshold &&
                          sim.s->bad_states & (1 << n) && sim_chance(300);
        if (nodes[n].hidden) {
            sim_trace("    state %d can't be read", n);
        }
    }
}

/* Whether they are to be begun with. */
static bool are_new(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        if (has_label(&nodes[n])) {
            return false;
        }
    }
    return true;
}

void sim_state_open(QDict *options)
{
    static int serial;

    for (int n = 0; n < sim.s->num_children; n++) {
        g_autofree char *name = g_strdup_printf("simstate%d", serial++);
        g_autofree char *key = g_strdup_printf("state.%d", n);

        opening = &nodes[n];
        nodes[n].bs = bdrv_new_open_driver(&state_driver, name, BDRV_O_RDWR,
                                           &error_abort);
        nodes[n].bs->supported_write_flags =
            sim.s->fua & (1 << n) ? BDRV_REQ_FUA : 0;
        qdict_put_str(options, key, name);
    }
    qdict_put_bool(options, "state-init", are_new());
}

void sim_state_close(void)
{
    for (int n = 0; n < MAX_CHILDREN; n++) {
        bdrv_unref(nodes[n].bs);
        nodes[n].bs = NULL;
    }
}

static BDRVQuorumState *quorum(void)
{
    return blk_bs(sim.node.blk)->opaque;
}

static QuorumState *state(void)
{
    return quorum()->state;
}

int sim_state_choices(void)
{
    return sim_has_state(sim.s) && sim.node.running && !sim.node.dead &&
           timer_pending(state()->timer);
}

void sim_state_tick(void)
{
    sim_trace("    6 s pass");
    sim_set_time(sim.time.now_ns + 6 * NANOSECONDS_PER_SECOND);
    timer_del(state()->timer);
    quorum_state_tick(state());
}

uint64_t sim_unresolved(uint64_t mask)
{
    uint64_t cells = 0;

    if (!sim_has_state(sim.s) || !sim.node.running || sim.node.dead) {
        return 0;
    }
    for (int u = 0; u < sim_num_units(); u++) {
        if (quorum_sync_is_unresolved(quorum()->sync, (int64_t)u * UNIT_BYTES,
                                      UNIT_BYTES)) {
            cells |= sim_unit_mask(u);
        }
    }
    return cells & mask;
}

/* --- restarts --- */

/* What the driver takes a child to lack, in units */
typedef DECLARE_BITMAP(Lacking, 64);

/* The same of each child */
static void read_lacking(Lacking *lacks)
{
    memset(lacks, 0, MAX_CHILDREN * sizeof(lacks[0]));
    for (int n = 0; n < sim.s->num_children; n++) {
        quorum_sync_lacking_bits(quorum()->sync, n, ctz32(UNIT_BYTES), 0,
                                 MIN(sim_num_units(), 64), lacks[n]);
    }
}

static void die(Req *r)
{
    StateOp *ops[MAX_STATE_OPS];
    int num = num_pending;

    sim.node.dead = true;
    memcpy(ops, pending, num * sizeof(ops[0]));
    num_pending = 0;
    for (int i = 0; i < num; i++) {
        cut_off(ops[i]);
        ops[i]->done = true;
    }
    sim_ops_cut_off(r);
    for (int i = 0; i < num; i++) {
        aio_co_wake(ops[i]->co);
    }
    sim_poll_until_idle();
    if (sim.guest.in_flight) {
        sim_violation(CHECK_STUCK, "%d requests do not end when QEMU dies",
                      sim.guest.in_flight);
    }
}

static void cut_power(Req *r)
{
    sim_power_cut(r);
    for (int n = 0; n < sim.s->num_children; n++) {
        use_dice(&nodes[n]);
        for (int i = 0; i < STATE_SECTORS; i++) {
            if (nodes[n].changed[i] > nodes[n].safe_at[i] &&
                sim_chance(sim.s->rates.power_cut_loses)) {
                memcpy(&nodes[n].image[i * SECTOR],
                       &nodes[n].durable[i * SECTOR], SECTOR);
            }
            make_durable(&nodes[n], i);
        }
    }
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        w->may_be_lost |= sim_is_write(w) && !w->flushed;
    }
    /* What was shown may have been shown from a cache. */
    memset(sim.restart.gone, 0, sizeof(sim.restart.gone));
}

/* A crash: what comes now is judged by itself. */
static void note_crash(void)
{
    sim_check_linear();
    sim.restart.crashed = true;
    sim.restart.since = ++sim.now;
    for (int i = 0; i < MAX_CELLS; i++) {
        for (int j = 0; j < NUM_VALUES; j++) {
            sim.seen.first_end[i][j] = NEVER;
            sim.seen.last_start[i][j] = 0;
        }
    }
}

/* Whoever is not stale in a unit has what may be read there. */
static void check_voter(const Child *c, const unsigned long *lacks)
{
    for (int i = 0; i < sim.guest.length; i++) {
        int u = sim_cell_unit(i);

        if (!test_bit(u, lacks) &&
            !sim_permitted(i, c->image[i], sim.now, sim.now, false)) {
            sim_violation(CHECK_RESTART, "child %d has %s in cell %d, and is "
                          "not stale there", c->index,
                          sim_value_text(c->image[i]), i);
        }
    }
}

/*
 * Where enough children had everything, enough of them have a vote now.  What
 * a child lacked once may still be written down, and takes its vote if all are
 * needed.
 */
static void check_votes(const Lacking *before, const Lacking *now)
{
    int had[64] = {}, have[64] = {};

    if (sim.s->threshold == sim.s->num_children) {
        return;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Lacking failed = {};

        if (quorum_sync_is_rebuilding(quorum()->sync, n)) {
            return;
        }
        for (int i = 0; i < MAX_CELLS; i++) {
            if (sim.child[n].ever_failed & BIT_ULL(i)) {
                set_bit(sim_cell_unit(i), failed);
            }
        }
        for (int u = 0; u < 64; u++) {
            had[u] += !test_bit(u, before[n]) && !test_bit(u, failed);
            have[u] += !test_bit(u, now[n]);
        }
    }
    for (int u = 0; u < 64; u++) {
        if (had[u] >= sim.s->threshold && have[u] < sim.s->threshold) {
            sim_violation(CHECK_RESTART, "%d children may vote in unit %d, and "
                          "%d had all of it", have[u], u, had[u]);
        }
    }
}

/* What the node says of its children, now that it is open again */
static void check_children(bool crash, const Lacking *before)
{
    Lacking now[MAX_CHILDREN], more;

    read_lacking(now);
    check_votes(before, now);
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        int64_t bytes = quorum_sync_stale_bytes(quorum()->sync, n);

        /* A state node that has failed when it was new, or does now */
        if (quorum_sync_is_rebuilding(quorum()->sync, n) &&
            (nodes[n].hidden || !has_label(&nodes[n])) &&
            sim.s->bad_states & (1 << n)) {
            c->is_new = true;
            c->ever_failed = UINT64_MAX;
            sim_child_fault(c);
            continue;
        }
        if (quorum_sync_is_rebuilding(quorum()->sync, n) && !c->is_new) {
            sim_violation(CHECK_RESTART, "child %d is a newcomer", n);
        }
        if (bytes && !c->is_new && !c->ever_failed && !c->ever_lost) {
            sim_violation(CHECK_RESTART, "child %d has never failed, and "
                          "%" PRId64 " bytes of it are stale", n, bytes);
        }
        if (!crash && bitmap_andnot(more, now[n], before[n], 64)) {
            sim_violation(CHECK_RESTART, "child %d lacks more than before "
                          "a clean restart", n);
        }
        check_voter(c, now[n]);
        /* Whoever is behind is stale in all that was marked. */
        c->ever_failed = c->ever_failed || c->is_new ? UINT64_MAX : 0;
    }
    sim_check_known();
}

void sim_restart(Req *r)
{
    static const char *const name[] = {
        "clean", "dies when it is closed", "crash", "power cut",
    };
    Lacking lacks[MAX_CHILDREN];
    bool crash;

    r->start = ++sim.now;
    sim_trace("restart %d: %s", r->id, name[r->restart]);
    read_lacking(lacks);
    if (r->restart >= RESTART_CRASH) {
        die(r);
    }
    fuse = r->restart == RESTART_CLOSING ? r->fuse : -1;
    sim_node_close();
    fuse = -1;
    crash = sim.node.dead;
    sim.node.dead = false;
    if (r->restart == RESTART_POWER_CUT) {
        cut_power(r);
    }
    if (crash) {
        note_crash();
    }
    r->end = ++sim.now;
    hide_some();
    if (sim_node_open()) {
        check_children(crash, lacks);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        nodes[n].hidden = false;
    }
    sim_trace("restart %d: ok", r->id);
}

/* --- what has been chosen --- */

bool sim_is_from_before(uint8_t value)
{
    return sim.restart.since &&
           (value == TAG_INIT ||
            (value >= TAG_REQ && value < TAG_REQ + sim.guest.next_req &&
             sim.s->reqs[value - TAG_REQ].end < sim.restart.since));
}

void sim_check_chosen(int cell, uint8_t value, bool voted)
{
    uint64_t *gone = &sim.restart.gone[cell];

    if (value >= NUM_VALUES) {
        return;
    }
    if (*gone & BIT_ULL(value)) {
        sim_violation(CHECK_CHOSEN, "cell %d has %s, and something else of the "
                      "same time was read before", cell, sim_value_text(value));
    }
    for (int v = TAG_INIT; voted && sim_is_from_before(value) &&
         v < NUM_VALUES; v++) {
        *gone |= v != value && sim_is_from_before(v) ? BIT_ULL(v) : 0;
    }
}
