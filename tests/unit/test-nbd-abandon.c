/*
 * Tests of an NBD client that gives up on its server
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * The server is a qemu-nbd that is stopped, killed or continued.
 */

#include "qemu/osdep.h"
#ifdef CONFIG_LINUX
#include <sys/prctl.h>
#endif
#include "block/block_int.h"
#include "iothread.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"

#define SIZE (64 * MiB)
#define REQUEST (1 * MiB)
/* More than fit onto the connection, and into its buffers */
#define MANY 40
#define SOON_MS 2000

typedef struct Fixture {
    char *dir;
    char *image, *socket, *pid_file;
    GPid server;
    BlockDriverState *bs;       /* raw above nbd */
    BdrvChild *child;           /* nbd */
    BlockBackend *blk;
    IOThread *iothread[2];
} Fixture;

typedef struct Request {
    Fixture *f;
    bool write;
    int64_t offset;
    int64_t bytes;
    int ret;
    bool done;                  /* atomic */
} Request;

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/* Let the server end if the test fails. */
static void die_with_parent(gpointer opaque)
{
#ifdef CONFIG_LINUX
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

static void server_start(Fixture *f)
{
    g_autofree char *program = g_test_build_filename(G_TEST_BUILT, "..", "..",
                                                     "qemu-nbd", NULL);
    g_autofree char *pid_file = g_strdup_printf("--pid-file=%s", f->pid_file);
    char *argv[] = { program, (char *)"--persistent", (char *)"--shared=0",
                     (char *)"--format=raw", (char *)"--socket", f->socket,
                     pid_file, f->image, NULL };

    unlink(f->pid_file);
    unlink(f->socket);
    g_assert_true(g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                                die_with_parent, NULL, &f->server, NULL));
    while (access(f->pid_file, F_OK)) {
        g_assert_cmpint(waitpid(f->server, NULL, WNOHANG), ==, 0);
        g_usleep(1000);
    }
}

static void server_kill(Fixture *f)
{
    if (f->server) {
        kill(f->server, SIGKILL);
        waitpid(f->server, NULL, 0);
        f->server = 0;
    }
}

/* Open a client of a new server. */
static bool setup(Fixture *f, uint32_t reconnect_delay)
{
    g_autofree char *program = g_test_build_filename(G_TEST_BUILT, "..", "..",
                                                     "qemu-nbd", NULL);
    QDict *options = qdict_new();
    int fd;

    *f = (Fixture) {};
    if (access(program, X_OK)) {
        g_test_skip("there is no qemu-nbd");
        return false;
    }
    f->dir = g_dir_make_tmp("nbd-abandon-XXXXXX", NULL);
    f->image = g_build_filename(f->dir, "image", NULL);
    f->socket = g_build_filename(f->dir, "socket", NULL);
    f->pid_file = g_build_filename(f->dir, "pid", NULL);
    fd = open(f->image, O_CREAT | O_RDWR, 0600);
    g_assert_cmpint(ftruncate(fd, SIZE), ==, 0);
    close(fd);
    server_start(f);

    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "file.driver", "nbd");
    qdict_put_str(options, "file.server.type", "unix");
    qdict_put_str(options, "file.server.path", f->socket);
    qdict_put_int(options, "file.reconnect-delay", reconnect_delay);
    f->bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_graph_rdlock_main_loop();
    f->child = f->bs->file;
    bdrv_graph_rdunlock_main_loop();
    f->blk = blk_new(qemu_get_aio_context(),
                     BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    blk_insert_bs(f->blk, f->bs, &error_abort);
    for (int i = 0; i < ARRAY_SIZE(f->iothread); i++) {
        f->iothread[i] = iothread_new();
    }
    return true;
}

static void teardown(Fixture *f)
{
    const int64_t begin = now_ms();

    blk_unref(f->blk);
    bdrv_unref(f->bs);
    g_assert_cmpint(now_ms(), <, begin + SOON_MS);

    for (int i = 0; i < ARRAY_SIZE(f->iothread); i++) {
        iothread_join(f->iothread[i]);
    }
    server_kill(f);
    unlink(f->image);
    unlink(f->socket);
    unlink(f->pid_file);
    rmdir(f->dir);
    g_free(f->image);
    g_free(f->socket);
    g_free(f->pid_file);
    g_free(f->dir);
}

static void coroutine_fn request_entry(void *opaque)
{
    Request *r = opaque;
    g_autofree uint8_t *data = g_malloc0(r->bytes);

    if (r->write) {
        r->ret = blk_co_pwrite(r->f->blk, r->offset, r->bytes, data, 0);
    } else {
        r->ret = blk_co_pread(r->f->blk, r->offset, r->bytes, data, 0);
    }
    qatomic_store_release(&r->done, true);
    aio_wait_kick();
}

static bool all_done(Request *r, int count)
{
    for (int i = 0; i < count; i++) {
        if (!qatomic_load_acquire(&r[i].done)) {
            return false;
        }
    }
    return true;
}

/* Begin requests in the main thread and two others. */
static void begin(Fixture *f, Request *r, int count, bool write, int64_t bytes)
{
    for (int i = 0; i < count; i++) {
        int where = i % 3;
        AioContext *ctx = where == 2 ? qemu_get_aio_context() :
                          iothread_get_aio_context(f->iothread[where]);

        r[i] = (Request) {
            .f = f, .write = write, .bytes = bytes,
            .offset = i * bytes % SIZE,
        };
        aio_co_enter(ctx, qemu_coroutine_create(request_entry, &r[i]));
    }
}

/* All requests end soon, with @ret. */
static void check_end(Request *r, int count, int ret)
{
    const int64_t start = now_ms();

    AIO_WAIT_WHILE_UNLOCKED(NULL, !all_done(r, count));
    g_assert_cmpint(now_ms(), <, start + SOON_MS);
    for (int i = 0; i < count; i++) {
        g_assert_cmpint(r[i].ret, ==, ret);
    }
}

static int request(Fixture *f, bool write)
{
    Request r;

    begin(f, &r, 1, write, 4096);
    AIO_WAIT_WHILE_UNLOCKED(NULL, !all_done(&r, 1));
    return r.ret;
}

/* Requests succeed again soon. */
static void check_again(Fixture *f)
{
    const int64_t start = now_ms();

    while (request(f, false) < 0) {
        g_assert_cmpint(now_ms(), <, start + 5 * SOON_MS);
        g_usleep(10 * 1000);
    }
    g_assert_cmpint(request(f, true), ==, 0);
}

/* Let the main loop and the iothreads run for a while. */
static void pause_ms(int ms)
{
    const int64_t end = now_ms() + ms;

    while (now_ms() < end) {
        aio_poll(qemu_get_aio_context(), false);
        g_usleep(1000);
    }
}

static void abandon(Fixture *f)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    g_assert_true(bdrv_can_abandon(f->child));
    bdrv_abandon(f->child);
}

static void unabandon(Fixture *f)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    bdrv_unabandon(f->child);
}

static BdrvLate late(Fixture *f)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_late(f->child);
}

static uint64_t loss(Fixture *f)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_loss_generation(f->bs);
}

/* The server hangs with many requests, and is taken back. */
static void test_hang(const void *opaque)
{
    const bool write = opaque;
    Request r[MANY];
    Fixture f;
    uint64_t before;

    if (!setup(&f, 0)) {
        return;
    }
    before = loss(&f);
    for (int i = 0; i < 3; i++) {
        kill(f.server, SIGSTOP);
        begin(&f, r, MANY, write, REQUEST);
        pause_ms(50);
        g_assert_cmpint(late(&f), ==, BDRV_LATE_ENDED);
        abandon(&f);
        g_assert_cmpint(late(&f), ==,
                        write ? BDRV_LATE_UNKNOWN : BDRV_LATE_ENDED);
        check_end(r, MANY, -ETIMEDOUT);
        g_assert_cmpint(request(&f, write), ==, -ETIMEDOUT);

        /* The server fences */
        kill(f.server, SIGCONT);
        unabandon(&f);
        check_again(&f);
        g_assert_cmpint(late(&f), ==, BDRV_LATE_ENDED);

        /* It is still the same */
        g_assert_cmpuint(loss(&f), ==, before);
    }
    teardown(&f);
}

/* Closing a node whose server hangs does not wait. */
static void test_close(void)
{
    Request r[MANY];
    Fixture f;

    if (!setup(&f, 0)) {
        return;
    }
    kill(f.server, SIGSTOP);
    begin(&f, r, MANY, true, REQUEST);
    pause_ms(50);
    abandon(&f);
    check_end(r, MANY, -ETIMEDOUT);
    teardown(&f);
}

/* Requests wait for a server that is not there, and then hangs. */
static void test_reconnect(void)
{
    Request r[MANY];
    Fixture f;

    if (!setup(&f, 600)) {
        return;
    }
    server_kill(&f);
    begin(&f, r, MANY, true, REQUEST);
    pause_ms(50);
    abandon(&f);
    check_end(r, MANY, -ETIMEDOUT);
    g_assert_cmpint(request(&f, true), ==, -ETIMEDOUT);
    unabandon(&f);

    server_start(&f);
    check_again(&f);

    /* Now it takes the connection, and does not answer */
    server_kill(&f);
    server_start(&f);
    kill(f.server, SIGSTOP);
    begin(&f, r, MANY, true, REQUEST);
    pause_ms(50);
    abandon(&f);
    check_end(r, MANY, -ETIMEDOUT);
    kill(f.server, SIGCONT);
    unabandon(&f);
    check_again(&f);
    teardown(&f);
}

/* An attempt to connect to a server that hung does not keep out a later one. */
static void test_negotiation(void)
{
    Fixture f;
    GPid hung;

    if (!setup(&f, 0)) {
        return;
    }
    abandon(&f);
    kill(f.server, SIGSTOP);
    unabandon(&f);
    g_assert_cmpint(request(&f, true), ==, -EIO);
    pause_ms(50);
    abandon(&f);

    /* The old one never answers, and never goes away */
    hung = f.server;
    server_start(&f);
    unabandon(&f);
    check_again(&f);
    teardown(&f);
    kill(hung, SIGKILL);
    waitpid(hung, NULL, 0);
}

/* A connection is lost before its requests were abandoned. */
static void test_lost(void)
{
    Request r[2];
    Fixture f;

    if (!setup(&f, 0)) {
        return;
    }
    g_assert_cmpuint(loss(&f), ==, 0);
    for (int write = 0; write < 2; write++) {
        const uint64_t before = loss(&f);

        kill(f.server, SIGSTOP);
        begin(&f, r, ARRAY_SIZE(r), write, REQUEST);
        pause_ms(50);
        server_kill(&f);
        check_end(r, ARRAY_SIZE(r), -EIO);
        g_assert_cmpint(late(&f), ==,
                        write ? BDRV_LATE_UNKNOWN : BDRV_LATE_ENDED);
        g_assert_cmpuint(loss(&f), ==, before);
        server_start(&f);
        check_again(&f);
        g_assert_cmpint(late(&f), ==, BDRV_LATE_ENDED);
        g_assert_cmpuint(loss(&f), >, before);
    }
    teardown(&f);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_init_main_loop(&error_abort);

    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/nbd-abandon/hang/read", (void *)false, test_hang);
    g_test_add_data_func("/nbd-abandon/hang/write", (void *)true, test_hang);
    g_test_add_func("/nbd-abandon/close", test_close);
    g_test_add_func("/nbd-abandon/reconnect", test_reconnect);
    g_test_add_func("/nbd-abandon/negotiation", test_negotiation);
    g_test_add_func("/nbd-abandon/lost", test_lost);
    return g_test_run();
}
