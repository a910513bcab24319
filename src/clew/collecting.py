"""Collecting judgements: how answers are sampled, and who judges them where no people do."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from clew.config import Choice, Config, bound_to
from clew.feedback.projects import ProjectConfig, Projects
from clew.feedback.raters import RATERS, SimulatedRater
from clew.feedback.records import Feedback, Item, Task
from clew.feedback.store import Store
from clew.types import Rollout, Sampling, Text


class SamplingConfig(Config):
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)

    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class Crowd(Config):
    """How many raters of one kind."""

    rater: Annotated[Choice, bound_to(RATERS)]
    """honest, lazy, left_biased, length_biased, troll, with options; or `module:function` giving a SimulatedRater."""
    num: int = Field(default=1, ge=1)


def make_raters(crowds: Sequence[Crowd]) -> list[SimulatedRater]:
    return [crowd.rater.bind(RATERS)(f"{crowd.rater.name}-{number}") for crowd in crowds for number in range(crowd.num)]


def judged(
    task: Task,
    items: Mapping[str, Item],
    scores: Mapping[str, float | None],
    raters: Sequence[SimulatedRater],
    overlap: int,
    rng: np.random.Generator,
) -> list[Feedback]:
    """What `overlap` raters, drawn for the task, say of it; nothing where gold abstains on one of its items."""
    worth = {key: value for key in task.items if (value := scores[key]) is not None}
    if len(worth) < len(task.items):
        return []
    picked = rng.choice(len(raters), size=min(overlap, len(raters)), replace=False)
    return [raters[int(r)].judge(task, [items[key] for key in task.items], worth, rng) for r in picked]


def put_before_people(
    store: Store, project: str, tasks: Sequence[Task], items: Sequence[Item], *, overlap: int
) -> None:
    """Comparisons into the desk's project of this name, the first ones most urgent; it is made where there is none."""
    projects, now = Projects(store), time.time_ns() // 1_000_000
    there = next((p for p in projects.all() if p.name == project), None)
    if there is None:
        there = projects.add(project, ProjectConfig(kind="comparison", need=overlap), actor="clew", now=now)
    projects.put(there.id, tasks, items=items, actor="clew", now=now)
    projects.prioritise(there.id, {t.id: float(len(tasks) - i) for i, t in enumerate(tasks)}, actor="clew", now=now)


def wait_for(store: Store, tasks: Sequence[Task], wanted: int, tell: Callable[[int], None]) -> list[Feedback]:
    """Answers to these tasks, once there are so many; `tell` hears how many there are, whenever that changes."""
    ids, told = {task.id for task in tasks}, -1
    while True:
        records = [r for r in store.feedback() if r.task_id in ids]
        if len(records) >= wanted:
            return records
        if len(records) != told:
            told = len(records)
            tell(told)
        time.sleep(POLL_S)


POLL_S = 5.0
"""Between looks at who has answered."""


def item_of(rollout: Rollout, prompt: Text) -> Item:
    """The answer with what was asked: text, or a conversation, whose template put a space before the answer."""
    answer = rollout.text if isinstance(prompt, str) else rollout.text.strip()
    return Item(prompt=prompt, completion=answer, source=f"version {rollout.version}", cut=rollout.stop != "end")


def sample_of(rollout: Rollout) -> dict[str, Any]:
    return {"prompt": rollout.prompt, "completion": rollout.text, "stop": rollout.stop}
