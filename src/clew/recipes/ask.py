"""One round of asking: sample answers, choose the pairs that teach most, put them on the desk, wait for the answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from clew.asking import Features, all_pairs, answer_features, drawn_pairs, known_of, most_telling
from clew.collecting import Crowd, SamplingConfig, item_of, judged, make_raters, put_before_people, wait_for
from clew.config import Choice, Function, ModelName, Training, bound_to
from clew.data.chat import Codec, Encoding
from clew.data.sources import Source, load_examples, step_indices, without_repeats
from clew.engines.local import LocalEngine, Slots
from clew.feedback.active import SELECTIONS, Posterior, at_random
from clew.feedback.aggregate import outcomes
from clew.feedback.agreement import raw_agreement
from clew.feedback.crowd import Votes, comparison_votes
from clew.feedback.export import EXPORTS, write_rows
from clew.feedback.records import Feedback, Item, ItemId, Task
from clew.feedback.store import Store
from clew.judges.score import TIMEOUT_S, chosen_reward
from clew.models.load import load_policy, load_scalar
from clew.runs import Run
from clew.track import trackers


class Ask(Training, Slots):
    model: ModelName
    """The newest policy: what it says is asked about."""
    reward: ModelName | None = None
    """The newest reward model, whose doubts are asked about; without one, pairs are drawn at random."""
    data: Source
    """Prompts."""
    store: str
    """A SQLite file or a PostgreSQL URL, the same in every round: questions go there, all answers come from there."""
    round: int = Field(default=0, ge=0)
    """Each draws other prompts and other noise."""
    encoding: Encoding = Encoding()
    sampling: SamplingConfig = SamplingConfig()
    prompts: int = Field(default=64, ge=1)
    answers: int = Field(default=4, ge=2)
    """Sampled for each prompt."""
    duels: Literal["all", "thompson"] = "all"
    """Pairs of a prompt that can be asked about: all, or the one that double Thompson sampling draws."""
    pairs: int = Field(default=64, ge=1)
    """Asked about in the round."""
    select: Annotated[Choice, bound_to(SELECTIONS)] = Choice(name="d_optimal")
    """d_optimal, disagreement, bald, or random, the baseline."""
    overlap: int = Field(default=1, ge=1)
    """Answers a pair."""
    raters: tuple[Crowd, ...] = ()
    """Simulated ones, who answer at once. Without them people do: `clew desk STORE`."""
    gold: Function | None = None
    """The reward that simulated raters see through their weaknesses."""
    project: str = "loop"
    """Of the desk, where people find the questions."""
    enough: float = Field(default=1.0, gt=0, le=1)
    """Share of the answers to wait for."""
    price: float = Field(default=0.0, ge=0)
    """Of an answer, in whatever currency."""
    max_batch_tokens: int = Field(default=16384, ge=1)

    @model_validator(mode="after")
    def _raters_see_something(self) -> Self:
        if bool(self.raters) != (self.gold is not None):
            raise ValueError("simulated raters judge by `gold`: give raters and gold, or neither, to ask people")
        return self


def run(config: Ask) -> None:
    with Run(config, config.out, "ask", trackers(config)) as run:
        if run.is_finished:
            return
        store, asked = Store.open(config.store), Asked()
        for step in run.steps(1, asked, save_every=1, keep=1):
            asked.questions = step.journal(lambda: questions(config, store, run))
            put(config, store, asked.questions)
            step.track({"pairs": len(asked.questions)})
        tasks = [Task.model_validate(q["task"]) for q in asked.questions]
        records = answered(config, store, tasks, run)
        run.ledger["labels/program" if config.raters else "labels/person"] += len(records)
        for name, export in EXPORTS.items():
            run.ledger[f"rows/{name}"] = write_rows(run.folder / f"{name}.jsonl", export(store))
        store.close()
        run.write("result.json", {"round": found(config, records)})
        run.finish()


class Asked:
    """The questions of the round: the state of the loop."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []

    def save(self, folder: Path) -> None:
        (folder / "questions.json").write_text(json.dumps(self.questions))

    def load(self, folder: Path) -> None:
        self.questions = json.loads((folder / "questions.json").read_text())


def questions(config: Ask, store: Store, run: Run) -> list[dict[str, Any]]:
    """The chosen pairs as tasks with their items, and what gold makes of these, for simulated raters."""
    rng = np.random.default_rng([config.seed, config.round])
    groups, worth = sampled(config, run)
    old = {frozenset(task.items) for task in store.tasks("comparison")}
    if config.reward is None:
        features = {item.id: np.zeros(1) for group in groups for item in group}
        known, select = Posterior(np.zeros(1), np.eye(1)), at_random
    else:
        features, known = doubts(config, groups, store)
        select = config.select.bind(SELECTIONS)
    groups = [[item for item in group if item.id in features] for group in groups]
    thompson = config.duels == "thompson" and config.reward is not None
    pairs = drawn_pairs(groups, known, features, rng) if thompson else all_pairs(groups)
    new = [(a, b) for a, b in pairs if frozenset((a.id, b.id)) not in old]
    chosen = most_telling(new, known, features, select, config.pairs, rng)
    return [
        {
            "task": Task(kind="comparison", prompt=a.prompt, items=(a.id, b.id)).model_dump(mode="json"),
            "items": [item.model_dump(mode="json") for item in (a, b)],
            "worth": [worth[a.id], worth[b.id]] if worth else None,
        }
        for a, b in chosen
    ]


def sampled(config: Ask, run: Run) -> tuple[list[list[Item]], dict[ItemId, float | None]]:
    """Different answers of the policy to this round's prompts, and their gold."""
    policy = load_policy(config.model, precision=config.precision, device=config.device)
    codec = Codec(policy.tokenizer, config.encoding, run.note)
    examples = without_repeats(load_examples(config.data))
    picked = step_indices(len(examples), min(config.prompts, len(examples)), seed=config.seed, step=config.round)
    asked = {examples[i].id: examples[i].prompt for i in picked}
    prompts = codec.prompts([examples[i] for i in picked], config.sampling.max_tokens)
    engine, how = LocalEngine(policy, slots=config.slots, linears=config.linears), config.sampling.sampling()
    rollouts = engine.generate(prompts, n=config.answers, sampling=how, key=(config.seed, config.round))
    run.ledger["tokens_generated"] += sum(sum(r.mask) for r in rollouts)
    items = [item_of(r, asked[r.prompt_id]) for r in rollouts]
    scores = chosen_reward(config.gold, TIMEOUT_S)(rollouts) if config.gold else []
    worth = {item.id: score.value for item, score in zip(items, scores, strict=bool(scores))}
    groups = [items[i : i + config.answers] for i in range(0, len(items), config.answers)]
    return [list({item.id: item for item in group}.values()) for group in groups], worth


def doubts(config: Ask, groups: Sequence[Sequence[Item]], store: Store) -> tuple[Features, Posterior]:
    """What the reward model reads of all answers, and how sure what was answered so far makes it."""
    assert config.reward is not None
    model = load_scalar(config.reward, precision=config.precision, device=config.device)
    model.check_alone(config.reward)
    codec, items = Codec(model.tokenizer, config.encoding), store.items()
    so_far = outcomes(store.feedback())
    judged = {key: items[key] for o in so_far for key in (o.first, o.second)}
    every = {**judged, **{item.id: item for group in groups for item in group}}
    features = answer_features(model, codec, list(every.values()), max_tokens=config.max_batch_tokens)
    return features, known_of(model, so_far, features)


def put(config: Ask, store: Store, asked: Sequence[dict[str, Any]]) -> None:
    """Questions before people, those that tell most first; or before simulated raters, who answer."""
    tasks = [Task.model_validate(q["task"]) for q in asked]
    items = {item.id: item for q in asked for item in map(Item.model_validate, q["items"])}
    if not config.raters:
        put_before_people(store, config.project, tasks, list(items.values()), overlap=config.overlap)
        return
    store.add_items(list(items.values()))
    store.add_tasks(tasks)
    rng, raters = np.random.default_rng([config.seed, config.round, 1]), make_raters(config.raters)
    for task, question in zip(tasks, asked, strict=True):
        worth = dict(zip(task.items, question["worth"], strict=True))
        store.add_feedback(judged(task, items, worth, raters, config.overlap, rng))


def answered(config: Ask, store: Store, tasks: Sequence[Task], run: Run) -> list[Feedback]:
    """Answers to these questions, once there are enough of them."""
    wanted = 0 if config.raters else round(config.enough * config.overlap * len(tasks))

    def tell(num: int) -> None:
        run.note(f"{run.folder.name}: {num} of {wanted} answers are there; people answer at: clew desk {config.store}")

    return wait_for(store, tasks, wanted, tell)


def found(config: Ask, records: Sequence[Feedback]) -> dict[str, Any]:
    """Of the round, for the report."""
    agreement = raw_agreement(Votes.of(comparison_votes(records)).counts())
    return {
        "number": config.round,
        "labels": len(records),
        "raters": len({r.rater.id for r in records}),
        "agreement": None if np.isnan(agreement) else agreement,
        "cost": config.price * len(records),
    }
