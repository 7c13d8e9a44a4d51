#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Print those races of TSan's reports in which an access is in one of our files,
as failed tests, and fail if there are any.

TSan finds others, in the event loop and in CoMutex: these synchronize with
fences, which it does not understand.

usage: tsan_races.py LOG
"""

from pathlib import Path
import re
import sys

REPORT = re.compile(r'^WARNING: ThreadSanitizer.*?^SUMMARY[^\n]*', re.M | re.S)
ACCESS = re.compile(r'^  (?:Previous )?(?:atomic )?(?:read|write) of.*?\n\n',
                    re.M | re.S | re.I)
OURS = re.compile(r'/(block/(range-lock|buffer-pool|quorum)|tests/unit/)')


def is_ours(access: str) -> bool:
    """Whether its innermost function of QEMU is in one of our files."""
    frame = re.search(r'^ +#.*/qemu/.*', access, re.M)
    return bool(frame and OURS.search(frame[0]))


def main() -> int:
    """Print the races."""
    log = Path(sys.argv[1]).read_text(errors='replace')
    races = [report for report in REPORT.findall(log)
             if any(is_ours(access) for access in ACCESS.findall(report))]
    for race in races:
        print('not ok - a race', race, sep='\n')
    return len(races) > 0


sys.exit(main())
