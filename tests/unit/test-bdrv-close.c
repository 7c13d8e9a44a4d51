/*
 * Tests of closing nodes over storage that does not answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "system/block-backend.h"

#define TIMEOUT_MS 50

/* What has become of the leaf, which may be closed by now */
static struct {
    bool hangs;             /* flushes wait until they are abandoned */
    bool cannot;            /* and can't be */
    bool abandoned;
    int closed;
    Coroutine *waiting;
} leaf;

static bool leaf_can_abandon(BlockDriverState *bs)
{
    return !leaf.cannot;
}

static void leaf_abandon(BlockDriverState *bs)
{
    leaf.abandoned = true;
    if (leaf.waiting) {
        aio_co_wake(g_steal_pointer(&leaf.waiting));
    }
}

static int coroutine_fn GRAPH_RDLOCK
leaf_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return 0;
}

static int coroutine_fn GRAPH_RDLOCK leaf_co_flush_to_disk(BlockDriverState *bs)
{
    if (leaf.hangs && !leaf.abandoned) {
        leaf.waiting = qemu_coroutine_self();
        qemu_coroutine_yield();
    }
    return leaf.abandoned ? -ETIMEDOUT : 0;
}

static void leaf_close(BlockDriverState *bs)
{
    leaf.closed++;
}

static BlockDriver bdrv_leaf = {
    .format_name            = "leaf",
    .bdrv_can_abandon       = leaf_can_abandon,
    .bdrv_abandon           = leaf_abandon,
    .bdrv_co_pwritev        = leaf_co_pwritev,
    .bdrv_co_flush_to_disk  = leaf_co_flush_to_disk,
    .bdrv_close             = leaf_close,
};

/* A node above it, which hands down what comes */
static int coroutine_fn GRAPH_RDLOCK
above_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
}

static BlockDriver bdrv_above = {
    .format_name            = "above",
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_pwritev        = above_co_pwritev,
};

static BlockDriverState *node_new(BlockDriver *driver, const char *name)
{
    BlockDriverState *bs = bdrv_new_open_driver(driver, name, BDRV_O_RDWR,
                                                &error_abort);

    bs->total_sectors = 1;
    return bs;
}

/* A leaf that hangs and has something to flush, or a node above it */
static BlockDriverState *dirty_node_new(bool above)
{
    BlockDriverState *bs;
    BlockBackend *blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL,
                                BLK_PERM_ALL);
    uint8_t buf[BDRV_SECTOR_SIZE] = {};

    memset(&leaf, 0, sizeof(leaf));
    leaf.hangs = true;
    bs = node_new(&bdrv_leaf, "leaf");
    if (above) {
        BlockDriverState *file = bs;

        bs = node_new(&bdrv_above, "above");
        bdrv_graph_wrlock();
        bdrv_attach_child(bs, file, "file", &child_of_bds,
                          BDRV_CHILD_PRIMARY | BDRV_CHILD_DATA, &error_abort);
        bdrv_graph_wrunlock();
    }
    blk_insert_bs(blk, bs, &error_abort);
    g_assert_cmpint(blk_pwrite(blk, 0, sizeof(buf), buf, 0), ==, 0);
    leaf.hangs = false;
    blk_unref(blk);             /* this flushes */
    leaf.hangs = true;
    bs->write_gen++;
    if (above) {
        bs->file->bs->write_gen++;
    }
    return bs;
}

/* Close it; returns how long that took, in ms. */
static int64_t close_node(BlockDriverState *bs)
{
    int64_t begun = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    bdrv_unref(bs);
    g_assert_cmpint(leaf.closed, ==, 1);
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - begun;
}

static void test_hangs(gconstpointer above)
{
    BlockDriverState *bs = dirty_node_new(above);

    bs->close_timeout_ms = TIMEOUT_MS;
    g_assert_cmpint(close_node(bs), >=, TIMEOUT_MS);
    g_assert_true(leaf.abandoned);
}

static void test_answers(void)
{
    BlockDriverState *bs = dirty_node_new(false);

    leaf.hangs = false;
    bs->close_timeout_ms = TIMEOUT_MS;
    close_node(bs);
    g_assert_false(leaf.abandoned);
}

static void wake_leaf(void *opaque)
{
    leaf.hangs = false;
    aio_co_wake(g_steal_pointer(&leaf.waiting));
}

/* Who can't be abandoned, or has no limit, is waited for. */
static void test_waits(gconstpointer cannot)
{
    BlockDriverState *bs = dirty_node_new(false);
    QEMUTimer timer;

    leaf.cannot = cannot;
    bs->close_timeout_ms = cannot ? TIMEOUT_MS : 0;
    aio_timer_init(qemu_get_aio_context(), &timer, QEMU_CLOCK_REALTIME,
                   SCALE_MS, wake_leaf, NULL);
    timer_mod(&timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 3 * TIMEOUT_MS);
    g_assert_cmpint(close_node(bs), >=, 2 * TIMEOUT_MS);
    g_assert_false(leaf.abandoned);
}

/* Who has a new parent is closed as ever. */
static void test_new_parent(void)
{
    BlockDriverState *bs = dirty_node_new(false);
    BlockBackend *blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL,
                                BLK_PERM_ALL);

    leaf.hangs = false;
    bs->close_timeout_ms = TIMEOUT_MS;
    blk_insert_bs(blk, bs, &error_abort);
    g_assert_cmpint(bs->close_timeout_ms, ==, 0);
    blk_unref(blk);
    close_node(bs);
}

int main(int argc, char **argv)
{
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    g_test_add_data_func("/bdrv-close/hangs", NULL, test_hangs);
    g_test_add_data_func("/bdrv-close/hangs-below", "above", test_hangs);
    g_test_add_func("/bdrv-close/answers", test_answers);
    g_test_add_data_func("/bdrv-close/waits/without-limit", NULL, test_waits);
    g_test_add_data_func("/bdrv-close/waits/cannot-be-abandoned", "cannot",
                         test_waits);
    g_test_add_func("/bdrv-close/new-parent", test_new_parent);
    return g_test_run();
}
