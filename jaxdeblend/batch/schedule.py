"""Which blends run when: groups for the calls of programs, and threads that make the calls."""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import jax

from ..fitting.initialize import Initialization
from ..fitting.ladder import rung
from ..fitting.optimizer import ProximalAdam
from ..runtime.host import host_memory, settings_of_this_thread, usable_cores
from ..runtime.progress import announce
from .lanes import Calls, Lanes, Numbered, Settings
from .plan import Bucket
from .result import Deblended

logger = logging.getLogger(__name__)

READ_AHEAD = 256
"""Most blends that are read before the first of them is returned, where each call takes one."""

LANE_COUNTS = (1, 4, 16, 64, 128, 256, 512)
"""Numbers of lanes of a program on an accelerator."""

LANES_AHEAD = 16 * LANE_COUNTS[-1]
"""Most blends that are read before the first of them is returned, where calls have lanes: enough for all programs."""

UNKNOWN_MEMORY = 4e9
"""Bytes of an accelerator that does not say how much memory it has; blends may take half."""


@dataclass(frozen=True)
class Limits:
    """How many blends are fitted at a time.

    Attributes
    ----------
    lanes
        Blends that share a call; None: chosen for the device.
    memory
        Bytes that blends may take while they are fitted; None: chosen for the device.
    expected
        Number of blends of each bucket, as far as known; few of them get few lanes.
    group
        Blends that enter the lanes at a time; None: a part of the lanes, so that the others go on.
    """

    lanes: int | None = None
    memory: float | None = None
    expected: Mapping[Bucket, int] = field(default_factory=dict)
    group: int | None = None

    def __post_init__(self):
        if self.lanes is not None and self.lanes < 1:
            raise ValueError(f"lanes: got {self.lanes}; give the number of blends that share a call, at least 1.")
        if self.memory is not None and not self.memory > 0:
            raise ValueError(f"memory: got {self.memory}; give the bytes that blends may take, more than 0.")

    @functools.cached_property
    def bytes(self) -> float:
        """Bytes that blends may take."""
        if self.memory is not None:
            return self.memory
        if jax.default_backend() == "cpu":
            return host_memory() / 2
        known = jax.local_devices()[0].memory_stats() or {}
        return known.get("bytes_limit", UNKNOWN_MEMORY) / 2

    def lanes_of(self, bucket: Bucket) -> int:
        """Lanes of the program of a bucket."""
        if self.lanes is not None:
            return max(1, int(min(self.lanes, self.bytes / bucket.memory)))
        if jax.default_backend() == "cpu":
            return 1
        enough = rung(self.expected.get(bucket, LANE_COUNTS[-1]), LANE_COUNTS)
        return max(count for count in LANE_COUNTS if count == 1 or count <= min(enough, self.bytes / bucket.memory))


class Schedule:
    """Blends on their way through the programs.

    Blends of one bucket are collected until they are a group for a call. The first call of a program, which compiles
    it, is the only one of its kind until it is done.

    Parameters
    ----------
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.
    limits
        How many blends are fitted at a time.
    """

    def __init__(self, options: Initialization | None, optimizer: ProximalAdam | None, limits: Limits):
        self.options = Initialization() if options is None else options
        self.optimizer = ProximalAdam() if optimizer is None else optimizer
        self.limits = limits
        self.programs: dict[Bucket, Calls | Lanes] = {}
        self.compiled: set[Bucket] = set()
        self.filling: dict[Bucket, list[Numbered]] = {}
        self.ready: list[tuple[Bucket, list[Numbered]]] = []
        self.running: dict[Future[list[tuple[int, Deblended]]], Bucket] = {}
        self.held = 0
        self.ahead = READ_AHEAD if limits.lanes is None and jax.default_backend() == "cpu" else LANES_AHEAD
        self.workers = _workers()
        self.began: dict[Bucket, float] = {}

    def run(self, numbered: Iterable[Numbered]) -> Iterator[tuple[int, Deblended]]:
        """Numbers and results as they finish."""
        source, as_here = iter(numbered), settings_of_this_thread()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="jaxdeblend")
        try:
            while True:
                exhausted = self._read(source)
                self._send_incomplete(exhausted)
                self._submit(pool, as_here)
                if not self.running:
                    return
                yield from self._finished()
        finally:
            # after an interruption, nobody waits for programs that are being compiled or fits that run
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, source: Iterator[Numbered]) -> bool:
        """Sort blends into groups; whether there are no more."""
        while self.held < self.ahead:
            entry = next(source, None)
            if entry is None:
                return True
            self.held += 1
            bucket = entry[1].bucket
            group = self.filling.setdefault(bucket, [])
            group.append(entry)
            if len(group) == self._program(bucket).group:
                self.ready.append((bucket, self.filling.pop(bucket)))
        return False

    def _program(self, bucket: Bucket) -> Calls | Lanes:
        if bucket not in self.programs:
            lanes = self.limits.lanes_of(bucket)
            settings = Settings(self.options, self.optimizer, bucket.stamp_edge)
            self.programs[bucket] = (
                Calls(bucket, settings) if lanes == 1 else Lanes(bucket, lanes, settings, self.limits.group)
            )
        return self.programs[bucket]

    def _send_incomplete(self, exhausted: bool) -> None:
        """Groups that will get no more company, and lanes that nobody enters, go on as they are."""
        if exhausted or not (self.ready or self.running):
            self.ready += self.filling.items()
            self.filling.clear()
        if exhausted or not (self.ready or self.running):
            busy = {*self.running.values(), *(bucket for bucket, _ in self.ready)}
            self.ready += [
                (bucket, []) for bucket, program in self.programs.items() if bucket not in busy and program.inside
            ]
        if exhausted:  # the largest first, so that no core is left alone with one at the end
            self.ready.sort(key=lambda job: (job[0] in self.compiled, -job[0].cost))

    def _submit(self, pool: ThreadPoolExecutor, settings: Callable[[], AbstractContextManager[None]]) -> None:
        """Make the calls that can be made now."""

        def call(bucket: Bucket, group: list[Numbered]) -> list[tuple[int, Deblended]]:
            with settings():
                return self.programs[bucket].call(group)

        waiting = []
        for bucket, group in self.ready:
            if self._may_run(bucket):
                if bucket not in self.compiled:
                    self._preparing(bucket)
                self.running[pool.submit(call, bucket, group)] = bucket
            else:
                waiting.append((bucket, group))
        self.ready = waiting

    def _may_run(self, bucket: Bucket) -> bool:
        running, program = list(self.running.values()), self.programs[bucket]
        if bucket in running and (bucket not in self.compiled or not program.side_by_side):
            return False
        compiling = sum(other not in self.compiled for other in running)
        if bucket not in self.compiled and 2 * compiling >= self.workers:
            return False
        memory = program.memory + sum(self.programs[other].memory for other in running)
        return not running or (len(running) < 2 * self.workers and memory <= self.limits.bytes)

    def _finished(self) -> Iterator[tuple[int, Deblended]]:
        """Results of the calls that end next."""
        for future in wait(self.running, return_when=FIRST_COMPLETED).done:
            bucket = self.running.pop(future)
            results = future.result()
            if bucket not in self.compiled:
                self._prepared(bucket)
            self.held -= len(results)
            yield from results

    def _preparing(self, bucket: Bucket) -> None:
        """Say for which blends programs are compiled or loaded."""
        self.began[bucket] = time.monotonic()
        n_known = max(len(self.limits.expected), len(self.programs))
        announce("programs %d of %d: %s", len(self.began), n_known, bucket.text)
        _warn_if_beyond_ladder(bucket)

    def _prepared(self, bucket: Bucket) -> None:
        """Say how long it took."""
        self.compiled.add(bucket)
        seconds = time.monotonic() - self.began[bucket]
        announce("ready after %.1f s: %s", seconds, bucket.text)


def _warn_if_beyond_ladder(bucket: Bucket) -> None:
    """Warn of programs that are compiled for one blend alone."""
    if bucket.beyond_ladder:
        logger.warning(
            "a blend of %d sources, %d bands and an edge of %d pixels is larger than the ladder of programs: one is "
            "compiled for it alone, and it takes about %.1f GB of memory",
            bucket.n_sources,
            bucket.n_bands,
            bucket.image_edge,
            bucket.memory / 1e9,
        )


def _workers() -> int:
    """Threads that make calls: two for each core of a CPU, for an accelerator two, half of which pack and unpack."""
    if jax.default_backend() != "cpu":
        return 2
    return 2 * usable_cores()
