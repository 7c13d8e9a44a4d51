/*
 * Simulation of quorum nodes: the guest, and a run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "crypto/random.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "block/quorum/resync.h"
#include "block/quorum/scrub-chunk.h"
#include "quorum-sim.h"

/* --- the guest --- */

/* Set up what of @r is not the schedule's. */
static void req_init(Req *r, int id)
{
    r->id = id;
    r->cell = r->num = 0;
    r->mask = 0;
    r->start = r->end = NEVER;
    r->ret = 0;
    memset(r->issued, 0, sizeof(r->issued));
    memset(r->ok, 0, sizeof(r->ok));
    memset(r->op_end, 0, sizeof(r->op_end));
    memset(r->over, 0, sizeof(r->over));
    r->failed = r->restarts = 0;
    r->tried_again = r->given_up = false;
    r->sent = r->grown = r->gap = r->unsure = r->unresolved = 0;
    r->flushed = r->seen_durable = r->may_be_lost = r->loss_unreported = false;
    r->buf = NULL;
}

static int coroutine_fn guest_status(Req *r)
{
    int size = sim.s->cell_bytes;
    int64_t pnum;
    int ret;

    ret = blk_co_block_status_above(sim.node.blk, NULL, (int64_t)r->cell * size,
                                    (int64_t)r->num * size, &pnum, NULL, NULL);
    if (ret < 0 || !(ret & BDRV_BLOCK_ZERO) || sim.node.dead) {
        return MIN(ret, 0);
    }
    sim_check_zeroes(r, pnum / size);
    return 0;
}

/* What the driver can read at once: see buffer_pool_max_size() */
static int64_t piece_bytes(void)
{
    return pow2floor(sim.s->limits.pool_bytes / (sim.s->num_children + 1));
}

/* One chunk, of whole units, as the job does it */
static int coroutine_fn guest_scrub(Req *r)
{
    BlockDriverState *bs = blk_bs(sim.node.blk);
    BDRVQuorumState *s = bs->opaque;
    QuorumScrub scrub = {
        .repair = r->type == REQ_SCRUB,
        .prefer = r->prefers ? sim.child[r->child].bs : NULL,
    };
    int64_t size = sim.s->cell_bytes;
    int64_t start = r->cell * size, bytes = r->num * size;
    int64_t most = piece_bytes();
    int ret = 0;

    bdrv_inc_in_flight(bs);
    WITH_GRAPH_RDLOCK_GUARD() {
        if (r->stale) {
            quorum_sync_next_stale(s->sync, start, start + bytes, &start,
                                   &bytes);
        }
        bytes = MIN(bytes, QEMU_ALIGN_DOWN(start + most, most) - start);
        r->mask = bytes > 0 ? sim_cells_mask(start / size, bytes / size) : 0;
        sim_trace("  cells %016" PRIx64, r->mask);
        if (bytes > 0) {
            ret = quorum_co_scrub(bs, start, bytes, &scrub);
        }
    }
    bdrv_dec_in_flight(bs);
    r->ret = ret;
    if (sim.node.dead) {
        return ret;
    }
    sim_check_scrub(r, scrub.in_repaired.mismatched + scrub.left.mismatched +
                       scrub.in_repaired.missing + scrub.left.missing,
                    scrub.left.unrepairable);
    return ret;
}

/* A step of a resync, of which there is one at a time; it may go anywhere. */
static int coroutine_fn guest_resync(Req *r)
{
    BlockDriverState *bs = blk_bs(sim.node.blk);

    for (int i = 0; i < sim.guest.next_req; i++) {
        const Req *other = &sim.s->reqs[i];

        if (other != r && other->resync && other->end == NEVER) {
            return 0;
        }
    }
    r->mask = sim_cells_mask(0, sim.guest.length);
    bdrv_inc_in_flight(bs);
    quorum_resync_step(bs, true);
    bdrv_dec_in_flight(bs);
    return 0;
}

static void trace_start(const Req *r)
{
    if (r->type == REQ_RESIZE) {
        sim_trace("resize %d: to %d cells%s", r->id, r->length,
                  r->exact ? " exact" : "");
    } else if (r->type == REQ_FLUSH) {
        sim_trace("flush %d", r->id);
    } else {
        sim_trace("%s %d: cells %d-%d%s%s%s%s", sim_req_name[r->type], r->id,
                  r->cell, r->cell + r->num - 1,
                  r->prefers ? " prefers a child" : r->resync ? " resync" : "",
                  r->flags & BDRV_REQ_FUA ? " fua" : "",
                  r->flags & BDRV_REQ_MAY_UNMAP ? " may-unmap" : "",
                  r->flags & BDRV_REQ_NO_FALLBACK ? " no-fallback" : "");
    }
}

static void coroutine_fn guest_entry(void *opaque)
{
    Req *r = opaque;
    int64_t size = sim.s->cell_bytes;
    int64_t offset = r->cell * size, bytes = r->num * size;
    QEMUIOVector qiov;
    int ret;

    r->start = ++sim.now;
    r->start_ns = sim.time.now_ns;
    r->again_before = sim_writes_tried_again();
    r->unsure_before = sim_writes_unsure();
    r->unresolved = sim_unresolved(r->mask);
    trace_start(r);
    qemu_iovec_init(&qiov, 2);
    if (r->type == REQ_READ || r->type == REQ_WRITE) {
        r->buf = g_malloc(bytes);
        memset(r->buf, r->type == REQ_READ ? TAG_TORN : TAG_REQ + r->id,
               bytes);
        if (r->split && r->split < r->num) {
            qemu_iovec_add(&qiov, r->buf, r->split * size);
        }
        qemu_iovec_add(&qiov, r->buf + qiov.size, bytes - qiov.size);
    }
    switch (r->type) {
    case REQ_READ:
        ret = blk_co_preadv(sim.node.blk, offset, bytes, &qiov, 0);
        break;
    case REQ_WRITE:
        ret = blk_co_pwritev(sim.node.blk, offset, bytes, &qiov, r->flags);
        break;
    case REQ_ZERO:
        ret = blk_co_pwrite_zeroes(sim.node.blk, offset, bytes, r->flags);
        break;
    case REQ_DISCARD:
        ret = blk_co_pdiscard(sim.node.blk, offset, bytes, 0);
        break;
    case REQ_FLUSH:
        ret = blk_co_flush(sim.node.blk);
        break;
    case REQ_STATUS:
        ret = guest_status(r);
        break;
    case REQ_CHECK:
    case REQ_SCRUB:
        ret = r->resync ? guest_resync(r) : guest_scrub(r);
        break;
    case REQ_RESIZE:
        ret = sim_resize(r);
        break;
    default:
        g_assert_not_reached();
    }
    qemu_iovec_destroy(&qiov);

    /* What QEMU says when it is dead no one hears. */
    r->ret = sim.node.dead ? -EIO : ret;
    r->tried_again = sim_is_tried_again(r);
    r->given_up = sim_writes_unsure() > r->unsure_before;
    r->end = ++sim.now;
    sim.time.idle = 0;
    sim.guest.in_flight--;
    if (!sim.node.dead) {
        sim_guest_ended(r);
    }
    g_free(r->buf);
    r->buf = NULL;
}

static int count_children(void)
{
    int count = 0;

    for (int i = 0; i < sim.s->num_children; i++) {
        count += !!sim.child[i].bs;
    }
    return count;
}

static BdrvChild * GRAPH_RDLOCK find_child(BlockDriverState *bs,
                                           const char *name)
{
    BdrvChild *child = QLIST_FIRST(&bs->children);

    while (!g_str_equal(child->name, name)) {
        child = QLIST_NEXT(child, next);
    }
    return child;
}

/* As x-blockdev-change does it */
static void change_child(Req *r)
{
    BlockDriverState *bs = blk_bs(sim.node.blk);
    Child *c = &sim.child[r->child];
    g_autofree char *name = g_strdup_printf("children.%d", c->index);
    BlockDriverState *old = c->bs;
    BlockDriverState *new = NULL;
    int old_length = c->length;
    Error *err = NULL;

    r->start = r->end = ++sim.now;
    sim.node.running = false;
    if (!old || !r->leaves) {
        c->length = sim.guest.length;
        new = sim_child_open(c);
    }
    bdrv_drained_begin(bs);
    bdrv_graph_wrlock();
    if (new) {
        bdrv_add_child(bs, name, new, false, &err);
    } else {
        bdrv_del_child(bs, find_child(bs, name), &err);
    }
    bdrv_graph_wrunlock();
    bdrv_drained_end(bs);
    sim_trace("child %d %s%s%s", c->index,
              !new ? "leaves" : old ? "is replaced" : "comes",
              err ? ": " : "", err ? error_get_pretty(err) : "");
    if (!err) {
        if (old) {
            c->length = old_length;
            sim_note_change(c);
            c->length = sim.guest.length;
        }
        c->bs = new;
        new = old;
        sim_use_dice(r, c->index);
        sim_child_changed(c);
        if (count_children() < sim.s->threshold) {
            sim_violation(CHECK_CHANGE, "%d children are left",
                          count_children());
        }
    } else {
        c->length = old_length;
    }
    error_free(err);
    bdrv_unref(new);
    sim.node.running = true;
}

/* The requests in flight have to end, and no new one starts. */
static void drain(Req *r)
{
    BlockDriverState *bs = blk_bs(sim.node.blk);

    r->start = ++sim.now;
    sim_trace("drain %d", r->id);
    sim_drain_begin();
    bdrv_drained_begin(bs);
    sim_drain_end();
    r->end = ++sim.now;
    sim_trace("drain %d: ok", r->id);
    if (sim.guest.in_flight) {
        sim_violation(CHECK_STUCK, "a drain has not waited for requests");
    }
    bdrv_drained_end(bs);
}

static void guest_start(Req *r)
{
    sim.guest.next_req++;
    sim.time.idle = 0;
    if (r->type == REQ_DRAIN) {
        drain(r);
        return;
    }
    if (r->type == REQ_CHANGE) {
        change_child(r);
        return;
    }
    if (r->type == REQ_RESTART) {
        sim_restart(r);
        return;
    }
    sim.guest.in_flight++;
    qemu_coroutine_enter(qemu_coroutine_create(guest_entry, r));
}

void sim_poll_until_idle(void)
{
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* nothing */
    }
}

/* --- a run --- */

QuorumLimits sim_limits;

int sim_node_cells(void)
{
    BDRVQuorumState *s;

    if (sim.node.dead || !sim.node.running) {
        return sim.guest.length;
    }
    s = blk_bs(sim.node.blk)->opaque;
    return DIV_ROUND_UP(quorum_sync_length(s->sync), sim.s->cell_bytes);
}

bool sim_node_flushes_by_itself(void)
{
    BDRVQuorumState *s = blk_bs(sim.node.blk)->opaque;

    return qatomic_read(&s->flushes_by_itself);
}

bool sim_node_open(void)
{
    Schedule *s = sim.s;
    QDict *options = qdict_new();
    Error *err = NULL;

    for (int i = 0; i < s->num_children; i++) {
        g_autofree char *key = g_strdup_printf("children.%d", i);
        Child *c = &sim.child[i];

        c->bs = sim_child_open(c);
        qdict_put_str(options, key, c->bs->node_name);
    }
    qdict_put_str(options, "driver", "quorum");
    qdict_put_int(options, "vote-threshold", s->threshold);
    qdict_put_str(options, "read-pattern", s->read_pattern);
    qdict_put_bool(options, "rewrite-corrupted", s->rewrite_corrupted);
    qdict_put_bool(options, "early-reads", s->kind->early);
    if (sim_has_state(s)) {
        sim_state_open(options);
    }
    sim.node.blk = blk_new_open(NULL, NULL, options,
                                BDRV_O_RDWR | BDRV_O_UNMAP |
                                (sim_has_lengths(s->kind) ?
                                 BDRV_O_RESIZE : 0), &err);
    if (!sim.node.blk) {
        sim_violation(CHECK_RESTART, "the node can't be opened: %s",
                      error_get_pretty(err));
        error_free(err);
        sim_node_close();
        return false;
    }
    blk_set_allow_write_beyond_eof(sim.node.blk, true);
    if (s->child_timeout_ms >= 0) {
        BDRVQuorumState *state = blk_bs(sim.node.blk)->opaque;

        /* As an option, it warns of each child that can't be abandoned. */
        state->opts.child_timeout_ms = s->child_timeout_ms;
    }
    if (sim_has_state(s)) {
        BDRVQuorumState *state = blk_bs(sim.node.blk)->opaque;

        state->opts.dirty_limit = s->dirty_limit;
    }
    sim.node.running = true;
    return true;
}

void sim_node_close(void)
{
    if (sim.node.blk) {
        sim.node.running = false;
        sim_drain_begin();
        blk_drain(sim.node.blk);
        sim_drain_end();
        blk_unref(sim.node.blk);
        sim.node.blk = NULL;
    }
    sim_state_close();
    for (int i = 0; i < sim.s->num_children; i++) {
        bdrv_unref(sim.child[i].bs);
        sim.child[i].bs = NULL;
    }
}

static bool can_start(Req *next)
{
    if (!next || sim.time.draining || sim.guest.in_flight >= sim.s->depth ||
        ((sim.guest.in_flight || sim.pending.num) && next->alone)) {
        return false;
    }
    switch (next->type) {
    case REQ_CHANGE:
        return !sim.pending.num;
    case REQ_RESIZE:
        return sim_resize_may_start(next);
    case REQ_FLUSH:
    case REQ_DRAIN:
    case REQ_RESTART:
        return true;
    default:
        return sim_find_place(next);
    }
}

/*
 * Let the driver go on, as far as it can; or, where time passes, sometimes not
 * that far: then what it does by bottom halves has other things in between.
 */
static void poll_after_step(void)
{
    if (sim_has_hangs(sim.s) && sim_choose_next(4) == 3) {
        aio_poll(qemu_get_aio_context(), false);
    } else {
        sim_poll_until_idle();
    }
    if (sim_has_hangs(sim.s)) {
        sim_check_lagging();
    }
}

bool sim_step(void)
{
    Schedule *s = sim.s;
    Req *next = NULL;
    bool startable;
    int ops, runnable, what, late;

    if (!sim.node.blk) {
        return false;           /* it could not be opened */
    }
    if (sim.script.next && sim.guest.next_req == s->num_reqs &&
        sim_next_request(s)) {
        req_init(&s->reqs[sim.guest.next_req], sim.guest.next_req);
    }
    if (sim.guest.next_req < s->num_reqs) {
        next = &s->reqs[sim.guest.next_req];
    }
    startable = can_start(next);
    ops = sim_count_runnable();
    runnable = ops + sim_state_pending();
    sim.now++;
    sim_time_tick();
    if (!runnable && !startable) {
        sim_poll_until_idle();
        if (!sim_count_runnable() && !sim_state_pending() &&
            !sim_time_forced()) {
            return false;
        }
        poll_after_step();
        return true;
    }
    sim_rot();
    sim_lose();
    late = runnable + 3 * startable + sim_time_choices();
    what = sim_choose_next(late + sim_state_choices());
    if (what < ops) {
        sim_op_step(sim_nth_runnable(what));
    } else if (what < runnable) {
        sim_state_step(what - ops);
    } else if (what < runnable + 3 * startable) {
        guest_start(next);
    } else if (what < late) {
        sim_time_step(what - runnable - 3 * startable);
    } else {
        sim_state_tick();
    }
    poll_after_step();
    if (!sim.guest.in_flight && !sim.pending.num && sim.node.blk) {
        sim_check_lengths();
        sim_check_known();
    }
    return true;
}

/* Read, scrub or flush the whole disk at the end: the @nth time, from 0 on. */
static void read_all(ReqType type, int nth)
{
    Schedule *s = sim.s;
    Req *r = &s->reqs[sim.guest.next_req];

    *r = (Req) {
        .type = type,
        .place.num = sim.guest.length,
        .key = MAX_REQS + nth,
    };
    req_init(r, sim.guest.next_req);
    if (!sim.node.blk) {
        return;
    }
    if (type != REQ_FLUSH) {
        sim_find_place(r);
    }
    guest_start(r);
    sim_poll_until_idle();
    while (sim_step()) {
        /* until it has come back */
    }
}

void sim_set_granules(int cells)
{
    int *num = &sim.node.cells_per_granule;

    while (cells / *num >= sim.s->limits.stale_bits) {
        *num *= 2;
    }
}

/* All of sim but the script is as before the first step of @s. */
static void reset(Schedule *s, bool record, bool with_trace)
{
    sim.s = s;
    sim.now = 1;
    quorum_limits = s->limits;
    quorum_debug.no_fast_path = s->no_fast_path;
    sim.guest.length = s->cells;
    sim.node.cells_per_unit = MAX(1, UNIT_BYTES / s->cell_bytes);
    sim.node.cells_per_granule = sim.node.cells_per_unit;
    sim_set_granules(s->cells);
    sim.pending.num = sim.pending.total = 0;
    sim.guest.next_req = sim.guest.in_flight = 0;
    memset(&sim.dice, 0, sizeof(sim.dice));
    sim_time_reset();
    sim_state_reset();
    sim.dice.rng = s->seed ^ 0x5deece66d;
    sim.dice.recording = record;
    sim.seen.num_answers = sim.seen.num_changes = 0;
    sim.seen.cut_in_vain = sim.seen.leftover = 0;
    memset(sim.seen.mended_at, 0, sizeof(sim.seen.mended_at));
    memset(sim.seen.grown_at, 0, sizeof(sim.seen.grown_at));
    sim.seen.decided = 0;
    memset(sim.seen.written_at, 0, sizeof(sim.seen.written_at));
    memset(&sim.faults, 0, sizeof(sim.faults));
    g_free(sim.verdict.text);
    if (sim.verdict.trace) {
        g_string_free(sim.verdict.trace, true);
    }
    memset(&sim.verdict, 0, sizeof(sim.verdict));
    sim.verdict.trace = with_trace ? g_string_new(NULL) : NULL;
    for (int i = 0; i < MAX_CELLS; i++) {
        for (int j = 0; j < NUM_VALUES; j++) {
            sim.seen.first_end[i][j] = NEVER;
            sim.seen.last_start[i][j] = 0;
        }
    }
    for (int i = 0; i < s->num_reqs; i++) {
        req_init(&s->reqs[i], i);
    }
    for (int i = 0; i < s->num_children; i++) {
        sim_child_reset(&sim.child[i], i);
        sim.faults.count += !!sim.child[i].bad_cells;
    }
}

void sim_run(Schedule *s, bool record, bool with_trace)
{
    reset(s, record, with_trace);
    sim_node_open();
    while (sim_step()) {
        /* until all requests have come back */
    }
    if (!sim.node.blk) {
        return;
    }
    if (!sim.guest.in_flight) {
        if (!sim.restart.crashed) {
            sim_check_order();
        }
        read_all(REQ_READ, 0);
    }
    if (sim.guest.in_flight) {
        sim_violation(CHECK_STUCK, "%d requests never come back",
                      sim.guest.in_flight);
        /* There is no way to close the node. */
        sim.node.blk = NULL;
        return;
    }
    if (!sim.node.blk) {
        return;
    }
    sim_check_counters();
    sim_check_linear();
    if (s->power_cut) {
        sim_power_cut(&s->reqs[sim.guest.next_req - 1]);
        sim.faults.power_cut = true;
        read_all(REQ_READ, 1);
        if (sim_has_hangs(s)) {
            sim_come_back();
        }
    } else if (sim_has_hangs(s)) {
        sim_come_back();
        if (sim_has_losses(s)) {
            read_all(REQ_FLUSH, 2);
            read_all(REQ_FLUSH, 3);
        }
        read_all(REQ_SCRUB, 1);
        sim_check_back();
    } else if (sim_has_state(s)) {
        sim.time.calm = true;
        read_all(REQ_SCRUB, 1);
        read_all(REQ_READ, 2);
    } else if (sim_may_restart()) {
        sim_node_close();
        sim_node_open();
        sim_note_restart();
        read_all(s->seed & 4 ? REQ_READ : REQ_SCRUB, 1);
    } else if (sim_has_losses(s)) {
        /* A flush may fail once more, for what has gone wrong before. */
        sim.time.calm = true;
        read_all(REQ_FLUSH, 1);
        read_all(REQ_FLUSH, 2);
        read_all(REQ_SCRUB, 3);
    }
    sim_node_close();
}

void sim_init(void)
{
    bdrv_init();
    qcrypto_random_init(&error_abort);
    qemu_init_main_loop(&error_abort);
    quorum_debug.on = true;
    /* They are to be told from each other. */
    quorum_debug.odd_zeroes = true;
    sim_limits = quorum_limits;
    /* What is due by the clock could not be replayed. */
    sim_limits.flush_after_ns = INT64_MAX;
    bdrv_register(&sim_driver);
    bdrv_register(&sim_fua_driver);
    sim_state_init();
    sim.node.scratch = g_malloc(MAX_CELLS * UNIT_BYTES);
}
