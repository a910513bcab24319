"""Evaluation on held-out prompts: gold, win rate, KL, and alarms for every checkpoint of every policy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from clew.batch import evaluate
from clew.config import Function, ModelName, RunName, Training
from clew.data.chat import Codec, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, without_repeats
from clew.engines.local import LocalEngine, Slots
from clew.evaluate.compare import Record, compared, headline, samples_of
from clew.evaluate.origins import joined, of_gold, of_proxy
from clew.judges.score import TIMEOUT_S, Sources, chosen_reward, make_reward, score_with_model
from clew.models.load import check_vocabulary, load_judge, load_policy
from clew.runs import Run
from clew.track import trackers
from clew.types import Reward, Rollout, Sampling


class Evaluate(Training, Slots):
    baseline: ModelName
    """Model folder that the others are compared with; KL is measured to it."""
    policies: dict[str, RunName]
    """Name -> run directory: its model, and its checkpoints as far as they were kept; or a model folder."""
    data: Source
    """Held-out prompts."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    proxy: Sources | None = None
    """The reward that was trained on, or a judge in its place: as the reward of `rl`, or a reward model's folder."""
    heldout: tuple[ModelName, ...] = ()
    """Folders of reward models that were not trained on."""
    gold: Function | None = None
    """`module:function`, an independent judge; never seen by training and never by the alarms."""
    timeout_s: float | None = Field(default=TIMEOUT_S, gt=0)
    """For one call of gold, as of a reward."""
    shown: int = Field(default=12, ge=0)
    """Prompts whose answers are kept for the report."""
    max_batch_tokens: int = Field(default=16384, ge=1)


def run(config: Evaluate) -> None:
    with Run(config, config.out, "evaluate", trackers(config)) as run:
        if run.is_finished:
            return
        bench = Bench(config)
        points = [Point("baseline", 0, True, Path(config.baseline)), *points_of(config)]
        seen = Seen()
        for step in run.steps(len(points), seen, save_every=1, keep=1):
            point = points[step.number]
            seen.records.append(bench.measure(point.folder))
            found = compared(seen.records[-1], seen.records[0])
            step.track({name: found[name]["value"] for name in ("gold", "proxy", "kl") if name in found})
            run.ledger["tokens_generated"] += sum(seen.records[-1]["length"])
            if point.final:
                step.samples(samples_of(point.policy, seen.records[-1], config.shown))
        rows = [
            {**p._asdict(), "folder": str(p.folder), **compared(record, seen.records[0])}
            for p, record in zip(points, seen.records, strict=True)
        ]
        told = about(config, rows)
        run.write("evaluation.json", {"points": rows, "prompts": len(bench.prompts), **told})
        for row in rows:
            if row["final"] and row["policy"] != "baseline":
                run.note(headline(row))
        for warning in told["warnings"]:
            run.note(f"warning: {warning}")
        run.finish()


class Point(NamedTuple):
    policy: str
    step: int  # of the checkpoint; -1 for the result
    final: bool
    folder: Path


class Seen:
    """What has been measured so far: the state of the loop."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def save(self, folder: Path) -> None:
        (folder / "measured.json").write_text(json.dumps(self.records))

    def load(self, folder: Path) -> None:
        self.records = json.loads((folder / "measured.json").read_text())


def points_of(config: Evaluate) -> Iterator[Point]:
    """Everything there is to measure, checkpoints first."""
    for name, place in config.policies.items():
        folder = Path(place)
        for checkpoint in sorted(folder.glob("checkpoints/checkpoint-*[0-9]")):
            yield Point(name, int(checkpoint.name.removeprefix("checkpoint-")), False, checkpoint)
        final = folder / "model" if (folder / "model").is_dir() else folder
        yield Point(name, -1, True, final)


class Bench:
    """The prompts and judges that every policy meets."""

    def __init__(self, config: Evaluate) -> None:
        self.config = config
        self.start = load_policy(config.baseline, device=config.device)
        self.start.temperature = config.temperature or 1.0  # greedy answers, as the untempered model sees them
        codec = Codec(self.start.tokenizer, config.encoding)
        self.prompts = codec.prompts(without_repeats(load_examples(config.data)), config.max_tokens)
        budget = config.max_batch_tokens
        self.proxy = make_reward(config.proxy, self.start, max_tokens=budget) if config.proxy else None
        self.heldout = [load_judge(folder, self.start, device=config.device) for folder in config.heldout]
        self.gold = chosen_reward(config.gold, config.timeout_s) if config.gold else None

    def measure(self, folder: Path) -> Record:
        """One answer a prompt, and what every judge says of it."""
        policy = load_policy(str(folder), device=self.config.device)
        check_vocabulary(policy.tokenizer, self.start.tokenizer, str(folder))
        policy.temperature = self.start.temperature
        engine = LocalEngine(policy, slots=self.config.slots, linears=self.config.linears)
        sampling = Sampling(self.config.max_tokens, self.config.temperature)
        rollouts = engine.generate(self.prompts, n=1, sampling=sampling, key=(self.config.seed, 0))
        batch = collate([[r] for r in rollouts])
        ours, ref = (evaluate(m, batch, max_tokens=self.config.max_batch_tokens) for m in (policy, self.start))
        assert ours.entropy is not None and ours.logps is not None and ref.logps is not None
        heldout = [score_with_model(m, rollouts, max_tokens=self.config.max_batch_tokens) for m in self.heldout]
        return {
            "prompts": [r.prompt for r in rollouts],
            "texts": [r.text for r in rollouts],
            "length": [sum(r.mask) for r in rollouts],
            "ended": [r.stop == "end" for r in rollouts],
            "kl": batch.per_row(ours.logps - ref.logps).tolist(),
            "entropy": float(ours.entropy.sum() / batch.mask.sum()),
            "heldout": [[s.value for s in column] for column in heldout],
            "proxy": asked(self.proxy, rollouts),
            "gold": asked(self.gold, rollouts),
        }


def asked(judge: Reward | None, rollouts: list[Rollout]) -> list[float | None]:
    """What a judge says, None where it abstains; nothing where there is no judge."""
    return [score.value for score in judge(rollouts)] if judge else []


def about(config: Evaluate, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How it was measured: what the judges are to the policies, and what the reader must be warned of."""
    judges: list[str] = []
    warnings: list[str] = []
    if config.gold:
        says, warning = of_gold(config.gold.name, config.policies)
        judges.append(says)
        warnings += [warning] if warning else []
    if config.proxy:
        judges.append(of_proxy([source.model_dump() for source in config.proxy], config.policies))
    cut = [row["policy"] for row in rows if row["final"] and row["ended"] < 0.5]
    if cut:
        warnings.append(
            f"most answers of {joined(cut)} were cut at max_tokens: {config.max_tokens}; raise it, or look whether the "
            "training answers end: what is cut is neither judged nor measured whole"
        )
    return {"temperature": config.temperature, "judges": judges, "warnings": warnings}
