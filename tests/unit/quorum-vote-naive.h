/*
 * Voting, by counting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef QUORUM_VOTE_NAIVE_H
#define QUORUM_VOTE_NAIVE_H

/*
 * The definition of a winner, counted letter by letter: @answers are one for
 * each child, '.' for a child without one.
 */
static inline int naive_winner(const char *answers, int threshold)
{
    int count[256] = { 0 };
    int best = 0;
    int winner = -1;

    for (const char *c = answers; *c; c++) {
        if (*c != '.') {
            count[(uint8_t)*c]++;
        }
    }
    for (int c = 0; c < 256; c++) {
        best = MAX(best, count[c]);
    }
    for (int c = 0; c < 256; c++) {
        if (best > 0 && count[c] == best) {
            if (winner >= 0) {
                return -1;
            }
            winner = strchr(answers, c) - answers;
        }
    }
    return best >= threshold ? winner : -1;
}

#endif /* QUORUM_VOTE_NAIVE_H */
