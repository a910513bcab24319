"""Helpful and harmless: a reward model and DPO beside counted words, on human comparisons (HH, arXiv 2204.05862).

    CLEW_DATA=... OMP_NUM_THREADS=1 python benchmarks/hh.py [--folder runs/hh] [--out benchmarks/results/hh.json]

About an hour on one core; runs that are finished are kept in the folder. Five folds by the first human turn, the same
for every method: a margin is of a model that saw no dialogue with that first turn. Tokenizer and language model are
pretrained once, on the text of the rejection-sampled dialogues whose first turn occurs in neither set, so that no fold
has seen its test text. Trained on harmless or on helpful; tested on each. The rival counts words (words.py).
"""

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from words import length_gap, logistic, word_margins

from clew.batch import Batch
from clew.config import build
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.collate import collate
from clew.data.formats import Example, parse_row
from clew.data.sources import read_rows
from clew.evaluate.calibration import (
    accuracy,
    correct,
    error_if_calibrated,
    expected_calibration_error,
    grouped_mean_interval,
    pair_confidence,
    reliability,
)
from clew.models.fresh import Architecture, new_policy
from clew.models.load import load_policy, load_scalar
from clew.pipeline import recipe
from clew.types import Message

SETS = {"harmless": "harmless-base", "helpful": "helpful-base"}
TEXT = "helpful-rejection-sampled"
FOLDS, BETA = 5, 0.1
QUARTER = 0.25
ENCODING: dict[str, Any] = {"template": "transcript", "max_length": 512, "truncation": "truncate_prompt_left"}
MODEL: dict[str, Any] = {"width": 128, "layers": 4, "heads": 4, "context": 512}
PRETRAIN: dict[str, Any] = {
    "model": MODEL,
    "tokenizer": {"size": 4096},
    "steps": 1200,
    "batch": 16,
    "window": 511,
    "learner": {"lr": 2e-3, "warmup": 0.05},
}
SFT: dict[str, Any] = {"epochs": 1, "learner": {"lr": 5e-4, "warmup": 0.05, "max_tokens": 2048}}
REWARD: dict[str, Any] = {"epochs": 1, "batch": 16, "learner": {"lr": 5e-4, "warmup": 0.1, "max_tokens": 2048}}
DPO: dict[str, Any] = {
    "epochs": 1,
    "batch": 16,
    "learner": {"lr": 3e-4, "warmup": 0.1, "max_tokens": 2048},
    "loss": {"name": "dpo", "beta": BETA},
}


class Pair(NamedTuple):
    """A comparison with its set, the first human turn, and the fold that turn belongs to."""

    set: str
    first: str
    fold: int
    row: dict[str, Any]
    example: Example

    @property
    def texts(self) -> tuple[str, str]:
        chosen, rejected = (" ".join(m.content for m in answer) for answer in self.example.answers)
        return chosen, rejected


def load_pairs(name: str, file: str) -> list[Pair]:
    path = Path(os.environ["CLEW_DATA"]) / "hh_rlhf" / f"{file}.test.jsonl.gz"
    found = []
    for number, row in enumerate(read_rows(str(path)), 1):
        (example,) = parse_row(row, f"{path} row {number}")
        first = example.prompt[0].content
        fold = int(hashlib.sha256(first.encode()).hexdigest()[:8], 16) % FOLDS
        found.append(Pair(name, first, fold, dict(row), example))
    return found


def of_set(pairs: Sequence[Pair], name: str) -> list[bool]:
    return [name in (p.set, "both") for p in pairs]


class Lab:
    """Trains models in a folder and asks those of each fold about the pairs that they did not see."""

    def __init__(self, folder: Path, pairs: list[Pair]) -> None:
        self.folder, self.pairs = folder, pairs
        self.folds = np.array([p.fold for p in pairs])

    def run(self, name: str, kind: str, **options: Any) -> Path:
        """The model that a recipe makes, trained unless it is there already."""
        function, config = recipe(kind)
        usual = {"encoding": ENCODING} if "encoding" in config.model_fields else {}
        options = {"out": str(self.folder / name), "device": "cpu", "save_every": 10_000, **usual, **options}
        function(build(config, options, name))
        return self.folder / name / "model"

    def pretrained(self) -> Path:
        return self.run("pretrain", "pretrain", data=self.file("text", pretraining_text(self.pairs)), **PRETRAIN)

    def untrained(self, base: Path) -> Path:
        """A model of the same shape and tokenizer that has read nothing."""
        folder = self.folder / "untrained"
        tokenizer = load_policy(str(base)).tokenizer
        new_policy(Architecture(**MODEL), tokenizer, seed=1, device=torch.device("cpu"), precision="fp32").save(folder)
        return folder

    def file(self, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
        path = self.folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"path": str(path)}

    def seen(self, fold: int, trained: str, share: float = 1.0) -> list[Pair]:
        """What a fold's models are trained on."""
        found = [p for p, wanted in zip(self.pairs, of_set(self.pairs, trained), strict=True) if wanted]
        found = [p for p in found if p.fold != fold]
        some = np.random.default_rng(fold).permutation(len(found))[: round(share * len(found))]
        return [found[i] for i in sorted(some)]

    def over_folds(self, ask: Callable[[int, list[Pair]], np.ndarray]) -> np.ndarray:
        """Margins of all pairs, asked fold by fold about what was held out."""
        margins = np.zeros(len(self.pairs))
        for fold in range(FOLDS):
            margins[self.folds == fold] = ask(fold, [p for p in self.pairs if p.fold == fold])
        return margins

    def words(self, trained: str, share: float = 1.0, **options: Any) -> np.ndarray:
        def ask(fold: int, held: list[Pair]) -> np.ndarray:
            return word_margins([p.texts for p in self.seen(fold, trained, share)], [p.texts for p in held], **options)

        return self.over_folds(ask)

    def reward(self, trained: str, base: Path, *, name: str = "reward", share: float = 1.0) -> np.ndarray:
        def ask(fold: int, held: list[Pair]) -> np.ndarray:
            run = f"{name}-{trained}-{fold}"
            data = self.file(run, [p.row for p in self.seen(fold, trained, share)])
            model = self.run(run, "reward", model=str(base), data=data, **REWARD)
            return kept(model.parent / "margins.json", lambda: gap(scores(model, held)))

        return self.over_folds(ask)

    def dpo(self, trained: str, base: Path) -> np.ndarray:
        def ask(fold: int, held: list[Pair]) -> np.ndarray:
            data = self.file(f"dpo-{trained}-{fold}", [p.row for p in self.seen(fold, trained)])
            start = self.run(f"sft-{trained}-{fold}", "sft", model=str(base), data=data, **SFT)
            model = self.run(f"dpo-{trained}-{fold}", "preference", model=str(start), data=data, **DPO)
            return kept(model.parent / "margins.json", lambda: BETA * gap(logps(model, held) - logps(start, held)))

        return self.over_folds(ask)

    def probe(self, trained: str, gaps_ND: np.ndarray) -> np.ndarray:
        """Logistic regression on differences of features: states of a frozen model, or margins of others."""
        gaps_ND = gaps_ND / gaps_ND.std(0)

        def ask(fold: int, held: list[Pair]) -> np.ndarray:
            train = np.array(of_set(self.pairs, trained)) & (self.folds != fold)
            return gaps_ND[self.folds == fold] @ logistic(gaps_ND[train], penalty=10.0)

        return self.over_folds(ask)

    def frozen(self, trained: str, name: str, model: Path) -> dict[str, np.ndarray]:
        """Probes of a model's hidden states, at the last token and averaged over the answer."""
        gaps = kept(self.folder / f"states-{name}.json", lambda: gap(states(model, self.pairs)))
        last, mean = np.split(gaps, 2, axis=1)
        return {
            f"frozen, {name}, last token": self.probe(trained, last),
            f"frozen, {name}, mean of the answer": self.probe(trained, mean),
        }


def pretraining_text(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """Dialogues with both endings, but for those that begin as one of the pairs does."""
    known = {p.first for p in pairs}
    rows = []
    for pair in load_pairs("text", TEXT):
        if pair.first not in known:
            chosen, rejected = pair.example.answers
            other = "".join(f"\n\nAssistant: {m.content}" for m in rejected)
            rows += [{"text": transcript((*pair.example.prompt, *chosen))}, {"text": other}]
    return rows


def transcript(messages: Sequence[Message]) -> str:
    """As the template writes it, without the last stop token, which pretraining adds."""
    turns = [f"\n\nHuman: {m.content}" if m.role == "user" else f"\n\nAssistant: {m.content}</s>" for m in messages]
    return "".join(turns).removesuffix("</s>")


def kept(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Numbers from a file, computed where it is not there yet."""
    if not file.exists():
        file.write_text(json.dumps(compute().tolist()))
    return np.array(json.loads(file.read_text()))


def gap(values_NK: np.ndarray) -> np.ndarray:
    return values_NK[:, 0] - values_NK[:, 1]


def scores(model: Path, pairs: Sequence[Pair]) -> np.ndarray:
    loaded = load_scalar(str(model), device="cpu")
    return asked(loaded.tokenizer, pairs, lambda batch: loaded.evaluate(batch).scores)


def logps(model: Path, pairs: Sequence[Pair]) -> np.ndarray:
    loaded = load_policy(str(model), device="cpu")
    return asked(loaded.tokenizer, pairs, lambda batch: batch.per_row(loaded.evaluate(batch).logps))


def states(model: Path, pairs: Sequence[Pair]) -> np.ndarray:
    """Hidden states of both answers, [N, 2, 2 D]: of the last token, then the mean over the answer."""
    loaded = load_policy(str(model), device="cpu")

    def ask(batch: Batch) -> torch.Tensor:
        hidden, index = loaded.trunk.encode(batch)
        last = batch.mask & (batch.mask.cumsum(1) == batch.lengths()[:, None])
        weights_BT = [mask.float() / mask.sum(1, keepdim=True) for mask in (last, batch.mask)]
        return torch.cat([(hidden[index] * weight_BT[:, :, None]).sum(1) for weight_BT in weights_BT], 1)

    return asked(loaded.tokenizer, pairs, ask)


@torch.no_grad()
def asked(tokenizer: Any, pairs: Sequence[Pair], ask: Callable[[Batch], Any]) -> np.ndarray:
    """What a model says of both answers of each pair, [N, 2, ...]; zeros for a pair that does not fit."""
    codec = Codec(tokenizer, Encoding(**ENCODING))
    rows = [codec.encode(p.example) for p in pairs]
    fits = [i for i, encoded in enumerate(rows) if encoded is not None]
    found: list[torch.Tensor] = []
    for start in range(0, len(fits), 32):
        answers: list[list[Encoded]] = [rows[i] or [] for i in fits[start : start + 32]]
        said = ask(collate(answers))
        found.append(said.unflatten(0, (len(answers), 2)))
    whole = torch.cat(found)
    values = np.zeros((len(pairs), *whole.shape[1:]))
    values[fits] = whole.numpy()
    return values


def lengths(base: Path, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What the codec counts over the pairs, and how many ties they hold."""
    codec = Codec(load_policy(str(base)).tokenizer, Encoding(**ENCODING))
    rows = [codec.encode(p.example) for p in pairs]
    same = sum(encoded is not None and encoded[0].tokens == encoded[1].tokens for encoded in rows)
    return {**codec.counts, "pairs": len(pairs), "pairs with equal answers": same}


def measured(margins: np.ndarray, pairs: Sequence[Pair], tested: str) -> dict[str, Any]:
    """Accuracy with its interval (first turns resampled), and calibration, on one set."""
    inside = np.array(of_set(pairs, tested))
    found = [p for p, wanted in zip(pairs, inside, strict=True) if wanted]
    groups, longer = [p.first for p in found], length_gap([p.texts for p in found])[:, 0]
    said, right = pair_confidence(margins[inside])
    by_chance, at_most = error_if_calibrated(said)
    return {
        "accuracy": accuracy(margins[inside], groups)._asdict(),
        "ece": expected_calibration_error(said, right),
        "ece_if_calibrated": {"mean": by_chance, "95 %": at_most},
        "mean_confidence": float(np.mean(said)),
        "correlation_with_length": float(np.corrcoef(margins[inside], longer)[0, 1]),
        "log_loss": float(np.logaddexp(0, -margins[inside]).mean()),
        "ties": int((margins[inside] == 0).sum()),
        "pairs": int(inside.sum()),
        "reliability": [list(b) for b in reliability(said, right)],
    }


def beside(margins: np.ndarray, rival: np.ndarray, pairs: Sequence[Pair], tested: str) -> dict[str, float]:
    """Accuracy gained on a rival, pair by pair."""
    inside = np.array(of_set(pairs, tested))
    groups = [p.first for p, wanted in zip(pairs, inside, strict=True) if wanted]
    return grouped_mean_interval((correct(margins) - correct(rival))[inside], groups)._asdict()


def compared(lab: Lab, base: Path) -> dict[str, dict[str, np.ndarray]]:
    """Margins by method and by what it was trained on."""
    return {
        "words": {trained: lab.words(trained) for trained in (*SETS, "both")},
        "reward": {trained: lab.reward(trained, base) for trained in SETS},
        "dpo": {trained: lab.dpo(trained, base) for trained in SETS},
    }


def explained(lab: Lab, base: Path, trained: str, margins: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Margins of parts and variants, by which to see what the accuracy comes from and what limits it."""
    untrained, tokenizer = lab.untrained(base), load_policy(str(base)).tokenizer
    length = length_gap([p.texts for p in lab.pairs])
    words, reward, dpo = (margins[name][trained][:, None] for name in ("words", "reward", "dpo"))
    return {
        "length alone": lab.probe(trained, length),
        "words without length": lab.words(trained, length=False),
        "the model's tokens instead of words": lab.words(trained, tokens=tokenizer.tokenize),
        "words, a quarter of the pairs": lab.words(trained, QUARTER),
        "reward, a quarter of the pairs": lab.reward(trained, base, name=f"reward-{QUARTER}", share=QUARTER),
        "reward, not pretrained": lab.reward(trained, untrained, name="reward-untrained"),
        **lab.frozen(trained, "pretrained", base),
        **lab.frozen(trained, "not pretrained", untrained),
        "words and reward": lab.probe(trained, np.hstack([words, reward])),
        "words and DPO": lab.probe(trained, np.hstack([words, dpo])),
        "reward and length": lab.probe(trained, np.hstack([reward, length])),
        "DPO and length": lab.probe(trained, np.hstack([dpo, length])),
    }


def at_the_end(folder: Path, name: str, metric: str) -> float:
    """Mean of a metric over the last tenth of the steps, over folds."""
    found = []
    for fold in range(FOLDS):
        lines = (folder / f"{name}-{fold}" / "metrics.jsonl").read_text().splitlines()
        found += [json.loads(line)[metric] for line in lines[-max(len(lines) // 10, 1) :]]
    return float(np.mean(found))


def report(lab: Lab, base: Path) -> dict[str, Any]:
    margins = compared(lab, base)
    parts = {trained: explained(lab, base, trained, margins) for trained in SETS}
    ledgers = [json.loads(file.read_text())["ledger"] for file in lab.folder.glob("*/run.json")]
    pretraining = (base.parent / "metrics.jsonl").read_text().splitlines()[-50:]
    return {
        "command": "OMP_NUM_THREADS=1 python benchmarks/hh.py",
        "versions": {name: version(name) for name in ("clew", "torch", "transformers", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "settings": {"encoding": ENCODING, "pretrain": PRETRAIN, "sft": SFT, "reward": REWARD, "dpo": DPO, "seed": 0},
        "cpu_minutes_in_loops": round(sum(ledger.get("cpu_seconds", 0) for ledger in ledgers) / 60, 1),
        "pretraining": {
            "tokens_trained": json.loads((base.parent / "run.json").read_text())["ledger"]["tokens_trained"],
            "loss_at_the_end": float(np.mean([json.loads(line)["loss/nll"] for line in pretraining])),
        },
        "rows": {name: lengths(base, [p for p in lab.pairs if p.set == name]) for name in SETS},
        "trained_and_tested": {
            method: {t: {tested: measured(m, lab.pairs, tested) for tested in SETS} for t, m in found.items()}
            for method, found in margins.items()
        },
        "gain_on_words": {
            method: {
                t: {tested: beside(m, margins["words"][t], lab.pairs, tested) for tested in SETS}
                for t, m in margins[method].items()
            }
            for method in ("reward", "dpo")
        },
        "explained": {
            t: {name: measured(m, lab.pairs, t)["accuracy"] for name, m in found.items()} for t, found in parts.items()
        },
        "gain_on_words_explained": {
            t: {name: beside(m, margins["words"][t], lab.pairs, t) for name, m in found.items() if " and " in name}
            for t, found in parts.items()
        },
        "at_the_end_of_training": {
            run: {metric: at_the_end(lab.folder, run, metric) for metric in metrics}
            for t in SETS
            for run, metrics in (
                (f"reward-{t}", ("accuracy",)),
                (f"dpo-{t}", ("rewards/accuracies", "rewards/chosen", "rewards/rejected")),
            )
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/hh"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/hh.json"))
    options = parser.parse_args()
    lab = Lab(options.folder, [p for name, file in SETS.items() for p in load_pairs(name, file)])
    result = report(lab, lab.pretrained())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for method, found in result["trained_and_tested"].items():
        for trained, row in found.items():
            print(method, trained, {tested: round(cell["accuracy"]["value"], 3) for tested, cell in row.items()})


if __name__ == "__main__":
    main()
