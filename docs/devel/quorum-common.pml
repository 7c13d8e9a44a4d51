/*
 * What the models of the quorum driver's protocol share: sets of children, the
 * cells of a granule, and the range lock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef T
#define T 2                     /* vote-threshold */
#endif
#ifndef N
#define N 3                     /* or 4 */
#endif

/* A set of children is a mask. */
#define EVERYBODY ((1 << N) - 1)
#define has(set, i)     (((set) >> (i)) & 1)
#if N == 4
#define with_fourth(x)  x
#define or_fourth(x, n) (x -> 3 : n)
#else
#define with_fourth(x)
#define or_fourth(x, n) n
#endif
#define size(set) \
    (has(set, 0) + has(set, 1) + has(set, 2) with_fourth(+ has(set, 3)))

/* The granule: a cell is a nibble, and a set of cells is a mask of nibbles. */
#define LEFT  15
#define RIGHT 240
#define WHOLE 255
#define as_new(v, w)    (((v) & LEFT) >= ((w) & LEFT) && ((v) >> 4) >= ((w) >> 4))
#define newest(v, w, cell) \
    (((v) & cell) > ((w) & cell) -> ((v) & cell) : ((w) & cell))

/* --- range_lock: wait for earlier requests for some of the same cells --- */

byte wanted[4], blockers[4];

#define blocks(q, p, cells) ((q != p && (wanted[q] & cells)) -> 1 << q : 0)

inline ask_for(p, cells) {
    blockers[p] = blocks(0, p, cells) | blocks(1, p, cells) |
                  blocks(2, p, cells) | blocks(3, p, cells);
    wanted[p] = cells
}

#ifdef NO_RANGE_LOCK
#define granted(p) true
#else
#define granted(p) blockers[p] == 0
#endif

inline unlock(p) {
    wanted[p] = 0;
    blockers[0] = blockers[0] & ~(1 << p);
    blockers[1] = blockers[1] & ~(1 << p);
    blockers[2] = blockers[2] & ~(1 << p);
    blockers[3] = blockers[3] & ~(1 << p)
}

/* Any one of the children in @from is @i. */
inline one_of(i, from) {
    if
    :: has(from, 0) -> i = 0
    :: has(from, 1) -> i = 1
    :: has(from, 2) -> i = 2
    with_fourth(:: has(from, 3) -> i = 3)
    fi
}
