/*
 * Simulation of quorum nodes: telling what happens
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/quorum/quorum-int.h"
#include "quorum-sim.h"

const char *const sim_req_name[] = {
    "read", "write", "zero", "discard", "flush", "block-status", "check",
    "scrub", "change", "resize", "drain", "restart",
};

const char *const sim_op_name[] = { "read", "write", "zero", "flush",
                                       "resize" };

CheckText sim_checks[CHECK__MAX] = {
    [CHECK_HELD] = { "held",
        "promise 1: an acknowledged write has threshold holders" },
    [CHECK_DURABLE] = { "durable",
        "promise 1: what was flushed is durable on threshold children" },
    [CHECK_KNOWN] = { "known",
        "promise 3: a child that lacks acknowledged data is stale there" },
    [CHECK_VOTED] = { "voted",
        "promise 2: what is read was said by threshold children that are "
        "not stale, and by more than any other answer" },
    [CHECK_SILENT] = { "silent",
        "promises 1 to 3: a read never returns what an acknowledged write "
        "has replaced" },
    [CHECK_FIFO] = { "fifo",
        "promise 3: the same for pattern fifo where flushes lose writes: "
        "there is no vote against a child that has lost more than is known" },
    [CHECK_LINEAR] = { "linear",
        "promises 1 to 3: reads and writes of a cell are linearizable" },
    [CHECK_ORDER] = { "order",
        "promise 4: children that failed nothing end up alike" },
    [CHECK_ALARM] = { "alarm",
        "promise 5: without faults nothing fails and no child is reported" },
    [CHECK_REPAIR] = { "repair",
        "promise 6: a repair overlaps no write and stores nothing but what "
        "outnumbers all other children" },
    [CHECK_SCRUB] = { "scrub",
        "a scrub that succeeds leaves children alike, with what a read may "
        "return" },
    [CHECK_CHANGE] = { "change",
        "when children come and leave, threshold are left" },
    [CHECK_LENGTH] = { "length",
        "a resize leaves the length that was asked for, or the old one; "
        "threshold children have it, and too few are never cut off" },
    [CHECK_ONE_BAD] = { "one-bad",
        "promise 7: while enough children are well no request fails, and "
        "none of these children is reported" },
    [CHECK_STATUS] = { "status",
        "what is told to be zeroes reads as zeroes" },
    [CHECK_STUCK] = { "stuck",
        "each request, and each drain, comes to an end" },
    [CHECK_ENOUGH] = { "enough",
        "promise 9: a child is given up only when it is late and others are "
        "not" },
    [CHECK_LAGGING] = { "lagging",
        "promise 9: a child that was given up is asked for nothing but "
        "probes" },
    [CHECK_LATENCY] = { "latency",
        "promise 9: nothing waits for a child longer than child-timeout while "
        "enough others answer" },
    [CHECK_BACK] = { "back",
        "promise 9: a child that answers again comes back" },
    [CHECK_TOLD] = { "told",
        "promise 10: after a flush that failed older data are read, or stored "
        "by a repair, only where no child has newer ones" },
    [CHECK_ONCE] = { "once",
        "promise 10: a flush fails once for what has gone wrong" },
    [CHECK_RESTART] = { "restart",
        "promise 11: a restart forgets nothing, and invents nothing" },
    [CHECK_CHOSEN] = { "chosen",
        "promise 11: what has been read once after a crash stays" },
};

void G_GNUC_PRINTF(1, 2) sim_trace(const char *fmt, ...)
{
    va_list ap;

    if (!sim.verdict.trace) {
        return;
    }
    g_string_append_printf(sim.verdict.trace, "%5d ", sim.now);
    va_start(ap, fmt);
    g_string_append_vprintf(sim.verdict.trace, fmt, ap);
    va_end(ap);
    g_string_append_c(sim.verdict.trace, '\n');
}

/* What the driver knows of its children now. */
static void trace_knowledge(void)
{
    BlockDriverState *bs = sim.node.blk ? blk_bs(sim.node.blk) : NULL;
    BDRVQuorumState *s = bs ? bs->opaque : NULL;
    g_autofree char *text = s ? quorum_sync_text(s->sync) : NULL;

    if (text) {
        sim_trace("%s", text);
    }
}

void G_GNUC_PRINTF(2, 3) sim_violation(Check check, const char *fmt, ...)
{
    va_list ap;

    if (sim.verdict.violated || sim_checks[check].skipped) {
        return;
    }
    sim.verdict.violated = true;
    sim.verdict.check = check;
    va_start(ap, fmt);
    sim.verdict.text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    sim_trace("VIOLATION of %s: %s", sim_checks[check].name, sim.verdict.text);
    trace_knowledge();
}

const char *sim_value_text(uint8_t value)
{
    static char buf[4][24];
    static int i;
    char *text = buf[i++ % 4];

    if (value == TAG_INIT) {
        return "initial";
    } else if (value == TAG_GAP) {
        return "gap";
    } else if (value == TAG_GARBAGE) {
        return "garbage";
    } else if (value >= TAG_REQ && value < NUM_VALUES) {
        snprintf(text, sizeof(buf[0]), "W%d", value - TAG_REQ);
        return text;
    }
    snprintf(text, sizeof(buf[0]), "lie:%02x", value);
    return text;
}

char *sim_branch_text(QuorumBranch branch)
{
    return g_strdup_printf("%8zu %s",
                           qatomic_read(&quorum_debug.reached[branch]),
                           quorum_branch_text[branch]);
}

char *sim_values_text(const uint8_t *val, uint64_t mask)
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
        g_string_append_printf(text, ":%s", sim_value_text(val[first]));
    }
    return g_string_free(text, false);
}

static void append_faults(GString *text, const Schedule *s)
{
    for (int i = 0; i < s->num_children; i++) {
        const Plan *plan = &s->plan[i];

        if (!plan->bad) {
            continue;
        }
        g_string_append_printf(text, "child %d:", i);
#define APPEND_FAULT(name)                                              \
        if (plan->name) {                                               \
            g_string_append_printf(text, " " #name " %d", plan->name);  \
        }
        SIM_PLAN(APPEND_FAULT)
        g_string_append_c(text, '\n');
    }
    for (int u = 0, past; u < MAX_CELLS; u = past) {
        past = u + 1;
        while (past < MAX_CELLS && s->liars[past] == s->liars[u]) {
            past++;
        }
        if (s->liars[u]) {
            g_string_append_printf(text, "liars in units %d-%d: %x\n", u,
                                   past - 1, s->liars[u]);
        }
    }
}

static void append_rates(GString *text, const Schedule *s)
{
    g_string_append(text, "weights:");
    for (int i = 0; i < REQ__MAX; i++) {
        g_string_append_printf(text, " %s %d", sim_req_name[i], s->weight[i]);
    }
    g_string_append(text, "\nrates:");
#define APPEND_RATE(name)                                               \
    g_string_append_printf(text, " " #name " %d", s->rates.name);
    SIM_RATES(APPEND_RATE)
    g_string_append_c(text, '\n');
}

char *sim_schedule_text(const Schedule *s)
{
    GString *text = g_string_new(NULL);

    append_rates(text, s);
    g_string_append_printf(text, "%d children, threshold %d, read-pattern %s, "
                           "rewrite-corrupted %s\n", s->num_children,
                           s->threshold, s->read_pattern,
                           s->rewrite_corrupted ? "on" : "off");
    g_string_append_printf(text, "%d cells of %d bytes, alignment %d, FUA %x, "
                           "zeroes advertised %x, native %x\n", s->cells,
                           s->cell_bytes, s->align, s->fua, s->zeroes,
                           s->native_zeroes);
    g_string_append_printf(text, "%d coroutines, pool of %" PRIu64 " bytes, "
                           "of %" PRIu64 " for writes, of %" PRIu64
                           " for repairs\n",
                           s->limits.coroutines, s->limits.pool_bytes,
                           s->limits.write_pool_bytes,
                           s->limits.repair_pool_bytes);
    g_string_append_printf(text, "stale map of %" PRId64 " bits, unflushed map "
                           "of %" PRId64 " bits of %d bytes, %d FUA writes "
                           "remembered, fast paths %s\n",
                           s->limits.stale_bits, s->limits.unflushed_bits,
                           1 << s->limits.unflushed_shift, s->limits.fua_done,
                           s->no_fast_path ? "off" : "on");
    if (sim_has_hangs(s)) {
        g_string_append_printf(text, "child-timeout %d ms; can be abandoned "
                               "%x, knows late writes %x\n",
                               s->child_timeout_ms, s->can_abandon,
                               s->knows_late);
    }
    append_faults(text, s);
    g_string_append(text, sim.verdict.trace->str);
    return g_string_free(text, false);
}
