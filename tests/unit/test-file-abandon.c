/*
 * Unit tests of file nodes whose requests can be abandoned
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The file is on a file system of the test's own (FUSE), whose server holds
 * system calls until it is told to go on: heldfile.py, of the iotests.
 */

#include "qemu/osdep.h"
#include <sched.h>
#include <sys/mount.h>
#include "block/block_int.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "iothread.h"
#include "thread-stress.h"

#define SIZE (1 * MiB)
#define BYTES 4096

/* --- the server --- */

static char *dir;
static char *image;         /* what the file has */
static char *disk;          /* the file */
static const char *missing; /* why there can be no server */
static FILE *to_server, *from_server;
static GPid server;

/* Send a command, and return the answer if it is a number. */
G_GNUC_PRINTF(1, 2)
static int ask_server(const char *fmt, ...)
{
    char line[80];
    va_list ap;

    va_start(ap, fmt);
    vfprintf(to_server, fmt, ap);
    va_end(ap);
    fputc('\n', to_server);
    fflush(to_server);
    g_assert_nonnull(fgets(line, sizeof(line), from_server));
    return atoi(line);
}

/* Mounts of this process go when it does. */
static bool enter_mount_namespace(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static void start_server(void)
{
    const char *src = g_getenv("G_TEST_SRCDIR") ?: "tests/unit";
    g_autofree char *script = g_build_filename(src, "..", "qemu-iotests",
                                               "quorum", "heldfile.py", NULL);
    g_autofree char *mnt = g_build_filename(dir, "mnt", NULL);
    char *argv[] = { (char *)"python3", script, mnt, image, NULL };
    char line[80] = "";
    int in, out;

    if (!enter_mount_namespace()) {
        missing = "it takes root to mount a file system";
        return;
    }
    g_assert_cmpint(mkdir(mnt, 0700), ==, 0);
    if (!g_spawn_async_with_pipes(NULL, argv, NULL,
                                  G_SPAWN_SEARCH_PATH |
                                  G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
                                  &server, &in, &out, NULL, NULL)) {
        missing = "there is no python3";
        return;
    }
    to_server = fdopen(in, "w");
    from_server = fdopen(out, "r");
    if (!fgets(line, sizeof(line), from_server) ||
        !g_str_equal(line, "mounted\n")) {
        missing = "there is no FUSE";
    }
}

static void stop_server(void)
{
    g_autofree char *mnt = g_build_filename(dir, "mnt", NULL);

    if (to_server) {
        fclose(to_server);
        fclose(from_server);
        waitpid(server, NULL, 0);
        umount2(mnt, MNT_DETACH);
    }
    rmdir(mnt);
    unlink(image);
    rmdir(dir);
}

/* --- nodes and requests --- */

static IOThread *iothread;
static bool auto_read_only;
static BlockBackend *blk;
static BlockDriverState *bs;

typedef enum Op {
    OP_READ,
    OP_WRITE,
    OP_ZERO,
    OP_DISCARD,
    OP_FLUSH,
    OP_GROW,
    OP_LENGTH,
    OP_ALLOCATED_SIZE,
    OP_STATUS,
    OP_MAX,
} Op;

static const bool has_effect[OP_MAX] = {
    [OP_WRITE] = true, [OP_ZERO] = true, [OP_DISCARD] = true, [OP_GROW] = true,
};

typedef struct Request {
    Op op;
    int64_t offset;
    char buf[BYTES];
    int64_t ret;
    bool done;
} Request;

/* What goes to the node directly. */
static int64_t coroutine_fn request_ask_node(Request *r)
{
    BlockDriverState *file;
    int64_t pnum, map;

    GRAPH_RDLOCK_GUARD();
    switch (r->op) {
    case OP_FLUSH:
        return bs->drv->bdrv_co_flush_to_disk(bs);
    case OP_LENGTH:
        return bdrv_co_refresh_total_sectors(bs, 0);
    case OP_ALLOCATED_SIZE:
        return bdrv_co_get_allocated_file_size(bs);
    case OP_STATUS:
        return bdrv_co_block_status(bs, r->offset, BYTES, &pnum, &map, &file);
    default:
        g_assert_not_reached();
    }
}

static int64_t coroutine_fn request_do(Request *r)
{
    switch (r->op) {
    case OP_READ:
        return blk_co_pread(blk, r->offset, BYTES, r->buf, 0);
    case OP_WRITE:
        return blk_co_pwrite(blk, r->offset, BYTES, r->buf, 0);
    case OP_ZERO:
        return blk_co_pwrite_zeroes(blk, r->offset, BYTES, 0);
    case OP_DISCARD:
        return blk_co_pdiscard(blk, r->offset, BYTES, 0);
    case OP_GROW:
        return blk_co_truncate(blk, r->offset, true, PREALLOC_MODE_FULL, 0,
                               NULL);
    default:
        return request_ask_node(r);
    }
}

static void coroutine_fn request_entry(void *opaque)
{
    Request *r = opaque;

    r->ret = request_do(r);
    qatomic_store_release(&r->done, true);
}

static void request_start(Request *r, Op op, int64_t offset)
{
    r->op = op;
    r->offset = offset;
    r->done = false;
    aio_co_schedule(blk_get_aio_context(blk),
                    qemu_coroutine_create(request_entry, r));
}

static int64_t request_wait(Request *r)
{
    WAIT_FOR(qatomic_load_acquire(&r->done));
    return r->ret;
}

static int64_t request_run(Request *r, Op op, int64_t offset)
{
    request_start(r, op, offset);
    return request_wait(r);
}

static BdrvLate late(void)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_late((BdrvChild *)blk_root(blk));
}

static void abandon(void)
{
    BdrvChild *child = (BdrvChild *)blk_root(blk);

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    g_assert_true(bdrv_can_abandon(child));
    bdrv_abandon(child);
}

static void unabandon(void)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    bdrv_unabandon((BdrvChild *)blk_root(blk));
}

static BlockBackend *open_file(const char *path, Error **errp)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "file");
    qdict_put_str(options, "filename", path);
    qdict_put_str(options, "abandonable", "on");
    qdict_put_str(options, "locking", "off");
    qdict_put_str(options, "auto-read-only", auto_read_only ? "on" : "off");
    return blk_new_open(NULL, NULL, options,
                        BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP, errp);
}

/* Return whether there is what it takes. */
static bool setup(bool in_iothread)
{
    if (missing) {
        g_test_skip(missing);
        return false;
    }
    g_assert_cmpint(truncate(image, 0), ==, 0);
    g_assert_cmpint(truncate(image, SIZE), ==, 0);
    blk = open_file(disk, &error_abort);
    bs = blk_bs(blk);
    if (in_iothread) {
        iothread = iothread_new();
        blk_set_allow_aio_context_change(blk, true);
        g_assert_cmpint(blk_set_aio_context(blk,
                                            iothread_get_aio_context(iothread),
                                            &error_abort), ==, 0);
    }
    return true;
}

static void close_blk(void)
{
    if (iothread) {
        blk_set_aio_context(blk, qemu_get_aio_context(), &error_abort);
    }
    blk_unref(blk);
    if (iothread) {
        iothread_join(iothread);
        iothread = NULL;
    }
}

static void image_read(int64_t offset, char *buf)
{
    int fd = open(image, O_RDONLY);

    g_assert_cmpint(pread(fd, buf, BYTES, offset), ==, BYTES);
    close(fd);
}

static bool is_filled(const char *buf, char c)
{
    return buf[0] == c && !memcmp(buf, buf + 1, BYTES - 1);
}

/* --- tests --- */

/* Each kind of request ends, and leaves the caller's memory alone. */
static void test_each_op(gconstpointer in_iothread)
{
    Request r = { };
    char buf[BYTES];

    if (!setup(in_iothread)) {
        return;
    }
    for (Op op = 0; op < OP_MAX; op++) {
        memset(r.buf, 'a' + op, BYTES);
        ask_server("hold all");
        request_start(&r, op, op == OP_GROW ? SIZE + BYTES : 0);
        WAIT_FOR(ask_server("held") > 0);
        g_assert_cmpint(late(), ==, BDRV_LATE_ENDED);

        abandon();
        request_wait(&r);
        if (op == OP_STATUS) {      /* data, if one cannot know */
            g_assert_cmpint(r.ret & BDRV_BLOCK_DATA, !=, 0);
        } else {
            g_assert_cmpint(r.ret, ==, -ETIMEDOUT);
        }
        g_assert_cmpint(late(), ==, has_effect[op] ? BDRV_LATE_PENDING
                                                   : BDRV_LATE_ENDED);
        memset(r.buf, 'X', BYTES);

        if (op != OP_STATUS) {
            Request next = { };

            g_assert_cmpint(request_run(&next, op, op == OP_GROW ? 2 * SIZE
                                                                 : 0),
                            ==, -ETIMEDOUT);
        }
        ask_server("release");
        WAIT_FOR(late() == BDRV_LATE_ENDED);
        g_assert_true(is_filled(r.buf, 'X'));
        if (op == OP_WRITE) {
            image_read(0, buf);
            g_assert_true(is_filled(buf, 'a' + op));
        }
        unabandon();
        g_assert_cmpint(request_run(&r, OP_READ, 0), >=, 0);
    }
    close_blk();
}

/* The main thread waits for the requests when it abandons them. */
static void timer_cb(void *opaque)
{
    abandon();
}

static void test_drain(void)
{
    QEMUTimer *timer = aio_timer_new(qemu_get_aio_context(),
                                     QEMU_CLOCK_REALTIME, SCALE_MS, timer_cb,
                                     NULL);
    Request r[100] = { };

    if (setup(true)) {
        ask_server("hold all");
        for (int i = 0; i < ARRAY_SIZE(r); i++) {
            request_start(&r[i], i % 3 ? OP_READ : OP_WRITE, i * BYTES);
        }
        WAIT_FOR(ask_server("held") > 0);
        timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 100);
        blk_drain_all();
        for (int i = 0; i < ARRAY_SIZE(r); i++) {
            g_assert_cmpint(request_wait(&r[i]), ==, -ETIMEDOUT);
        }
        ask_server("release");
        WAIT_FOR(late() == BDRV_LATE_ENDED);
        close_blk();
    }
    timer_free(timer);
}

/*
 * A node is closed while its workers hang.  Its file is closed when they have
 * come back, and not before.
 */
static void test_close(gconstpointer in_iothread)
{
    Request r[20] = { };
    int closed;

    if (!setup(in_iothread)) {
        return;
    }
    closed = ask_server("seen release");
    ask_server("hold all");
    for (int i = 0; i < ARRAY_SIZE(r); i++) {
        request_start(&r[i], OP_WRITE, i * BYTES);
    }
    WAIT_FOR(ask_server("held") > 0);
    abandon();
    close_blk();
    for (int i = 0; i < ARRAY_SIZE(r); i++) {
        g_assert_cmpint(request_wait(&r[i]), ==, -ETIMEDOUT);
    }
    g_usleep(100000);
    g_assert_cmpint(ask_server("seen release"), ==, closed);
    ask_server("release");
    WAIT_FOR(ask_server("seen release") == closed + 1);
}

/* As many requests as a pool has threads hang.  Another file does not care. */
static void test_neighbour(void)
{
    g_autofree char *path = g_build_filename(dir, "neighbour", NULL);
    Request r[100] = { }, other = { };
    BlockBackend *hung, *neighbour;

    if (!setup(true)) {
        return;
    }
    g_assert_true(g_file_set_contents(path, "", 0, NULL));
    g_assert_cmpint(truncate(path, SIZE), ==, 0);
    neighbour = open_file(path, &error_abort);
    blk_set_aio_context(neighbour, blk_get_aio_context(blk), &error_abort);

    ask_server("hold all");
    for (int i = 0; i < ARRAY_SIZE(r); i++) {
        request_start(&r[i], OP_READ, i * BYTES);
    }
    WAIT_FOR(ask_server("held") == 64);
    hung = blk;
    blk = neighbour;
    g_assert_cmpint(request_run(&other, OP_READ, 0), >=, 0);
    blk = hung;

    abandon();
    for (int i = 0; i < ARRAY_SIZE(r); i++) {
        g_assert_cmpint(request_wait(&r[i]), ==, -ETIMEDOUT);
    }
    ask_server("release");
    blk_set_aio_context(neighbour, qemu_get_aio_context(), &error_abort);
    blk_unref(neighbour);
    close_blk();
    unlink(path);
}

/* What the main thread does with a node that is abandoned does not hang. */
static void test_main_thread(void)
{
    ImageInfoSpecific *info;
    Error *err = NULL;
    uint32_t align;
    int opened;

    auto_read_only = true;
    if (!setup(false)) {
        return;
    }
    auto_read_only = false;
    opened = ask_server("seen open");
    align = bs->bl.opt_mem_alignment;
    abandon();
    ask_server("hold all");

    info = bdrv_get_specific_info(bs, &error_abort);
    qapi_free_ImageInfoSpecific(info);
    bdrv_refresh_limits(bs, NULL, &error_abort);
    g_assert_cmpint(bs->bl.opt_mem_alignment, ==, align);
    /* Without a writer, the file would be opened again, and with one, too. */
    g_assert_cmpint(blk_set_perm(blk, 0, BLK_PERM_ALL, &error_abort), ==, 0);
    g_assert_cmpint(ask_server("seen open"), ==, opened);
    ask_server("release");
    unabandon();

    g_assert_cmpint(blk_set_perm(blk, 0, BLK_PERM_ALL, &error_abort), ==, 0);
    abandon();
    ask_server("hold all");
    g_assert_cmpint(blk_set_perm(blk, BLK_PERM_WRITE, BLK_PERM_ALL, &err),
                    <, 0);
    g_assert_nonnull(strstr(error_get_pretty(err), "does not answer"));
    error_free(err);

    ask_server("release");
    unabandon();
    close_blk();
}

/* To look for data does not move the place where zeroes are written. */
static void test_preallocate(void)
{
    Request write = { }, grow = { }, status = { };
    char buf[BYTES];

    if (!setup(true)) {
        return;
    }
    memset(write.buf, 'x', BYTES);
    g_assert_cmpint(request_run(&write, OP_WRITE, 16 * BYTES), >=, 0);

    ask_server("hold write");
    request_start(&grow, OP_GROW, 8 * SIZE);
    WAIT_FOR(ask_server("held") == 1);
    request_start(&status, OP_STATUS, 15 * BYTES);
    g_usleep(50000);            /* now it waits for the first of many writes */
    ask_server("release");
    g_assert_cmpint(request_wait(&status), >=, 0);
    g_assert_cmpint(request_wait(&grow), >=, 0);

    image_read(16 * BYTES, buf);
    g_assert_true(is_filled(buf, 'x'));
    close_blk();
}

static void test_options(void)
{
    Error *err = NULL;

    g_assert_null(open_file("/dev/zero", &err));
    g_assert_nonnull(err);
    error_free(err);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-file-abandon.XXXXXX", NULL);
    image = g_build_filename(dir, "image", NULL);
    disk = g_build_filename(dir, "mnt", "disk", NULL);
    g_assert_true(g_file_set_contents(image, "", 0, NULL));
    start_server();         /* while there is only one thread */

    qemu_init_main_loop(&error_abort);
    bdrv_init();
    g_test_add_data_func("/file-abandon/each-op/main", NULL, test_each_op);
    g_test_add_data_func("/file-abandon/each-op/iothread", "", test_each_op);
    g_test_add_func("/file-abandon/drain", test_drain);
    g_test_add_data_func("/file-abandon/close/main", NULL, test_close);
    g_test_add_data_func("/file-abandon/close/iothread", "", test_close);
    g_test_add_func("/file-abandon/neighbour", test_neighbour);
    g_test_add_func("/file-abandon/main-thread", test_main_thread);
    g_test_add_func("/file-abandon/preallocate", test_preallocate);
    g_test_add_func("/file-abandon/options", test_options);
    ret = g_test_run();
    stop_server();
    return ret;
}
