# Random tests: the seed of a run, how long it goes on, and its trace
#
# Copyright (c) 2026 The quorum project authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import random
import sys
import time

# QUORUM_TEST_SEED replays the run that has printed it; QUORUM_TEST_SECONDS
# says for how many seconds each test is to go on.
SEED = int(os.environ.get('QUORUM_TEST_SEED',
                          random.SystemRandom().randrange(2**32)))
SECONDS = float(os.environ.get('QUORUM_TEST_SECONDS', 0))


class Deadline:
    """True until @seconds, or as many as were asked for, have passed"""
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + (SECONDS or seconds)

    def __bool__(self) -> bool:
        return time.monotonic() < self.end


def trace(what: str) -> None:
    """Tell what a run does, if QUORUM_TEST_TRACE asks for it."""
    if os.environ.get('QUORUM_TEST_TRACE'):
        print(f'{time.monotonic():.3f} {what}', file=sys.stderr, flush=True)
