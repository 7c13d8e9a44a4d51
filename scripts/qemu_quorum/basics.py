# SPDX-License-Identifier: GPL-2.0-or-later
#
# Copyright (c) 2026 The quorum project authors

"""What all parts of qemu-quorum have in common"""

import os
import sys
from typing import Any, Dict


Dictionary = Dict[str, Any]

# What the exit status says
WELL, NOT_WELL, UNUSABLE = 0, 1, 2
INTERRUPTED = 130


class Failure(Exception):
    """What the user should read, and the exit status that goes with it."""

    def __init__(self, message: str, status: int = UNUSABLE) -> None:
        super().__init__(message)
        self.status = status


class Stuck(Failure):
    """QEMU does not answer."""


class Gone(Failure):
    """QEMU has ended."""


def abandon_stdout() -> None:
    """Let Python not complain that it can't be written when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
