"""Labels: sample answers, make tasks of them, let raters judge, keep everything in the store, export for training."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from clew.collecting import Crowd, SamplingConfig, item_of, judged, make_raters, sample_of
from clew.config import Function, ModelName, Training
from clew.data.chat import Codec, Encoding
from clew.data.sources import Source, load_examples, without_repeats
from clew.engines.local import LocalEngine, Slots
from clew.feedback.export import EXPORTS, write_rows
from clew.feedback.raters import SimulatedRater
from clew.feedback.records import Item, Task
from clew.feedback.store import Store
from clew.judges.ahead import generate_and_score
from clew.judges.score import TIMEOUT_S, Per, check_threads, chosen_reward
from clew.models.load import load_policy
from clew.runs import NoState, Run
from clew.track import trackers
from clew.types import Prompt, Reward, Text


class Label(Training, Slots):
    model: ModelName
    data: Source
    """Prompts."""
    encoding: Encoding = Encoding()
    sampling: SamplingConfig = SamplingConfig()
    answers: int = Field(default=2, ge=1)
    """Different answers a prompt; a task shows two of them, or all for a ranking."""
    kind: Literal["comparison", "ranking", "rating", "thumb"] = "comparison"
    raters: tuple[Crowd, ...] = Field(min_length=1)
    overlap: int = Field(default=1, ge=1)
    """Raters a task."""
    gold: Function
    """`module:function`, the reward that simulated raters see through their weaknesses."""
    timeout_s: float | None = Field(default=TIMEOUT_S, gt=0)
    """For one call of gold, as of a reward."""
    per: Per = "batch"
    """Whether gold is called once a batch or, while others are being sampled, once a prompt (`group`), as a reward."""
    at_once: int = Field(default=8, ge=1)
    """Calls of gold under way at the same time, per: group."""
    batch: int = Field(default=64, ge=1)
    """Prompts sampled at once."""

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        check_threads(self.per, self.timeout_s)
        return self


def run(config: Label) -> None:
    with Run(config, config.out, "label", trackers(config)) as run:
        if run.is_finished:
            return
        policy = load_policy(config.model, precision=config.precision, device=config.device)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        examples = without_repeats(load_examples(config.data))
        prompts = codec.prompts(examples, config.sampling.max_tokens)
        asked = {e.id: e.prompt for e in examples}
        gold = chosen_reward(config.gold, config.timeout_s, per=config.per, at_once=config.at_once)
        store = Store.open(run.folder / "feedback.sqlite")
        engine = LocalEngine(policy, slots=config.slots, linears=config.linears)
        collect(engine, prompts, asked, make_raters(config.raters), gold, store, config, run)
        for name, export in EXPORTS.items():
            run.ledger[f"rows/{name}"] = write_rows(run.folder / f"{name}.jsonl", export(store))
        store.close()
        run.finish()


def collect(
    engine: LocalEngine,
    prompts: list[Prompt],
    asked: Mapping[str, Text],
    raters: list[SimulatedRater],
    gold: Reward,
    store: Store,
    config: Label,
    run: Run,
) -> None:
    total = -(-len(prompts) // config.batch)
    for step in run.steps(total, NoState(), save_every=config.save_every, keep=config.keep):
        batch = prompts[step.number * config.batch : (step.number + 1) * config.batch]
        how, key = config.sampling.sampling(), (config.seed, step.number)
        rollouts, judged_so = generate_and_score(engine, gold, batch, n=config.answers, sampling=how, key=key)
        found = [item_of(r, asked[r.prompt_id]) for r in rollouts]
        scores = {item.id: s.value for item, s in zip(found, judged_so, strict=True)}
        items = {item.id: item for item in found}
        rng = np.random.default_rng([config.seed, step.number])
        groups = [found[i : i + config.answers] for i in range(0, len(found), config.answers)]
        tasks = [task for group in groups for task in tasks_of(group, config, rng)]
        answers = [a for task in tasks for a in judged(task, items, scores, raters, config.overlap, rng)]
        store.add_items([items[key] for task in tasks for key in task.items])
        store.add_tasks(tasks)
        store.add_feedback(answers)
        run.ledger["tokens_generated"] += sum(sum(r.mask) for r in rollouts)
        run.ledger["labels/program"] += len(answers)
        worth = [v for v in scores.values() if v is not None]
        step.track({"labels": len(answers), "answers/mean_gold": float(np.mean(worth)) if worth else 0.0})
        step.samples([sample_of(r) for r in rollouts[:2]])


def tasks_of(items: Sequence[Item], config: Label, rng: np.random.Generator) -> list[Task]:
    """What raters are asked about the answers to one prompt, in random order; equal answers are asked about once."""
    different = list({item.id: item for item in items}.values())
    order = [different[int(i)] for i in rng.permutation(len(different))]
    prompt = items[0].prompt
    if config.kind == "ranking":
        return [Task(kind="ranking", prompt=prompt, items=tuple(i.id for i in order))] if len(order) > 1 else []
    if config.kind == "comparison":
        pairs = [(order[i], order[i + 1]) for i in range(0, len(order) - 1, 2)]
        return [Task(kind="comparison", prompt=prompt, items=(a.id, b.id)) for a, b in pairs]
    return [Task(kind=config.kind, prompt=prompt, items=(i.id,)) for i in order]
