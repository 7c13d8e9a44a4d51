/*
 * Simulation of quorum nodes: the children, and what befalls them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "quorum-sim.h"

static const char *const op_name[] = { "read", "write", "zero", "flush" };

/* --- dice --- */

uint64_t rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint8_t script_next(void)
{
    if (!sim.script_left) {
        return 0;
    }
    sim.script_left--;
    return *sim.script++;
}

int choose_next(int bound)
{
    Schedule *s = sim.s;

    if (bound <= 1) {
        return 0;
    }
    if (sim.script) {
        return script_next() % bound;
    }
    if (sim.recording && sim.choice < MAX_CHOICES) {
        s->choices[sim.choice] = rng_next(&sim.rng) >> 32;
        s->num_choices = sim.choice + 1;
    }
    if (sim.choice >= s->num_choices) {
        return 0;
    }
    return s->choices[sim.choice++] % bound;
}

void use_dice(Req *r, int child)
{
    sim.dice_req = r;
    sim.dice_child = child;
    if (sim.script) {
        sim.fate = script_next();
        sim.fate_dice = 0;
    }
}

static uint32_t roll(void)
{
    Req *r = sim.dice_req;
    int child = sim.dice_child;
    uint64_t state;

    if (sim.script ? !sim.fate : r->calm & (1 << child)) {
        return 0;
    }
    if (sim.script) {
        state = sim.fate + ((uint64_t)sim.fate_dice++ << 32);
        return rng_next(&state) >> 32;
    }
    state = sim.s->seed + r->key * 0x1000003ULL + child * 0x10001ULL +
            ((uint64_t)sim.dice[r->key][child]++ << 32);
    return rng_next(&state) >> 32;
}

int choose(int bound)
{
    return bound <= 1 ? 0 : roll() % bound;
}

bool chance(int permille)
{
    return permille > 0 && roll() % 1000 >= 1000 - permille;
}

/* Any subset of @mask; nothing by default. */
static uint64_t choose_subset(uint64_t mask)
{
    uint64_t subset = 0;

    switch (choose(4)) {
    case 1:
        return mask;
    case 2:
        /* up to a place */
        for (int n = choose(ctpop64(mask) + 1); n > 0; n--) {
            subset |= BIT_ULL(ctz64(mask & ~subset));
        }
        return subset;
    case 3:
        subset = roll();
        return mask & (subset | subset << 32);
    default:
        return 0;
    }
}

/* --- children: what becomes of an operation --- */

static void cells_changed(Child *c, int cell, uint8_t value)
{
    if (c->image[cell] != value) {
        c->older[cell] = c->image[cell];
    }
    c->image[cell] = value;
    c->changed[cell] = sim.now;
}

/* Store the cells of @mask that are not stored yet. */
static void op_apply(Op *op, uint64_t mask)
{
    Child *c = op->child;

    mask &= op->mask & ~op->applied;
    op->applied |= mask;
    while (mask) {
        int i = ctz64(mask);

        mask &= mask - 1;
        if (op->repair && !is_liar(c, i) && op->val[i] != c->image[i] &&
            !permitted(i, op->val[i], sim.now, sim.now, sim.power_cut)) {
            violation(CHECK_REPAIR,
                      "a repair puts %s over %s in cell %d of child %d",
                      value_text(op->val[i]), value_text(c->image[i]), i,
                      c->index);
        }
        c->bad_cells &= ~BIT_ULL(i);
        if (!(op->doomed & BIT_ULL(i))) {
            cells_changed(c, i, op->val[i]);
            c->lost &= ~BIT_ULL(i);
        }
    }
}

static void maybe_stale(Child *c, uint64_t mask)
{
    for (int u = 0; u < num_units(); u++) {
        if (mask & unit_mask(u)) {
            c->maybe_stale |= unit_mask(u);
        }
    }
}

static void op_capture(Op *op)
{
    if (!op->captured) {
        memcpy(op->val, op->child->image, sizeof(op->val));
        op->captured = true;
    }
}

static void fault(Child *c)
{
    c->failed = true;
    sim.faults++;
}

static uint8_t choose_lie(Child *c, int cell)
{
    switch (choose(3)) {
    case 0:
        return c->older[cell];
    case 1:
        return TAG_LIE + choose(2);
    default:
        return TAG_INIT;
    }
}

/* A flush of @c has failed: forget some of what was not flushed. */
static void child_drop(Child *c)
{
    uint64_t dirty = 0, lost;

    for (int i = 0; i < sim.s->cells; i++) {
        if (c->changed[i] > c->safe_at[i]) {
            dirty |= BIT_ULL(i);
        }
    }
    lost = choose_subset(dirty);
    for (int i = 0; i < sim.s->cells; i++) {
        if (lost & BIT_ULL(i)) {
            c->image[i] = c->durable[i];
            c->changed[i] = c->safe_at[i];
            /* If a flush has lied, nobody can know. */
            c->lost |= is_liar(c, i) ? 0 : BIT_ULL(i);
        }
    }
    if (lost) {
        trace("    child %d loses cells %016" PRIx64, c->index, lost);
    }
    for (int i = 0; i < sim.num_pending; i++) {
        Op *op = sim.pending[i];

        if (op->child == c && !(op->flags & BDRV_REQ_FUA) &&
            (op->type == OP_WRITE || op->type == OP_ZERO)) {
            op->doomed |= choose_subset(op->mask & ~op->applied);
            lost |= op->doomed;
        }
    }
    if (lost) {
        sim.dropped |= 1 << c->index;
        sim.losing = true;
    }
    if (ctpop32(sim.dropped | any_liars()) >= sim.s->threshold) {
        /* Until the guest hears of it, they may outvote the others. */
        for (int i = 0; i < sim.next_req; i++) {
            sim.s->reqs[i].doubtful |= !sim.s->reqs[i].flushed;
        }
    }
}

/* Whether @op flushes, or may be a write and a flush. */
static bool op_syncs(const Op *op)
{
    return op->type == OP_FLUSH || op->flags & BDRV_REQ_FUA;
}

static bool op_fails(Op *op, Plan *plan)
{
    Child *c = op->child;

    if (!plan->bad) {
        return false;
    }
    if (plan->dead_after && c->ops > plan->dead_after) {
        c->dead = true;
    }
    if (c->dead) {
        return true;
    }
    switch (op->type) {
    case OP_READ:
        return op->mask & c->bad_cells || chance(plan->read_error);
    case OP_WRITE:
    case OP_ZERO:
        return chance(plan->write_error);
    default:
        return chance(plan->flush_error);
    }
}

static void finish_read(Op *op, Plan *plan)
{
    Child *c = op->child;
    Answer *a;

    op_capture(op);
    for (uint64_t m = op->mask; op->ret == 0 && plan->bad && m; m &= m - 1) {
        int i = ctz64(m);

        if (!is_liar(c, i) || !chance(plan->lie)) {
            continue;
        }
        fault(c);
        if (choose(4) == 3) {
            op->flips |= BIT_ULL(i);
            op->val[i] = TAG_TORN;
        } else {
            op->val[i] = choose_lie(c, i);
        }
    }
    if (sim.num_answers < MAX_ANSWERS) {
        a = &sim.answers[sim.num_answers++];
        a->time = sim.now;
        a->child = c->index;
        a->ret = op->ret;
        a->mask = op->mask;
        memcpy(a->val, op->val, sizeof(a->val));
    }
}

static void finish_write(Op *op, Plan *plan)
{
    Child *c = op->child;
    uint64_t lost = 0;

    if (op->ret < 0) {
        op_apply(op, choose_subset(op->mask));
        return;
    }
    for (uint64_t m = op->mask & ~op->applied; plan->bad && m; m &= m - 1) {
        int i = ctz64(m);

        if (is_liar(c, i) && chance(plan->lose)) {
            fault(c);
            lost |= BIT_ULL(i);
        }
    }
    op_apply(op, op->mask & ~lost);
    for (int i = op->cell; i < op->cell + op->num; i++) {
        if (op->flags & BDRV_REQ_FUA && op->mask & BIT_ULL(i) &&
            !(is_liar(c, i) && chance(plan->skip_flush))) {
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        }
    }
    for (int u = 0; u < num_units(); u++) {
        if ((unit_mask(u) & op->mask) == unit_mask(u)) {
            c->stale_since[u] = 0;
        }
    }
}

static void finish_flush(Op *op, Plan *plan)
{
    Child *c = op->child;

    for (int i = 0; i < sim.s->cells; i++) {
        if (is_liar(c, i) && chance(plan->skip_flush)) {
            fault(c);
            continue;
        }
        /* What was written meanwhile may be caught by it or not. */
        if (c->changed[i] < op->start || chance(500)) {
            c->durable[i] = c->image[i];
            c->safe_at[i] = c->changed[i];
        } else if (c->safe_at[i] < op->start) {
            c->durable[i] = op->snap[i];
            c->safe_at[i] = op->start;
        }
    }
}

/* End @op, in the way that the dice say. */
static void op_finish(Op *op)
{
    Child *c = op->child;
    Plan *plan = &sim.s->plan[c->index];

    c->ops++;
    if (op->type == OP_ZERO && !(sim.s->native_zeroes & (1 << c->index))) {
        op->ret = -ENOTSUP;
    } else if (op->failed || op_fails(op, plan)) {
        fault(c);
        op->ret = op->type == OP_WRITE && choose(2) ? -ENOSPC : -EIO;
    }
    switch (op->type) {
    case OP_READ:
        finish_read(op, plan);
        break;
    case OP_WRITE:
    case OP_ZERO:
        if (op->ret < 0 && op->req && op->req->type != REQ_WRITE) {
            op->req->issued[c->index] &= ~op->cover;    /* try again */
        }
        if (op->ret == -ENOTSUP) {
            break;
        }
        finish_write(op, plan);
        if (op->ret < 0) {
            maybe_stale(c, op->req && op->req->flags & BDRV_REQ_FUA ?
                           UINT64_MAX : op->mask);
            if (op->flags & BDRV_REQ_FUA && plan->drops && !op->failed) {
                child_drop(c);
            }
        } else if (op->req) {
            op->req->ok[c->index] |= op->cover;
        }
        break;
    case OP_FLUSH:
        if (op->ret == 0) {
            finish_flush(op, plan);
        } else {
            maybe_stale(c, UINT64_MAX);
            if (plan->drops && !op->failed) {
                child_drop(c);
            }
        }
        break;
    }
    if (sim.trace) {
        g_autofree char *values =
            values_text(op->val, op->type == OP_READ && op->ret == 0 ?
                                 op->mask : op->applied);

        trace("    child %d: op %d %s: %s%s%s", c->index, op->id,
              op_name[op->type], op->ret < 0 ? strerror(-op->ret) : "ok",
              op->type == OP_READ ? "" : op->applied ? ", stored" : "",
              op->type == OP_READ && op->ret < 0 ? "" : values);
    }
    op->done = true;
    aio_co_wake(op->co);
}

/* Some of what @op does, it does before it ends. */
static void op_hold(Op *op)
{
    Child *c = op->child;
    Plan *plan = &sim.s->plan[c->index];

    op->holds++;
    if (op->type == OP_READ) {
        op_capture(op);
        return;
    }
    if (op->type == OP_ZERO && !(sim.s->native_zeroes & (1 << c->index))) {
        return;
    }
    if (op->type != OP_FLUSH) {
        /* Losses are decided at the end: liars store nothing yet. */
        uint64_t mask = choose_subset(op->mask);

        if (!plan->bad) {
            op_apply(op, mask);
        }
    }
    if (op_syncs(op) && plan->drops && !op->failed && op_fails(op, plan)) {
        /* Others may come and go before anybody hears of it. */
        trace("    child %d: op %d is failing", c->index, op->id);
        op->failed = true;
        fault(c);
        child_drop(c);
    }
}

void op_step(int index)
{
    Op *op = sim.pending[index];

    use_dice(op->dice_req, op->child->index);
    if (op->holds < 2 && chance(250)) {
        op_hold(op);
        return;
    }
    memmove(&sim.pending[index], &sim.pending[index + 1],
            (sim.num_pending - index - 1) * sizeof(sim.pending[0]));
    sim.num_pending--;
    op_finish(op);
}

/* --- children: the block driver --- */

static void op_init(Op *op, BlockDriverState *bs, OpType type,
                    int64_t offset, int64_t bytes, BdrvRequestFlags flags)
{
    int size = sim.s->cell_bytes;

    *op = (Op) {
        .co = qemu_coroutine_self(),
        .child = *(Child **)bs->opaque,
        .type = type,
        .id = sim.num_ops++,
        .start = ++sim.now,
        .flags = flags,
    };
    g_assert(QEMU_IS_ALIGNED(offset | bytes, size));
    op->cell = offset / size;
    op->num = bytes / size;
    op->mask = bytes ? cells_mask(op->cell, op->num) : 0;

    op->dice_req = &sim.s->reqs[sim.next_req - 1];
    for (int i = 0; i < sim.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end == NEVER && (r->mask & op->mask) == op->mask &&
            (r->type >= REQ_CHECK ||
             (r->type == REQ_READ) == (type == OP_READ))) {
            op->dice_req = r;
            break;
        }
    }
}

static int coroutine_fn op_run(Op *op)
{
    g_assert(sim.num_pending < MAX_PENDING);
    if (sim.trace) {
        g_autofree char *values =
            values_text(op->val, op->type == OP_READ ? 0 : op->mask);

        if (op->type == OP_FLUSH) {
            trace("  child %d: op %d flush", op->child->index, op->id);
        } else {
            trace("  child %d: op %d %s%s cells %d-%d%s%s", op->child->index,
                  op->id, op->repair ? "REPAIR " : "", op_name[op->type],
                  op->cell, op->cell + op->num - 1, values,
                  op->flags & BDRV_REQ_FUA ? " fua" : "");
        }
    }
    sim.pending[sim.num_pending++] = op;
    while (!op->done) {
        qemu_coroutine_yield();
    }
    return op->ret;
}

/* Which write in flight puts @value into the cells of @mask of @c? */
static Req *find_write(const Child *c, uint64_t mask, uint8_t value)
{
    for (int i = 0; i < sim.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end != NEVER || (r->mask & mask) != mask) {
            continue;
        }
        if (value == TAG_ZERO) {
            /* The oldest one: overlapping writes keep their order. */
            if (r->type == REQ_ZERO || r->type == REQ_DISCARD) {
                return r;
            }
        } else if (r->type == REQ_WRITE && value == TAG_REQ + i &&
                   !(r->issued[c->index] & mask)) {
            return r;
        }
    }
    return NULL;
}

/* Find the guest's write that @op belongs to, or see that it is a repair. */
static void op_attribute(Op *op)
{
    Child *c = op->child;

    for (uint64_t m = op->mask; m && !op->req; m &= m - 1) {
        uint8_t value = op->val[ctz64(m)];
        uint64_t same = 0;

        for (int i = op->cell; i < op->cell + op->num; i++) {
            same |= op->val[i] == value ? BIT_ULL(i) : 0;
        }
        op->req = find_write(c, same, value);
    }
    for (uint64_t m = op->mask; m; m &= m - 1) {
        int i = ctz64(m);

        if (op->req && op->req->mask & BIT_ULL(i) &&
            op->val[i] == (op->req->type == REQ_WRITE ?
                           TAG_REQ + op->req->id : TAG_ZERO)) {
            op->cover |= BIT_ULL(i);
            op->val[i] = TAG_REQ + op->req->id;
        }
    }
    if (op->req) {
        op->req->issued[c->index] |= op->cover;
        if (op->type != OP_ZERO || sim.s->native_zeroes & (1 << c->index)) {
            op->req->sent |= op->cover;
        }
        return;
    }
    op->repair = true;
    for (int i = op->cell; i < op->cell + op->num; i++) {
        /* The rest may be padding of the core. */
        if (sim.s->cell_bytes >= sim.s->align || op->val[i] != c->image[i]) {
            op->cover |= BIT_ULL(i);
        }
    }
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
              QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int size = sim.s->cell_bytes;
    Op op;

    op_init(&op, bs, OP_READ, offset, bytes, flags);
    if (g_str_equal(sim.s->read_pattern, "fifo") &&
        !sim.s->rewrite_corrupted && sim.s->cell_bytes >= sim.s->align &&
        is_stale(op.child, op.mask) && !is_scrubbed(REQ_SCRUB, op.mask) &&
        !is_scrubbed(REQ_CHECK, op.mask)) {
        violation(CHECK_SILENT, "op %d: a stale child is read", op.id);
    }
    op_run(&op);
    for (int i = 0; op.ret == 0 && i < op.num; i++) {
        int cell = op.cell + i;

        qemu_iovec_memset(qiov, i * size,
                          op.flips & BIT_ULL(cell) ? op.child->image[cell] :
                          op.val[cell], size);
        if (op.flips & BIT_ULL(cell)) {
            qemu_iovec_memset(qiov, i * size + cell % size,
                              op.child->image[cell] ^ 0x10, 1);
        }
    }
    return op.ret;
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int size = sim.s->cell_bytes;
    Op op;

    op_init(&op, bs, OP_WRITE, offset, bytes, flags);
    qemu_iovec_to_buf(qiov, 0, sim.scratch, bytes);
    for (int i = 0; i < op.num; i++) {
        op.val[op.cell + i] = decode_cell(sim.scratch + i * size);
    }
    op_attribute(&op);
    op_check(&op);
    return op_run(&op);
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags)
{
    Op op;

    op_init(&op, bs, OP_ZERO, offset, bytes, flags);
    op_attribute(&op);
    if (op.repair) {
        violation(CHECK_REPAIR, "op %d: zeroes that nobody has written",
                  op.id);
        return -EIO;
    }
    op_check(&op);
    return op_run(&op);
}

static int coroutine_fn GRAPH_RDLOCK sim_co_flush(BlockDriverState *bs)
{
    Op op;

    if (!sim.running) {
        return 0;
    }
    op_init(&op, bs, OP_FLUSH, 0, 0, 0);
    memcpy(op.snap, op.child->image, sizeof(op.snap));
    return op_run(&op);
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_block_status(BlockDriverState *bs, bool want_zero, int64_t offset,
                    int64_t bytes, int64_t *pnum, int64_t *map,
                    BlockDriverState **file)
{
    Child *c = *(Child **)bs->opaque;
    int size = sim.s->cell_bytes;
    int cell = offset / size;
    bool zero = is_zeroes(c->image[cell]);

    if (size < sim.s->align) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }
    *pnum = size - offset % size;
    while (*pnum < bytes && is_zeroes(c->image[(offset + *pnum) / size]) ==
                            zero) {
        *pnum += size;
    }
    *pnum = MIN(*pnum, bytes);
    return zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;
}

static int64_t coroutine_fn GRAPH_RDLOCK
sim_co_getlength(BlockDriverState *bs)
{
    return (int64_t)sim.s->cells * sim.s->cell_bytes;
}

static void GRAPH_RDLOCK sim_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = sim.s->align;
}

#define SIM_DRIVER                                      \
    .instance_size          = sizeof(Child *),          \
    .bdrv_refresh_limits    = sim_refresh_limits,       \
    .bdrv_co_getlength      = sim_co_getlength,         \
    .bdrv_co_preadv         = sim_co_preadv,            \
    .bdrv_co_pwritev        = sim_co_pwritev,           \
    .bdrv_co_pwrite_zeroes  = sim_co_pwrite_zeroes,     \
    .bdrv_co_block_status   = sim_co_block_status

BlockDriver sim_fua_driver = {
    .format_name            = "quorum-sim-fua",
    SIM_DRIVER,
    .bdrv_co_flush_to_disk  = sim_co_flush,
};

/*
 * The core emulates FUA by a flush, which it leaves out if no write has ended
 * since the last one: it does not count the one that it has just done.  But
 * what has .bdrv_co_flush is always asked.
 */
BlockDriver sim_driver = {
    .format_name            = "quorum-sim",
    SIM_DRIVER,
    .bdrv_co_flush          = sim_co_flush,
};

/* --- children: what befalls them --- */

void child_reset(Child *c, int index)
{
    BlockDriverState *bs = c->bs;

    memset(c, 0, sizeof(*c));
    c->bs = bs;
    c->index = index;
    memset(c->image, TAG_INIT, sizeof(c->image));
    memset(c->durable, TAG_INIT, sizeof(c->durable));
    memset(c->older, TAG_INIT, sizeof(c->older));
    if (sim.s->plan[index].bad) {
        for (int u = 0; u < num_units(); u++) {
            if (sim.s->plan[index].bad_units & (1 << (u % 16))) {
                c->bad_cells |= unit_mask(u);
            }
        }
    }
}

BlockDriverState *child_open(Child *c)
{
    static int serial;
    Schedule *s = sim.s;
    g_autofree char *name = g_strdup_printf("sim%d", serial++);
    BdrvRequestFlags fua = s->fua & (1 << c->index) ? BDRV_REQ_FUA : 0;
    BlockDriverState *bs;

    bs = bdrv_new_open_driver(fua ? &sim_fua_driver : &sim_driver, name,
                              BDRV_O_RDWR | BDRV_O_UNMAP, &error_abort);
    *(Child **)bs->opaque = c;
    bs->supported_write_flags = fua;
    bs->supported_zero_flags = fua;
    if (s->zeroes & (1 << c->index)) {
        bs->supported_zero_flags |= BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    }
    return bs;
}

void child_changed(Child *c)
{
    /* The same once more, a blank one, or what other newcomers hold, too */
    switch (choose(3)) {
    case 1:
        memset(c->image, TAG_INIT, sizeof(c->image));
        break;
    case 2:
        memset(c->image, TAG_LIE, sizeof(c->image));
        break;
    }
    memcpy(c->durable, c->image, sizeof(c->durable));
    memcpy(c->older, c->image, sizeof(c->older));
    for (int i = 0; i < MAX_CELLS; i++) {
        c->changed[i] = c->safe_at[i] = sim.now;
    }
    for (int u = 0; u < num_units(); u++) {
        c->stale_since[u] = sim.now;
    }
    c->maybe_stale = UINT64_MAX;
    c->lost = c->bad_cells = 0;
    c->ops = 0;
    c->dead = false;
    c->is_new = true;
    fault(c);
}

void rot(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        int cell;

        if (!sim.s->plan[n].bad || !sim.s->plan[n].rot) {
            continue;
        }
        use_dice(&sim.s->reqs[MAX(0, sim.next_req - 1)], n);
        if (!chance(sim.s->plan[n].rot)) {
            continue;
        }
        cell = choose(sim.s->cells);
        if (is_liar(c, cell)) {
            cells_changed(c, cell, choose_lie(c, cell));
            c->durable[cell] = c->image[cell];
            c->safe_at[cell] = c->changed[cell];
            fault(c);
            trace("    child %d: cell %d rots: %s", n, cell,
                  value_text(c->image[cell]));
        }
    }
}

void power_cut(void)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        use_dice(&sim.s->reqs[sim.next_req - 1], n);
        for (int i = 0; i < sim.s->cells; i++) {
            if (c->changed[i] > c->safe_at[i] && chance(500)) {
                c->image[i] = c->durable[i];
            }
        }
        trace("    child %d: power cut", n);
    }
    sim.power_cut = true;
}
