/*
 * Unit tests of the pool of bounce buffers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/aio.h"
#include "block/buffer-pool.h"
#include "qemu/host-utils.h"
#include "qemu/main-loop.h"
#include "qemu/processor.h"
#include "thread-stress.h"

enum {
    KiB4 = BUFFER_POOL_MIN_SIZE,
    MAX_BUFS = 8,           /* of a request */
};

/* --- one thread: which requests wait, and how much memory is held --- */

/*
 * Most of these tests do not run the main loop, so that the timer does not
 * interfere.  They need no main loop: a coroutine that is woken in the same
 * thread runs when the coroutine that woke it yields.
 */

typedef struct Holder {
    BufferPool *pool;
    size_t bytes;
    int n;
    void *bufs[MAX_BUFS];
    Coroutine *co;
    bool holds;             /* has got its buffers */
    bool failed;            /* could not get them */
    bool done;              /* has given them back */
} Holder;

static void coroutine_fn holder_entry(void *opaque)
{
    Holder *h = opaque;

    if (!buffer_pool_co_get(h->pool, h->bytes, h->n, h->bufs)) {
        h->failed = true;
        return;
    }
    h->holds = true;
    qemu_coroutine_yield();
    h->done = true;
    buffer_pool_put(h->pool, h->bytes, h->n, h->bufs);
}

static void holder_start(Holder *h, BufferPool *pool, size_t bytes, int n)
{
    assert(n <= MAX_BUFS);
    *h = (Holder) {
        .pool = pool, .bytes = bytes, .n = n,
        .co = qemu_coroutine_create(holder_entry, h),
    };
    qemu_coroutine_enter(h->co);
}

/* Let @h, which holds its buffers, give them back. */
static void holder_release(Holder *h)
{
    g_assert_true(h->holds && !h->done);
    qemu_coroutine_enter(h->co);
}

/* Get buffers and give them back. */
static void use(BufferPool *pool, size_t bytes, int n)
{
    Holder h;

    holder_start(&h, pool, bytes, n);
    holder_release(&h);
}

static void test_size(void)
{
    BufferPool pool;
    Holder a;

    buffer_pool_init(&pool, 10 * KiB4, 1);
    g_assert_cmpuint(buffer_pool_max_size(&pool, 1), ==, 8 * KiB4);
    g_assert_cmpuint(buffer_pool_max_size(&pool, 2), ==, 4 * KiB4);
    g_assert_cmpuint(buffer_pool_max_size(&pool, 3), ==, 2 * KiB4);
    g_assert_cmpuint(buffer_pool_max_size(&pool, 10), ==, KiB4);
    g_assert_cmpuint(buffer_pool_max_size(&pool, 11), ==, 0);

    for (int i = 0; i < 4; i++) {
        size_t bytes[] = { 1, KiB4, KiB4 + 1, 4 * KiB4 + 1 };
        size_t size[] = { KiB4, KiB4, 2 * KiB4, 8 * KiB4 };

        holder_start(&a, &pool, bytes[i], 1);
        g_assert_cmpuint(buffer_pool_held(&pool), >=, size[i]);
        memset(a.bufs[0], 0x55, size[i]);
        holder_release(&a);
    }
    buffer_pool_destroy(&pool);

    buffer_pool_init(&pool, 128 * KiB4, 16 * KiB4);
    holder_start(&a, &pool, 1, MAX_BUFS);
    for (int i = 0; i < MAX_BUFS; i++) {
        g_assert_true(QEMU_PTR_IS_ALIGNED(a.bufs[i], 16 * KiB4));
    }
    holder_release(&a);
    buffer_pool_destroy(&pool);
}

/* Buffers that were given back are handed out again, the latest first. */
static void test_reuse(void)
{
    BufferPool pool;
    Holder a, b, c;

    buffer_pool_init(&pool, 64 * KiB4, KiB4);
    holder_start(&a, &pool, 4 * KiB4, 1);
    holder_start(&b, &pool, 4 * KiB4, 1);
    g_assert_true(a.bufs[0] != b.bufs[0]);
    holder_release(&a);
    holder_release(&b);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);

    /* A request of any size in the class gets a kept buffer. */
    holder_start(&c, &pool, 2 * KiB4 + 1, 1);
    g_assert_true(c.bufs[0] == b.bufs[0]);
    holder_release(&c);

    /* The two kept buffers, and a new one. */
    holder_start(&c, &pool, 4 * KiB4, 3);
    g_assert_true(c.bufs[0] == b.bufs[0]);
    g_assert_true(c.bufs[1] == a.bufs[0]);
    g_assert_true(c.bufs[2] != a.bufs[0] && c.bufs[2] != b.bufs[0]);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 12 * KiB4);

    /* A request of another class gets a new buffer. */
    holder_release(&c);
    holder_start(&a, &pool, 2 * KiB4, 1);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 14 * KiB4);
    holder_release(&a);
    buffer_pool_destroy(&pool);
}

/* Kept buffers make room for other classes, but only if they must. */
static void test_evict(void)
{
    BufferPool pool;
    Holder a, b;

    buffer_pool_init(&pool, 8 * KiB4, KiB4);
    use(&pool, KiB4, 4);
    use(&pool, 4 * KiB4, 1);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);

    /* The large buffer is freed, and the small ones stay. */
    holder_start(&a, &pool, 2 * KiB4, 1);
    g_assert_true(a.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 6 * KiB4);
    holder_start(&b, &pool, 2 * KiB4, 1);
    g_assert_true(b.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);
    holder_release(&a);
    holder_release(&b);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);

    /* One buffer is missing; the kept ones of its class are not freed. */
    holder_start(&a, &pool, 2 * KiB4, 3);
    g_assert_true(a.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);
    holder_release(&a);

    /* Buffers of several classes are freed, for a request that waited, too. */
    holder_start(&a, &pool, KiB4, 1);
    holder_start(&b, &pool, 8 * KiB4, 1);
    g_assert_false(b.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);
    holder_release(&a);
    g_assert_true(b.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);
    holder_release(&b);
    buffer_pool_destroy(&pool);
}

static void test_fifo(void)
{
    enum { N = 26 };
    BufferPool pool;
    Holder h[N], big, small[N];

    /* There is room for one request at a time: they come in order. */
    buffer_pool_init(&pool, 8 * KiB4, KiB4);
    for (int i = 0; i < N; i++) {
        holder_start(&h[i], &pool, 5 * KiB4, 1);
    }
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            g_assert_cmpint(h[k].holds, ==, k <= i);
        }
        holder_release(&h[i]);
    }

    /* No small request passes the big one, though there is room for it. */
    holder_start(&h[0], &pool, KiB4, 1);
    holder_start(&h[1], &pool, KiB4, 1);
    holder_start(&big, &pool, KiB4, 8);
    for (int i = 0; i < N; i++) {
        holder_start(&small[i], &pool, KiB4, 1);
        g_assert_false(small[i].holds);
    }
    holder_release(&h[0]);
    g_assert_false(big.holds || small[0].holds);
    holder_release(&h[1]);
    g_assert_true(big.holds);
    g_assert_false(small[0].holds);

    /* As many requests as fit are served at once, and no more. */
    holder_release(&big);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            g_assert_cmpint(small[k].holds, ==, k < i + 8);
        }
        holder_release(&small[i]);
    }
    buffer_pool_destroy(&pool);
}

/* A request that fails has taken nothing, and later ones are served. */
static void test_out_of_memory(void)
{
    size_t capacity = SIZE_MAX / 2 + 1;         /* more than malloc ever has */
    BufferPool pool;
    Holder a, b, c;

#ifdef QEMU_SANITIZE_ADDRESS
    g_test_skip("ASan aborts when memory is exhausted");
    return;
#endif

    buffer_pool_init(&pool, capacity, KiB4);
    holder_start(&a, &pool, KiB4, 1);
    holder_start(&b, &pool, capacity / 2 + 1, 1);
    holder_start(&c, &pool, KiB4, 1);
    g_assert_false(b.holds || b.failed || c.holds);
    holder_release(&a);
    g_assert_true(b.failed && c.holds);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, KiB4);

    holder_start(&b, &pool, capacity / 4, 2);
    g_assert_true(b.failed);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, KiB4);
    holder_release(&c);
    buffer_pool_destroy(&pool);
}

/*
 * Random requests, which end at random, are compared with the rules themselves:
 * a request is served if and only if it fits, and all earlier ones have been
 * served; and no kept buffer is freed unless it had to make room.
 */

enum {
    MODEL_CLASSES = 5,
    MODEL_CAPACITY = 24,    /* * 4 KiB */
};

typedef struct Model {
    int used;                       /* in 4 KiB */
    int kept[MODEL_CLASSES];        /* buffers of 1 << index */
} Model;

static int model_held(const Model *m)
{
    int held = m->used;

    for (int i = 0; i < MODEL_CLASSES; i++) {
        held += m->kept[i] << i;
    }
    return held;
}

static void model_serve(Model *m, int class, int n)
{
    int largest = MODEL_CLASSES - 1;

    m->used += n << class;
    m->kept[class] -= MIN(n, m->kept[class]);
    while (model_held(m) > MODEL_CAPACITY) {
        if (m->kept[largest]) {
            m->kept[largest]--;
        } else {
            largest--;
        }
    }
}

static void test_random(void)
{
    enum { N = 48, STEPS = 20000 };
    BufferPool pool;
    Model m = { };
    Holder h[N];                    /* in order of asking */
    int class[N];
    bool served[N];                 /* in the model */
    int asked = 0, step = 0;

    buffer_pool_init(&pool, MODEL_CAPACITY * KiB4, KiB4);
    while (step < STEPS || asked) {
        int holders[N], k = 0;
        GHashTable *seen = g_hash_table_new(NULL, NULL);

        if (step++ < STEPS && asked < N && g_test_rand_int_range(0, 3)) {
            int c = g_test_rand_int_range(0, MODEL_CLASSES);
            int most = MIN(MAX_BUFS, MODEL_CAPACITY >> c);
            int n = g_test_rand_int_range(1, most + 1);
            int bytes = (KiB4 << c) - (g_test_rand_bit() ? KiB4 / 2 - 1 : 0);

            /* The coroutine has a pointer to its element: none is moved. */
            class[asked] = c;
            served[asked] = false;
            holder_start(&h[asked++], &pool, bytes, n);
        }

        for (int i = 0; i < asked; i++) {
            if (!served[i]) {
                if (m.used + (h[i].n << class[i]) > MODEL_CAPACITY) {
                    break;
                }
                model_serve(&m, class[i], h[i].n);
                served[i] = true;
            }
        }

        for (int i = 0; i < asked; i++) {
            g_assert_cmpint(h[i].holds, ==, served[i]);
            if (h[i].holds && !h[i].done) {
                for (int b = 0; b < h[i].n; b++) {
                    g_assert_true(g_hash_table_add(seen, h[i].bufs[b]));
                }
                holders[k++] = i;
            }
        }
        g_hash_table_destroy(seen);
        g_assert_cmpuint(buffer_pool_held(&pool), ==, model_held(&m) * KiB4);
        g_assert_cmpuint(buffer_pool_held(&pool), <=, MODEL_CAPACITY * KiB4);

        if (k && (step > STEPS || asked == N || g_test_rand_bit())) {
            int i = holders[g_test_rand_int_range(0, k)];

            m.used -= h[i].n << class[i];
            m.kept[class[i]] += h[i].n;
            holder_release(&h[i]);
        }
        while (asked && h[asked - 1].done) {
            asked--;
        }
    }
    buffer_pool_destroy(&pool);
}

/* --- the main loop: buffers that are not needed are freed --- */

/* Run the main loop until @pool holds @bytes. */
static void wait_held(BufferPool *pool, size_t bytes)
{
    int64_t deadline = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;

    while (buffer_pool_held(pool) != bytes &&
           g_get_monotonic_time() < deadline) {
        aio_poll(qemu_get_aio_context(), false);
        g_usleep(1000);
    }
    g_assert_cmpuint(buffer_pool_held(pool), ==, bytes);
}

static void test_idle(void)
{
    BufferPool pool;
    Holder a;
    int64_t start;

    buffer_pool_init(&pool, 64 * KiB4, KiB4);

    /* Not while there are requests, even if they are for fewer buffers. */
    use(&pool, KiB4, 2);
    start = g_get_monotonic_time();
    while (g_get_monotonic_time() - start < 1500 * 1000) {
        use(&pool, KiB4, 1);
        aio_poll(qemu_get_aio_context(), false);
        g_assert_cmpuint(buffer_pool_held(&pool), ==, 2 * KiB4);
        g_usleep(10 * 1000);
    }

    /* Buffers that are in use stay. */
    holder_start(&a, &pool, 4 * KiB4, 2);
    use(&pool, 16 * KiB4, 1);
    wait_held(&pool, 8 * KiB4);
    memset(a.bufs[0], 0x55, 4 * KiB4);

    /* The timer starts a second time. */
    holder_release(&a);
    g_assert_cmpuint(buffer_pool_held(&pool), ==, 8 * KiB4);
    wait_held(&pool, 0);

    /* The timer ends with the pool. */
    use(&pool, KiB4, 1);
    g_assert_true(timer_pending(&pool.timer));
    buffer_pool_destroy(&pool);
    g_assert_false(timer_pending(&pool.timer));
}

/* --- many coroutines in several threads --- */

enum {
    THREADS = 4,
    COROUTINES = 32,                /* in each thread */
    ROUNDS = 300,                   /* of each coroutine */
    STRESS_CAPACITY = 100 * KiB4,
    STAMPS = 512,                   /* bytes from one to the next */
};

static BufferPool stress_pool;
static size_t in_use;
static int too_much;                /* times that capacity was exceeded */
static int shared;                  /* requests that met another one's stamp */
static int strays;                  /* requests woken in another AioContext */
static int failed;

static void coroutine_fn stress_entry(int id, GRand *rand)
{
    for (int round = 0; round < ROUNDS; round++) {
        void *bufs[MAX_BUFS];
        int n = g_rand_int_range(rand, 1, MAX_BUFS + 1);
        /* Sometimes a request that leaves little room for others. */
        size_t max = g_rand_int_range(rand, 0, 16)
                         ? 4 * KiB4 : buffer_pool_max_size(&stress_pool, n);
        size_t bytes = g_rand_int_range(rand, 1, max + 1);
        size_t sum = n * pow2ceil(MAX(bytes, KiB4));
        bool foreign = false;
        AioContext *ctx;

        thread_stress_pause(rand);
        ctx = qemu_get_current_aio_context();
        if (!buffer_pool_co_get(&stress_pool, bytes, n, bufs)) {
            qatomic_inc(&failed);
            continue;
        }

        if (qemu_get_current_aio_context() != ctx) {
            qatomic_inc(&strays);
        }
        if (qatomic_add_fetch(&in_use, sum) > STRESS_CAPACITY ||
            buffer_pool_held(&stress_pool) > STRESS_CAPACITY) {
            qatomic_inc(&too_much);
        }
        for (int i = 0; i < n; i++) {
            for (size_t k = 0; k + sizeof(int) <= bytes; k += STAMPS) {
                qatomic_set((int *)((char *)bufs[i] + k), id);
            }
        }
        thread_stress_pause(rand);
        for (int i = 0; i < n; i++) {
            for (size_t k = 0; k + sizeof(int) <= bytes; k += STAMPS) {
                foreign |= qatomic_read((int *)((char *)bufs[i] + k))
                           != id;
            }
        }
        if (foreign) {
            qatomic_inc(&shared);
        }
        qatomic_sub(&in_use, sum);

        buffer_pool_put(&stress_pool, bytes, n, bufs);
    }
}

static void test_stress(void)
{
    buffer_pool_init(&stress_pool, STRESS_CAPACITY, KiB4);
    thread_stress(THREADS, COROUTINES, stress_entry);
    g_assert_cmpint(failed, ==, 0);
    g_assert_cmpint(strays, ==, 0);
    g_assert_cmpint(too_much, ==, 0);
    g_assert_cmpint(shared, ==, 0);

    /* The timer was set in other threads. */
    wait_held(&stress_pool, 0);
    buffer_pool_destroy(&stress_pool);
}

/*
 * Two coroutines in two threads, with room for one of them.  A wake-up that is
 * lost shows here, because there is no third coroutine that would make up for
 * it when it gives its buffer back.
 */

enum {
    HANDOVERS = 40000,              /* by each */
};

/*
 * Spin for up to about as long as a wake-up takes: then one coroutine often
 * asks just when the other one, which has been woken, gives back.
 */
static void handover_spin(GRand *rand)
{
    for (int i = g_rand_int_range(rand, 0, 1000); i > 0; i--) {
        cpu_relax();
    }
}

static void coroutine_fn handover_entry(int id, GRand *rand)
{
    void *buf;

    for (int i = 0; i < HANDOVERS; i++) {
        handover_spin(rand);
        if (buffer_pool_co_get(&stress_pool, KiB4, 1, &buf)) {
            buffer_pool_put(&stress_pool, KiB4, 1, &buf);
        } else {
            qatomic_inc(&failed);
        }
    }
}

static void test_handover(void)
{
    buffer_pool_init(&stress_pool, KiB4, 1);
    thread_stress(2, 1, handover_entry);
    g_assert_cmpint(failed, ==, 0);
    buffer_pool_destroy(&stress_pool);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);

    /* The seed is printed, and replayed by --seed=... */
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/buffer-pool/size", test_size);
    g_test_add_func("/buffer-pool/reuse", test_reuse);
    g_test_add_func("/buffer-pool/evict", test_evict);
    g_test_add_func("/buffer-pool/fifo", test_fifo);
    g_test_add_func("/buffer-pool/out-of-memory", test_out_of_memory);
    g_test_add_func("/buffer-pool/random", test_random);
    g_test_add_func("/buffer-pool/idle", test_idle);
    g_test_add_func("/buffer-pool/stress", test_stress);
    g_test_add_func("/buffer-pool/handover", test_handover);
    return g_test_run();
}
