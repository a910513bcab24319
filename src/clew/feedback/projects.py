"""Projects of the desk: what people are asked, how many answers a task needs, and how far along it is."""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import Connection

from clew.feedback import events
from clew.feedback.records import Answer, Item, Record, Share, Task, TaskKind
from clew.feedback.schema import LIVE, entries, feedback, leases, projects
from clew.feedback.slots import keyed, share
from clew.feedback.store import Store, put_items, put_tasks
from clew.types import as_string

ProjectState = Literal["open", "paused", "closed"]
Count = Annotated[int, Field(ge=0)]
GOLD_SEATS = 1_000_000
"""A question whose answer is known is never used up."""


class ProjectConfig(Record):
    """Example: `ProjectConfig(kind="comparison", need=3)`"""

    kind: TaskKind
    guidelines: str = ""
    """Markdown."""
    form: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Labels and help of the screen: degrees, flaws, scales, categories …, as the page wants them."""
    daily_goal: Count = 0
    need: Annotated[int, Field(ge=1)] = 1
    """Answers a task."""
    audit_share: Share = 0.1
    """Of tasks, drawn at random, which get `audit_need` answers."""
    audit_need: Annotated[int, Field(ge=1)] = 3
    adaptive: bool = False
    """Stop a task early when its label is sure, and ask on, up to `max_need`, when it is not."""
    max_need: Annotated[int, Field(ge=1)] = 5
    sure: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    accuracy: Annotated[float, Field(gt=0.5, lt=1)] = 0.85
    """Of a person's answer, as adaptive stopping supposes."""
    training: Count = 0
    """Known questions with explanations before anything else."""
    screening: Count = 0
    """Known questions, the same for everybody, before real work."""
    screening_pass: Share = 0.0
    """Share of screening that must be right; who has less is paused for the operator to look at."""
    gold_rate: Share = 0.05
    repeat_rate: Share = 0.02
    """Of a person's own answers of a day ago or more, asked again with the items swapped."""
    by: Literal["priority", "random"] = "priority"
    """Which task comes next: by the priority that is set (active selection), or at random, the baseline."""
    diverse: bool = True
    """Give a task to different declared groups of raters where there are any."""
    population: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict[str, float])
    """Share of each group among those for whom the raters should speak; empty when nobody declared it."""
    hourly_cost: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Of a person's time; 0 when nobody counts it."""
    currency: Annotated[str, Field(max_length=10)] = "EUR"
    lease_ms: Annotated[int, Field(ge=1000)] = 15 * 60 * 1000
    undo_ms: Count = 10 * 60 * 1000


class Project(NamedTuple):
    id: str
    name: str
    state: ProjectState
    key: str
    """Secret of the order of slots and of every draw."""
    config: ProjectConfig
    created: int


class Progress(NamedTuple):
    """Of real tasks: how many there are and how they stand; answers counted, and all votes, late ones too."""

    tasks: int
    done: int
    held: int
    needed: int
    answered: int
    live: int
    votes: int


class Gold(NamedTuple):
    """The known answer to a task, the items in the task's order, and why. Example: `Gold(Comparison(verdict="tie"))`"""

    answer: Answer
    explanation: str = ""


class Projects:
    """Example: `Projects(store).add("helpfulness", ProjectConfig(kind="comparison"), actor="owner", now=now)`"""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, name: str, config: ProjectConfig, *, actor: str, now: int) -> Project:
        """Raises ValueError when there is one of this name."""
        project = Project(secrets.token_hex(8), name, "open", secrets.token_hex(32), config, now)
        with self._store.write() as connection:
            if connection.execute(sa.select(projects.c.id).where(projects.c.name == name)).first():
                raise ValueError(f"there is a project {name!r}; choose another name")
            row = {**project._asdict(), "config": config.model_dump_json()}
            connection.execute(projects.insert().values(**row))
            body = {"project": project.id, "name": name, "config": config.model_dump(mode="json")}
            events.append(connection, "project.added", body, actor=actor, now=now)
        return project

    def change(
        self,
        project: str,
        *,
        config: ProjectConfig | None = None,
        state: ProjectState | None = None,
        actor: str,
        now: int,
    ) -> Project:
        """Tasks that are there keep the number of answers they need. Raises KeyError for an unknown project."""
        with self._store.write() as connection:
            old = find_project(connection, project)
            new = old._replace(config=config or old.config, state=state or old.state)
            connection.execute(
                projects.update()
                .where(projects.c.id == project)
                .values(config=new.config.model_dump_json(), state=new.state)
            )
            body = {"project": project, "state": new.state, "config": new.config.model_dump(mode="json")}
            events.append(connection, "project.changed", body, actor=actor, now=now)
        return new

    def all(self) -> list[Project]:
        with self._store.read() as connection:
            return [_project(row) for row in connection.execute(sa.select(projects).order_by(projects.c.created))]

    def find(self, project: str) -> Project:
        """Raises KeyError for an unknown project."""
        with self._store.read() as connection:
            return find_project(connection, project)

    def put(
        self,
        project: str,
        tasks: Sequence[Task],
        *,
        items: Sequence[Item] = (),
        gold: Mapping[str, Gold] | None = None,
        training: bool = False,
        priority: float = 0.0,
        actor: str,
        now: int,
    ) -> int:
        """Put tasks before people; how many are new. Those that `gold` knows the answer to, by id of task, are for
        screening and checks, or with `training` for training. A pair the other way round is the same question.

        Raises ValueError for a task of another kind, or one that shows the same answer twice.
        """
        known = gold or {}
        with self._store.write() as connection:
            found = find_project(connection, project)
            _check(found, tasks)
            put_items(connection, items)
            put_tasks(connection, tasks)
            there = set(connection.scalars(sa.select(entries.c.task).where(entries.c.project == project)))
            new = _absent(tasks, there)
            rows = [_entry(found, t, known.get(t.id), training=training, priority=priority) for t in new]
            if rows:
                connection.execute(entries.insert(), rows)
                body = {"project": project, "tasks": [t.id for t in new], "known": sum(t.id in known for t in new)}
                events.append(connection, "tasks.added", body, actor=actor, now=now)
        return len(new)

    def prioritise(self, project: str, priorities: Mapping[str, float], *, actor: str, now: int) -> None:
        """Set which tasks come first, by id of task: what active selection found. Higher is sooner; the rest stays."""
        rows = [{"t": task, "p": priority} for task, priority in priorities.items()]
        where = (entries.c.project == project) & (entries.c.task == sa.bindparam("t"))
        with self._store.write() as connection:
            if rows:
                connection.execute(entries.update().where(where).values(priority=sa.bindparam("p")), rows)
            body = {"project": project, "tasks": len(rows)}
            events.append(connection, "tasks.prioritised", body, actor=actor, now=now)

    def release(self, project: str, task: str, *, actor: str, now: int) -> None:
        """Put a task that three people skipped before people again."""
        where = (entries.c.project == project) & (entries.c.task == task)
        with self._store.write() as connection:
            connection.execute(entries.update().where(where).values(state="open", skips=0))
            events.append(connection, "task.released", {"project": project, "task": task}, actor=actor, now=now)

    def progress(self, project: str) -> Progress:
        of_project = (entries.c.project == project) & (entries.c.purpose == "work")
        is_done = sa.case((entries.c.answered >= entries.c.need, 1), else_=0)
        is_held = sa.case((entries.c.state == "held", 1), else_=0)
        sums = [sa.func.coalesce(sa.func.sum(c), 0) for c in (is_done, is_held, entries.c.need, entries.c.answered)]
        with self._store.read() as connection:
            row = connection.execute(sa.select(sa.func.count(), *sums).where(of_project)).one()
            num, done, on_hold, needed, answered = map(int, row)
            live = sa.select(sa.func.count()).where(leases.c.project == project, LIVE)
            of_work = feedback.c.task.in_(sa.select(entries.c.task).where(of_project))
            first_time = (feedback.c.revision == 0) & (feedback.c.purpose == "work")
            votes = sa.select(sa.func.count()).where(of_work, first_time)
            counts = (connection.execute(query).scalar_one() for query in (live, votes))
            return Progress(num, done, on_hold, needed, answered, *counts)


def find_project(connection: Connection, project: str) -> Project:
    """Raises KeyError for an unknown project."""
    row = connection.execute(sa.select(projects).where(projects.c.id == project)).first()
    if row is None:
        raise KeyError(f"there is no project {project!r}")
    return _project(row)


def project_of(key: str, name: str, state: ProjectState, secret: str, config: str, created: int) -> Project:
    """From the columns of its row."""
    return Project(key, name, state, secret, _config(config), created)


def _project(row: Any) -> Project:
    return project_of(row.id, row.name, row.state, row.key, row.config, row.created)


@lru_cache(maxsize=256)
def _config(text: str) -> ProjectConfig:
    return ProjectConfig.model_validate_json(text)


def _check(project: Project, tasks: Sequence[Task]) -> None:
    for task in tasks:
        if task.kind != project.config.kind:
            raise ValueError(f"project {project.name!r} asks for {project.config.kind}; got a {task.kind} task")
        if len(set(task.items)) < len(task.items):
            raise ValueError(f"a task shows the same answer twice: {as_string(task.prompt)!r:.60}; leave it out")


def _absent(tasks: Sequence[Task], there: set[str]) -> list[Task]:
    """Each once, without those that are there already, either way round."""
    new: list[Task] = []
    for task in tasks:
        turned = task.model_copy(update={"items": task.items[::-1]})
        if not there & {task.id, turned.id}:
            new.append(task)
            there.add(task.id)
    return new


def _entry(project: Project, task: Task, gold: Gold | None, *, training: bool, priority: float) -> dict[str, object]:
    config = project.config
    audited = share(project.key, "audit", task.id) < config.audit_share
    need = max(config.need, config.audit_need) if audited else config.need
    need = GOLD_SEATS if gold else need
    return {
        "id": secrets.token_hex(10),
        "project": project.id,
        "task": task.id,
        "purpose": "work" if gold is None else "training" if training else "gold",
        "need": need,
        "max_need": max(need, config.max_need),
        "open": need,
        "answered": 0,
        "skips": 0,
        "state": "open",
        "priority": priority,
        "started": 0,
        "place": keyed(project.key, "place", task.id),
        "gold": None if gold is None else gold.answer.model_dump_json(),
        "explanation": "" if gold is None else gold.explanation,
    }
