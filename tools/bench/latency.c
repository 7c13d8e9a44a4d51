/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long requests take, each of them, and for how long none ends: what an
 * average hides.  tools/bench/bench.py builds this once against our tree and once
 * against pristine QEMU.
 *
 * usage: latency OPTIONS read|write|flushed-write BYTES RATE DEPTH SECONDS
 *
 * With a RATE, so many requests a second begin, whether others have ended or
 * not, and a request's time counts from when it should have begun: so a pause
 * counts for all that came in it.  With RATE 0, DEPTH requests are always in
 * flight.  What is written is what the images of the bench hold; of flushed
 * writes, each 256th is followed by a flush.
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qobject-output-visitor.h"
#include "qemu/timer.h"
#include "qobject/qjson.h"
#include "node.h"

#define PATTERN 0x5a        /* as in contest.py */
#define FLUSH_EVERY 256
#define SLICE_NS (100 * SCALE_MS)   /* ends are counted in each of these */

static BlockBackend *blk;
static int64_t bytes, blocks;
static bool is_write, is_flushed;
static GRand *random_numbers;
static int running;
static int64_t start_ns, stop_ns;
static int64_t last_ns, gap_ns, gap_end_ns; /* between two ends, the longest */
static GArray *times;                       /* of each request, in ns */
static GArray *slices;

static void coroutine_fn request(int64_t begin_ns)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int64_t offset = g_rand_int_range(random_numbers, 0, blocks) * bytes;
    int64_t end_ns, took_ns;
    guint slice;
    int ret;

    memset(buf, PATTERN, bytes);
    ret = is_write ? blk_co_pwrite(blk, offset, bytes, buf, 0)
                   : blk_co_pread(blk, offset, bytes, buf, 0);
    g_assert_cmpint(ret, >=, 0);
    if (is_flushed && times->len % FLUSH_EVERY == FLUSH_EVERY - 1) {
        ret = blk_co_flush(blk);
        g_assert_cmpint(ret, >=, 0);
    }
    end_ns = get_clock();
    took_ns = end_ns - begin_ns;
    g_array_append_val(times, took_ns);
    if (end_ns - last_ns > gap_ns) {
        gap_ns = end_ns - last_ns;
        gap_end_ns = end_ns - start_ns;
    }
    last_ns = end_ns;
    slice = (end_ns - start_ns) / SLICE_NS;
    if (slice >= slices->len) {
        g_array_set_size(slices, slice + 1);
    }
    g_array_index(slices, int, slice)++;
}

static void coroutine_fn one_request(void *opaque)
{
    int64_t *begin_ns = opaque;

    request(*begin_ns);
    g_free(begin_ns);
    running--;
}

/* Requests at a given rate */
static void coroutine_fn source(void *opaque)
{
    int64_t period_ns = NANOSECONDS_PER_SECOND / *(int *)opaque;

    for (int64_t next_ns = start_ns; next_ns < stop_ns; next_ns += period_ns) {
        int64_t now_ns = get_clock();

        if (now_ns < next_ns) {
            qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, next_ns - now_ns);
        }
        running++;
        qemu_coroutine_enter(qemu_coroutine_create(
            one_request, g_memdup2(&next_ns, sizeof(next_ns))));
    }
    running--;
}

/* One request after the other */
static void coroutine_fn worker(void *opaque)
{
    while (get_clock() < stop_ns) {
        request(get_clock());
    }
    running--;
}

static int compare(gconstpointer a, gconstpointer b)
{
    int64_t x = *(int64_t *)a, y = *(int64_t *)b;

    return x < y ? -1 : x > y;
}

static double quantile_ms(double q)
{
    guint i = MIN(q * times->len, times->len - 1);

    return g_array_index(times, int64_t, i) / 1e6;
}

/* Our driver's counters */
static void print_stats(void)
{
    BlockStatsList *stats = qmp_query_blockstats(true, true, &error_fatal);
    QObject *object = NULL;
    Visitor *v = qobject_output_visitor_new(&object);
    g_autoptr(GString) json = NULL;

    visit_type_BlockStatsList(v, NULL, &stats, &error_fatal);
    visit_complete(v, &object);
    json = qobject_to_json(object);
    printf("stats %s\n", json->str);
    visit_free(v);
    qobject_unref(object);
    qapi_free_BlockStatsList(stats);
}

int main(int argc, char **argv)
{
    int rate, depth;

    g_assert_cmpint(argc, ==, 7);
    is_flushed = !strcmp(argv[2], "flushed-write");
    is_write = is_flushed || !strcmp(argv[2], "write");
    bytes = atoi(argv[3]);
    rate = atoi(argv[4]);
    depth = atoi(argv[5]);

    blk = open_node(argv[1]);
    blocks = blk_getlength(blk) / bytes;
    random_numbers = g_rand_new_with_seed(1);
    times = g_array_new(false, false, sizeof(int64_t));
    slices = g_array_new(false, true, sizeof(int));
    start_ns = last_ns = get_clock();
    stop_ns = start_ns + atof(argv[6]) * NANOSECONDS_PER_SECOND;

    running = rate ? 1 : depth;
    for (int i = 0, n = running; i < n; i++) {
        Coroutine *co = rate ? qemu_coroutine_create(source, &rate)
                             : qemu_coroutine_create(worker, NULL);

        qemu_coroutine_enter(co);
    }
    while (running) {
        main_loop_wait(false);
    }

    g_array_sort(times, compare);
    printf("ms %f %f %f\n", quantile_ms(0.5), quantile_ms(0.99),
           quantile_ms(0.999));
    printf("gap %f until %f\n", gap_ns / 1e6, gap_end_ns / 1e6);
    printf("slices");
    for (guint i = 0; i < slices->len; i++) {
        printf(" %d", g_array_index(slices, int, i));
    }
    printf("\n");
    print_stats();
    blk_unref(blk);
    return 0;
}
