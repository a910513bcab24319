"""Reward model: a scalar head on a language model, from comparisons, rankings, ratings or thumbs."""

from collections.abc import Callable
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from clew.batch import Batch, Metric, Model, Objective, Outputs, Term, evaluate, item_weights
from clew.config import Choice, ConfigError, ModelName, bound_to
from clew.data.chat import Codec, Encoding, Item
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.evaluate.calibration import described
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_scalar, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.rank import RANK_LOSSES, Ranked, centring
from clew.losses.single import POINT_LOSSES, ordered_cuts, ordinal
from clew.models.load import merged
from clew.models.reload import check_reload
from clew.models.reward import ScalarModel
from clew.runs import Loop, Run
from clew.track import trackers

LOSSES = {**RANK_LOSSES, **POINT_LOSSES, "ordinal": ordinal}


class Scoring(Model, Protocol):
    """A model with scores and, where its labels are levels, raw cut points."""

    cuts: nn.Parameter | None

    def set_cuts(self, raw: Tensor) -> None: ...


class RewardConfig(HeldOut):
    model: ModelName
    """Folder or hub name: of the SFT model, or of a reward model to go on with."""
    data: Source
    """Pairs or rankings; single answers with a label for ratings and thumbs."""
    reference: Source | None = None
    """Answers whose mean score is to be 0 and spread 1 afterwards; the first training answers when absent."""
    encoding: Encoding = Encoding()
    loss: Annotated[Choice, bound_to(LOSSES)] = Choice(name="bradley_terry")
    """bradley_terry, all_pairs, plackett_luce, mixed_uniform; regression, huber, thumbs, ordinal for single answers."""
    centring: float = Field(default=0.0, ge=0)
    """Coefficient of (sum of an item's scores)^2."""
    learner: Optimiser = Optimiser(lr=1e-5, warmup=0.03)


def run(config: RewardConfig) -> None:
    with Run(config, config.out, "reward", trackers(config)) as run:
        if run.is_finished:
            return
        model = start_scalar(config, config.model, config.lora)
        codec = Codec(model.tokenizer, config.encoding, run.note)
        items = codec.answers(load_examples(config.data))
        check_rows([row for _, rows in items for row in rows], codec.stops(), model.trunk.context)
        held = measurable(codec.answers(load_examples(config.heldout)), config) if config.heldout else []
        run.note(f"reward: {len(items)} to train on, {len(held)} held out; encoded: {codec.summary()}")
        train(model, items, held, config, run)
        take_result(config, model, run)
        model = merged(model, run.model_folder)
        model.trunk.precision = "fp32"  # what is saved is judged as it will be loaded
        reference = codec.answers(load_examples(config.reference)) if config.reference else items[:512]
        normalise(model, reference, config)
        model.save(run.model_folder)
        check_reload(model, [row for _, rows in items[:4] for row in rows], run.model_folder)
        if held:
            run.write("result.json", {"heldout": judged(model, held, config)})
        run.finish()


def train(model: Scoring, items: list[Item], held: list[Item], config: RewardConfig, run: Loop) -> None:
    objective = make_objective(model, items, config)
    total = max(1, round(config.epochs * len(items) / config.batch))
    learner = Learner(model, config.learner, total_steps=total)
    state = TrainState({"reward": learner})
    for step in run.steps(total, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(items), config.batch, seed=config.seed, step=step.number)
        step.track(learner.step(Part(make_batch([items[i] for i in picked]), objective)))
        if held and step.is_saved:
            step.track({f"heldout/{name}": value for name, value in judged(model, held, config).items()})
        run.account(learner.spent())


def make_batch(items: list[Item]) -> Batch:
    """Answers of an item together, best first; one forward pass each, however many pairs they form."""
    ranks = [example.ranks or (0,) for example, _ in items]
    batch = collate([rows for _, rows in items], ranks=ranks)
    columns = {
        "margin": [e.margin for e, _ in items],
        "agreement": [e.agreement for e, _ in items],
        "label": [0.0 if e.label is None else e.label for e, _ in items],
    }
    batch = batch.with_extras(**{name: torch.tensor(values) for name, values in columns.items()})
    return batch.with_weights(item=item_weights(batch, torch.tensor([e.weight for e, _ in items])))


def make_objective(model: Scoring, items: list[Item], config: RewardConfig) -> Objective:
    if config.loss.name == "ordinal" or config.loss.name in POINT_LOSSES:
        labels = [e.label for e, rows in items if len(rows) == 1]
        if len(labels) < len(items) or None in labels:
            raise ConfigError(f"{config.loss.name} needs single answers with a label or rating in {config.data.path}")
        if config.loss.name == "ordinal":
            levels = int(max(label for label in labels if label is not None)) + 1
            model.set_cuts(torch.linspace(-1, 1, levels - 1))
        if config.loss.name == "thumbs" and not all(0 <= (e.label or 0) <= 1 for e, _ in items):
            raise ConfigError(f"thumbs needs labels between 0 and 1; {config.data.path} has others (ratings?)")
        return point_objective(model, config)
    if any(len(rows) < 2 for _, rows in items):
        raise ConfigError(f"{config.loss.name} compares answers; {config.data.path} has prompts with only one")
    return rank_objective(config.loss.bind(RANK_LOSSES), config.centring)


def rank_objective(loss: Callable[..., Tensor], centre: float) -> Objective:
    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.scores is not None
        ranked = laid_out(outputs.scores, batch)
        terms = [Term("rank", loss(ranked), "item")]
        if centre:
            terms.append(Term("centring", centring(ranked), "item", centre))
        gap = (ranked.scores[:, :, None] - ranked.scores[:, None, :]).detach()
        metrics = [
            Metric.mean("accuracy", (gap > 0) + 0.5 * (gap == 0), ordered(ranked)),
            Metric.mean("mean_reward", outputs.scores),
            Metric.max("max_reward", outputs.scores),
        ]
        return terms, metrics

    return objective


def point_objective(model: Scoring, config: RewardConfig) -> Objective:
    loss = None if config.loss.name == "ordinal" else config.loss.bind(POINT_LOSSES)

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.scores is not None
        if loss is None:
            assert model.cuts is not None
            values = ordinal(outputs.scores, batch.extras["label"].long(), ordered_cuts(model.cuts))
        else:
            values = loss(outputs.scores, batch.extras["label"])
        return [Term("point", values, "item")], [Metric.mean("mean_reward", outputs.scores)]

    return objective


def laid_out(scores: Tensor, batch: Batch) -> Ranked:
    """Scores [B] by item, with what is known of their order."""
    known = (batch.extras[name] for name in ("margin", "agreement"))
    return Ranked(batch.per_item(scores), batch.per_item(batch.rank), batch.present(), *known)


def ordered(ranked: Ranked) -> Tensor:
    """Where the first of two rows ranks better than the second: [N, K, K] bool."""
    both = ranked.present[:, :, None] & ranked.present[:, None]
    return (ranked.ranks[:, :, None] < ranked.ranks[:, None, :]) & both


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
