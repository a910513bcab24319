"""Evaluation on held-out prompts: gold, win rate, KL, and alarms for every checkpoint of every policy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from clew.batch import evaluate
from clew.config import Choice, Training, import_function
from clew.data.chat import Codec, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, without_repeats
from clew.engines.local import LocalEngine
from clew.evaluate.hacking import Signs, as_rows, disagreement, distinct, findings, repetition, verdict
from clew.evaluate.winrate import mean_interval, paired_gain, win_rate
from clew.judges.score import function_reward, score_with_model
from clew.models.load import check_vocabulary, load_judge, load_policy
from clew.runs import Run
from clew.track import trackers
from clew.types import Sampling

Record = dict[str, Any]


class Evaluate(Training):
    baseline: str
    """Model folder that the others are compared with; KL is measured to it."""
    policies: dict[str, str]
    """Name -> run directory: its model, and its checkpoints as far as they were kept; or a model folder."""
    data: Source
    """Held-out prompts."""
    encoding: Encoding = Encoding()
    max_tokens: int = 64
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    proxy: str
    """Folder of the reward model that was trained on."""
    heldout: tuple[str, ...] = ()
    """Folders of reward models that were not."""
    gold: Choice | None = None
    """`module:function`, an independent judge; never seen by training and never by the alarms."""
    shown: int = 12
    """Prompts whose answers are kept for the report."""
    max_batch_tokens: int = 16384
    slots: int = 64


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
        about = {"prompts": len(bench.prompts), "temperature": config.temperature}
        run.write("evaluation.json", {"points": rows, **about})
        for row in rows:
            if row["final"] and row["policy"] != "baseline":
                run.note(headline(row))
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
        self.judges = [load_judge(f, self.start, device=config.device) for f in (config.proxy, *config.heldout)]
        self.gold = function_reward(import_function(config.gold.name), **config.gold.options) if config.gold else None

    def measure(self, folder: Path) -> Record:
        """One answer a prompt, and what every judge says of it."""
        policy = load_policy(str(folder), device=self.config.device)
        check_vocabulary(policy.tokenizer, self.start.tokenizer, str(folder))
        policy.temperature = self.start.temperature
        engine = LocalEngine(policy, slots=self.config.slots)
        sampling = Sampling(self.config.max_tokens, self.config.temperature)
        rollouts = engine.generate(self.prompts, n=1, sampling=sampling, key=(self.config.seed, 0))
        batch = collate([[r] for r in rollouts])
        ours, ref = (evaluate(m, batch, max_tokens=self.config.max_batch_tokens) for m in (policy, self.start))
        assert ours.entropy is not None and ours.logps is not None and ref.logps is not None
        scores = [score_with_model(m, rollouts, max_tokens=self.config.max_batch_tokens) for m in self.judges]
        return {
            "prompts": [r.prompt for r in rollouts],
            "texts": [r.text for r in rollouts],
            "length": [sum(r.mask) for r in rollouts],
            "ended": [r.stop == "end" for r in rollouts],
            "kl": batch.per_row(ours.logps - ref.logps).tolist(),
            "entropy": float(ours.entropy.sum() / batch.mask.sum()),
            "judges": [[s.value for s in column] for column in scores],
            "gold": [s.value for s in self.gold(rollouts)] if self.gold else [],
        }


def compared(now: Record, start: Record) -> dict[str, Any]:
    """A point of the frontier: gold and KL with intervals, gain and win rate against the start, alarms."""
    signs = signs_of(now, start)
    found = findings(signs, signs_of(start, start))
    judged = [i for i in range(len(now["gold"])) if now["gold"][i] is not None and start["gold"][i] is not None]
    gold, old = ([record["gold"][i] for i in judged] for record in (now, start))
    with_gold: dict[str, Any] = {}
    if judged:
        estimates = {"gold": mean_interval(gold), "gain": paired_gain(gold, old), "win_rate": win_rate(gold, old)}
        with_gold = {name: estimate._asdict() for name, estimate in estimates.items()}
    return {
        **with_gold,
        "proxy": mean_interval(now["judges"][0])._asdict(),
        "proxy_gain": paired_gain(now["judges"][0], start["judges"][0])._asdict(),
        "kl": mean_interval(now["kl"])._asdict(),
        "length": mean_interval(now["length"])._asdict(),
        "ended": float(np.mean(now["ended"])),
        "signs": signs.as_dict(),
        "findings": as_rows(found),
        "verdict": verdict(found),
    }


def headline(row: dict[str, Any]) -> str:
    """One policy in a line."""
    alarms = [f["rule"] for f in row["findings"] if f["state"] == "alarm"]
    judge, gain = ("gold", row["gain"]) if "gain" in row else ("no gold, the proxy says", row["proxy_gain"])
    better = "{value:+.2f} [{low:+.2f}, {high:+.2f}] against the start".format(**gain)
    return f"{row['policy']}: {judge} {better}, KL {row['kl']['value']:.1f} nats, alarms: {', '.join(alarms) or 'none'}"


def signs_of(now: Record, start: Record) -> Signs:
    judges, first = np.array(now["judges"], dtype=float), np.array(start["judges"], dtype=float)
    standard = (judges - first.mean(1, keepdims=True)) / np.maximum(first.std(1, keepdims=True), 1e-9)
    begun = (first - first.mean(1, keepdims=True)) / np.maximum(first.std(1, keepdims=True), 1e-9)
    others, others_begun = (x[1:] if len(x) > 1 else x for x in (standard, begun))
    return Signs(
        proxy=float(standard[0].mean()),
        heldout=float(others.mean()),
        disagreement=disagreement(others, others_begun),
        entropy=now["entropy"],
        kl_per_token=sum(now["kl"]) / max(sum(now["length"]), 1),
        length=float(np.mean(now["length"])),
        repetition=repetition(now["texts"]),
        distinct=distinct(now["texts"]),
    )


def samples_of(name: str, measured: Record, shown: int) -> list[dict[str, Any]]:
    """The first answers, for people to read; with what gold and proxy say of each."""
    columns = {"prompt": measured["prompts"], "text": measured["texts"], "proxy": measured["judges"][0]}
    columns |= {"gold": measured["gold"]} if measured["gold"] else {}
    return [
        {"policy": name, **{key: values[i] for key, values in columns.items()}}
        for i in range(min(shown, len(measured["texts"])))
    ]
