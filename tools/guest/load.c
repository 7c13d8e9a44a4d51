/*
 * A load for a file system that knows what it has written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * usage: load run FOLDER SEED WORKERS    until SIGTERM
 *        load check FOLDER SEED          what must be there is told on stdin
 *
 * Each worker does what comes to its mind (and to its seed) with files in a
 * folder of its own, and keeps in memory what all of them hold.  It reads them
 * again all the time; the first process sees to it that they come from the
 * disk.  At the end all is verified.
 *
 * Memory does not outlive the guest.  So each worker also has files whose
 * contents follow from the seed and a generation, and says when a generation
 * can't get lost any more:
 *
 *   kept WORKER FILE GENERATION     a whole file: written anew, synced, renamed
 *   block WORKER BLOCK GENERATION   one block of a file, written in place
 *
 * "check" takes such lines and wants these generations or later ones.
 *
 * Lines that begin with "failed" say what is wrong.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORKERS 16
#define FOLDERS 4               /* the first one is always there */
#define NAMES 10                /* in each folder */
#define MAX_SIZE (256 * 1024)
#define MAX_TOTAL (5 * 1024 * 1024)     /* of a worker */
#define KEPT_FILES 8
#define MAX_KEPT_SIZE (96 * 1024)
#define BLOCKS 64
#define BLOCK 1024              /* no file system has smaller ones */
#define PAGE 4096

typedef struct Inode {
    unsigned links;
    size_t size;
    uint8_t *data;              /* MAX_SIZE bytes; zeroes behind the size */
} Inode;

/* A place for a name: a file, a symbolic link, or nothing. */
typedef struct Name {
    Inode *inode;
    char target[32];
} Name;

static uint64_t seed;
static unsigned worker;
static uint64_t rng;
static bool is_folder[FOLDERS] = { true };
static Name names[FOLDERS][NAMES];
static size_t total;
static unsigned kept_generation[KEPT_FILES];
static unsigned block_generation[BLOCKS];
static volatile sig_atomic_t over;
static uint64_t *operations;    /* of each worker, shared by all */
static const char *doing = "";
static uint8_t *page_buffer;    /* for O_DIRECT, MAX_SIZE bytes */

/* --- telling --- */

static void __attribute__((format(printf, 1, 2))) tell(const char *format, ...)
{
    char line[256];
    va_list ap;
    int size;

    va_start(ap, format);
    size = vsnprintf(line, sizeof(line) - 1, format, ap);
    va_end(ap);
    if (size > (int)sizeof(line) - 2) {
        size = sizeof(line) - 2;
    }
    line[size] = '\n';
    /* In one piece, for others are talking, too. */
    if (write(STDOUT_FILENO, line, size + 1) != size + 1) {
        _exit(2);
    }
}

#define fail(format, ...) \
    do { \
        tell("failed worker %u, operation %llu, %s: " format, worker, \
             (unsigned long long)(operations ? operations[worker] : 0), \
             doing, ##__VA_ARGS__); \
        _exit(1); \
    } while (0)

#define must(condition, path) \
    do { \
        if (!(condition)) { \
            fail("%s %s: %s", #condition, path, strerror(errno)); \
        } \
    } while (0)

/* --- what comes to our mind --- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t any(uint64_t below)
{
    rng = mix(rng);
    return rng % below;
}

/* A range of a file, more often small than large; its end. */
static size_t any_range(size_t limit, size_t *from)
{
    size_t size = 1 + any(any(2) ? MAX_SIZE / 4 : PAGE);

    *from = any(limit);
    return *from + size < limit ? *from + size : limit;
}

/* Mostly noise; also zeroes, and one byte many times. */
static void any_data(uint8_t *data, size_t size)
{
    uint64_t x = any(UINT64_MAX);

    switch (any(8)) {
    case 0:
        memset(data, 0, size);
        break;
    case 1:
        memset(data, x & 0xff, size);
        break;
    default:
        for (size_t i = 0; i < size; i++) {
            if (i % 8 == 0) {
                x = mix(x);
            }
            data[i] = x >> (i % 8 * 8);
        }
    }
}

/* --- one file --- */

static void path_of(char *path, unsigned folder, unsigned name)
{
    sprintf(path, "d%u/n%u", folder, name);
}

static int open_file(const char *path, int flags)
{
    int fd = open(path, flags, 0644);

    must(fd >= 0, path);
    return fd;
}

static void close_file(int fd, const char *path)
{
    must(close(fd) == 0, path);
}

/* Read [from, to) of a file into a buffer. */
static void read_range(int fd, const char *path, uint8_t *data, size_t from,
                       size_t to)
{
    while (from < to) {
        ssize_t got = pread(fd, data, to - from, from);

        must(got >= 0, path);
        if (got == 0) {
            fail("%s ends at %zu", path, from);
        }
        data += got;
        from += got;
    }
}

static void write_range(int fd, const char *path, const uint8_t *data,
                        size_t from, size_t to)
{
    while (from < to) {
        ssize_t done = pwrite(fd, data, to - from, from);

        must(done > 0, path);
        data += done;
        from += done;
    }
}

static void verify_data(const char *path, const uint8_t *got,
                        const uint8_t *wanted, size_t from, size_t size)
{
    size_t i, bad = 0, first = 0;

    if (memcmp(got, wanted, size) == 0) {
        return;
    }
    for (i = size; i-- > 0;) {
        if (got[i] != wanted[i]) {
            bad++;
            first = i;
        }
    }
    fail("%s: %zu bytes are wrong, the first one is %zu: %02x, not %02x", path,
         bad, from + first, got[first], wanted[first]);
}

static void verify_range(int fd, const char *path, const Inode *inode,
                         size_t from, size_t to)
{
    static uint8_t data[MAX_SIZE];

    read_range(fd, path, data, from, to);
    verify_data(path, data, inode->data + from, from, to - from);
}

static void verify_file(const char *path, const Inode *inode, int flags)
{
    struct stat st;
    int fd = open_file(path, O_RDONLY | flags);

    must(fstat(fd, &st) == 0, path);
    if ((size_t)st.st_size != inode->size || st.st_nlink != inode->links) {
        fail("%s has %lld bytes and %u links, not %zu and %u", path,
             (long long)st.st_size, (unsigned)st.st_nlink, inode->size,
             inode->links);
    }
    if (flags & O_DIRECT) {
        size_t end = (inode->size + PAGE - 1) & ~(size_t)(PAGE - 1);
        ssize_t got = pread(fd, page_buffer, end, 0);

        must(got >= 0, path);
        if ((size_t)got != inode->size) {
            fail("%s: read %zd bytes directly, not %zu", path, got,
                 inode->size);
        }
        verify_data(path, page_buffer, inode->data, 0, inode->size);
    } else {
        verify_range(fd, path, inode, 0, inode->size);
    }
    close_file(fd, path);
}

static void verify_link(const char *path, const Name *name)
{
    char target[sizeof(name->target)] = "";

    must(readlink(path, target, sizeof(target) - 1) > 0, path);
    if (strcmp(target, name->target) != 0) {
        fail("%s leads to %s, not to %s", path, target, name->target);
    }
}

static void resized(Inode *inode, size_t size)
{
    if (size < inode->size) {
        memset(inode->data + size, 0, inode->size - size);
    }
    total += size - inode->size;
    inode->size = size;
}

/* The memory of what a file holds, after a write */
static void written(Inode *inode, const uint8_t *data, size_t from, size_t to)
{
    if (to > inode->size) {
        resized(inode, to);
    }
    memcpy(inode->data + from, data, to - from);
}

/* A name is no longer what it was. */
static void forget(Name *name)
{
    Inode *inode = name->inode;

    name->target[0] = 0;
    name->inode = NULL;
    if (inode && --inode->links == 0) {
        total -= inode->size;
        free(inode->data);
        free(inode);
    }
}

/* --- what can be done to a file that is there --- */

static void do_write(const char *path, Inode *inode)
{
    static uint8_t data[MAX_SIZE];
    size_t from, to;
    bool direct = any(5) == 0;
    bool append = !direct && any(3) == 0;
    int flags = direct ? O_DIRECT : append ? O_APPEND : any(8) ? 0 : O_DSYNC;
    int fd;

    to = any_range(MAX_SIZE, &from);
    if (direct) {
        from &= ~(size_t)(PAGE - 1);
        to = (to + PAGE - 1) & ~(size_t)(PAGE - 1);
    } else if (append) {
        to = inode->size + (to - from);
        to = to > MAX_SIZE ? MAX_SIZE : to;
        from = inode->size;
    } else if (any(2)) {
        /* into what is there, not far behind it */
        from = inode->size ? from % inode->size : 0;
    }
    fd = open_file(path, O_WRONLY | flags);
    any_data(data, to - from);
    if (direct) {
        memcpy(page_buffer, data, to - from);
    }
    write_range(fd, path, direct ? page_buffer : data, from, to);
    close_file(fd, path);
    written(inode, data, from, to);
}

static void do_mmap(const char *path, Inode *inode)
{
    size_t from, to;
    uint8_t *map;
    int fd;

    if (inode->size == 0) {
        return;
    }
    to = any_range(inode->size, &from);
    fd = open_file(path, O_RDWR);
    map = mmap(NULL, inode->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(map != MAP_FAILED, path);
    verify_data(path, map + from, inode->data + from, from, to - from);
    any_data(inode->data + from, to - from);
    memcpy(map + from, inode->data + from, to - from);
    if (any(2)) {
        must(msync(map, inode->size, MS_SYNC) == 0, path);
    }
    must(munmap(map, inode->size) == 0, path);
    close_file(fd, path);
}

static void do_truncate(const char *path, Inode *inode)
{
    size_t size = any(2) ? any(MAX_SIZE) : any(inode->size + 1);

    must(truncate(path, size) == 0, path);
    resized(inode, size);
}

static void do_fallocate(const char *path, Inode *inode)
{
    static const int modes[] = {
        0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    };
    int mode = modes[any(sizeof(modes) / sizeof(modes[0]))];
    size_t from, to = any_range(MAX_SIZE, &from);
    int fd = open_file(path, O_WRONLY);

    must(fallocate(fd, mode, from, to - from) == 0, path);
    close_file(fd, path);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && to > inode->size) {
        resized(inode, to);
    }
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
        memset(inode->data + from, 0, to - from);
    }
}

static void do_sync(const char *path, Inode *inode)
{
    int fd = open_file(path, O_RDWR);

    must((any(2) ? fsync(fd) : fdatasync(fd)) == 0, path);
    /* Now it is read from the disk. */
    must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, path);
    close_file(fd, path);
    verify_file(path, inode, 0);
}

static void do_read(const char *path, Inode *inode)
{
    verify_file(path, inode, any(4) ? 0 : O_DIRECT);
}

/* --- what can be done to names --- */

static void do_create(const char *path, Name *name)
{
    Inode *inode = calloc(1, sizeof(*inode));

    close_file(open_file(path, O_WRONLY | O_CREAT | O_EXCL), path);
    inode->links = 1;
    inode->data = calloc(1, MAX_SIZE);
    name->inode = inode;
    do_write(path, inode);
}

static void do_symlink(const char *path, Name *name)
{
    sprintf(name->target, "../d%u/n%u", (unsigned)any(FOLDERS),
            (unsigned)any(NAMES));
    must(symlink(name->target, path) == 0, path);
}

static void do_unlink(const char *path, Name *name)
{
    must(unlink(path) == 0, path);
    forget(name);
}

/* Another place for a name, in a folder that is there */
static Name *any_name(char *path)
{
    unsigned folder, name = any(NAMES);

    do {
        folder = any(FOLDERS);
    } while (!is_folder[folder]);
    path_of(path, folder, name);
    return &names[folder][name];
}

static void do_link(const char *path, Name *name)
{
    char new_path[32];
    Name *new_name = any_name(new_path);

    if (new_name->inode || new_name->target[0]) {
        return;
    }
    must(link(path, new_path) == 0, new_path);
    new_name->inode = name->inode;
    new_name->inode->links++;
}

static void do_rename(const char *path, Name *name)
{
    char new_path[32];
    Name *new_name = any_name(new_path);

    must(rename(path, new_path) == 0, new_path);
    /* Two names of one file: POSIX has it that nothing happens. */
    if (new_name != name &&
        !(name->inode && new_name->inode == name->inode)) {
        forget(new_name);
        *new_name = *name;
        memset(name, 0, sizeof(*name));
    }
}

static void do_mkdir(unsigned folder)
{
    char path[16];

    sprintf(path, "d%u", folder);
    must(mkdir(path, 0755) == 0, path);
    is_folder[folder] = true;
}

/* Empty it, and take it away; or give it another name. */
static void do_rmdir(unsigned folder)
{
    char path[32], new_path[16];
    unsigned other = 1 + any(FOLDERS - 1);

    if (!is_folder[other]) {
        sprintf(path, "d%u", folder);
        sprintf(new_path, "d%u", other);
        must(rename(path, new_path) == 0, new_path);
        memcpy(names[other], names[folder], sizeof(names[folder]));
        memset(names[folder], 0, sizeof(names[folder]));
        is_folder[other] = true;
    } else {
        for (unsigned i = 0; i < NAMES; i++) {
            if (names[folder][i].inode || names[folder][i].target[0]) {
                path_of(path, folder, i);
                do_unlink(path, &names[folder][i]);
            }
        }
        sprintf(path, "d%u", folder);
        must(rmdir(path) == 0, path);
    }
    is_folder[folder] = false;
}

/* What is in a folder is what we know to be there. */
static void do_list(unsigned folder)
{
    char path[16];
    bool seen[NAMES] = { false };
    struct dirent *entry;
    DIR *dir;

    sprintf(path, "d%u", folder);
    dir = opendir(path);
    must(dir, path);
    while (errno = 0, (entry = readdir(dir))) {
        unsigned i;

        if (entry->d_name[0] == '.') {
            continue;
        }
        if (sscanf(entry->d_name, "n%u", &i) != 1 || i >= NAMES || seen[i]) {
            fail("%s has %s", path, entry->d_name);
        }
        seen[i] = true;
    }
    must(errno == 0, path);
    closedir(dir);
    for (unsigned i = 0; i < NAMES; i++) {
        const Name *name = &names[folder][i];

        if (seen[i] != (name->inode || name->target[0])) {
            fail("%s/n%u is %sthere", path, i, seen[i] ? "" : "not ");
        }
    }
}

/* --- what outlives the guest --- */

/* Return the size. */
static size_t kept_contents(unsigned file, unsigned generation, uint8_t *data)
{
    uint64_t x = mix(mix(mix(seed ^ worker) ^ file) ^ generation);
    size_t size = 16 + x % (MAX_KEPT_SIZE - 16);

    for (size_t i = 0; i < size; i++) {
        if (i % 8 == 0) {
            x = mix(x);
        }
        data[i] = x >> (i % 8 * 8);
    }
    memcpy(data, &generation, sizeof(generation));
    return size;
}

static void do_keep(void)
{
    static uint8_t data[MAX_KEPT_SIZE];
    unsigned file = any(KEPT_FILES);
    unsigned generation = ++kept_generation[file];
    size_t size = kept_contents(file, generation, data);
    char path[16];
    int fd;

    sprintf(path, "k%u", file);
    fd = open_file("new", O_WRONLY | O_CREAT | O_TRUNC);
    write_range(fd, "new", data, 0, size);
    must(fsync(fd) == 0, path);
    close_file(fd, "new");
    must(rename("new", path) == 0, path);
    fd = open_file(".", O_RDONLY | O_DIRECTORY);
    must(fsync(fd) == 0, path);
    close_file(fd, ".");
    tell("kept %u %u %u", worker, file, generation);
}

static void block_contents(unsigned block, unsigned generation, uint8_t *data)
{
    uint32_t words[4] = { generation, block, worker, seed };

    for (size_t i = 0; i < BLOCK; i += sizeof(words)) {
        memcpy(data + i, words, sizeof(words));
    }
}

static void do_block(void)
{
    unsigned block = any(BLOCKS);
    unsigned generation = ++block_generation[block];
    uint8_t data[BLOCK];
    int fd = open_file("blocks", O_WRONLY);

    block_contents(block, generation, data);
    write_range(fd, "blocks", data, block * BLOCK, (block + 1) * BLOCK);
    must(fdatasync(fd) == 0, "blocks");
    close_file(fd, "blocks");
    tell("block %u %u %u", worker, block, generation);
}

static void verify_kept(unsigned file, unsigned least)
{
    static uint8_t data[MAX_KEPT_SIZE], wanted[MAX_KEPT_SIZE];
    struct stat st;
    unsigned generation;
    char path[32];
    size_t size;
    int fd;

    sprintf(path, "w%u/k%u", worker, file);
    fd = open_file(path, O_RDONLY);
    must(fstat(fd, &st) == 0, path);
    if (st.st_size < 16 || st.st_size > MAX_KEPT_SIZE) {
        fail("%s has %lld bytes", path, (long long)st.st_size);
    }
    read_range(fd, path, data, 0, st.st_size);
    close_file(fd, path);
    memcpy(&generation, data, sizeof(generation));
    if (generation < least) {
        fail("%s is generation %u, but %u was synced", path, generation, least);
    }
    size = kept_contents(file, generation, wanted);
    if (size != (size_t)st.st_size) {
        fail("%s has %lld bytes, not %zu", path, (long long)st.st_size, size);
    }
    verify_data(path, data, wanted, 0, size);
}

static void verify_block(unsigned block, unsigned least)
{
    uint8_t data[BLOCK], wanted[BLOCK];
    unsigned generation;
    char path[32];
    int fd;

    sprintf(path, "w%u/blocks", worker);
    fd = open_file(path, O_RDONLY);
    read_range(fd, path, data, block * BLOCK, (block + 1) * BLOCK);
    close_file(fd, path);
    memcpy(&generation, data, sizeof(generation));
    if (generation < least) {
        fail("%s: block %u is generation %u, but %u was synced", path, block,
             generation, least);
    }
    block_contents(block, generation, wanted);
    verify_data(path, data, wanted, block * BLOCK, BLOCK);
}

static void check(void)
{
    unsigned item, least, count = 0;
    char kind[16];

    while (scanf("%15s %u %u %u", kind, &worker, &item, &least) == 4) {
        doing = kind;
        if (strcmp(kind, "kept") == 0) {
            verify_kept(item, least);
        } else {
            verify_block(item, least);
        }
        count++;
    }
    tell("checked %u", count);
}

/* --- workers --- */

static void one_operation(void)
{
    static const struct {
        const char *name;
        void (*function)(const char *path, Inode *inode);
        unsigned tenths;        /* how often, when it is chosen */
    } on_file[] = {
        { "write", do_write, 10 }, { "mmap", do_mmap, 3 },
        { "truncate", do_truncate, 2 }, { "fallocate", do_fallocate, 4 },
        { "sync", do_sync, 4 }, { "read", do_read, 6 },
    };
    unsigned folder, i;
    char path[32];
    Name *name;

    switch (any(40)) {
    case 0:
        folder = 1 + any(FOLDERS - 1);
        doing = is_folder[folder] ? "rmdir" : "mkdir";
        if (!is_folder[folder]) {
            do_mkdir(folder);
        } else if (any(3) == 0) {
            do_rmdir(folder);
        }
        return;
    case 1:
        folder = any(FOLDERS);
        doing = "list";
        if (is_folder[folder]) {
            do_list(folder);
        }
        return;
    case 2:
        doing = "keep";
        do_keep();
        return;
    case 3:
        doing = "block";
        do_block();
        return;
    case 4:
        if (any(8) == 0) {
            doing = "syncfs";
            sync();
        }
        return;
    }

    name = any_name(path);
    if (name->target[0]) {
        doing = "symlink";
        verify_link(path, name);
        if (any(4) == 0) {
            do_unlink(path, name);
        }
    } else if (!name->inode) {
        if (total > MAX_TOTAL) {
            return;
        }
        doing = any(10) ? "create" : "symlink";
        if (doing[0] == 'c') {
            do_create(path, name);
        } else {
            do_symlink(path, name);
        }
    } else if (total > MAX_TOTAL || any(12) == 0) {
        doing = "unlink";
        do_unlink(path, name);
    } else if (any(12) == 0) {
        doing = "link";
        do_link(path, name);
    } else if (any(12) == 0) {
        doing = "rename";
        do_rename(path, name);
    } else {
        do {
            i = any(sizeof(on_file) / sizeof(on_file[0]));
        } while (any(10) >= on_file[i].tenths);
        doing = on_file[i].name;
        on_file[i].function(path, name->inode);
    }
}

static void verify_all(void)
{
    char path[32];

    doing = "verify all";
    for (unsigned folder = 0; folder < FOLDERS; folder++) {
        if (!is_folder[folder]) {
            continue;
        }
        do_list(folder);
        for (unsigned i = 0; i < NAMES; i++) {
            Name *name = &names[folder][i];

            path_of(path, folder, i);
            if (name->target[0]) {
                verify_link(path, name);
            } else if (name->inode) {
                int fd = open_file(path, O_RDWR);

                must(fsync(fd) == 0, path);
                must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, path);
                close_file(fd, path);
                verify_file(path, name->inode, 0);
            }
        }
    }
}

static void work(unsigned number)
{
    char path[16];
    uint8_t data[BLOCK];
    int fd;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    worker = number;
    rng = mix(seed ^ mix(worker));
    sprintf(path, "w%u", worker);
    must(mkdir(path, 0755) == 0, path);
    must(chdir(path) == 0, path);
    must(mkdir("d0", 0755) == 0, path);
    fd = open_file("blocks", O_WRONLY | O_CREAT);
    for (unsigned i = 0; i < BLOCKS; i++) {
        block_contents(i, 0, data);
        write_range(fd, "blocks", data, i * BLOCK, (i + 1) * BLOCK);
    }
    close_file(fd, "blocks");
    must(posix_memalign((void **)&page_buffer, PAGE, MAX_SIZE) == 0, path);

    while (!over) {
        one_operation();
        operations[worker]++;
    }
    verify_all();
    _exit(0);
}

/* --- the first process --- */

static void end(int number)
{
    (void)number;
    over = 1;
}

/* Nothing may come from memory: the disk is to be believed, or not. */
static void drop_caches(void)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

    if (fd >= 0) {
        (void)!write(fd, "3", 1);
        close(fd);
    }
}

static void trim(const char *folder)
{
    struct fstrim_range range = { .len = UINT64_MAX };
    int fd = open_file(folder, O_RDONLY | O_DIRECTORY);

    if (ioctl(fd, FITRIM, &range) != 0 && errno != EOPNOTSUPP) {
        tell("failed trim: %s", strerror(errno));
        over = 1;
    }
    close_file(fd, folder);
}

static int run(unsigned workers)
{
    pid_t pids[MAX_WORKERS];
    unsigned round = 0;
    uint64_t sum;
    int status, bad = 0;

    for (unsigned i = 0; i < workers; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            work(i);
        }
    }
    rng = seed;
    while (!over) {
        usleep(500 * 1000);
        sum = 0;
        for (unsigned i = 0; i < workers; i++) {
            sum += operations[i];
        }
        tell("load %llu", (unsigned long long)sum);
        if (any(2)) {
            drop_caches();
        }
        if (++round % 8 == 0) {
            trim(".");
        }
    }
    for (unsigned i = 0; i < workers; i++) {
        kill(pids[i], SIGTERM);
    }
    for (unsigned i = 0; i < workers; i++) {
        while (waitpid(pids[i], &status, 0) < 0 && errno == EINTR) {
        }
        if (status != 0) {
            tell("failed worker %u ended with status %#x", i, status);
            bad = 1;
        }
    }
    /* None of them is left: init must not be disturbed by their end. */
    return bad;
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = end, .sa_flags = SA_RESTART };
    unsigned workers;

    if (argc < 4) {
        tell("failed usage: load run FOLDER SEED WORKERS");
        return 2;
    }
    seed = strtoull(argv[3], NULL, 0);
    must(chdir(argv[2]) == 0, argv[2]);
    if (strcmp(argv[1], "check") == 0) {
        check();
        return 0;
    }
    workers = argc > 4 ? atoi(argv[4]) : 1;
    if (workers < 1 || workers > MAX_WORKERS) {
        tell("failed 1 to %d workers", MAX_WORKERS);
        return 2;
    }
    operations = mmap(NULL, MAX_WORKERS * sizeof(*operations),
                      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                      0);
    must(operations != MAP_FAILED, "memory");
    sigaction(SIGTERM, &action, NULL);
    return run(workers);
}
