"""What every rig shares: a check and its claim, seeds over worker processes, progress, and how a failure is told.

A check is a function of a `Run`. It returns what it counted, or raises `Broken` (with the command that shows it again)
or `Missing` (this machine lacks a tool). Most are one line: `return run.seeds(judge)`, where `judge(seed)` returns the
counts of one seed and raises where a promise broke.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import count, islice
from typing import NamedTuple, TextIO, TypeVar

T = TypeVar("T")

PROGRESS_SECONDS = 10.0


class Check(NamedTuple):
    """One claim that the documents make, and the function that tries to break it.

    ``name`` is `rig.what`, ``claim`` and ``how`` are sentences of `docs/reliability.md`. ``minutes`` is how long it
    runs unless told; None: it ends by itself.
    """

    name: str
    claim: str
    how: str
    run: Callable[[Run], Counter[str]]
    minutes: float | None = 10.0


class Broken(Exception):
    """A promise that did not hold, and the one command that shows it again."""

    def __init__(self, message: str, replay: str) -> None:
        super().__init__(message)
        self.replay = replay


class Missing(Exception):
    """What this machine lacks for a check. It is skipped, loudly."""


@dataclass
class Run:
    """How one check is to run. ``count`` bounds the seeds (or items); without it time is what ends the run."""

    name: str
    seed: int = 0
    count: int | None = None
    seconds: float | None = None
    workers: int = 1
    out: TextIO | None = None
    """Where progress goes; None: nowhere."""
    started: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def in_time(self) -> bool:
        """False once the run should come to its end."""
        return self.seconds is None or self.elapsed < self.seconds

    def replay(self, seed: int) -> str:
        """The command that runs one seed of this check again."""
        return f"python -m tests.faults {self.name} --seed {seed} --count 1"

    def tell(self, counts: Counter[str], *, now: bool = False) -> None:
        """Progress, at most every `PROGRESS_SECONDS`."""
        if self.out is None or (not now and self.elapsed - self._told < PROGRESS_SECONDS):
            return
        self._told = self.elapsed
        whole = f" of {self.seconds:,.0f}" if self.seconds is not None else ""
        print(f"{self.name}: {words(counts, self.elapsed)}; {self.elapsed:,.0f}{whole} s", file=self.out, flush=True)

    def seeds(self, judge: Callable[[int], Counter[str]]) -> Counter[str]:
        """Judges seed after seed, from ``seed`` on, until ``count`` or time is reached; the sum of what they counted.

        `judge` is a function of a module (it is sent to the workers by name). Whatever it raises breaks the check.
        """
        given = range(self.seed, self.seed + self.count) if self.count is not None else count(self.seed)
        return self.each(judge, given, self.replay)

    def each(self, judge: Callable[[T], Counter[str]], items: Iterable[T], replay: Callable[[T], str]) -> Counter[str]:
        """As `seeds`, over any items that can be sent to a process; those left when time is up are not judged."""
        total: Counter[str] = Counter()
        for item, outcome in self._outcomes(judge, items):
            if isinstance(outcome, BaseException):
                if isinstance(outcome, Missing):
                    raise outcome
                raise Broken(f"{type(outcome).__name__}: {outcome}", replay(item)) from outcome
            total += outcome
            self.tell(total)
        return total

    def _outcomes(
        self, judge: Callable[[T], Counter[str]], items: Iterable[T]
    ) -> Iterator[tuple[T, Counter[str] | BaseException]]:
        todo = iter(items)
        if self.workers == 1:
            for item in todo:
                yield item, _outcome(judge, item)
                if not self.in_time:
                    return
            return
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(self.workers, mp_context=context, initializer=_let_the_parent_stop_us) as pool:
            under_way: dict[Future[Counter[str] | BaseException], T] = {}
            try:
                room = 2 * self.workers
                while True:
                    under_way |= {pool.submit(_outcome, judge, item): item for item in islice(todo, room)}
                    if not under_way:
                        return
                    for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                        yield under_way.pop(done), _result(done)
                    room = 2 * self.workers - len(under_way) if self.in_time else 0
            finally:
                pool.shutdown(cancel_futures=True)


def _let_the_parent_stop_us() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(judge: Callable[[T], Counter[str]], item: T) -> Counter[str] | BaseException:
    """In a worker: the counts, or what broke. The traceback does not travel; the replay shows it."""
    try:
        return judge(item)
    except Exception as error:
        if multiprocessing.parent_process() is None:
            return error
        told = Missing if isinstance(error, Missing) else AssertionError
        return told(f"{type(error).__name__}: {error}" if told is AssertionError else str(error))


def _result(done: Future[Counter[str] | BaseException]) -> Counter[str] | BaseException:
    """What the worker found; that it was killed is a finding too."""
    try:
        return done.result()
    except BrokenProcessPool as error:
        return error


def words(counts: Counter[str], seconds: float) -> str:
    """`12,345 crash states (1,200 a second), 40 cuts`: the rate is that of the first."""
    parts = [f"{number:,} {what}" for what, number in counts.items()]
    if parts and seconds >= 1:
        parts[0] += f" ({next(iter(counts.values())) / seconds:,.0f} a second)"
    return ", ".join(parts) or "nothing yet"
