# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows: how the time of a request grows.  Each is a curve and a plot."""

import functools
import math
import statistics
from typing import Callable, Dict, List, Sequence, Tuple

from contest import (Bench, IMAGE_BYTES, KIB, MIB, ratios, row, size_name,
                     threads_load)
from loads import instructions
from svg import Chart

PointFn = Callable[[str, int], float]


def curves(bench: Bench, points: Sequence[int], measure: PointFn
           ) -> Dict[str, List[List[float]]]:
    """
    Let ours and pristine take turns, at each point: [build][point][round].  One
    round has all points, so that growth is not that of somebody else's load.
    """
    times = bench.contest({f'{key}, {x}': functools.partial(measure, key, x)
                           for x in points for key in bench.tops})
    return {key: [times[f'{key}, {x}'] for x in points] for key in bench.tops}


def middle(points: Sequence[int], values: List[List[float]]
           ) -> List[Tuple[float, float]]:
    """What a plot shows."""
    return [(x, statistics.median(some)) for x, some in zip(points, values)]


def against_pristine(bench: Bench, points: Sequence[int],
                     result: Dict[str, List[List[float]]], what: str) -> None:
    """The worst point of a curve."""
    worst = max(range(len(points)), key=lambda i: statistics.median(
        a / b for a, b in zip(result['ours'][i], result['pristine'][i])))
    bench.figure(f'times pristine at its worst, {points[worst]} {what}',
                 [a / b for a, b in zip(result['ours'][worst],
                                        result['pristine'][worst])],
                 at_most=1.05)


def children_row(bench: Bench, size: int, count: int, write: bool) -> None:
    """Nothing grows faster than the number of children."""
    points = [1, 2, 3, 5, 9]
    flags = ['-w'] if write else []
    cpu: Dict[Tuple[str, int], List[float]] = {}

    def measure(key: str, n: int) -> float:
        run = bench.load(key, bench.quorum(bench.files(n, 128 * MIB)), size,
                         count, 8, *flags)
        cpu.setdefault((key, n), []).append(run.cpu)
        return 1e6 * run.seconds / count

    result = curves(bench, points, measure)

    # Growth is in time of the processors, as with few children some of them
    # are idle; that from one child, with whom nothing is compared, aside.
    def growth(key: str, m: int, n: int) -> List[float]:
        return [after / before / (n / m) for before, after in
                zip(cpu[key, m][1:], cpu[key, n][1:])]

    def steepest(key: str) -> float:
        return max(statistics.median(growth(key, m, n))
                   for m, n in zip(points[1:], points[2:]))

    against_pristine(bench, points, result, 'children')
    bench.figure('growth : that of the children, 2 to 9',
                 growth('ours', 2, 9), at_most=1.1)
    bench.figure('the same, pristine', growth('pristine', 2, 9))
    bench.figure('the same, at the steepest piece', [steepest('ours')],
                 at_most=1.25)
    bench.note({f'cpu, {key}, {n}': statistics.median(some[1:])
                for (key, n), some in cpu.items()})
    what = f'{"write" if write else "read"} of {size_name(size)}'
    bench.plot(bench.row, Chart(
        f'A {what} from N children (threshold N/2 + 1), depth 8, cached files',
        'children', 'microseconds for a request',
        {key: middle(points, values) for key, values in result.items()}))


row('children-r4k')(lambda b: children_row(b, 4 * KIB, 8000, False))
row('children-w4k')(lambda b: children_row(b, 4 * KIB, 24000, True))
row('children-r1M')(lambda b: children_row(b, MIB, 1000, False))


@row('null-children')
def null_children(bench: Bench) -> None:
    """The same without threads and caches, in instructions."""
    points = [1, 2, 3, 5, 9]
    chart: Dict[str, List[Tuple[float, float]]] = {}
    for kind, flags in {'read': [], 'write': ['-w']}.items():
        for key in bench.tops:
            values = [instructions(bench, key, bench.quorum(bench.null(n)),
                                   *flags) for n in points]
            growth = values[-1] / values[1] / (points[-1] / points[1])
            if key == 'ours':
                bench.figure(f'growth : that of the children, 2 to 9, {kind}s',
                             [growth], at_most=1.0)
            else:
                bench.figure('the same, pristine', [growth])
            chart[f'{kind}, {key}'] = list(zip(points, values))
    bench.plot(bench.row, Chart(
        'A request of 4 KiB to N children that do nothing', 'children',
        'instructions for a request', chart))


def iothreads_row(bench: Bench, write: bool) -> None:
    """Several threads use one node; its children do nothing."""
    points = [1, 2, 4]
    count = 60000
    options = bench.quorum(bench.null())
    result = curves(
        bench, points, lambda key, threads: 1e6 / count * threads_load(
            bench, key, options, threads, count, 4 * KIB, write))
    for i, threads in enumerate(points):
        bench.figure(f'times pristine, {threads} iothreads',
                     [a / b for a, b in zip(result['ours'][i],
                                            result['pristine'][i])],
                     **({'at_most': 1.05} if threads <= 2 else {}))
    bench.figure('time with 2 : with 1',
                 [b / a for a, b in zip(*result['ours'][:2])], at_most=1.0)
    bench.figure('the same, pristine',
                 [b / a for a, b in zip(*result['pristine'][:2])])
    bench.plot(bench.row, Chart(
        f'{"Writing" if write else "Reading"} 4 KiB from several iothreads, '
        'three null-co children',
        'iothreads', 'microseconds for a request, all threads together',
        {key: middle(points, values) for key, values in result.items()}))


row('iothreads-r')(lambda bench: iothreads_row(bench, False))
row('iothreads-w')(lambda bench: iothreads_row(bench, True))


@row('slow-child')
def slow_child(bench: Bench) -> None:
    """One child takes 10 ms more for each request."""
    points = [1, 4, 16, 64]
    children = [*bench.null(2), *bench.null(1, ',latency-ns=10000000')]
    kinds = {'read': [], 'write': ['-w']}
    chart: Dict[str, List[Tuple[float, float]]] = {}
    for kind, flags in kinds.items():
        def measure(key: str, depth: int, more: str = '') -> float:
            count = 20 * depth
            # pylint: disable=cell-var-from-loop
            return 1000 * depth / count * bench.load(
                key, bench.quorum(children, more), 4096, count, depth,
                *flags).seconds
        result = curves(bench, points, measure)
        against_pristine(bench, points, result, f'{kind}s at once')
        for key, values in result.items():
            chart[f'{kind}, {key}'] = middle(points, values)
        if kind == 'read':
            deferred = [bench.contest({f'threshold, {depth}': functools.partial(
                measure, 'ours', depth, ',read-pattern=threshold')}
                )[f'threshold, {depth}'] for depth in points]
            chart['read, pattern threshold'] = middle(points, deferred)
    bench.plot(bench.row, Chart(
        'One of three children takes 10 ms for each request',
        'requests in flight', 'milliseconds for a request', chart, log_x=True))


# --- many requests in flight ---

def in_flight_row(bench: Bench, size: int) -> None:
    """
    Writes of 4 KiB to an image of @size, over and over: the cost of a request,
    in time of the processors, may grow with the logarithm of those in flight.
    """
    points = [1, 4, 16, 64, 256, 1024]
    count = 10000
    options = bench.quorum(bench.files(3, size))

    def cpu(key: str, depth: int) -> float:
        return 1e6 / count * bench.load(key, options, 4096, count, depth,
                                        '-w').cpu

    result = curves(bench, points, cpu)
    growth = [some[-1] / some[2] / (math.log2(1024) / math.log2(16))
              for some in zip(*result['ours'])]
    bench.figure('growth : that of the log, 16 to 1024', growth, at_most=1.0)
    bench.figure('the same, pristine',
                 [some[-1] / some[2] / (math.log2(1024) / math.log2(16))
                  for some in zip(*result['pristine'])])
    if size < IMAGE_BYTES:
        times = bench.contest({
            key: lambda key=key: bench.load(key, options, 4096, count, 64,
                                            '-w').seconds
            for key in bench.tops})
        bench.figure('times pristine, 64 in flight',
                     ratios(times, 'ours', 'pristine'))
    where = 'all over' if size == IMAGE_BYTES else f'in {size_name(size)} of'
    bench.plot(bench.row, Chart(
        f'Writes of 4 KiB {where} the image, three cached files',
        'requests in flight', 'microseconds of processor for a request',
        {key: middle(points, values) for key, values in result.items()},
        log_x=True))


row('in-flight')(lambda bench: in_flight_row(bench, IMAGE_BYTES))
row('overlap')(lambda bench: in_flight_row(bench, 64 * KIB))
