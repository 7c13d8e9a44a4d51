/*
 * Simulation of quorum nodes: the children as block drivers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "quorum-sim.h"

/* --- operations --- */

static void op_init(Op *op, BlockDriverState *bs, OpType type,
                    int64_t offset, int64_t bytes, BdrvRequestFlags flags)
{
    int size = sim.s->cell_bytes;

    *op = (Op) {
        .co = qemu_coroutine_self(),
        .child = *(Child **)bs->opaque,
        .type = type,
        .id = sim.pending.total++,
        .start = ++sim.now,
        .flags = flags,
    };
    g_assert(QEMU_IS_ALIGNED(offset | bytes, size));
    op->cell = offset / size;
    op->num = bytes / size;
    op->mask = bytes ? sim_cells_mask(op->cell, op->num) : 0;
    sim_check_asked(op);

    op->dice_req = &sim.s->reqs[sim.guest.next_req - 1];
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end == NEVER && (r->mask & op->mask) == op->mask &&
            (r->type >= REQ_CHECK ||
             (r->type == REQ_READ) == (type == OP_READ))) {
            op->dice_req = r;
            break;
        }
    }
}

/* No one is there to let @op wait: the node is being closed. */
static int coroutine_fn op_run_at_once(Op *op)
{
    for (uint64_t m = op->mask; m; m &= m - 1) {
        int i = ctz64(m);

        if (op->type == OP_READ) {
            op->val[i] = op->child->image[i];
        } else {
            sim_child_store(op->child, i, op->val[i]);
        }
    }
    for (int u = 0; u < sim_num_units() && op->type != OP_READ; u++) {
        if (!(sim_unit_mask(u) & ~op->mask)) {
            op->child->stale_since[u] = 0;
        }
    }
    return 0;
}

static int coroutine_fn op_run(Op *op)
{
    if (!sim.node.running) {
        return op_run_at_once(op);
    }
    g_assert(sim.pending.num < MAX_PENDING);
    if (sim.verdict.trace) {
        g_autofree char *values =
            sim_values_text(op->val, op->type == OP_READ ? 0 : op->mask);

        if (op->type == OP_FLUSH) {
            sim_trace("  child %d: op %d flush", op->child->index, op->id);
        } else if (op->type == OP_RESIZE) {
            sim_trace("  child %d: op %d %s to %d cells", op->child->index,
                      op->id, op->req ? "resize" : "EXTEND", op->length);
        } else {
            sim_trace("  child %d: op %d %s%s cells %d-%d%s%s",
                      op->child->index, op->id, op->repair ? "REPAIR " : "",
                      sim_op_name[op->type], op->cell, op->cell + op->num - 1,
                      values, op->flags & BDRV_REQ_FUA ? " fua" : "");
        }
    }
    sim.pending.op[sim.pending.num++] = op;
    while (!op->done) {
        qemu_coroutine_yield();
    }
    return op->ret;
}

/*
 * Which request in flight puts zeroes into the cells of @mask of @c?  The
 * oldest one: overlapping writes keep their order, but for those that wait for
 * coroutines; see move_zeroes().  A gap that another child has been given, and
 * @c has not, is still being filled.
 */
static Req *find_zeroes(const Child *c, uint64_t mask)
{
    Req *grows = NULL, *over = NULL;

    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end == NEVER &&
            (!(mask & ~sim_zeroed_by(r)) ||
             !(mask & ~(r->gap & r->sent & ~r->issued[c->index])))) {
            if (!sim_has_state(sim.s) || !(r->over[c->index] & mask)) {
                return r;
            }
            over = over ?: r;   /* it has been done, and waits: or again */
        }
        if (r->end == NEVER && !(mask & ~r->gap) && !grows) {
            grows = r;
        }
    }
    return over ?: grows;
}

size_t sim_writes_unsure(void)
{
    return qatomic_read(&quorum_debug.reached[QUORUM_BRANCH_WRITE_UNSURE]);
}

size_t sim_writes_tried_again(void)
{
    return qatomic_read(&quorum_debug.reached[QUORUM_BRANCH_WRITE_LOST]) +
           qatomic_read(&quorum_debug.reached[QUORUM_BRANCH_LATE_TAKEN_BACK]) +
           qatomic_read(&quorum_debug.reached[QUORUM_BRANCH_LATE_RESENT]) +
           sim_writes_unsure();
}

bool sim_is_tried_again(const Req *r)
{
    return sim_writes_tried_again() > r->again_before;
}

/*
 * What an operation of a child may be of a write in flight: what the write does
 * to the child once; or if the driver may have tried it again, what the guest
 * has put into its memory since, or what the child has been given before.
 */
typedef enum Tries {
    FIRST_TRY,
    SCRIBBLED_TRY,
    SAME_TRY,
    NUM_TRIES,
} Tries;

/* Whether @r may be what puts @value into the cells of @mask by @op. */
static bool may_write(const Req *r, const Op *op, uint64_t mask, uint8_t value,
                      Tries try)
{
    bool again = sim_is_tried_again(r);

    /* Only the core writes what is around it, so that it is aligned. */
    if (r->end != NEVER || r->type != REQ_WRITE || (mask & ~r->mask) ||
        (again && op->mask & ~r->mask && sim.s->cell_bytes >= sim.s->align)) {
        return false;
    }
    /* It may be repaired before the guest hears of the write. */
    if (sim_has_state(sim.s) && !again &&
        r->failed & (1 << op->child->index)) {
        return false;
    }
    switch (try) {
    case FIRST_TRY:
        return value == TAG_REQ + r->id &&
               !(r->issued[op->child->index] & mask);
    case SCRIBBLED_TRY:
        return value == TAG_SCRIBBLED + r->id && again;
    default:
        return value == TAG_REQ + r->id && again;
    }
}

/* Which write in flight puts @value into the cells of @mask by @op? */
static Req *find_write(const Op *op, uint64_t mask, uint8_t value, Tries try)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        if (may_write(&sim.s->reqs[i], op, mask, value, try)) {
            return &sim.s->reqs[i];
        }
    }
    return value == TAG_ZERO ? find_zeroes(op->child, mask) : NULL;
}

/* The guest's write that @op belongs to, or NULL */
static Req *find_owner(const Op *op, Tries try)
{
    for (uint64_t m = op->mask; m; m &= m - 1) {
        uint8_t value = op->val[ctz64(m)];
        uint64_t same = 0;
        Req *r;

        for (int i = op->cell; i < op->cell + op->num; i++) {
            same |= op->val[i] == value ? BIT_ULL(i) : 0;
        }
        r = find_write(op, same, value, try);
        if (r) {
            return r;
        }
    }
    return NULL;
}

/* Find the guest's write that @op belongs to, or see that it is a repair. */
static void op_attribute(Op *op)
{
    Child *c = op->child;

    for (Tries try = FIRST_TRY; try < NUM_TRIES && !op->req; try++) {
        op->req = find_owner(op, try);
        op->again = op->req && sim_is_tried_again(op->req);
    }
    for (uint64_t m = op->mask; m; m &= m - 1) {
        int i = ctz64(m);

        if (op->req && op->req->mask & BIT_ULL(i) &&
            op->val[i] == TAG_SCRIBBLED + op->req->id &&
            sim_is_tried_again(op->req)) {
            op->val[i] = TAG_REQ + op->req->id;
        }

        if (op->req && op->val[i] == TAG_ZERO &&
            (sim_zeroed_by(op->req) | op->req->gap) & BIT_ULL(i)) {
            op->cover |= BIT_ULL(i);
            op->val[i] = op->req->gap & BIT_ULL(i) ? TAG_GAP :
                         TAG_REQ + op->req->id;
        } else if (op->req && op->req->mask & BIT_ULL(i) &&
                   op->val[i] == TAG_REQ + op->req->id) {
            op->cover |= BIT_ULL(i);
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

    if (sim.node.dead) {
        return -EIO;
    }
    op_init(&op, bs, OP_READ, offset, bytes, flags);
    /* With a larger threshold, it may be a vote. */
    if (g_str_equal(sim.s->read_pattern, "fifo") && sim.s->threshold == 1 &&
        !sim.s->rewrite_corrupted && sim.s->cell_bytes >= sim.s->align &&
        !sim_any_lost() && sim_is_stale(op.child, op.mask) &&
        !sim_unresolved(op.mask) &&
        !sim_may_be_probe(&op) &&
        !sim_is_scrubbed(REQ_SCRUB, op.mask) &&
        !sim_is_scrubbed(REQ_CHECK, op.mask)) {
        sim_violation(CHECK_SILENT, "op %d: a stale child is read", op.id);
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

/*
 * The guest changes what it writes as soon as it is seen: the other children,
 * and this one if it is asked again, must get the same all the same.
 */
static void scribble(const Op *op)
{
    int size = sim.s->cell_bytes;

    if (!op->req || op->req->type != REQ_WRITE) {
        return;
    }
    /*
     * If it is written again with what is there then, that counts as what was
     * written first; but it has another digest.  (The flush of a probe that
     * fails is a loss, too.)
     */
    if (sim_is_checked(sim.s) &&
        (sim_has_losses(sim.s) || sim_has_hangs(sim.s))) {
        return;
    }
    for (uint64_t m = op->cover & op->req->mask; m; m &= m - 1) {
        memset(op->req->buf + (ctz64(m) - op->req->cell) * size,
               TAG_SCRIBBLED + op->req->id, size);
    }
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int size = sim.s->cell_bytes;
    Op op;

    if (sim.node.dead) {
        return -EIO;
    }
    op_init(&op, bs, OP_WRITE, offset, bytes, flags);
    qemu_iovec_to_buf(qiov, 0, sim.node.scratch, bytes);
    for (int i = 0; i < op.num; i++) {
        op.val[op.cell + i] = sim_decode_cell(sim.node.scratch + i * size);
    }
    op_attribute(&op);
    scribble(&op);
    if (sim.node.running) {
        sim_check_op(&op);
    }
    return op_run(&op);
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags)
{
    Op op;

    if (sim.node.dead) {
        return -EIO;
    }
    op_init(&op, bs, OP_ZERO, offset, bytes, flags);
    op_attribute(&op);
    if (op.repair) {
        sim_violation(CHECK_REPAIR, "op %d: zeroes that no request has "
                      "written", op.id);
        return -EIO;
    }
    sim_check_op(&op);
    return op_run(&op);
}

/*
 * The resize in flight, of which there is one at a time; or NULL: the driver
 * makes a child as long as the disk, to repair it.
 */
static Req *find_resize(const Op *op)
{
    for (int i = 0; i < sim.guest.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->type == REQ_RESIZE && r->end == NEVER &&
            (op->exact || op->length == r->length)) {
            return r;
        }
    }
    if (op->exact || op->length != sim_node_cells() ||
        op->length <= op->child->bs->total_sectors * BDRV_SECTOR_SIZE /
                      sim.s->cell_bytes) {
        sim_violation(CHECK_REPAIR, "op %d: a child is made %d cells long for "
                      "no reason", op->id, op->length);
    } else if (!sim.s->rewrite_corrupted && !sim_any_lost() &&
               !sim_is_scrubbed(REQ_SCRUB, UINT64_MAX)) {
        sim_violation(CHECK_REPAIR, "op %d: a child is extended without the "
                      "option and without a scrub", op->id);
    }
    return NULL;
}

static int coroutine_fn GRAPH_RDLOCK
sim_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    Op op;
    int ret;

    op_init(&op, bs, OP_RESIZE, 0, 0, flags);
    if (!sim.node.running) {
        op.child->length = offset / sim.s->cell_bytes;
        return 0;
    }
    op.length = offset / sim.s->cell_bytes;
    op.exact = exact;
    op.req = find_resize(&op);
    op.dice_req = op.req ?: op.dice_req;
    if (op.req && op.length == op.req->length) {
        sim_check_shrink(op.req, op.child->index);
    }
    if (op.length > op.child->length) {
        op.cell = op.child->length;
        op.num = op.length - op.cell;
        op.mask = sim_cells_mask(op.cell, op.num);
    }
    ret = op_run(&op);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "child %d was not resized",
                         op.child->index);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK sim_co_flush(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;
    Op op;

    if (sim_state_dies()) {
        return -EIO;
    }
    if (!sim.node.running) {
        memcpy(c->durable, c->image, sizeof(c->durable));
        memcpy(c->safe_at, c->changed, sizeof(c->safe_at));
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
    bool zero = sim_is_zeroes(c->image[cell]);

    sim_child_answers(c);
    if (size < sim.s->align) {
        *pnum = bytes;
        return BDRV_BLOCK_DATA;
    }
    *pnum = size - offset % size;
    while (*pnum < bytes &&
           sim_is_zeroes(c->image[(offset + *pnum) / size]) == zero) {
        *pnum += size;
    }
    *pnum = MIN(*pnum, bytes);
    return zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;
}

static int64_t coroutine_fn GRAPH_RDLOCK
sim_co_getlength(BlockDriverState *bs)
{
    Child *c = *(Child **)bs->opaque;

    return (int64_t)c->length * sim.s->cell_bytes;
}

/* The child for which a node is being opened */
static Child *opening;

static int sim_open(BlockDriverState *bs, QDict *options, int flags,
                    Error **errp)
{
    *(Child **)bs->opaque = opening;
    return 0;
}

static void GRAPH_RDLOCK sim_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.request_alignment = sim.s->align;
}

#define SIM_DRIVER                                      \
    .instance_size          = sizeof(Child *),          \
    .bdrv_open              = sim_open,                 \
    .bdrv_refresh_limits    = sim_refresh_limits,       \
    .bdrv_co_getlength      = sim_co_getlength,         \
    .bdrv_co_truncate       = sim_co_truncate,          \
    .bdrv_co_preadv         = sim_co_preadv,            \
    .bdrv_co_pwritev        = sim_co_pwritev,           \
    .bdrv_co_pwrite_zeroes  = sim_co_pwrite_zeroes,     \
    .bdrv_co_block_status   = sim_co_block_status,      \
    .bdrv_can_abandon       = sim_can_abandon,          \
    .bdrv_abandon           = sim_abandon,              \
    .bdrv_unabandon         = sim_unabandon,            \
    .bdrv_late              = sim_late

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

/* --- nodes --- */

BlockDriverState *sim_child_open(Child *c)
{
    static int serial;
    Schedule *s = sim.s;
    g_autofree char *name = g_strdup_printf("sim%d", serial++);
    BdrvRequestFlags fua = s->fua & (1 << c->index) ? BDRV_REQ_FUA : 0;
    BlockDriverState *bs;

    opening = c;
    bs = bdrv_new_open_driver(fua ? &sim_fua_driver : &sim_driver, name,
                              BDRV_O_RDWR | BDRV_O_UNMAP, &error_abort);
    if (sim_has_state(s)) {
        /* Otherwise the core would leave out the first flush. */
        bs->write_gen = 1;
    }
    bs->supported_write_flags = fua;
    bs->supported_zero_flags = fua;
    bs->supported_truncate_flags = s->zero_growth & (1 << c->index) ?
                                   BDRV_REQ_ZERO_WRITE : 0;
    if (s->zeroes & (1 << c->index)) {
        bs->supported_zero_flags |= BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    }
    return bs;
}
