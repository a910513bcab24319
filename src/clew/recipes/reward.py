"""Reward model: a scalar head on a language model, from comparisons, rankings, ratings or thumbs."""

from collections import Counter
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from clew.batch import Model, Objective, evaluate
from clew.config import Choice, ConfigError, ModelName, bound_to
from clew.data.chat import Codec, Encoding, Item
from clew.data.pairs import against_each_other
from clew.data.sources import Source, load_examples, step_indices
from clew.evaluate.calibration import described
from clew.judgements import (
    RaterPrior,
    Raters,
    Scoring,
    laid_out,
    levelled,
    make_batch,
    ordered,
    point_objective,
    rank_objective,
    rater_of,
    reliabilities,
)
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_scalar, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.rank import RANK_LOSSES
from clew.losses.single import POINT_LOSSES, ordinal
from clew.models.load import merged
from clew.models.reload import check_reload
from clew.models.reward import ScalarModel, separator
from clew.runs import Loop, Run
from clew.track import trackers

LOSSES = {**RANK_LOSSES, **POINT_LOSSES, "ordinal": ordinal}


class RewardConfig(HeldOut):
    model: ModelName
    """Folder or hub name: of the SFT model, or of a reward model to go on with."""
    data: Source
    """Pairs or rankings; single answers with a label for ratings and thumbs."""
    reads: Literal["answers", "pairs"] = "answers"
    """answers: scores each alone. pairs: a preference model, which reads two answers together and says which is better;
    its preferences may go in circles."""
    reference: Source | None = None
    """Answers whose mean score is to be 0 and spread 1 afterwards; the first training answers when absent."""
    encoding: Encoding = Encoding()
    loss: Annotated[Choice, bound_to(LOSSES)] = Choice(name="bradley_terry")
    """bradley_terry, all_pairs, plackett_luce, mixed_uniform; crowd_bt where a column `rater` says who judged;
    regression, huber, thumbs, ordinal for single answers."""
    raters: RaterPrior = RaterPrior()
    """Of crowd_bt."""
    centring: float = Field(default=0.0, ge=0)
    """Coefficient of (sum of an item's scores)^2."""
    learner: Optimiser = Optimiser(lr=1e-5, warmup=0.03)

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.reads == "pairs" and (self.reference or self.centring or self.loss.name in {*POINT_LOSSES, "ordinal"}):
            raise ValueError(
                f"reads: pairs learns from comparisons; its scores have no offset; got loss: {self.loss.name}, "
                f"centring: {self.centring:g}, reference: {self.reference}; take bradley_terry and leave those out"
            )
        return self


def run(config: RewardConfig) -> None:
    with Run(config, config.out, "reward", trackers(config)) as run:
        if run.is_finished:
            return
        model = start_scalar(config, config.model, config.lora)
        codec = Codec(model.tokenizer, config.encoding, run.note)
        model.reads_pairs = config.reads == "pairs"
        items = read(codec, config.data, config)
        check_rows([row for _, rows in items for row in rows], codec.stops(), model.trunk.context)
        held = measurable(read(codec, config.heldout, config), config) if config.heldout else []
        run.note(f"reward: {len(items)} to train on, {len(held)} held out; encoded: {codec.summary()}")
        train(model, items, held, config, run)
        take_result(config, model, run)
        model = merged(model, run.model_folder)
        model.trunk.precision = "fp32"  # what is saved is judged as it will be loaded
        if config.reads == "answers":
            normalise(model, read(codec, config.reference, config) if config.reference else items[:512], config)
        model.save(run.model_folder)
        check_reload(model, [row for _, rows in items[:4] for row in rows], run.model_folder)
        found = {"heldout": judged(model, held, config)} if held else {}
        found |= {"raters": reliabilities(model)} if config.loss.name == "crowd_bt" else {}
        if found:
            run.write("result.json", found)
        run.finish()


def read(codec: Codec, source: Source, config: RewardConfig) -> list[Item]:
    items = codec.answers(load_examples(source))
    if config.reads == "answers":
        return items
    pairs = against_each_other(items, stop=separator(codec.tokenizer))
    if not pairs:
        raise ConfigError(f"reads: pairs compares answers; {source.path} has no two of which one is better")
    return pairs


def train(model: Scoring, items: list[Item], held: list[Item], config: RewardConfig, run: Loop) -> None:
    objective = make_objective(model, items, config)
    total = max(1, round(config.epochs * len(items) / config.batch))
    is_crowd = config.loss.name == "crowd_bt"
    numbers = {name: i for i, name in enumerate(model.rater_names)} if is_crowd else None
    rates = {"raters": config.raters.lr} if is_crowd else {}
    learner = Learner(model, config.learner, total_steps=total, rates=rates)
    state = TrainState({"reward": learner})
    for step in run.steps(total, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(items), config.batch, seed=config.seed, step=step.number)
        if model.raters is not None:  # what a model says of rows it has learnt is no evidence for who labelled them
            model.raters.requires_grad_(is_crowd and step.number * config.batch < len(items))
        step.track(learner.step(Part(make_batch([items[i] for i in picked], numbers), objective)))
        if held and step.is_saved:
            step.track({f"heldout/{name}": value for name, value in judged(model, held, config).items()})
        run.account(learner.spent())


def make_objective(model: Scoring, items: list[Item], config: RewardConfig) -> Objective:
    if config.loss.name == "ordinal" or config.loss.name in POINT_LOSSES:
        labels = [e.label for e, rows in items if len(rows) == 1]
        if len(labels) < len(items) or None in labels:
            raise ConfigError(f"{config.loss.name} needs single answers with a label or rating in {config.data.path}")
        if config.loss.name == "ordinal":
            levels = int(max(label for label in labels if label is not None)) + 1
            model.set_cuts(torch.linspace(-1, 1, levels - 1))
            return point_objective(partial(levelled, model))
        if config.loss.name == "thumbs" and not all(0 <= (e.label or 0) <= 1 for e, _ in items):
            raise ConfigError(f"thumbs needs labels between 0 and 1; {config.data.path} has others (ratings?)")
        return point_objective(config.loss.bind(POINT_LOSSES))
    if any(len(rows) < 2 for _, rows in items):
        raise ConfigError(f"{config.loss.name} compares answers; {config.data.path} has prompts with only one")
    raters = meet_raters(model, items, config) if config.loss.name == "crowd_bt" else None
    return rank_objective(config.loss.bind(RANK_LOSSES), config.centring, raters)


def meet_raters(model: Scoring, items: list[Item], config: RewardConfig) -> Raters:
    """The raters of the rows, known to the model from now on as what the prior expects of them.

    Raises ConfigError where a row has no rater, and where all are judges, so that nobody says which order is meant.
    """
    votes: Counter[str] = Counter()
    for example, _ in items:
        votes[rater_of(example)] += example.weight  # type: ignore[assignment]
    if "" in votes:
        raise ConfigError(f"crowd_bt learns about raters, and rows of {config.data.path} have no column 'rater'")
    if votes.keys() <= set(config.raters.judges):
        raise ConfigError(
            f"all raters in {config.data.path} are judges, so that their labels and the opposite of them are equally "
            "likely; add rows that people judged, or take one of them out of raters.judges"
        )
    names = sorted(votes)
    known = [
        (1.0, 1.0) if name in config.raters.judges else (config.raters.right, config.raters.wrong) for name in names
    ]
    right, wrong = torch.tensor(known).T
    model.set_raters(names, (right / wrong).log())
    assert model.raters is not None
    count = torch.tensor([votes[name] for name in names]).clamp(min=1e-6)
    return Raters(model.raters, *(x.to(model.raters.device) for x in (right, wrong, count)))


def measurable(items: list[Item], config: RewardConfig) -> list[Item]:
    """Held-out rows, as long as there is something that a model can get right."""
    differ = any(len(set(example.ranks)) > 1 for example, _ in items)
    if not differ and len({example.label for example, rows in items if len(rows) == 1} - {None}) < 2:
        says = "rows to measure on differ neither in rank nor in label; give pairs with a winner, or several labels"
        raise ConfigError(f"{config.heldout and config.heldout.path}: {says}")
    return items


def judged(model: Model, items: list[Item], config: RewardConfig) -> dict[str, float]:
    """How often, and how surely, the model orders pairs alike; of single answers, the correlation with the label."""
    batch = make_batch(items)
    scores = evaluate(model, batch, max_tokens=config.learner.max_tokens).scores
    assert scores is not None
    if batch.num_items == batch.num_rows:
        both = torch.stack([scores.cpu(), batch.extras["label"]])
        return {"correlation": float(torch.corrcoef(both)[0, 1].nan_to_num())}  # 0 where all scores are the same
    ranked = laid_out(scores.cpu(), batch)
    item, first, second = ordered(ranked).nonzero(as_tuple=True)
    margins = ranked.scores[item, first] - ranked.scores[item, second]
    return described(margins.tolist(), [items[i][0].id for i in item.tolist()])


def normalise(model: ScalarModel, items: list[Item], config: RewardConfig) -> None:
    """Scores of reference answers get mean 0 and spread 1, as judges report them (InstructGPT's zero mean)."""
    batch = make_batch(items)
    scores = evaluate(model, batch, max_tokens=config.learner.max_tokens).scores
    assert scores is not None
    model.centre, model.scale = float(scores.mean()), max(float(scores.std()), 1e-6) if len(scores) > 1 else 1.0
