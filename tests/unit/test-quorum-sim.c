/*
 * Simulation of quorum nodes over faulty children
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * A schedule is a whole quorum node over children in memory, a few guest
 * requests that overlap in place and time, and faults.  All that happens below
 * the node waits in a list of pending operations, and a seeded generator says
 * which of them goes on next, how far, and how it ends.  No time, no files, no
 * threads: the same seed gives the same run.
 *
 * The disk is up to 64 cells, and everything is a whole number of cells.  A
 * cell is filled with one byte, its tag, which names the request that wrote it;
 * the children keep only tags.  They keep the tag of a request that wrote
 * zeroes, too, so that each value of a cell has one author.
 *
 * What is checked are the promises of block/quorum.h; see check_name[].  A
 * violation is shrunk to a short schedule, which is printed step by step.
 *
 * Environment:
 *   QUORUM_SIM_SEED   one schedule (with -p, the test that it belongs to)
 *   QUORUM_SIM_COUNT  schedules for each test
 *   QUORUM_SIM_SKIP   names of checks that are left out
 *   QUORUM_SIM_TRACE  print the schedule of QUORUM_SIM_SEED even if it is well
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-block-core.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "block/quorum.h"
#include "quorum-sim.h"

/* What a test wants of its schedules */
typedef struct Kind {
    const char *name;
    int count;                  /* schedules in a default run */
    int max_bad;                /* children with faults; -1: as can be borne */
    bool errors, lies, drops, rot, dead;
    const char *read_pattern;   /* NULL: any */
    int rewrite;                /* -1: any */
    bool any_size;
    bool ties;                  /* writes that half of the children have */
    int flush_weight;
    int scrub_weight;
} Kind;

static int rng_below(uint64_t *state, int bound)
{
    return (rng_next(state) >> 16) % bound;
}

static bool rng_hit(uint64_t *state, int permille)
{
    return rng_below(state, 1000) < permille;
}

/* --- the guest --- */

/* Set up what of @r is not the schedule's. */
static void req_init(Req *r, int id)
{
    r->id = id;
    r->mask = r->num ? cells_mask(r->cell, r->num) : 0;
    r->start = r->end = NEVER;
    r->ret = 0;
    memset(r->issued, 0, sizeof(r->issued));
    memset(r->ok, 0, sizeof(r->ok));
    r->sent = 0;
    r->flushed = r->shaky = r->doubtful = false;
    r->buf = NULL;
}

static int coroutine_fn guest_status(Req *r)
{
    int size = sim.s->cell_bytes;
    int64_t pnum;
    int ret;

    ret = blk_co_block_status_above(sim.blk, NULL, (int64_t)r->cell * size,
                                    (int64_t)r->num * size, &pnum, NULL, NULL);
    if (ret < 0 || !(ret & BDRV_BLOCK_ZERO)) {
        return MIN(ret, 0);
    }
    check_zeroes(r, pnum / size);
    return 0;
}

/* One chunk, of whole units, as the job does it */
static int coroutine_fn guest_scrub(Req *r)
{
    BlockDriverState *bs = blk_bs(sim.blk);
    QuorumScrub scrub = { .repair = r->type == REQ_SCRUB };
    int64_t size = sim.s->cell_bytes;
    int64_t start = r->cell * size, bytes = r->num * size;
    int ret = 0;

    bdrv_inc_in_flight(bs);
    WITH_GRAPH_RDLOCK_GUARD() {
        if (r->stale) {
            quorum_next_stale(bs->opaque, start, start + bytes, &start, &bytes);
            r->mask = bytes ? cells_mask(start / size, bytes / size) : 0;
            trace("  stale cells: %016" PRIx64, r->mask);
        }
        if (bytes) {
            ret = quorum_co_scrub(bs, start, bytes, &scrub);
        }
    }
    bdrv_dec_in_flight(bs);
    r->ret = ret;
    check_scrub(r, scrub.mended.mismatched + scrub.mended.missing +
                scrub.left.mismatched + scrub.left.missing,
                scrub.left.unrepairable);
    return ret;
}

static void coroutine_fn guest_entry(void *opaque)
{
    Req *r = opaque;
    int64_t size = sim.s->cell_bytes;
    int64_t offset = r->cell * size, bytes = r->num * size;
    QEMUIOVector qiov;
    int ret;

    r->start = ++sim.now;
    if (r->type == REQ_FLUSH) {
        trace("flush %d", r->id);
    } else {
        trace("%s %d: cells %d-%d%s%s%s", req_name[r->type], r->id, r->cell,
              r->cell + r->num - 1, r->flags & BDRV_REQ_FUA ? " fua" : "",
              r->flags & BDRV_REQ_MAY_UNMAP ? " may-unmap" : "",
              r->flags & BDRV_REQ_NO_FALLBACK ? " no-fallback" : "");
    }

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
        ret = blk_co_preadv(sim.blk, offset, bytes, &qiov, 0);
        break;
    case REQ_WRITE:
        ret = blk_co_pwritev(sim.blk, offset, bytes, &qiov, r->flags);
        break;
    case REQ_ZERO:
        ret = blk_co_pwrite_zeroes(sim.blk, offset, bytes, r->flags);
        break;
    case REQ_DISCARD:
        ret = blk_co_pdiscard(sim.blk, offset, bytes, 0);
        break;
    case REQ_FLUSH:
        ret = blk_co_flush(sim.blk);
        break;
    case REQ_STATUS:
        ret = guest_status(r);
        break;
    case REQ_CHECK:
    case REQ_SCRUB:
        ret = guest_scrub(r);
        break;
    default:
        g_assert_not_reached();
    }
    qemu_iovec_destroy(&qiov);

    r->ret = ret;
    r->end = ++sim.now;
    sim.in_flight--;
    guest_ended(r);
    g_free(r->buf);
    r->buf = NULL;
}

static void guest_start(Req *r)
{
    sim.next_req++;
    sim.in_flight++;
    qemu_coroutine_enter(qemu_coroutine_create(guest_entry, r));
}

static void settle(void)
{
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* until nothing goes on by itself */
    }
}

/* --- a run --- */

static void node_open(void)
{
    static int serial;
    Schedule *s = sim.s;
    QDict *options = qdict_new();

    serial++;
    for (int i = 0; i < s->num_children; i++) {
        g_autofree char *name = g_strdup_printf("sim%d-%d", serial, i);
        g_autofree char *key = g_strdup_printf("children.%d", i);
        Child *c = &sim.child[i];
        BlockDriverState *bs;
        BdrvRequestFlags fua = s->fua & (1 << i) ? BDRV_REQ_FUA : 0;

        bs = bdrv_new_open_driver(fua ? &sim_fua_driver : &sim_driver, name,
                                  BDRV_O_RDWR | BDRV_O_UNMAP, &error_abort);
        c->bs = bs;
        *(Child **)bs->opaque = c;
        bs->supported_write_flags = fua;
        bs->supported_zero_flags = fua;
        if (s->zeroes & (1 << i)) {
            bs->supported_zero_flags |= BDRV_REQ_MAY_UNMAP |
                                        BDRV_REQ_NO_FALLBACK;
        }
        qdict_put_str(options, key, name);
    }
    qdict_put_str(options, "driver", "quorum");
    qdict_put_int(options, "vote-threshold", s->threshold);
    qdict_put_str(options, "read-pattern", s->read_pattern);
    qdict_put_bool(options, "rewrite-corrupted", s->rewrite_corrupted);
    sim.blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_UNMAP,
                           &error_abort);
}

static void node_close(void)
{
    sim.running = false;
    blk_unref(sim.blk);
    sim.blk = NULL;
    for (int i = 0; i < sim.s->num_children; i++) {
        bdrv_unref(sim.child[i].bs);
        sim.child[i].bs = NULL;
    }
}

/* One thing happens.  False if there is nothing left to happen. */
static bool step(void)
{
    Schedule *s = sim.s;
    Req *next = sim.next_req < s->num_reqs ? &s->reqs[sim.next_req] : NULL;
    bool can_start = next && sim.in_flight < s->depth &&
                     (!sim.in_flight || !next->alone);
    int what;

    if (!sim.num_pending && !can_start) {
        return false;
    }
    sim.now++;
    rot();
    what = choose_next(sim.num_pending + 3 * can_start);
    if (what < sim.num_pending) {
        op_step(what);
    } else {
        guest_start(next);
    }
    settle();
    return true;
}

/* Read the whole disk at the end. */
static void read_all(void)
{
    Schedule *s = sim.s;
    Req *r = &s->reqs[sim.next_req];

    *r = (Req) {
        .type = REQ_READ,
        .num = s->cells,
        .key = MAX_REQS + sim.power_cut,
    };
    req_init(r, sim.next_req);
    guest_start(r);
    settle();
    while (step()) {
        /* until it has come back */
    }
}

static void run(Schedule *s, bool record, bool with_trace)
{
    sim.s = s;
    sim.cells_per_unit = MAX(1, UNIT_BYTES / s->cell_bytes);
    sim.now = 1;
    sim.num_ops = sim.num_pending = sim.next_req = sim.in_flight = 0;
    sim.rng = s->seed ^ 0x5deece66d;
    sim.recording = record;
    sim.choice = 0;
    memset(sim.dice, 0, sizeof(sim.dice));
    sim.power_cut = false;
    sim.dropped = 0;
    sim.losing = false;
    sim.lost_until = 0;
    sim.num_answers = 0;
    sim.violated = false;
    g_clear_pointer(&sim.violation, g_free);
    sim.faults = 0;
    if (sim.trace) {
        g_string_free(sim.trace, true);
    }
    sim.trace = with_trace ? g_string_new(NULL) : NULL;
    for (int i = 0; i < s->cells; i++) {
        for (int j = 0; j < TAG_REQ + s->num_reqs + 2; j++) {
            sim.first_end[i][j] = NEVER;
            sim.last_start[i][j] = 0;
        }
    }
    for (int i = 0; i < s->num_reqs; i++) {
        req_init(&s->reqs[i], i);
    }
    for (int i = 0; i < s->num_children; i++) {
        child_reset(&sim.child[i], i);
        sim.faults += !!sim.child[i].bad_cells;
    }

    node_open();
    sim.running = true;
    while (step()) {
        /* until all requests have come back */
    }
    if (!sim.in_flight) {
        check_order();
        read_all();
    }
    if (sim.in_flight) {
        violation(CHECK_STUCK, "%d requests never come back", sim.in_flight);
        /* There is no way to close the node. */
        sim.blk = NULL;
        return;
    }
    check_counters();
    check_linear();
    if (s->power_cut) {
        power_cut();
        read_all();
    }
    node_close();
}

/* --- schedules from a seed --- */

static bool has_pattern(const char *name)
{
    return qapi_enum_parse(&QuorumReadPattern_lookup, name, -1, NULL) >= 0;
}

static void make_requests(Schedule *s, const Kind *kind, uint64_t *rng)
{
    int unit = MAX(1, UNIT_BYTES / s->cell_bytes);
    int units = DIV_ROUND_UP(s->cells, unit);
    int hot = rng_below(rng, units) * unit;

    s->num_reqs = 3 + rng_below(rng, rng_hit(rng, 300) ? 28 : 12);
    s->num_reqs = MIN(s->num_reqs, MAX_REQS);
    for (int i = 0; i < s->num_reqs; i++) {
        Req *r = &s->reqs[i];
        int flushes = 100 + kind->flush_weight;
        int dice = rng_below(rng, flushes + kind->scrub_weight);

        memset(r, 0, sizeof(*r));
        r->key = i;
        r->type = dice < 40 ? REQ_READ : dice < 80 ? REQ_WRITE :
                  dice < 90 ? REQ_ZERO : dice < 95 ? REQ_DISCARD :
                  dice < 97 ? REQ_STATUS : dice < flushes ? REQ_FLUSH :
                  rng_hit(rng, 200) ? REQ_CHECK : REQ_SCRUB;
        r->alone = rng_hit(rng, 200);
        if (r->type == REQ_FLUSH) {
            continue;
        }
        switch (rng_below(rng, 4)) {
        case 0:                 /* anything */
            r->cell = rng_below(rng, s->cells);
            r->num = 1 + rng_below(rng, s->cells - r->cell);
            break;
        case 1:                 /* whole units */
            r->cell = rng_below(rng, units) * unit;
            r->num = unit * (1 + rng_below(rng, 2));
            break;
        case 2:                 /* the hot unit */
            r->cell = hot;
            r->num = unit;
            break;
        default:                /* some cells of the hot unit */
            r->cell = MIN(hot + rng_below(rng, unit), s->cells - 1);
            r->num = 1 + rng_below(rng, 4);
            break;
        }
        if (r->type == REQ_CHECK || r->type == REQ_SCRUB) {
            r->num = ROUND_UP(r->num + r->cell % unit, unit);
            r->cell -= r->cell % unit;
            r->stale = r->type == REQ_SCRUB && rng_hit(rng, 400);
        }
        r->num = MIN(r->num, s->cells - r->cell);
        if (s->cell_bytes < s->align &&
            (r->type == REQ_ZERO || r->type == REQ_DISCARD)) {
            /* The core splits what is not aligned: who is who then? */
            r->num = ROUND_UP(r->cell % 2 + r->num, 2);
            r->cell -= r->cell % 2;
        }
        r->split = rng_below(rng, 3) ? 0 : rng_below(rng, r->num);
        if (r->type == REQ_WRITE || r->type == REQ_ZERO) {
            r->flags |= rng_hit(rng, 150) ? BDRV_REQ_FUA : 0;
        }
        if (r->type == REQ_ZERO) {
            r->flags |= rng_hit(rng, 300) ? BDRV_REQ_MAY_UNMAP : 0;
            r->flags |= rng_hit(rng, 200) ? BDRV_REQ_NO_FALLBACK : 0;
        }
    }
}

static void make_faults(Schedule *s, const Kind *kind, uint64_t *rng)
{
    static const int often[] = { 0, 30, 100, 300, 700 };
    int n = s->num_children;
    int max_bad = kind->max_bad >= 0 ? MIN(kind->max_bad, n) : n;
    int num_bad = max_bad ? 1 + rng_below(rng, max_bad) : 0;
    int units = DIV_ROUND_UP(s->cells, MAX(1, UNIT_BYTES / s->cell_bytes));
    int max_liars = MIN(s->threshold - 1, num_bad);
    /* One that has lost writes and a liar may outvote the third one. */
    bool drops = kind->drops && s->threshold > n / 2;
    bool lies = kind->lies && (!drops || max_bad == 1 || rng_hit(rng, 500));
    bool rot = kind->rot && lies;

    drops &= !lies || max_bad == 1;
    if (lies || rot) {
        /* Liars must not win: fewer than threshold at each place. */
        num_bad = MAX(num_bad, MIN(1, max_liars));
    }
    for (int i = 0; i < num_bad; i++) {
        Plan *plan;

        do {
            plan = &s->plan[rng_below(rng, n)];
        } while (plan->bad);
        plan->bad = true;
        if (kind->errors) {
            plan->read_error = often[rng_below(rng, 5)];
            plan->write_error = often[rng_below(rng, 5)];
            plan->flush_error = often[rng_below(rng, 5)];
            if (kind->ties) {
                plan->read_error = 0;
                plan->write_error = 700;
                continue;
            }
            if (rng_hit(rng, 300)) {
                plan->bad_units = rng_next(rng) & rng_next(rng) & 0xffff;
            }
            if (kind->dead && rng_hit(rng, 300)) {
                plan->dead_after = 1 + rng_below(rng, 30);
            }
        }
        if (drops) {
            plan->drops = rng_hit(rng, 800);
        }
        if (lies) {
            plan->lie = often[rng_below(rng, 5)];
            plan->lose = often[rng_below(rng, 5)];
            plan->skip_flush = often[rng_below(rng, 5)];
        }
        if (rot) {
            plan->rot = often[rng_below(rng, 4)];
        }
        if (s->cell_bytes < s->align) {
            /*
             * The core pads a write with what it reads, and if that fails, with
             * whatever is in the buffer.
             */
            plan->read_error = plan->bad_units = plan->dead_after = 0;
            plan->lie = plan->rot = 0;
        }
    }
    for (int u = 0; u < units && (lies || rot); u++) {
        /* Everywhere the same ones, or not. */
        if (u > 0 && s->seed & 1) {
            s->liars[u] = s->liars[0];
            continue;
        }
        for (int i = rng_below(rng, max_liars + 1); i > 0; i--) {
            int liar = rng_below(rng, n);

            if (s->plan[liar].bad) {
                s->liars[u] |= 1 << liar;
            }
        }
    }
}

static void make_schedule(Schedule *s, const Kind *kind, uint64_t seed)
{
    uint64_t rng = seed;
    int n;

    memset(s, 0, offsetof(Schedule, choices));
    s->seed = seed;
    n = rng_hit(&rng, 600) ? 3 : 1 + rng_below(&rng, MAX_CHILDREN);
    s->num_children = n;
    s->threshold = rng_hit(&rng, 750) ? n / 2 + 1 : 1 + rng_below(&rng, n);
    if (kind->ties) {
        n = s->num_children = 2 + 2 * rng_below(&rng, 2);
        s->threshold = n / 2;
    }
    s->read_pattern = kind->read_pattern;
    if (!s->read_pattern) {
        int dice = rng_below(&rng, 10);

        s->read_pattern = dice < 5 || (dice < 9 && !has_pattern("threshold")) ?
                          "quorum" : dice < 9 ? "threshold" : "fifo";
    }
    s->rewrite_corrupted = kind->rewrite >= 0 ? kind->rewrite :
                           rng_hit(&rng, 500);
    s->cells = 32;
    s->cell_bytes = 512;
    s->align = 512;
    if (kind->any_size) {
        s->cells = 8 + rng_below(&rng, MAX_CELLS - 7);
        s->cell_bytes = 256 << rng_below(&rng, 5);
        s->cells = ROUND_UP(s->cells, MAX(1, 512 / s->cell_bytes));
        s->align = rng_hit(&rng, 500) ? 1 : 512;
    }
    s->depth = kind->ties ? 1 : 1 + rng_below(&rng, 5);
    s->power_cut = rng_hit(&rng, kind->flush_weight ? 500 : 100);
    s->fua = rng_next(&rng) & 31;
    s->zeroes = rng_hit(&rng, 500) ? 31 : rng_next(&rng) & 31;
    s->native_zeroes = rng_hit(&rng, 500) ? 31 : rng_next(&rng) & 31;
    make_requests(s, kind, &rng);
    make_faults(s, kind, &rng);
    /* Those that did not flush may come back with old data. */
    if (s->threshold <= n / 2 || g_str_equal(s->read_pattern, "fifo") ||
        ctpop32(bad_children(s)) >= s->threshold) {
        s->power_cut = false;
    }
}

/* --- a schedule that violates something --- */

#define SHRINK_RUNS 6000

static int shrink_runs;

/* Does @s still violate what @check is about? */
static bool still_violates(Schedule *s, Check check)
{
    if (++shrink_runs > SHRINK_RUNS) {
        return false;
    }
    run(s, false, false);
    return sim.violated && sim.check == check;
}

/* Try @changed; take it for @s if it violates the same. */
static bool shrink_to(Schedule *s, Schedule *changed, Check check)
{
    if (!still_violates(changed, check)) {
        return false;
    }
    *s = *changed;
    s->num_choices = MIN(s->num_choices, sim.choice);
    return true;
}

static bool shrink_requests(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    for (int i = s->num_reqs - 1; i >= 0; i--) {
        *try = *s;
        memmove(&try->reqs[i], &try->reqs[i + 1],
                (try->num_reqs - i - 1) * sizeof(Req));
        try->num_reqs--;
        shrunk |= shrink_to(s, try, check);
    }
    *try = *s;
    for (int i = 0; i < s->num_reqs; i++) {
        try->reqs[i].alone = true;
    }
    shrunk |= memcmp(try, s, sizeof(*s)) && shrink_to(s, try, check);
    for (int i = 0; i < s->num_reqs; i++) {
        for (int what = 0; what < 5 + s->num_children; what++) {
            Req *r = &try->reqs[i];
            Req old;

            *try = *s;
            old = *r;
            switch (what) {
            default:
                r->calm |= 1 << (what - 5);
                break;
            case 0:
                r->flags = 0;
                break;
            case 1:
                r->alone = true;
                break;
            case 2:
                r->num = MIN(r->num, 1);
                break;
            case 3:
                r->cell += r->num / 2;
                r->num -= r->num / 2;
                break;
            case 4:
                r->num -= r->num / 2;
                break;
            }
            if (old.flags != r->flags || old.alone != r->alone ||
                old.num != r->num || old.calm != r->calm) {
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    return shrunk;
}

static bool shrink_plans(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    for (int i = 0; i < s->num_children; i++) {
        for (int field = 0; field < PLAN_FIELDS; field++) {
            *try = *s;
            if (((int *)&try->plan[i])[field]) {
                ((int *)&try->plan[i])[field] = 0;
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    for (int what = 0; what < 3; what++) {
        *try = *s;
        switch (what) {
        case 0:
            try->power_cut = false;
            break;
        case 1:
            try->rewrite_corrupted = false;
            break;
        case 2:
            try->depth = 1;
            break;
        }
        shrunk |= memcmp(try, s, offsetof(Schedule, reqs)) &&
                  shrink_to(s, try, check);
    }
    return shrunk;
}

static bool shrink_choices(Schedule *s, Schedule *try, Check check)
{
    bool shrunk = false;

    while (s->num_choices) {
        *try = *s;
        try->num_choices /= 2;
        if (!shrink_to(s, try, check)) {
            break;
        }
        shrunk = true;
    }
    for (int size = 64; size >= 1; size /= 4) {
        for (int i = 0; i < s->num_choices; i += size) {
            int num = MIN(size, s->num_choices - i);

            *try = *s;
            memset(&try->choices[i], 0, num * sizeof(try->choices[0]));
            if (memcmp(&try->choices[i], &s->choices[i],
                       num * sizeof(try->choices[0]))) {
                shrunk |= shrink_to(s, try, check);
            }
            *try = *s;
            if (i < s->num_choices) {
                num = MIN(size, s->num_choices - i);
                memmove(&try->choices[i], &try->choices[i + num],
                        (s->num_choices - i - num) * sizeof(try->choices[0]));
                try->num_choices -= num;
                shrunk |= shrink_to(s, try, check);
            }
        }
    }
    return shrunk;
}

static void shrink(Schedule *s, Check check)
{
    Schedule *try = g_new(Schedule, 1);
    bool shrunk;

    shrink_runs = 0;
    do {
        shrunk = shrink_requests(s, try, check);
        shrunk |= shrink_plans(s, try, check);
        shrunk |= shrink_choices(s, try, check);
    } while (shrunk && shrink_runs < SHRINK_RUNS);
    g_free(try);
}

static void print_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (int i = 0; lines[i]; i++) {
        g_test_message("%s", lines[i]);
    }
}

static void print_schedule(Schedule *s)
{
    g_test_message("%d children, threshold %d, read-pattern %s, "
                   "rewrite-corrupted %s", s->num_children, s->threshold,
                   s->read_pattern, s->rewrite_corrupted ? "on" : "off");
    g_test_message("%d cells of %d bytes, alignment %d, FUA %x, zeroes "
                   "advertised %x, native %x", s->cells, s->cell_bytes,
                   s->align, s->fua, s->zeroes, s->native_zeroes);
    for (int i = 0; i < s->num_children; i++) {
        Plan *p = &s->plan[i];

        if (p->bad) {
            g_test_message("child %d: errors %d %d %d, drops %d, dead after "
                           "%d, bad units %x, lies %d, loses %d, rots %d, "
                           "skips flush %d", i, p->read_error, p->write_error,
                           p->flush_error, p->drops, p->dead_after,
                           p->bad_units, p->lie, p->lose, p->rot,
                           p->skip_flush);
        }
    }
    print_lines(sim.trace->str);
}

static const Kind *current_kind;
static Schedule *current;

/* The driver has aborted: say where. */
static void on_abort(int sig)
{
    if (current_kind) {
        fprintf(stderr, "aborted in QUORUM_SIM_SEED=0x%" PRIx64
                " -p /quorum/sim/%s\n", current->seed, current_kind->name);
        if (sim.trace) {
            fprintf(stderr, "%s\n", sim.trace->str);
        }
    }
}

/* Tell about the violation that has just been seen in @s. */
static void tell(const Kind *kind, Schedule *s, int nth)
{
    Check check = sim.check;

    g_test_message("schedule %d violates %s (%s): %s", nth,
                   check_name[check].name, check_name[check].meaning,
                   sim.violation);
    g_test_message("to see it again: QUORUM_SIM_SEED=0x%" PRIx64
                   " -p /quorum/sim/%s", s->seed, kind->name);
    shrink(s, check);
    run(s, false, true);
    g_test_message("shrunk to %d requests and %d choices in %d runs:",
                   s->num_reqs, s->num_choices, shrink_runs);
    print_schedule(s);
}

static void test_kind(const void *opaque)
{
    const Kind *kind = opaque;
    const char *seed_env = getenv("QUORUM_SIM_SEED");
    const char *count_env = getenv("QUORUM_SIM_COUNT");
    int count = count_env ? atoi(count_env) : kind->count;
    uint64_t seed = 20260101;
    int64_t start = g_get_monotonic_time();
    int64_t ops = 0, reqs = 0;
    int i;

    current_kind = kind;
    if (seed_env) {
        seed = g_ascii_strtoull(seed_env, NULL, 0);
        count = 1;
    }
    for (i = 0; i < count; i++) {
        if (i == count / 2 && !seed_env) {
            seed = (uint64_t)g_test_rand_int() << 32 | g_test_rand_int();
            g_test_message("from here on: seed 0x%" PRIx64, seed);
        }
        make_schedule(current, kind, seed);
        run(current, true, getenv("QUORUM_SIM_TRACE"));
        ops += sim.num_ops;
        reqs += sim.next_req;
        if (seed_env && sim.trace) {
            print_schedule(current);
        }
        if (sim.violated) {
            tell(kind, current, i);
            current_kind = NULL;
            g_test_fail();
            return;
        }
        rng_next(&seed);
        seed ^= 1;
    }
    start = g_get_monotonic_time() - start;
    g_test_message("%d schedules, %" PRId64 " requests, %" PRId64
                   " operations of children, %" PRId64 " schedules a minute",
                   i, reqs, ops, i * (int64_t)60000000 / MAX(start, 1));
}

static const Kind kinds[] = {
    {
        .name = "no-faults",
        .count = 2000,
        .rewrite = -1,
        .flush_weight = 5,
    }, {
        .name = "errors",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .rewrite = -1,
    }, {
        .name = "one-bad",
        .count = 3000,
        .max_bad = 1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 10,
    }, {
        .name = "lies",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .lies = true,
        .rot = true,
        .rewrite = -1,
    }, {
        .name = "flush",
        .count = 5000,
        .max_bad = -1,
        .errors = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 40,
    }, {
        .name = "fifo",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .read_pattern = "fifo",
        .rewrite = -1,
    }, {
        .name = "repair",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .lies = true,
        .rot = true,
        .read_pattern = "quorum",
        .rewrite = 1,
    }, {
        .name = "ties",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .ties = true,
        .read_pattern = "quorum",
        .rewrite = -1,
    }, {
        .name = "sizes",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .drops = true,
        .any_size = true,
        .rewrite = -1,
        .flush_weight = 10,
    }, {
        .name = "scrub-no-faults",
        .count = 1000,
        .rewrite = -1,
        .scrub_weight = 40,
    }, {
        .name = "scrub",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .dead = true,
        .lies = true,
        .rot = true,
        .any_size = true,
        .rewrite = -1,
        .scrub_weight = 60,
    }, {
        .name = "scrub-flush",
        .count = 3000,
        .max_bad = -1,
        .errors = true,
        .drops = true,
        .rewrite = -1,
        .flush_weight = 30,
        .scrub_weight = 60,
    },
};

int main(int argc, char **argv)
{
    const char *skip = getenv("QUORUM_SIM_SKIP");
    struct sigaction action = {
        .sa_handler = on_abort,
        .sa_flags = SA_RESETHAND,
    };
    g_auto(GStrv) names = g_strsplit(skip ?: "", ",", -1);

    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < CHECK__MAX; i++) {
        check_skipped[i] = g_strv_contains((const char *const *)names,
                                           check_name[i].name);
    }
    bdrv_register(&sim_driver);
    bdrv_register(&sim_fua_driver);
    sim.scratch = g_malloc(MAX_CELLS * UNIT_BYTES);
    current = g_new0(Schedule, 1);
    sigaction(SIGABRT, &action, NULL);
    for (int i = 0; i < ARRAY_SIZE(kinds); i++) {
        g_autofree char *path = g_strdup_printf("/quorum/sim/%s",
                                                kinds[i].name);

        g_test_add_data_func(path, &kinds[i], test_kind);
    }
    return g_test_run();
}
