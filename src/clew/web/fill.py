"""Tasks from files, and a project to put them in: what `clew desk` does before it serves."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clew.config import read_yaml
from clew.data import grammar
from clew.data.formats import parse_row
from clew.data.sources import read_rows
from clew.feedback.desk import Desk
from clew.feedback.projects import Project, ProjectConfig
from clew.feedback.records import Item, Task
from clew.feedback.store import Store
from clew.web.access import now_ms
from clew.web.schema import schema_of
from clew.web.tasks import Asked, by_use, check_kind, kind_of, tasks_of_row

ACTOR = "clew desk"
DEMO_PAIRS = 60
DEMO_GUIDELINES = """Guests are asked about a place and answer in a few sentences. **Better** is the answer that

1. says pleasant things,
2. about the place that was *asked for*,
3. in whole sentences, without rambling or saying things twice.
"""


def project_of(desk: Desk, told: str | None, kind: str | None, fallback: str) -> Project:
    """The project of this name or YAML file, made where there is none. Raises ValueError."""
    is_file = told is not None and told.endswith((".yaml", ".yml"))
    values: dict[str, Any] = dict(read_yaml(Path(told))) if is_file and told else {}
    name = str(values.pop("name", Path(told).stem)) if is_file and told else told or fallback
    if kind is not None:
        values["kind"] = kind
    found = next((p for p in desk.projects.all() if p.name == name), None)
    if found is None:
        if "kind" not in values:
            raise ValueError(f"there is no project {name!r} yet; say what is asked: --kind comparison, …")
        return desk.projects.add(name, checked(values), actor=ACTOR, now=now_ms())
    if "kind" in values and values["kind"] != found.config.kind:
        raise ValueError(f"project {name!r} asks for {found.config.kind}, not {values['kind']}; name another --project")
    return (
        desk.projects.change(
            found.id, config=checked({**found.config.model_dump(), **values}), actor=ACTOR, now=now_ms()
        )
        if is_file
        else found
    )


def checked(values: Mapping[str, Any]) -> ProjectConfig:
    """Raises ValueError where the form does not fit the kind."""
    check_kind(str(values.get("kind")))
    config = ProjectConfig.model_validate(values)
    schema_of(config.kind, config.form)
    return config


def kind_of_file(path: str, columns: Mapping[str, str]) -> str:
    """What fits the first row."""
    row = next(read_rows(path, columns), None)
    examples = [] if row is None else parse_row(row, f"{path} row 1")
    if not examples:
        raise ValueError(f"{path} has nothing to ask about in its first row; say what is asked: --kind")
    return kind_of(examples[0])


def read_tasks(path: str, project: Project, columns: Mapping[str, str], media: Path) -> tuple[list[Asked], list[str]]:
    """The tasks of a file, and what is wrong with the rows that gave none."""
    found, wrong = list[Asked](), list[str]()
    for number, row in enumerate(read_rows(path, columns), 1):
        try:
            found += tasks_of_row(dict(row), project.config.kind, f"{path} row {number}", media=media)
        except (ValueError, OSError) as error:
            wrong.append(str(error))
    return found, wrong


def put(desk: Desk, project: Project, asked: Sequence[Asked], *, actor: str = ACTOR) -> int:
    """How many are new."""
    added = 0
    for is_training, some in by_use(asked).items():
        gold = {a.task.id: a.gold for a in some if a.gold is not None}
        items = [item for a in some for item in a.items]
        tasks = [a.task for a in some]
        added += desk.projects.put(
            project.id, tasks, items=items, gold=gold, training=is_training, actor=actor, now=now_ms()
        )
    return added


def demo(desk: Desk, run: Path) -> Project:
    """Pairs of the quickstart: of its run where there is one, else written by its grammar."""
    file = run / "labels" / "feedback.sqlite"
    pairs = list(_of_run(file)) if file.exists() else list(_written())
    found = next((p for p in desk.projects.all() if p.name == "quickstart"), None)
    config = ProjectConfig(kind="comparison", guidelines=DEMO_GUIDELINES, daily_goal=20, gold_rate=0.0)
    project = found or desk.projects.add("quickstart", config, actor=ACTOR, now=now_ms())
    put(desk, project, pairs[:DEMO_PAIRS])
    return project


def _of_run(file: Path) -> Iterator[Asked]:
    store = Store.open(file)
    items = store.items()
    for task in store.tasks("comparison")[:DEMO_PAIRS]:
        yield Asked(task, tuple(items[key] for key in task.items))
    store.close()


def _written() -> Iterator[Asked]:
    rng = np.random.default_rng(0)
    for row in grammar.prompts(num=DEMO_PAIRS, seed=0):
        answers = [grammar.answer(row["place"], rng, mood=rng.uniform(-1, 1), stray=0.25) for _ in range(2)]
        items = tuple(Item(prompt=row["prompt"], completion=answer, source="grammar") for answer in answers)
        if items[0].id != items[1].id:
            yield Asked(Task(kind="comparison", prompt=row["prompt"], items=tuple(i.id for i in items)), items)
