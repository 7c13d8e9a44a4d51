/*
 * Simulation of quorum nodes: what may be, and what may not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/qapi-types-block-core.h"
#include "qapi/qapi-visit-block-core.h"
#include "quorum-sim.h"

Sim sim;

const char *const req_name[] = {
    "read", "write", "zero", "discard", "flush", "block-status", "check",
    "scrub", "change",
};

const CheckName check_name[CHECK__MAX] = {
    [CHECK_HELD] = { "held",
        "promise 1: an acknowledged write has threshold holders" },
    [CHECK_DURABLE] = { "durable",
        "promise 1: what was flushed is durable on threshold children" },
    [CHECK_VOTED] = { "voted",
        "promise 2: what is read was said by threshold children that are "
        "not stale, and by more than any other answer" },
    [CHECK_SILENT] = { "silent",
        "promises 1 to 3: a read never returns what an acknowledged write "
        "has replaced" },
    [CHECK_FIFO] = { "fifo",
        "promise 3: the same for pattern fifo where flushes lose writes: "
        "nobody outvotes a child that has lost more than is known" },
    [CHECK_LINEAR] = { "linear",
        "promises 1 to 3: reads and writes of a cell are linearizable" },
    [CHECK_ORDER] = { "order",
        "promise 4: children that failed nothing end up alike" },
    [CHECK_ALARM] = { "alarm",
        "promise 5: without faults nothing fails and nobody is reported" },
    [CHECK_REPAIR] = { "repair",
        "promise 6: a repair overlaps no write and stores nothing but what "
        "outnumbers all other children" },
    [CHECK_SCRUB] = { "scrub",
        "a scrub that succeeds leaves children alike, with what a read may "
        "return" },
    [CHECK_CHANGE] = { "change",
        "when children come and leave, threshold are left" },
    [CHECK_ONE_BAD] = { "one-bad",
        "promise 7: while enough children are well no request fails, and "
        "nobody reports these" },
    [CHECK_STATUS] = { "status",
        "what is told to be zeroes reads as zeroes" },
    [CHECK_STUCK] = { "stuck",
        "each request comes to an end" },
};

bool check_skipped[CHECK__MAX];

/* --- telling --- */

void G_GNUC_PRINTF(1, 2) trace(const char *fmt, ...)
{
    va_list ap;

    if (!sim.trace) {
        return;
    }
    g_string_append_printf(sim.trace, "%5d ", sim.now);
    va_start(ap, fmt);
    g_string_append_vprintf(sim.trace, fmt, ap);
    va_end(ap);
    g_string_append_c(sim.trace, '\n');
}

void G_GNUC_PRINTF(2, 3) violation(Check check, const char *fmt, ...)
{
    va_list ap;

    if (sim.violated || check_skipped[check]) {
        return;
    }
    sim.violated = true;
    sim.check = check;
    va_start(ap, fmt);
    sim.violation = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace("VIOLATION of %s: %s", check_name[check].name, sim.violation);
}

const char *value_text(uint8_t value)
{
    static char buf[4][24];
    static int i;
    char *text = buf[i++ % 4];

    if (value == TAG_INIT) {
        return "initial";
    } else if (value >= TAG_REQ && value < NUM_VALUES) {
        snprintf(text, sizeof(buf[0]), "W%d", value - TAG_REQ);
        return text;
    }
    snprintf(text, sizeof(buf[0]), "lie:%02x", value);
    return text;
}

char *values_text(const uint8_t *val, uint64_t mask)
{
    GString *text = g_string_new(NULL);

    for (int i = 0; i < MAX_CELLS; i++) {
        int first = i;

        if (!(mask & BIT_ULL(i))) {
            continue;
        }
        while (i + 1 < MAX_CELLS && mask & BIT_ULL(i + 1) &&
               val[i + 1] == val[first]) {
            i++;
        }
        g_string_append_printf(text, " %d", first);
        if (i != first) {
            g_string_append_printf(text, "-%d", i);
        }
        g_string_append_printf(text, ":%s", value_text(val[first]));
    }
    return g_string_free(text, false);
}

/* --- cells and units --- */

uint64_t cells_mask(int cell, int num)
{
    return num >= 64 ? UINT64_MAX : (BIT_ULL(num) - 1) << cell;
}

static int cell_unit(int cell)
{
    return cell / sim.cells_per_unit;
}

uint64_t unit_mask(int unit)
{
    int first = unit * sim.cells_per_unit;

    return cells_mask(first, MIN(sim.cells_per_unit, sim.s->cells - first));
}

int num_units(void)
{
    return DIV_ROUND_UP(sim.s->cells, sim.cells_per_unit);
}

bool is_liar(const Child *c, int cell)
{
    return sim.s->plan[c->index].bad &&
           sim.s->liars[cell_unit(cell)] & (1 << c->index);
}

bool is_stale(const Child *c, uint64_t mask)
{
    for (int u = 0; u < num_units(); u++) {
        if (c->stale_since[u] && mask & unit_mask(u)) {
            return true;
        }
    }
    return false;
}

bool is_scrubbed(ReqType type, uint64_t mask)
{
    for (int i = 0; i < sim.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->type == type && r->end == NEVER && r->mask & mask) {
            return true;
        }
    }
    return false;
}

int bad_children(const Schedule *s)
{
    int mask = 0;

    for (int i = 0; i < s->num_children; i++) {
        mask |= !!s->plan[i].bad << i;
    }
    return mask;
}

int any_liars(void)
{
    int mask = 0;

    for (int u = 0; u < num_units(); u++) {
        mask |= sim.s->liars[u];
    }
    return mask & bad_children(sim.s);
}

/* Mask of those that were not there from the start, or are not there now */
static int new_children(void)
{
    int mask = 0;

    for (int i = 0; i < sim.s->num_children; i++) {
        mask |= sim.child[i].is_new << i;
    }
    return mask;
}

static bool any_drops(void)
{
    for (int i = 0; i < sim.s->num_children; i++) {
        if (sim.s->plan[i].bad && sim.s->plan[i].drops) {
            return true;
        }
    }
    return false;
}

/*
 * Whether the children without faults are enough for everything, and enough
 * not to be outvoted by the others.
 */
static bool well_enough(void)
{
    int bad = bad_children(sim.s) | new_children();
    int well = sim.s->num_children - ctpop32(bad);
    int against = any_drops() ? ctpop32(bad) : ctpop32(any_liars());

    return well >= sim.s->threshold && well > against;
}

static bool is_write(const Req *r)
{
    return r->type == REQ_WRITE || r->type == REQ_ZERO ||
           r->type == REQ_DISCARD;
}

/* The cells that the write touches; a discard may be dropped. */
static uint64_t touched(const Req *r)
{
    return r->type == REQ_DISCARD ? r->sent : r->mask;
}

static bool acknowledged(const Req *r)
{
    return r->end != NEVER && r->ret >= 0;
}

static Req *value_req(uint8_t value)
{
    int i = value - TAG_REQ;

    return i >= 0 && i < sim.next_req ? &sim.s->reqs[i] : NULL;
}

bool permitted(int cell, uint8_t value, int start, int end,
                      bool power_cut)
{
    int value_end = 0;

    if (value != TAG_INIT) {
        Req *w = value_req(value);

        if (!w || !is_write(w) || !(touched(w) & BIT_ULL(cell)) ||
            w->start > end) {
            return false;
        }
        value_end = w->end;
    }
    for (int i = 0; i < sim.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (is_write(w) && acknowledged(w) && touched(w) & BIT_ULL(cell) &&
            w->start > value_end && w->end < start &&
            (power_cut ? w->flushed : !w->shaky && !w->doubtful)) {
            return false;
        }
    }
    return true;
}

uint8_t decode_cell(const uint8_t *buf)
{
    int size = sim.s->cell_bytes;

    return memcmp(buf, buf + 1, size - 1) == 0 ? buf[0] : TAG_TORN;
}

bool is_zeroes(uint8_t value)
{
    Req *r = value_req(value);

    return r && (r->type == REQ_ZERO || r->type == REQ_DISCARD);
}

/* --- operations of children --- */

/* Has @c said @value of @cell since @start? */
static bool has_said(const Child *c, int cell, uint8_t value, int start)
{
    for (int i = sim.num_answers - 1; i >= 0; i--) {
        Answer *a = &sim.answers[i];

        if (a->time < start) {
            return false;
        }
        if (a->child == c->index && a->ret == 0 && a->mask & BIT_ULL(cell) &&
            a->val[cell] == value) {
            return true;
        }
    }
    return sim.num_answers == MAX_ANSWERS;
}

/*
 * How many children say in all of @unit what @op writes?  They must have said
 * it since a read there has begun that is still in flight, and hold it now.
 */
static void repair_votes(Op *op, int unit, int *winners, int *others)
{
    uint64_t mask = unit_mask(unit) & op->cover;
    int start = NEVER;

    for (int i = 0; i < sim.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if ((r->type == REQ_READ || r->type == REQ_SCRUB) && r->end == NEVER &&
            r->mask & unit_mask(unit)) {
            start = MIN(start, r->start);
        }
    }

    *winners = *others = 0;
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        bool agrees = true;

        if (c->stale_since[unit] && c->stale_since[unit] < start) {
            continue;
        }
        for (uint64_t m = mask; m; m &= m - 1) {
            int i = ctz64(m);

            agrees &= has_said(c, i, op->val[i], start);
            agrees &= c->image[i] == op->val[i] || is_liar(c, i) ||
                      (sim.s->plan[n].bad && sim.s->plan[n].drops);
        }
        if (agrees) {
            *winners += 1;
        } else if (!(c->maybe_stale & mask)) {
            *others += 1;
        }
    }
}

void op_check(Op *op)
{
    Child *c = op->child;
    bool changes = false;

    for (int i = 0; i < sim.num_pending; i++) {
        Op *other = sim.pending[i];

        if ((other->type == OP_WRITE || other->type == OP_ZERO) &&
            other->repair != op->repair &&
            op->cover & other->cover) {
            violation(CHECK_REPAIR, "op %d and op %d: a repair and a write "
                      "that overlap are in flight", op->id, other->id);
        }
    }
    if (!op->repair) {
        return;
    }
    for (uint64_t m = op->mask; m; m &= m - 1) {
        changes |= op->val[ctz64(m)] != c->image[ctz64(m)];
    }
    if (changes && !sim.s->rewrite_corrupted &&
        !is_scrubbed(REQ_SCRUB, op->mask)) {
        violation(CHECK_REPAIR, "op %d: a repair that nobody has asked for",
                  op->id);
    }
    for (int u = 0; u < num_units(); u++) {
        int winners, others;

        if (!(unit_mask(u) & op->cover)) {
            continue;
        }
        repair_votes(op, u, &winners, &others);
        if (changes && (winners < sim.s->threshold || winners <= others)) {
            violation(CHECK_REPAIR, "op %d: a repair of unit %d with what only "
                      "%d children say, and %d do not", op->id, u, winners,
                      others);
        }
    }
}

/* --- requests of the guest --- */

static void child_is_stale(Child *c, uint64_t mask)
{
    for (int u = 0; u < num_units(); u++) {
        if (mask & unit_mask(u) && !c->stale_since[u]) {
            c->stale_since[u] = sim.now;
            trace("    child %d is stale for unit %d", c->index, u);
        }
    }
}

/* Promise 1: count the holders, and remember who is none. */
static void check_write(Req *r)
{
    uint64_t cells = touched(r);
    int holders = 0;

    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        child_is_stale(c, cells & ~r->ok[n]);
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        holders += (cells & ~r->ok[n]) == 0 && !is_stale(c, cells);
    }
    if (cells && holders < sim.s->threshold) {
        violation(CHECK_HELD, "W%d is acknowledged and has %d holders",
                  r->id, holders);
    }
}

void note_change(const Child *c)
{
    Change *change = &sim.changes[sim.num_changes++];

    change->time = sim.now;
    change->held = 0;
    for (int i = 0; i < sim.s->cells; i++) {
        if (permitted(i, c->image[i], sim.now, sim.now, false)) {
            change->held |= BIT_ULL(i);
        }
    }
}

/*
 * How many children that have left since held what of @cell was acknowledged
 * before @start: those that were there when it was written have flushed it, but
 * newcomers have not.
 */
static int count_gone(int cell, int start)
{
    int written = 0;
    int count = 0;

    for (int i = 0; i < sim.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (is_write(w) && acknowledged(w) && touched(w) & BIT_ULL(cell) &&
            w->end < start) {
            written = MAX(written, w->start);
        }
    }
    for (int i = 0; i < sim.num_changes; i++) {
        count += sim.changes[i].time > written &&
                 sim.changes[i].held & BIT_ULL(cell);
    }
    return count;
}

/* What of @cells was acknowledged before @start is durable. */
static void check_durable(uint64_t cells, int start)
{
    for (uint64_t m = cells; m; m &= m - 1) {
        int i = ctz64(m);
        int count = count_gone(i, start);

        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];

            count += is_liar(c, i) ||
                     permitted(i, c->durable[i], start, sim.now, false);
        }
        if (count < sim.s->threshold) {
            violation(CHECK_DURABLE, "cell %d is flushed and durable on %d "
                      "children", i, count);
        }
    }
}

/* Whether a request is in flight that ends in a flush */
static bool flush_in_flight(void)
{
    for (int i = 0; i < sim.next_req; i++) {
        Req *r = &sim.s->reqs[i];

        if (r->end == NEVER &&
            (r->type == REQ_FLUSH || r->flags & BDRV_REQ_FUA)) {
            return true;
        }
    }
    return false;
}

/*
 * Now that the guest has heard of a flush: a child that has lost something is
 * stale there, if it is sure that no other flush lost it.
 */
static void losses_known(Req *r)
{
    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];
        uint64_t lacks = 0;

        for (uint64_t m = c->lost; m; m &= m - 1) {
            int i = ctz64(m);

            if (!permitted(i, c->image[i], sim.now, sim.now, false)) {
                lacks |= BIT_ULL(i);
            }
        }
        if (r->ret < 0) {
            c->lost = 0;
        } else if (!flush_in_flight()) {
            child_is_stale(c, lacks);
            c->lost = 0;
        }
    }
    if (sim.losing && !flush_in_flight()) {
        sim.losing = false;
        sim.lost_until = sim.now;
    }
}

static void flush_ended(Req *r)
{
    for (int i = 0; i < sim.next_req; i++) {
        Req *w = &sim.s->reqs[i];

        if (!is_write(w) || w->flushed) {
            continue;
        }
        if (r->ret < 0 && w->end == NEVER) {
            /* The guest has yet to hear of it, and may believe that then. */
            w->doubtful &= flush_in_flight();
        } else if (r->ret < 0) {
            w->shaky |= any_drops();
        } else if (acknowledged(w) && w->end < r->start && !w->shaky) {
            w->flushed = true;
        }
    }
    if (r->ret == 0) {
        check_durable(cells_mask(0, sim.s->cells), r->start);
        sim.dropped = 0;
    }
}

/* Promise 2: who has said what the guest was told? */
static void check_voted(Req *r, int cell, uint8_t value)
{
    int said = 0;
    int silent = 0;
    int unit = cell_unit(cell);

    for (int i = sim.num_answers - 1; i >= 0; i--) {
        Answer *a = &sim.answers[i];
        int since = sim.child[a->child].stale_since[unit];

        if (a->time < r->start) {
            break;
        }
        if (since && since < a->time) {
            continue;           /* it has become stale during the read */
        }
        if (a->ret == 0 && a->mask & BIT_ULL(cell) && a->val[cell] == value) {
            said |= 1 << a->child;
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        int since = sim.child[n].stale_since[unit];

        if (since && since < r->start) {
            silent |= 1 << n;
        }
    }
    if (sim.num_answers < MAX_ANSWERS &&
        ctpop32(said & ~silent) < sim.s->threshold) {
        violation(CHECK_VOTED, "R%d returns %s in cell %d, which children of "
                  "mask %x say, of which mask %x is stale", r->id,
                  value_text(value), cell, said, said & silent);
    }
}

/* Whether nothing else was in flight at any time during @r */
static bool was_alone(Req *r)
{
    for (int i = 0; i < sim.next_req; i++) {
        Req *other = &sim.s->reqs[i];

        if (other != r && other->end > r->start && other->start < r->end) {
            return false;
        }
    }
    return true;
}

/*
 * Promise 2: has another answer as many votes for a unit as the one of which
 * @value in @cell is a part?  @r was alone, so the last answer of a child is
 * its vote.
 */
static void check_tie(Req *r, int cell, uint8_t value)
{
    uint64_t mask = unit_mask(cell_unit(cell)) & r->mask;
    const Answer *last[MAX_CHILDREN] = { NULL };
    int said = 0;               /* mask: have said it */
    int against = 0;            /* mask: never */

    for (int i = 0; i < sim.num_answers; i++) {
        Answer *a = &sim.answers[i];

        if (a->time >= r->start && a->mask & BIT_ULL(cell)) {
            if (a->ret < 0 || (a->mask & mask) != mask) {
                return;
            }
            last[a->child] = a;
            said |= (a->val[cell] == value) << a->child;
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        if (last[n] && !(sim.child[n].maybe_stale & mask)) {
            against |= ~said & (1 << n);
        }
    }
    for (int n = 0; n < sim.s->num_children; n++) {
        int count = 0;

        for (int other = 0; other < sim.s->num_children; other++) {
            bool same = against & (1 << n) && against & (1 << other);

            for (uint64_t m = mask; m && same; m &= m - 1) {
                same = last[n]->val[ctz64(m)] == last[other]->val[ctz64(m)];
            }
            count += same;
        }
        if (count && count >= ctpop32(said)) {
            violation(CHECK_VOTED, "R%d returns %s in cell %d, which %d "
                      "children say, but %d agree on something else", r->id,
                      value_text(value), cell, ctpop32(said), count);
        }
    }
}

static void check_read(Req *r)
{
    int size = sim.s->cell_bytes;
    bool fifo = g_str_equal(sim.s->read_pattern, "fifo");

    for (int i = 0; i < r->num; i++) {
        int cell = r->cell + i;
        uint8_t value = decode_cell(r->buf + i * size);

        /* There is no vote that would keep these out. */
        if (fifo && (sim.s->liars[cell_unit(cell)] || sim.losing ||
                     r->start < sim.lost_until)) {
            continue;
        }
        if (!permitted(cell, value, r->start, r->end, sim.power_cut)) {
            violation(sim.power_cut ? CHECK_DURABLE :
                      fifo && any_drops() ? CHECK_FIFO : CHECK_SILENT,
                      "R%d returns %s in cell %d", r->id, value_text(value),
                      cell);
            return;
        }
        if (sim.power_cut) {
            continue;
        }
        if (!fifo) {
            check_voted(r, cell, value);
            if (sim.s->threshold <= sim.s->num_children / 2 &&
                g_str_equal(sim.s->read_pattern, "quorum") && was_alone(r)) {
                check_tie(r, cell, value);
            }
        }
        sim.first_end[cell][value] = MIN(sim.first_end[cell][value], r->end);
        sim.last_start[cell][value] = MAX(sim.last_start[cell][value],
                                          r->start);
    }
}

/*
 * When a chunk of a scrub that repairs has succeeded, with nothing else in
 * flight, then children that do not lie have the same there.
 */
static void check_cured(Req *r)
{
    for (uint64_t m = r->mask; m; m &= m - 1) {
        int i = ctz64(m);
        Child *model = NULL;

        for (int n = 0; n < sim.s->num_children; n++) {
            Child *c = &sim.child[n];

            if (!c->bs || sim.s->liars[cell_unit(i)] & (1 << n)) {
                continue;
            }
            model = model ?: c;
            if (c->image[i] != model->image[i]) {
                violation(CHECK_SCRUB, "after scrub %d cell %d has %s on child "
                          "%d, and %s on child %d", r->id, i,
                          value_text(model->image[i]), model->index,
                          value_text(c->image[i]), n);
            }
            if (!permitted(i, c->image[i], r->start, sim.now, false)) {
                violation(CHECK_SCRUB, "after scrub %d cell %d has %s on child "
                          "%d", r->id, i, value_text(c->image[i]), n);
            }
        }
    }
}

void check_scrub(Req *r, int64_t wrong, int64_t unrepairable)
{
    if (sim.faults == 0 && (wrong || unrepairable)) {
        violation(CHECK_ALARM, "scrub %d finds something wrong without a fault",
                  r->id);
    }
    if (r->type == REQ_SCRUB && (r->ret < 0) != (unrepairable > 0)) {
        violation(CHECK_SCRUB, "scrub %d returns %d and leaves %" PRId64
                  " bytes", r->id, r->ret, unrepairable);
    }
    r->end = ++sim.now;
    if (r->type == REQ_SCRUB && r->ret == 0 && was_alone(r)) {
        check_cured(r);
    }
    r->end = NEVER;
}

static bool may_fail(Req *r)
{
    int all = (1 << sim.s->num_children) - 1;

    if (r->type == REQ_SCRUB && sim.faults) {
        return true;
    }
    return r->type == REQ_ZERO && r->flags & BDRV_REQ_NO_FALLBACK &&
           r->ret == -ENOTSUP &&
           (sim.s->zeroes & sim.s->native_zeroes & all) != all;
}

void guest_ended(Req *r)
{
    if (sim.trace) {
        g_autofree char *values = NULL;
        uint8_t val[MAX_CELLS];

        for (int i = 0; r->type == REQ_READ && i < r->num; i++) {
            val[r->cell + i] = decode_cell(r->buf +
                                           i * sim.s->cell_bytes);
        }
        values = values_text(val, r->type == REQ_READ && r->ret == 0 ?
                             r->mask : 0);
        trace("%s %d: %s%s", req_name[r->type], r->id,
              r->ret < 0 ? strerror(-r->ret) : "ok", values);
    }
    if ((r->type == REQ_FLUSH || r->flags & BDRV_REQ_FUA) && r->ret >= 0 &&
        !flush_in_flight()) {
        /* All is well, the guest has been told. */
        for (int i = 0; i < sim.next_req; i++) {
            sim.s->reqs[i].doubtful = false;
        }
    }
    if (is_write(r)) {
        if (r->ret >= 0) {
            check_write(r);
        }
        if (r->flags & BDRV_REQ_FUA) {
            if (r->ret >= 0) {
                r->flushed = true;
                check_durable(touched(r), r->end);
            } else {
                flush_ended(r);
            }
            losses_known(r);
        }
    } else if (r->type == REQ_FLUSH) {
        flush_ended(r);
        losses_known(r);
    } else if (r->type == REQ_READ && r->ret >= 0) {
        check_read(r);
    }
    if (r->ret < 0 && !may_fail(r) && !sim.power_cut) {
        if (sim.faults == 0) {
            violation(CHECK_ALARM, "request %d fails without a fault", r->id);
        }
        if (well_enough()) {
            violation(CHECK_ONE_BAD, "request %d fails while enough children "
                      "are well", r->id);
        }
    }
}

void check_zeroes(Req *r, int num)
{
    for (int i = r->cell; i < r->cell + num; i++) {
        bool zeroes = sim.s->liars[cell_unit(i)];

        for (int id = 0; id < sim.next_req; id++) {
            zeroes |= is_zeroes(TAG_REQ + id) &&
                      permitted(i, TAG_REQ + id, r->start, ++sim.now, false);
        }
        if (!zeroes) {
            violation(CHECK_STATUS, "request %d says that cell %d is zeroes",
                      r->id, i);
        }
    }
}

/* --- the end --- */

static void read_counters(void)
{
    BlockStatsSpecific *stats;
    QuorumChildStatsList *list;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    stats = bdrv_get_specific_stats(blk_bs(sim.blk));
    list = stats->u.quorum.children;
    for (int i = 0; i < sim.s->num_children; i++, list = list->next) {
        uint64_t *counters = sim.child[i].counters;

        counters[0] = list->value->read_errors;
        counters[1] = list->value->write_errors;
        counters[2] = list->value->flush_errors;
        counters[3] = list->value->mismatches;
        counters[4] = list->value->repaired_bytes;
    }
    qapi_free_BlockStatsSpecific(stats);
}

void check_counters(void)
{
    static const char *const names[] = {
        "read errors", "write errors", "flush errors", "mismatches",
        "repaired bytes",
    };

    read_counters();
    for (int n = 0; n < sim.s->num_children; n++) {
        for (int i = 0; i < ARRAY_SIZE(names); i++) {
            uint64_t count = sim.child[n].counters[i];

            if (count && sim.faults == 0) {
                violation(CHECK_ALARM, "child %d has %" PRIu64 " %s", n,
                          count, names[i]);
            }
            if (count && !sim.s->plan[n].bad && !sim.child[n].is_new &&
                well_enough()) {
                violation(CHECK_ONE_BAD, "child %d is well and has %" PRIu64
                          " %s", n, count, names[i]);
            }
        }
    }
}

/* Promise 4 */
void check_order(void)
{
    Child *model = NULL;

    for (int n = 0; n < sim.s->num_children; n++) {
        Child *c = &sim.child[n];

        if (c->failed || c->bad_cells) {
            continue;
        }
        if (!model) {
            model = c;
        } else if (memcmp(model->image, c->image, sizeof(c->image))) {
            g_autofree char *a = values_text(model->image,
                                             cells_mask(0, sim.s->cells));
            g_autofree char *b = values_text(c->image,
                                             cells_mask(0, sim.s->cells));

            violation(CHECK_ORDER, "child %d holds%s, child %d holds%s",
                      model->index, a, c->index, b);
        }
    }
}

/*
 * Gibbons and Korach: a register with unique values is linearizable if, of the
 * zones of its values (from the first end to the last start of the requests
 * that wrote or read it), no two forward ones overlap and no backward one lies
 * within a forward one.
 */
static void check_linear_cell(int cell)
{
    int *end = sim.first_end[cell], *start = sim.last_start[cell];

    for (int a = TAG_INIT; a < TAG_REQ + sim.next_req; a++) {
        if (end[a] >= start[a]) {
            continue;
        }
        for (int b = TAG_INIT; b < TAG_REQ + sim.next_req; b++) {
            bool forward = end[b] < start[b];

            if (a == b || end[b] == NEVER) {
                continue;
            }
            if (forward ? end[a] < start[b] && end[b] < start[a] :
                          end[a] < start[b] && end[b] < start[a]) {
                violation(CHECK_LINEAR, "cell %d: %s was seen at %d and %d, "
                          "%s at %d and %d", cell, value_text(a), end[a],
                          start[a], value_text(b), end[b], start[b]);
                return;
            }
        }
    }
}

void check_linear(void)
{
    if (any_liars() || any_drops() ||
        sim.s->threshold <= sim.s->num_children / 2 ||
        g_str_equal(sim.s->read_pattern, "fifo")) {
        return;
    }
    for (int cell = 0; cell < sim.s->cells; cell++) {
        sim.first_end[cell][TAG_INIT] = 0;
        for (int i = 0; i < sim.next_req; i++) {
            Req *r = &sim.s->reqs[i];
            int *end = &sim.first_end[cell][TAG_REQ + i];
            int *start = &sim.last_start[cell][TAG_REQ + i];

            /* A write that failed counts if it was read. */
            if (is_write(r) && touched(r) & BIT_ULL(cell) &&
                (r->ret >= 0 || *end != NEVER)) {
                *end = MIN(*end, r->end);
                *start = MAX(*start, r->start);
            }
        }
        check_linear_cell(cell);
    }
}
