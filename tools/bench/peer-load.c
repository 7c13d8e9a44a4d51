/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In a guest: make a mirror of disks, and measure disks.
 *
 * usage: peer-load mirror MD DISK...
 *        peer-load read|write DISK BYTES DEPTH MS
 *
 * A mirror has no superblock, and its disks are taken to be alike.
 *
 * DEPTH requests of BYTES are in flight, direct I/O, at random places; or, if MS
 * is 0, all of the disk is done once, from the begin to the end.  What is
 * written is what the images of the bench hold.  Prints bytes for each second.
 *
 * Copyright (c) 2026 The quorum project authors
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/major.h>
#include <linux/raid/md_u.h>
#include <linux/raid/md_p.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PATTERN 0x5a        /* as in contest.py */
#define MOST 64             /* requests in flight */

static int open_disk(const char *path, int flags)
{
    int fd = open(path, flags);

    if (fd < 0) {
        err(1, "%s", path);
    }
    return fd;
}

/* --- the mirror --- */

static void mirror(const char *path, char **disks, int n)
{
    mdu_array_info_t array = {
        .level = 1,
        .raid_disks = n,
        .nr_disks = n,
        .active_disks = n,
        .working_disks = n,
        .not_persistent = 1,
        .state = 1 << MD_SB_CLEAN,
    };
    int fd = open_disk(path, O_RDWR);

    array.size = lseek(open_disk(disks[0], O_RDONLY), 0, SEEK_END) / 1024;
    if (ioctl(fd, SET_ARRAY_INFO, &array)) {
        err(1, "SET_ARRAY_INFO");
    }
    for (int i = 0; i < n; i++) {
        mdu_disk_info_t disk = {
            .number = i,
            .raid_disk = i,
            .state = 1 << MD_DISK_SYNC | 1 << MD_DISK_ACTIVE,
        };
        struct stat st;

        if (stat(disks[i], &st)) {
            err(1, "%s", disks[i]);
        }
        disk.major = major(st.st_rdev);
        disk.minor = minor(st.st_rdev);
        if (ioctl(fd, ADD_NEW_DISK, &disk)) {
            err(1, "ADD_NEW_DISK %s", disks[i]);
        }
    }
    if (ioctl(fd, RUN_ARRAY, NULL)) {
        err(1, "RUN_ARRAY");
    }
    printf("mirror\n");
}

/* --- the load --- */

static aio_context_t context;
static int disk;
static bool is_write, once;
static int64_t bytes, blocks, next;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void submit(struct iocb *cb)
{
    int64_t block = once ? next : (int64_t)random() % blocks;
    void *buf = (void *)(uintptr_t)cb->aio_buf;

    next++;
    *cb = (struct iocb) {
        .aio_data = (uintptr_t)cb,
        .aio_lio_opcode = is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
        .aio_fildes = disk,
        .aio_buf = (uintptr_t)buf,
        .aio_nbytes = bytes,
        .aio_offset = block * bytes,
    };
    if (syscall(SYS_io_submit, context, 1, &cb) != 1) {
        err(1, "io_submit");
    }
}

static void load(int depth, int64_t ms)
{
    struct iocb cbs[MOST];
    struct io_event events[MOST];
    int64_t start, done = 0;
    int running = 0;

    if (syscall(SYS_io_setup, MOST, &context)) {
        err(1, "io_setup");
    }
    for (int i = 0; i < depth; i++) {
        void *buf = aligned_alloc(4096, bytes);

        memset(buf, PATTERN, bytes);
        cbs[i].aio_buf = (uintptr_t)buf;
    }
    start = now_ms();
    while (running < depth && !(once && next == blocks)) {
        submit(&cbs[running++]);
    }
    while (running) {
        int n = syscall(SYS_io_getevents, context, 1, MOST, events, NULL);
        bool over = once ? false : now_ms() - start >= ms;

        if (n < 1) {
            err(1, "io_getevents");
        }
        for (int i = 0; i < n; i++) {
            if (events[i].res != bytes) {
                errx(1, "a request ended with %lld", (long long)events[i].res);
            }
            done++;
            if (over || (once && next == blocks)) {
                running--;
            } else {
                submit((struct iocb *)(uintptr_t)events[i].data);
            }
        }
    }
    ms = now_ms() - start;
    printf("%lld\n", (long long)(done * bytes * 1000 / (ms ? ms : 1)));
}

int main(int argc, char **argv)
{
    if (argc > 3 && !strcmp(argv[1], "mirror")) {
        mirror(argv[2], argv + 3, argc - 3);
    } else if (argc == 6 && atoi(argv[4]) <= MOST) {
        is_write = !strcmp(argv[1], "write");
        disk = open_disk(argv[2], O_RDWR | O_DIRECT);
        bytes = atoll(argv[3]);
        blocks = lseek(disk, 0, SEEK_END) / bytes;
        once = !atoll(argv[5]);
        load(atoi(argv[4]), atoll(argv[5]));
    } else {
        errx(1, "what?");
    }
    return 0;
}
