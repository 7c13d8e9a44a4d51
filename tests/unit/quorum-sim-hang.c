/*
 * Simulation of quorum nodes: time, and children that do not answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Time stands still, but where children may hang: then it passes in steps of
 * their own, of any length, to the next thing that is due or far beyond it.  A
 * child that is well does each operation within 1/8 of child-timeout, and there
 * are up to four of them that belong together.
 *
 * A bad child may hang as a whole, or a single operation of it may.  That ends
 * when the child thaws, or when the driver abandons it: then all operations of
 * the child fail, also new ones, until it is taken back.  A write that has been
 * abandoned, or cut off by a lost connection, may still come, in parts, also
 * after newer writes: it is in sim.time.late until it has come, or will never.
 *
 * Some children know whether there are such writes.  Of the others, the driver
 * is to assume that they may come until QUARANTINE_NS after the child has first
 * answered again; here they do.
 *
 * Some children can't be abandoned.  Whatever waits for such a child does so
 * until it thaws.
 */

#include "qemu/osdep.h"
#include "block/quorum/quorum-int.h"
#include "quorum-sim.h"

/* Far from what the clock says: no timer that is armed for it ever fires. */
#define START_NS        (INT64_MAX / 2)

/* See QUORUM_LATE_QUARANTINE_NS. */
#define QUARANTINE_NS   (10LL * NANOSECONDS_PER_SECOND)

/* How many good answers the driver wants of a child that was given up */
#define PROBES          2

/*
 * How often nothing but time can go on until that is too long: child-timeout
 * has 8 ticks, and a probe as many as half of that
 */
#define MAX_IDLE        60
#define MAX_RELENTS     100

/* Steps until all children have come back: a probe a minute is 600 ticks. */
#define MAX_BACK        5000

static BDRVQuorumState *node(void)
{
    return blk_bs(sim.node.blk)->opaque;
}

static int64_t timeout_ns(void)
{
    return (int64_t)(sim.s->child_timeout_ms > 0 ?
                     sim.s->child_timeout_ms : 800) * SCALE_MS;
}

/* --- operations --- */

static bool is_runnable(const Op *op)
{
    return op->abandoned || !(op->hangs || op->child->hangs);
}

int sim_count_runnable(void)
{
    int count = 0;

    for (int i = 0; i < sim.pending.num; i++) {
        count += is_runnable(sim.pending.op[i]);
    }
    return count;
}

int sim_nth_runnable(int nth)
{
    int i = 0;

    while (!is_runnable(sim.pending.op[i]) || nth--) {
        i++;
    }
    return i;
}

bool sim_op_hangs(Op *op)
{
    Child *c = op->child;
    const Plan *plan = &sim.s->plan[c->index];

    if (!plan->bad || op->abandoned || sim.time.relents > 5) {
        return false;
    }
    if (sim_chance(plan->hang)) {
        sim.time.idle = 0;
        c->hangs = true;
        sim_trace("    child %d hangs", c->index);
    } else if (sim_chance(plan->hang_one)) {
        sim.time.idle = 0;
        op->hangs = true;
        sim_trace("    child %d: op %d hangs", c->index, op->id);
    }
    return !is_runnable(op);
}

void sim_op_ended(const Op *op)
{
    Child *c = op->child;

    if (op->ret < 0 && op->ret != -ENOTSUP) {
        /* A flush that fails is an answer, too. */
        if (!op->abandoned && op->type != OP_FLUSH) {
            c->good_probes = 0;
        }
        return;
    }
    c->answered_at = sim.now;
    c->good_probes++;
    for (int i = 0; i < sim.time.num_late; i++) {
        Late *late = &sim.time.late[i];

        if (late->child == c && !late->answered_ns) {
            late->answered_ns = sim.time.now_ns;
        }
    }
}

static void thaw(Child *c)
{
    sim.time.idle = 0;
    c->hangs = false;
    for (int i = 0; i < sim.pending.num; i++) {
        if (sim.pending.op[i]->child == c) {
            sim.pending.op[i]->hangs = false;
        }
    }
}

static bool any_op_hangs(const Child *c)
{
    for (int i = 0; i < sim.pending.num; i++) {
        if (sim.pending.op[i]->child == c && !is_runnable(sim.pending.op[i])) {
            return true;
        }
    }
    return c->hangs;
}

/* --- writes that may still come --- */

uint64_t sim_late_cells(const Child *c)
{
    uint64_t cells = 0;

    for (int i = 0; i < sim.time.num_late; i++) {
        cells |= sim.time.late[i].child == c ? sim.time.late[i].mask : 0;
    }
    return cells;
}

static void cut(Child *c)
{
    c->was_cut = true;
    /* What it has done meanwhile may be done again, and is not counted. */
    for (int i = 0; i < sim.guest.next_req; i++) {
        const Req *r = &sim.s->reqs[i];

        c->ever_failed |= r->end == NEVER ? r->mask : 0;
    }
    if (c->bs) {
        bdrv_inc_late_generation(c->bs);
    }
}

void sim_op_late(Op *op)
{
    Late *late = &sim.time.late[sim.time.num_late];
    uint64_t rest = op->mask & ~op->applied;

    if (!rest || sim.time.num_late == MAX_LATE) {
        return;
    }
    *late = (Late) {
        .child = op->child,
        .id = op->id,
        .mask = rest,
    };
    memcpy(late->val, op->val, sizeof(late->val));
    /* The driver can't know what of it has been stored. */
    op->child->ever_late |= op->mask;
    cut(op->child);
    sim.time.num_late++;
}

static void store_late(const Late *late, uint64_t cells)
{
    Child *c = late->child;
    g_autofree char *values = sim_values_text(late->val, cells);

    sim_trace("    child %d: op %d comes late%s", c->index, late->id, values);
    for (uint64_t m = cells; m; m &= m - 1) {
        int i = ctz64(m);

        sim_child_grow(c, i + 1);
        c->bad_cells &= ~BIT_ULL(i);
        c->lost &= ~BIT_ULL(i);
        sim_child_store(c, i, late->val[i]);
    }
}

static void remove_late(int index)
{
    memmove(&sim.time.late[index], &sim.time.late[index + 1],
            (sim.time.num_late - index - 1) * sizeof(Late));
    sim.time.num_late--;
}

/* Something becomes of the late write at @index; if @ends, it is the last. */
static void late_step(int index, bool ends)
{
    Late *late = &sim.time.late[index];
    uint64_t cells;

    sim_use_dice(&sim.s->reqs[MAX(0, sim.guest.next_req - 1)],
                 late->child->index);
    cells = sim_choose_subset(late->mask);
    if (cells) {
        store_late(late, cells);
    }
    if (ends || !sim_choose(2)) {
        sim_trace("    child %d: op %d is over", late->child->index, late->id);
        remove_late(index);
    } else {
        late->mask &= ~cells;
        if (!late->mask) {
            remove_late(index);
        }
    }
}

/* --- time --- */

void sim_set_time(int64_t ns)
{
    sim.time.now_ns = ns;
    quorum_debug.now_ns = ns;
}

static void coroutine_fn co_sleep_ns(int64_t ns)
{
    Sleeper sleeper = {
        .co = qemu_coroutine_self(),
        .due_ns = sim.time.now_ns + ns,
    };

    g_assert(sim.time.num_sleepers < MAX_SLEEPERS);
    sim.time.sleepers[sim.time.num_sleepers++] = &sleeper;
    qemu_coroutine_yield();
}

void sim_time_reset(void)
{
    memset(&sim.time, 0, sizeof(sim.time));
    sim_set_time(START_NS);
    quorum_debug.co_sleep_ns = co_sleep_ns;
}

void sim_time_tick(void)
{
    sim_set_time(sim.time.now_ns + 1);
}

static bool timer_is_armed(void)
{
    return sim.node.blk && timer_pending(node()->late_timer);
}

/* When the driver has asked to be woken next */
static int64_t next_due(void)
{
    int64_t due = timer_is_armed() ?
                  timer_expire_time_ns(node()->late_timer) : INT64_MAX;

    for (int i = 0; i < sim.time.num_sleepers; i++) {
        due = MIN(due, sim.time.sleepers[i]->due_ns);
    }
    return due == INT64_MAX ? sim.time.now_ns + timeout_ns() / 8 : due;
}

static int64_t choose_time(void)
{
    int64_t now = sim.time.now_ns, to;

    switch (sim_choose_next(12)) {
    case 8:
        to = now + timeout_ns() / 2;
        break;
    case 9:
        to = now + timeout_ns();
        break;
    case 10:
        to = now + 3LL * NANOSECONDS_PER_SECOND;
        break;
    case 11:
        to = now + 11LL * NANOSECONDS_PER_SECOND;
        break;
    default:
        to = next_due();
        break;
    }
    for (int i = 0; i < sim.pending.num; i++) {
        Op *op = sim.pending.op[i];

        if (sim.time.calm || !sim.s->plan[op->child->index].bad) {
            to = MIN(to, op->start_ns + timeout_ns() / 8);
        }
    }
    return MAX(to, now);
}

static void fire_timer(void)
{
    QEMUTimer *timer = sim.node.blk ? node()->late_timer : NULL;

    if (timer_is_armed() &&
        timer_expire_time_ns(timer) <= sim.time.now_ns) {
        timer_del(timer);
        timer->cb(timer->opaque);
    }
}

static void wake_sleepers(void)
{
    for (int i = 0; i < sim.time.num_sleepers; i++) {
        Sleeper *sleeper = sim.time.sleepers[i];

        if (sleeper->due_ns <= sim.time.now_ns) {
            sim.time.sleepers[i--] =
                sim.time.sleepers[--sim.time.num_sleepers];
            aio_co_wake(sleeper->co);
        }
    }
}

/* When the oldest operation of each child has begun that is late, or 0 */
static void note_who_is_late(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        sim.child[n].late_start = 0;
        /* What is not aligned, and resizes, may wait for others in the core. */
        sim.child[n].late_unsure = sim.s->cell_bytes < sim.s->align ||
                                   sim_has_lengths(sim.s->kind);
    }
    for (int i = 0; i < sim.pending.num; i++) {
        const Op *op = sim.pending.op[i];
        Child *c = op->child;
        int64_t start_ns = op->start_ns;
        int start = op->start;

        /* It may be one of some that the child does for a request. */
        for (int j = 0; j < sim.guest.next_req; j++) {
            const Req *r = &sim.s->reqs[j];

            if (r->end == NEVER && r->start < start &&
                (r->mask & op->mask || !op->mask)) {
                start = r->start;
                start_ns = r->start_ns;
            }
        }
        if (sim.time.now_ns - start_ns >= timeout_ns()) {
            c->late_start = MIN(c->late_start ?: INT_MAX, start);
            c->late_unsure |= op->type == OP_FLUSH;
        }
    }
}

static void pass_time(void)
{
    bool timer_first = !sim_choose_next(2);
    int64_t to;

    /* What the driver does by itself takes no time that counts. */
    sim_poll_until_idle();
    to = choose_time();
    for (int i = 0; i < sim.time.num_late; i++) {
        Late *late = &sim.time.late[i];

        if (!(sim.s->knows_late & (1 << late->child->index)) &&
            late->answered_ns && to - late->answered_ns >= QUARANTINE_NS) {
            late_step(i--, true);
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        if (!sim.time.calm && any_op_hangs(c)) {
            sim_use_dice(&sim.s->reqs[MAX(0, sim.guest.next_req - 1)], n);
            if (sim_chance(sim.s->rates.thaw)) {
                sim_trace("    child %d thaws", n);
                thaw(c);
            }
        }
    }
    sim_trace("    %" PRId64 " ms pass", (to - sim.time.now_ns) / SCALE_MS);
    sim_set_time(to);
    note_who_is_late();
    if (timer_first) {
        fire_timer();
    }
    wake_sleepers();
    fire_timer();
}

int sim_time_choices(void)
{
    return sim_has_hangs(sim.s) ? 1 + sim.time.num_late : 0;
}

void sim_time_step(int what)
{
    if (what == 0) {
        pass_time();
    } else {
        late_step(what - 1, false);
    }
}

/* Whether all that waits should end by itself: see L4 in block/quorum/late.h */
static bool is_bounded(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        if (any_op_hangs(&sim.child[n]) && !(sim.s->can_abandon & (1 << n))) {
            return false;
        }
    }
    return sim.s->child_timeout_ms > 0 && sim_well_enough();
}

static void relent(void)
{
    if (is_bounded()) {
        sim_violation(CHECK_LATENCY, "a child that does not answer is waited "
                      "for, although others do");
    }
    sim_trace("    all children thaw");
    for (int n = 0; n < sim.s->num_children; n++) {
        thaw(&sim.child[n]);
    }
    sim.time.relents++;
    sim.time.idle = 0;
}

bool sim_time_forced(void)
{
    if (!sim_has_hangs(sim.s) || sim.time.relents > MAX_RELENTS ||
        !(sim.pending.num || sim.guest.in_flight || sim.time.num_sleepers)) {
        return false;
    }
    if (++sim.time.idle > MAX_IDLE) {
        relent();
    }
    sim_time_step(sim_choose_next(sim_time_choices()));
    return true;
}

/* --- what the driver says of its children --- */

bool sim_can_abandon(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;

    return sim.s->can_abandon & (1 << c->index);
}

/* The driver gives @c up: may it? */
static void check_dropped(Child *c)
{
    int others = 0, left = 0;

    if (!c->late_start && !c->late_unsure) {
        sim_violation(CHECK_ENOUGH, "child %d is given up before it was late",
                      c->index);
        return;
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        const Child *other = &sim.child[n];

        bool answers = other != c && other->bs &&
                       !quorum_sync_is_lagging(node()->sync, n);

        left += answers;
        /* What has lost something is asked once more. */
        others += other != c && other->bs &&
                  (other->answered_at > c->late_start || other->ever_lost);
    }
    if (left < sim.s->threshold) {
        sim_violation(CHECK_ENOUGH, "child %d is given up, and only %d are "
                      "left", c->index, left);
    }
    /*
     * To children without anything to flush, the core sends no flush.  Where a
     * digest is known, one child is enough for a read.
     */
    if (others < (sim_is_checked(sim.s) ? 1 : sim.s->threshold) &&
        !c->late_unsure) {
        sim_violation(CHECK_ENOUGH, "child %d is given up, but only %d others "
                      "have answered since", c->index, others);
    }
}

void sim_abandon(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;

    sim_trace("    child %d is abandoned", c->index);
    if (!c->lags) {
        check_dropped(c);
        c->lags = true;
        c->lags_since = sim.now;
        c->ever_failed = UINT64_MAX;
        c->ever_lost = true;
        sim_child_fault(c);
        sim.time.idle = 0;
    }
    c->abandoned = true;
    cut(c);
    for (int i = 0; i < sim.pending.num; i++) {
        if (sim.pending.op[i]->child == c) {
            sim.pending.op[i]->abandoned = true;
        }
    }
}

void sim_unabandon(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;

    if (c->abandoned) {
        sim_trace("    child %d is tried", c->index);
    }
    c->abandoned = false;
    c->good_probes = 0;
}

BdrvLate sim_late(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;

    if (sim.s->knows_late & (1 << c->index)) {
        return sim_late_cells(c) ? BDRV_LATE_PENDING : BDRV_LATE_ENDED;
    }
    return c->was_cut ? BDRV_LATE_UNKNOWN : BDRV_LATE_ENDED;
}

bool sim_may_be_probe(const Op *op)
{
    return sim_has_hangs(sim.s) && op->type == OP_READ &&
           op->num * sim.s->cell_bytes <= UNIT_BYTES;
}

/*
 * Whether the child of @op may have been asked before it was given up: it is
 * the flush of a FUA write, or had to wait for others in the core, and fails.
 */
static bool may_have_been_asked(const Op *op)
{
    if (op->refused && op->type == OP_RESIZE) {
        return true;            /* perhaps on behalf of no request in flight */
    }
    for (int i = 0; i < sim.guest.next_req; i++) {
        const Req *r = &sim.s->reqs[i];

        if (r->end == NEVER && r->start < op->child->lags_since &&
            (op->refused || (op->type == OP_FLUSH &&
                             r->flags & BDRV_REQ_FUA))) {
            return true;
        }
    }
    return false;
}

void sim_check_asked(Op *op)
{
    Child *c = op->child;
    /* A probe reads, and then flushes. */
    bool may_be_probe = sim_may_be_probe(op) ||
                        (op->type == OP_FLUSH && c->good_probes > 0);

    op->start_ns = sim.time.now_ns;
    if (c->abandoned) {
        op->abandoned = op->refused = true;
    }
    if (c->lags && !may_be_probe && !may_have_been_asked(op)) {
        sim_violation(CHECK_LAGGING, "op %d: child %d has been given up, and "
                      "is asked", op->id, c->index);
    }
}

void sim_check_lagging(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        if (!c->lags || quorum_sync_is_lagging(node()->sync, n)) {
            continue;
        }
        sim_trace("    child %d is back", n);
        if (c->abandoned || c->good_probes < PROBES) {
            sim_violation(CHECK_BACK, "child %d is taken back after %d good "
                          "answers", n, c->good_probes);
        }
        c->lags = false;
    }
}

/* --- drains --- */

static QEMUBH *drain_bh;
static int drain_stuck;

static void drain_step(void *opaque)
{
    if (!sim.time.draining) {
        return;
    }
    if (!sim_step() && ++drain_stuck > 100) {
        sim_violation(CHECK_STUCK, "a drain does not end");
        abort();
    }
    qemu_bh_schedule(drain_bh);
}

void sim_drain_begin(void)
{
    if (!drain_bh) {
        drain_bh = qemu_bh_new(drain_step, NULL);
    }
    sim.time.draining = true;
    sim.time.idle = drain_stuck = 0;
    qemu_bh_schedule(drain_bh);
}

void sim_drain_end(void)
{
    sim.time.draining = false;
    qemu_bh_cancel(drain_bh);
}

/* --- the end --- */

/* Whether there is a unit of @c that can be read */
static bool can_be_read(const Child *c)
{
    for (int u = 0; u < sim_num_units(); u++) {
        if (!(sim_unit_mask(u) & c->bad_cells)) {
            return true;
        }
    }
    return false;
}

/* Whether the driver waits for nothing any more */
static bool all_is_well(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        if (sim.child[n].lags ||
            quorum_sync_late_marks(node()->sync, n)) {
            return false;
        }
    }
    return !sim.pending.num && !sim.time.num_sleepers && !sim.time.num_late;
}

void sim_come_back(void)
{
    sim.time.calm = true;
    for (int n = 0; n < sim.s->num_children; n++) {
        thaw(&sim.child[n]);
    }
    for (int i = 0; i < MAX_BACK && !all_is_well(); i++) {
        int runnable = sim_count_runnable();
        int what = sim_choose_next(runnable + sim.time.num_late + 1);

        sim.now++;
        sim_time_tick();
        if (i % 32 == 31 && sim.time.num_late) {
            late_step(0, true);
        } else if (what < runnable) {
            sim_op_step(sim_nth_runnable(what));
        } else {
            sim_time_step(runnable ? what - runnable :
                          sim_choose_next(sim_time_choices()));
        }
        sim_poll_until_idle();
        sim_check_lagging();
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        if (!can_be_read(&sim.child[n])) {
            return;             /* it is being probed without end */
        }
        if (sim.child[n].lags) {
            sim_violation(CHECK_BACK, "child %d does not come back", n);
        } else if (quorum_sync_late_marks(node()->sync, n)) {
            sim_violation(CHECK_BACK, "child %d may have late writes without "
                          "end", n);
        }
    }
    if (sim.pending.num || sim.time.num_sleepers) {
        sim_violation(CHECK_STUCK, "something is left in flight");
    }
}

void sim_check_back(void)
{
    const Req *r = &sim.s->reqs[sim.guest.next_req - 1];

    for (int n = 0; n < sim.s->num_children; n++) {
        if (quorum_sync_is_excluded(node()->sync, n)) {
            return;
        }
    }
    /* A child that tells of a restart only now has missed a repair. */
    if (r->mask == sim_cells_mask(0, sim.guest.length) && r->ret < 0 &&
        sim_well_enough() && !(sim.s->kind->damage & DAMAGE_ERRORS) &&
        sim.faults.last < r->start) {
        sim_violation(CHECK_BACK, "a scrub of children that are back fails");
    }
}
