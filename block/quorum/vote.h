/*
 * Quorum block driver: voting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 *
 * Answers in, versions and a winner out.  Everything here is a pure function of
 * its arguments, in any context, without the block layer.
 *
 * A *version* is a set of children that gave the same answer.  It is named by
 * the lowest index of its members, so version[i] == i says that child i is the
 * first one with this answer.  QUORUM_NO_VERSION stands for a child that gave
 * no answer and so has no vote.
 */

#ifndef BLOCK_QUORUM_VOTE_H
#define BLOCK_QUORUM_VOTE_H

#define QUORUM_NO_VERSION (-1)

/*
 * Whether this build has the digest that quorum_group_data() needs; if not, set
 * @errp.
 */
bool quorum_vote_init(Error **errp);

/*
 * Sort @n answers of @bytes bytes each into versions by their SHA-256 digests.
 * data[i] == NULL stands for a child without an answer.  Nothing is hashed when
 * all answers are the same.  Fills in version[0..n-1].
 */
void quorum_group_data(const uint8_t *const *data, int n, size_t bytes,
                       int *version);

/*
 * Sort @n numbers into versions; a negative one is an error, not an answer.
 * Fills in version[0..n-1].
 */
void quorum_group_values(const int64_t *values, int n, int *version);

/*
 * Return the winner: the one version that has at least @threshold members and
 * more members than any other version, or QUORUM_NO_VERSION if there is none
 * (promise 2: a tie has no winner).  If @sure is not NULL, a version of which
 * no member is set there can't win (promise 10), but can keep others from
 * winning. @members, if not NULL, is set to the number of its members, or 0.
 */
int quorum_winner(const int *version, int n, int threshold, const bool *sure,
                  int *members);

/*
 * The version that has most members, or of those that have as many, the first
 * one; QUORUM_NO_VERSION if there is no answer.  *@members is set to how many.
 */
int quorum_most_common(const int *version, int n, int *members);

/*
 * Return the largest number that at least @nth of the @n @values reach: the
 * @nth largest one.  Negative values are errors; -1 if there are fewer than
 * @nth others.
 */
int64_t quorum_nth_largest(const int64_t *values, int n, int nth);

/*
 * Return the error to give to the guest when too few children have answered:
 * the most common negative number among @rets, of equally common ones the
 * first, or -EIO if there is none (the answers differ, but nothing has failed).
 */
int quorum_vote_errno(const int64_t *rets, int n);

#endif /* BLOCK_QUORUM_VOTE_H */
