/*
 * Tests of bdrv_abandon() and what belongs to it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "block/throttle-groups.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define SIZE (1024 * 1024)

/* A leaf that can abandon requests, unless it is told that it can't. */
typedef struct LeafState {
    bool cannot;
    unsigned abandoned;
    BdrvLate late;
} LeafState;

static bool leaf_can_abandon(BlockDriverState *bs)
{
    LeafState *s = bs->opaque;

    return !s->cannot;
}

static void leaf_abandon(BlockDriverState *bs)
{
    LeafState *s = bs->opaque;

    s->abandoned++;
}

static void leaf_unabandon(BlockDriverState *bs)
{
    LeafState *s = bs->opaque;

    s->abandoned = 0;
}

static BdrvLate leaf_late(BlockDriverState *bs)
{
    LeafState *s = bs->opaque;

    return s->late;
}

static BlockDriver bdrv_leaf = {
    .format_name        = "leaf",
    .instance_size      = sizeof(LeafState),
    .bdrv_can_abandon   = leaf_can_abandon,
    .bdrv_abandon       = leaf_abandon,
    .bdrv_unabandon     = leaf_unabandon,
    .bdrv_late          = leaf_late,
};

/* A node above two others, and a parent that may be above anything. */
static BlockDriver bdrv_fork = {
    .format_name        = "fork",
    .instance_size      = 1,
    .bdrv_child_perm    = bdrv_default_perms,
};

static BlockDriverState *fork_new(const char *name)
{
    return bdrv_new_open_driver(&bdrv_fork, name, BDRV_O_RDWR, &error_abort);
}

static LeafState *leaf_new(BlockDriverState **bs)
{
    *bs = bdrv_new_open_driver(&bdrv_leaf, NULL, BDRV_O_RDWR, &error_abort);
    return (*bs)->opaque;
}

/* Attach @bs, whose reference is taken. */
static BdrvChild *attach(BlockDriverState *parent, BlockDriverState *bs,
                         const char *name)
{
    BdrvChild *child;

    bdrv_graph_wrlock();
    child = bdrv_attach_child(parent, bs, name, &child_of_bds,
                              BDRV_CHILD_DATA, &error_abort);
    bdrv_graph_wrunlock();
    return child;
}

/* A node stays abandoned until it gets another parent, unless it has others. */
static void test_next_parent(void)
{
    BlockDriverState *top = fork_new("top"), *other = fork_new("other"), *bs;
    LeafState *leaf = leaf_new(&bs);
    BdrvChild *child = attach(top, bs, "leaf"), *second;

    bdrv_graph_rdlock_main_loop();
    bdrv_abandon(child);
    bdrv_graph_rdunlock_main_loop();

    bdrv_ref(bs);
    second = attach(other, bs, "leaf");
    g_assert_cmpint(leaf->abandoned, ==, 1);

    bdrv_ref(bs);
    bdrv_graph_wrlock();
    bdrv_unref_child(top, child);
    bdrv_unref_child(other, second);
    bdrv_graph_wrunlock();
    g_assert_cmpint(leaf->abandoned, ==, 1);

    attach(other, bs, "leaf");
    g_assert_cmpint(leaf->abandoned, ==, 0);

    bdrv_unref(top);
    bdrv_unref(other);
}

static void test_recursion(void)
{
    BlockDriverState *top = fork_new("top"), *fork = fork_new("fork"), *bs[2];
    LeafState *leaf[2] = { leaf_new(&bs[0]), leaf_new(&bs[1]) };
    BdrvChild *child = attach(top, fork, "fork");

    attach(fork, bs[0], "left");
    attach(fork, bs[1], "right");

    bdrv_graph_rdlock_main_loop();

    g_assert_true(bdrv_can_abandon(child));
    leaf[1]->cannot = true;
    g_assert_false(bdrv_can_abandon(child));
    leaf[1]->cannot = false;

    bdrv_abandon(child);
    g_assert_cmpint(leaf[0]->abandoned, ==, 1);
    g_assert_cmpint(leaf[1]->abandoned, ==, 1);
    bdrv_unabandon(child);
    g_assert_cmpint(leaf[0]->abandoned, ==, 0);
    g_assert_cmpint(leaf[1]->abandoned, ==, 0);

    g_assert_cmpint(bdrv_late(child), ==, BDRV_LATE_ENDED);
    leaf[1]->late = BDRV_LATE_PENDING;
    g_assert_cmpint(bdrv_late(child), ==, BDRV_LATE_PENDING);
    leaf[0]->late = BDRV_LATE_UNKNOWN;
    g_assert_cmpint(bdrv_late(child), ==, BDRV_LATE_UNKNOWN);

    bdrv_graph_rdunlock_main_loop();
    bdrv_unref(top);
}

/* Another parent keeps a node, at any depth, from being abandoned. */
static void test_shared(void)
{
    BlockDriverState *top = fork_new("top"), *fork = fork_new("fork"), *bs;
    BdrvChild *child;
    BlockDriverState *shared[2];

    leaf_new(&bs);
    child = attach(top, fork, "fork");
    attach(fork, bs, "leaf");
    shared[0] = fork;
    shared[1] = bs;

    for (int i = 0; i < ARRAY_SIZE(shared); i++) {
        BlockBackend *blk = blk_new(qemu_get_aio_context(), 0, BLK_PERM_ALL);

        blk_insert_bs(blk, shared[i], &error_abort);
        bdrv_graph_rdlock_main_loop();
        g_assert_true(bdrv_can_abandon(child));
        bdrv_graph_rdunlock_main_loop();

        blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                     &error_abort);
        bdrv_graph_rdlock_main_loop();
        g_assert_false(bdrv_can_abandon(child));
        bdrv_graph_rdunlock_main_loop();
        blk_unref(blk);
    }

    bdrv_unref(top);
}

/* A request to a blkdebug node that is suspended until it is abandoned. */
typedef struct Hung {
    BlockBackend *blk;
    BlockDriverState *blkdebug;
    BdrvChild *child;           /* what is abandoned */
    uint8_t data[4096];
    QEMUIOVector qiov;
    int ret;
    bool done;                  /* atomic */
    QEMUTimer *timer;
} Hung;

static void write_done(void *opaque, int ret)
{
    Hung *h = opaque;

    h->ret = ret;
    qatomic_store_release(&h->done, true);
    aio_wait_kick();
}

static void write_bh(void *opaque)
{
    Hung *h = opaque;

    blk_aio_pwritev(h->blk, 0, &h->qiov, 0, write_done, h);
}

static void write_begin(Hung *h)
{
    h->done = false;
    aio_bh_schedule_oneshot(blk_get_aio_context(h->blk), write_bh, h);
}

static int write_end(Hung *h)
{
    AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_load_acquire(&h->done));
    return h->ret;
}

static bool suspended(Hung *h)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_debug_is_suspended(h->blkdebug, "hung");
}

static void hang(Hung *h)
{
    g_assert_cmpint(bdrv_debug_breakpoint(h->blkdebug, "pwritev", "hung"),
                    ==, 0);
    write_begin(h);
    while (!suspended(h)) {
        g_usleep(1000);
        aio_poll(qemu_get_aio_context(), false);
    }
}

static void abandon(void *opaque)
{
    Hung *h = opaque;
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    g_assert_true(bdrv_can_abandon(h->child));
    bdrv_abandon(h->child);
}

static void unabandon(Hung *h)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    bdrv_unabandon(h->child);
}

/* Abandon the request while the main thread waits for something else. */
static void abandon_soon(Hung *h)
{
    h->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                             SCALE_MS, abandon, h);
    timer_mod(h->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 50);
}

static void check_abandoned(Hung *h)
{
    g_assert_true(qatomic_load_acquire(&h->done));
    g_assert_cmpint(h->ret, ==, -ETIMEDOUT);
    timer_free(h->timer);

    /* New requests fail, too, until it is unabandoned */
    write_begin(h);
    g_assert_cmpint(write_end(h), ==, -ETIMEDOUT);
    unabandon(h);
    write_begin(h);
    g_assert_cmpint(write_end(h), ==, 0);
}

/* Open @bs, which has one child, as the node above what is abandoned. */
static void hung_init(Hung *h, BlockDriverState *bs,
                      BlockDriverState *blkdebug, AioContext *ctx)
{
    *h = (Hung) { .blkdebug = blkdebug };
    h->blk = blk_new(qemu_get_aio_context(), BLK_PERM_WRITE, BLK_PERM_ALL);
    blk_insert_bs(h->blk, bs, &error_abort);
    blk_set_aio_context(h->blk, ctx, &error_abort);
    bdrv_graph_rdlock_main_loop();
    h->child = bs->file;
    bdrv_graph_rdunlock_main_loop();
    qemu_iovec_init_buf(&h->qiov, h->data, sizeof(h->data));
}

static void hung_free(Hung *h)
{
    blk_set_aio_context(h->blk, qemu_get_aio_context(), &error_abort);
    blk_unref(h->blk);
}

/* raw above blkdebug above nothing that waits */
static BlockDriverState *open_raw(BlockDriverState **blkdebug)
{
    QDict *options = qdict_new();
    BlockDriverState *bs;

    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file.driver", "blkdebug");
    qdict_put_str(options, "file.image.driver", "null-co");
    qdict_put_int(options, "file.image.size", SIZE);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_graph_rdlock_main_loop();
    *blkdebug = bs->file->bs;
    bdrv_graph_rdunlock_main_loop();
    return bs;
}

static void test_drain(void)
{
    IOThread *iothread = iothread_new();
    BlockDriverState *blkdebug, *bs = open_raw(&blkdebug);
    Hung h;

    hung_init(&h, bs, blkdebug, iothread_get_aio_context(iothread));
    for (int i = 0; i < 3; i++) {
        hang(&h);
        abandon_soon(&h);
        switch (i) {
        case 0:
            bdrv_drained_begin(bs);
            bdrv_drained_end(bs);
            break;
        case 1:
            bdrv_drain_all();
            break;
        case 2:
            bdrv_graph_wrlock();
            bdrv_graph_wrunlock();
            break;
        }
        AIO_WAIT_WHILE_UNLOCKED(NULL, !qatomic_load_acquire(&h.done));
        check_abandoned(&h);
    }
    hung_free(&h);
    bdrv_unref(bs);
    iothread_join(iothread);
}

/* A request that is delayed ends at once, and another one is not sent. */
static void test_delay(void)
{
    const int64_t begin = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    QDict *options = qdict_new();
    BlockDriverState *bs;
    Hung h;

    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file.driver", "blkdebug");
    qdict_put_str(options, "file.image.driver", "null-co");
    qdict_put_int(options, "file.image.size", SIZE);
    qdict_put_str(options, "file.inject-error.0.event", "pwritev");
    qdict_put_int(options, "file.inject-error.0.errno", 0);
    qdict_put_bool(options, "file.inject-error.0.once", true);
    qdict_put_int(options, "file.inject-error.0.delay-ns",
                  60 * NANOSECONDS_PER_SECOND);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    hung_init(&h, bs, NULL, qemu_get_aio_context());

    write_begin(&h);
    abandon_soon(&h);
    write_end(&h);
    check_abandoned(&h);
    g_assert_cmpint(qemu_clock_get_ms(QEMU_CLOCK_REALTIME), <, begin + 30000);

    hung_free(&h);
    bdrv_unref(bs);
}

/* Requests end through each kind of node, whatever that does with them. */
static void check_through(BlockDriverState *above, BlockDriverState *blkdebug)
{
    BlockDriverState *top;
    QDict *options = qdict_new();
    Hung h;

    /* raw is only the parent of what is looked at */
    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file", bdrv_get_node_name(above));
    top = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    hung_init(&h, top, blkdebug, qemu_get_aio_context());
    hang(&h);
    abandon(&h);
    g_assert_cmpint(write_end(&h), ==, -ETIMEDOUT);
    unabandon(&h);
    write_begin(&h);
    g_assert_cmpint(write_end(&h), ==, 0);
    hung_free(&h);
    bdrv_unref(top);
}

static void test_through(const void *opaque)
{
    const char *driver = opaque;
    BlockDriverState *bs, *blkdebug;
    QDict *options = qdict_new();
    g_autofree char *image = NULL;

    if (!strcmp(driver, "qcow2")) {
        close(g_file_open_tmp("abandon-XXXXXX", &image, NULL));
        bdrv_img_create(image, driver, NULL, NULL, NULL, SIZE, 0, true,
                        &error_abort);
        qdict_put_str(options, "file.image.driver", "file");
        qdict_put_str(options, "file.image.filename", image);
    } else {
        qdict_put_str(options, "file.image.driver", "null-co");
        qdict_put_int(options, "file.image.size", SIZE);
    }
    if (!strcmp(driver, "throttle")) {
        qdict_put_str(options, "throttle-group", "group");
    }
    qdict_put_str(options, "driver", driver);
    qdict_put_str(options, "file.driver", "blkdebug");
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_graph_rdlock_main_loop();
    blkdebug = bs->file->bs;
    bdrv_graph_rdunlock_main_loop();

    check_through(bs, blkdebug);

    bdrv_unref(bs);
    if (image) {
        unlink(image);
    }
}

/* What waits to be let through ends, too, and is limited again afterwards. */
static void test_throttled(void)
{
    const int64_t begin = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    BlockDriverState *bs;
    QDict *options = qdict_new();
    Object *group;
    Hung h[3];

    /* One request at once, and the next one after some minutes */
    group = object_new_with_props(TYPE_THROTTLE_GROUP,
                                  object_get_objects_root(), "slow",
                                  &error_abort, "x-bps-total", "1", NULL);
    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file.driver", "throttle");
    qdict_put_str(options, "file.throttle-group", "slow");
    qdict_put_str(options, "file.file.driver", "blkdebug");
    qdict_put_str(options, "file.file.image.driver", "null-co");
    qdict_put_int(options, "file.file.image.size", SIZE);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    /* To attach a parent may drain, which lets requests through. */
    for (int i = 0; i < ARRAY_SIZE(h); i++) {
        hung_init(&h[i], bs, NULL, qemu_get_aio_context());
    }
    write_begin(&h[0]);
    g_assert_cmpint(write_end(&h[0]), ==, 0);
    for (int i = 1; i < ARRAY_SIZE(h); i++) {
        write_begin(&h[i]);
    }
    abandon_soon(&h[0]);
    for (int i = 1; i < ARRAY_SIZE(h); i++) {
        g_assert_cmpint(write_end(&h[i]), ==, -ETIMEDOUT);
    }
    abandon(&h[0]);
    unabandon(&h[0]);
    timer_free(h[0].timer);
    g_assert_cmpint(qemu_clock_get_ms(QEMU_CLOCK_REALTIME), <, begin + 30000);

    /* A drain lets go of what is limited */
    write_begin(&h[0]);
    for (int i = 0; i < 20; i++) {
        g_usleep(1000);
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_false(qatomic_load_acquire(&h[0].done));
    bdrv_drain_all();
    g_assert_cmpint(write_end(&h[0]), ==, 0);

    for (int i = 0; i < ARRAY_SIZE(h); i++) {
        hung_free(&h[i]);
    }
    bdrv_unref(bs);
    object_unparent(group);
}

/* What waits in a leaf that can't abandon requests keeps waiting. */
static void test_cannot(void)
{
    QDict *options = qdict_new();
    BlockDriverState *bs;

    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file.driver", "null-co");
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_graph_rdlock_main_loop();
    g_assert_false(bdrv_can_abandon(bs->file));
    bdrv_graph_rdunlock_main_loop();
    bdrv_unref(bs);
}

int main(int argc, char **argv)
{
    static const char *const drivers[] = {
        "copy-on-read", "qcow2", "raw", "throttle",
    };

    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    bdrv_register(&bdrv_leaf);
    bdrv_register(&bdrv_fork);
    object_new_with_props(TYPE_THROTTLE_GROUP, object_get_objects_root(),
                          "group", &error_abort, NULL);

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/abandon/recursion", test_recursion);
    g_test_add_func("/abandon/next-parent", test_next_parent);
    g_test_add_func("/abandon/shared", test_shared);
    g_test_add_func("/abandon/cannot", test_cannot);
    g_test_add_func("/abandon/waiting", test_drain);
    g_test_add_func("/abandon/delay", test_delay);
    g_test_add_func("/abandon/throttled", test_throttled);
    for (int i = 0; i < ARRAY_SIZE(drivers); i++) {
        g_autofree char *path = g_strdup_printf("/abandon/through/%s",
                                                drivers[i]);

        g_test_add_data_func(path, drivers[i], test_through);
    }
    return g_test_run();
}
