"""Preference optimisation without a reward model: DPO and its family on pairs, KTO on single answers."""

from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from clew.batch import Batch, Metric, Model, Objective, Outputs, Term
from clew.config import Choice, ConfigError, ModelName, bound_to, cache_folder, option
from clew.data.chat import Codec, Encoding, Item
from clew.data.pairs import mismatched, pairs_of
from clew.data.sources import Source, load_examples, step_indices
from clew.evaluate.calibration import area_under_curve, described
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_policy, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.pair import PAIR_LOSSES, REFERENCE_FREE, PairLogps, implicit_rewards
from clew.losses.single import kto, mismatched_kl
from clew.models.load import merged
from clew.models.reference import load_reference, load_start
from clew.models.remembered import Remembered, row_logps
from clew.pairwise import check_at_reference, make_batch, pair_objective
from clew.runs import Loop, Run
from clew.track import trackers

LOSSES = {**PAIR_LOSSES, "kto": kto}


class Preference(HeldOut):
    reference: ModelName | None = None
    """The frozen reference: the model this run starts from when absent, else a folder or hub name."""
    data: Source
    """Pairs; rankings become all their pairs; for kto, answers with a true or false label, or pairs."""
    encoding: Encoding = Encoding()
    loss: Annotated[Choice, bound_to(LOSSES)] = Choice(name="dpo")
    """dpo, robust_dpo, ipo, ipo_mean, hinge, apo_zero, apo_down, simpo, orpo, kto."""
    cache: str | None = "auto"
    """Folder where the reference's log-probabilities of the rows are kept for later runs; auto: $CLEW_CACHE, else
    ~/.cache/clew; null keeps none. Deleting it is safe."""
    learner: Optimiser = Optimiser(lr=1e-6, warmup=0.1)


def run(config: Preference) -> None:
    with Run(config, config.out, "preference", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        reference = None
        if config.loss.bind(LOSSES).func not in REFERENCE_FREE:
            budget, cache = config.learner.max_tokens, cache_folder(config.cache)
            load = load_reference if config.loss.name == "kto" else load_start  # kto asks anew at every step
            reference = Remembered(load(config.reference, policy), max_tokens=budget, cache=cache, note=run.note)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        items = arranged(codec, config.data, config)
        held = arranged(codec, config.heldout, config) if config.heldout else []
        run.note(f"preference: {len(items)} to train on, {len(held)} held out; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        check_rows([row for _, rows in (*items, *held) for row in rows], policy.stop_ids, policy.trunk.context)
        train(policy, reference, items, held, config, run)
        take_result(config, policy, run)
        merged(policy, run.model_folder).save(run.model_folder)
        if held:
            run.write("result.json", {"heldout": judged(policy, held, reference_logps(reference, held), config)})
        run.finish()


def train(
    policy: Model, reference: Remembered | None, items: list[Item], held: list[Item], config: Preference, run: Loop
) -> None:
    total = max(1, round(config.epochs * len(items) / config.batch))
    learner = Learner(policy, config.learner, total_steps=total)
    refs, held_refs = reference_logps(reference, items), reference_logps(reference, held)
    loss = config.loss.bind(LOSSES)
    objective = kto_objective(loss) if loss.func is kto else pair_objective(loss)
    for step in run.steps(total, TrainState({"policy": learner}), save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(items), config.batch, seed=config.seed, step=step.number)
        batch = make_batch([items[i] for i in picked]).with_extras(ref_logps=torch.cat([refs[i] for i in picked]))
        if loss.func is kto:
            batch = batch.with_extras(z=reference_point(policy, reference, [items[i] for i in picked], config))
        if step.number == 0 and config.reference is None:
            check_at_reference(policy, loss, batch, max_tokens=config.learner.max_tokens, precision=config.precision)
        step.track(learner.step(Part(batch, objective)))
        if held and step.is_saved:
            step.track({f"heldout/{name}": value for name, value in judged(policy, held, held_refs, config).items()})
        run.account(learner.spent())


def arranged(codec: Codec, source: Source, config: Preference) -> list[Item]:
    """What the loss compares: pairs with a winner, or single answers marked good or bad."""
    pairs = pairs_of(items := codec.answers(load_examples(source)))
    if config.loss.name != "kto":
        if not pairs:
            raise ConfigError(f"{config.loss.name} learns from pairs; {source.path} has none with a winner")
        return pairs
    singles = [(e, rows) for e, rows in items if e.label is not None]
    for example, (chosen, rejected) in pairs:
        singles += [(replace(example, label=1.0), [chosen]), (replace(example, label=0.0), [rejected])]
    labels = {example.label for example, _ in singles}
    if len(labels) < 1 + (source is config.heldout) or not labels <= {0, 1} or config.batch < 2:
        what = "answers labelled true or false (both where they are held out), or pairs"
        raise ConfigError(f"kto needs {what}, and a batch over 1; {source.path} has labels {sorted(labels, key=str)}")
    return singles


def kto_objective(loss: partial[Tensor]) -> Objective:
    beta = option(loss, "beta", 1.0)

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None
        ratios = batch.per_row(outputs.logps) - batch.extras["ref_logps"]
        good, sure, z = (batch.extras[name] for name in ("desirable", "agreement", "z"))
        metrics = [
            Metric.mean("rewards/chosen", beta * ratios, good),
            Metric.mean("rewards/rejected", beta * ratios, ~good),
            Metric.mean("kl", z),
        ]
        return [Term("pair", sure * loss(ratios, good, z) + (1 - sure) * loss(ratios, ~good, z), "item")], metrics

    return objective


def reference_logps(reference: Remembered | None, items: list[Item]) -> list[Tensor]:
    """Log-probability of every row: a tensor an item; zeros of no reference."""
    rows = [rows for _, rows in items]
    return [torch.zeros(len(r)) for r in rows] if reference is None else reference.row_logps(rows)


def reference_point(policy: Model, reference: Model | None, items: list[Item], config: Preference) -> Tensor:
    """KTO's z for the whole step, [N]: the mean log-ratio of mismatched prompts and answers."""
    rows = mismatched([rows[0] for _, rows in items], max_length=config.encoding.max_length)
    assert reference is not None, "kto is not free of a reference"
    budget = config.learner.max_tokens
    ours, theirs = (torch.cat(row_logps(m, [[r] for r in rows], max_tokens=budget)) for m in (policy, reference))
    return mismatched_kl(ours - theirs).expand(len(items))


def judged(policy: Model, items: list[Item], refs: list[Tensor], config: Preference) -> dict[str, float]:
    """How often, and how surely, the implicit reward prefers the chosen answers; of single ones, the good ones."""
    ours = torch.stack(row_logps(policy, [rows for _, rows in items], max_tokens=config.learner.max_tokens))
    if ours.shape[1] == 1:
        good = [example.label == 1 for example, _ in items]
        return {"auc": area_under_curve((ours - torch.stack(refs))[:, 0].tolist(), good), "answers": len(items)}
    lengths = torch.tensor([[sum(row.mask) for row in rows] for _, rows in items])
    columns = ours, torch.stack(refs), lengths
    pair = PairLogps(*(x for column in columns for x in column.unbind(1)))
    chosen, rejected = implicit_rewards(pair, LOSSES.get(config.loss.name))
    margins = option(config.loss.bind(LOSSES), "beta", 1.0) * (chosen - rejected)
    return described(margins.tolist(), [example.id for example, _ in items])
