"""Rewards asked a group at a time while others are still being sampled; scores as if asked one after another."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

from clew.types import Engine, Finished, Prompt, Reward, Rollout, Sampling, Score


@dataclass(frozen=True)
class Asked:
    """A reward that is being asked."""

    scores: Callable[[Sequence[Rollout]], list[Score]]
    """Of all rollouts, when all are there."""
    finished: Finished | None = None
    """None: it wants to see all rollouts together."""


@runtime_checkable
class Early(Protocol):
    """A reward that may be asked before all rollouts are there."""

    def ahead(self) -> AbstractContextManager[Asked]: ...


class GroupWise:
    """A reward asked once a prompt, up to `at_once` prompts in threads of their own.

    Of several groups that fail, the first in order of prompts is the one whose error is raised. Groups behind it may
    not have been asked; none is being asked any more.
    """

    def __init__(self, reward: Reward, at_once: int) -> None:
        self._reward = reward
        self._at_once = at_once

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score]:
        with self.ahead() as asked:
            assert asked.finished is not None
            for place, (_, group) in enumerate(groupby(rollouts, attrgetter("prompt_id"))):
                asked.finished(place, list(group))
            return asked.scores(rollouts)

    @contextmanager
    def ahead(self) -> Iterator[Asked]:
        asking = _Asking(self._reward, self._at_once)
        try:
            yield Asked(asking.scores, asking.ask)
        finally:
            asking.end()


def ahead(reward: Reward) -> AbstractContextManager[Asked]:
    """Ask a reward early where it may be asked so, else at the end."""
    return reward.ahead() if isinstance(reward, Early) else _at_the_end(reward)


@contextmanager
def _at_the_end(reward: Reward) -> Iterator[Asked]:
    yield Asked(reward)


def generate_and_score(
    engine: Engine, reward: Reward, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: tuple[int, int]
) -> tuple[list[Rollout], list[Score]]:
    """Rollouts and their scores, as `reward(engine.generate(…))` gives them."""
    with ahead(reward) as asked:
        rollouts = engine.generate(prompts, n=n, sampling=sampling, key=key, finished=asked.finished)
        return rollouts, asked.scores(rollouts)


class _Asking:
    """The threads, what waits for them, and what they found."""

    def __init__(self, reward: Reward, at_once: int) -> None:
        self._reward = reward
        self._waiting: SimpleQueue[tuple[int, Sequence[Rollout]] | None] = SimpleQueue()
        self._answers: dict[int, Future[list[Score]]] = {}
        self._needed_to = math.inf
        """Groups behind the first that failed need not be asked."""
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"rewards {i}") for i in range(at_once)]
        for thread in self._threads:
            thread.start()

    def ask(self, place: int, rollouts: Sequence[Rollout]) -> None:
        self._answers[place] = Future()
        self._waiting.put((place, rollouts))

    def scores(self, rollouts: Sequence[Rollout]) -> list[Score]:
        in_order = [self._answers[place] for place in sorted(self._answers)]
        wait(in_order)
        scores = [score for answer in in_order for score in answer.result()]
        assert len(scores) == len(rollouts), "the engine finishes every group once"
        return scores

    def end(self) -> None:
        """Ask about nothing more."""
        self._need_to(-1)
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            place, rollouts = asked
            if place > self._needed_to:
                self._answers[place].cancel()
                self._answers[place].set_running_or_notify_cancel()
                continue
            try:
                self._answers[place].set_result(self._reward(rollouts))
            except BaseException as error:  # noqa: BLE001 (raised again where the answers are waited for)
                self._need_to(place)
                self._answers[place].set_exception(error)

    def _need_to(self, place: int) -> None:
        with self._lock:
            self._needed_to = min(self._needed_to, place)
