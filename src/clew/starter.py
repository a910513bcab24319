"""`clew init`: from somebody's file to a pipeline that runs, with the method that fits and a split by prompt.

The stages stand as text, since the comments are the point; `{name}` is filled in.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clew.config import ConfigError
from clew.data.check import TIES, Survey, convert, labels_are_thumbs, rows_named, survey
from clew.data.example import Example, is_glued
from clew.data.sources import split_place

Kind = Literal["pairs", "rankings", "ratings", "thumbs", "answers", "prompts"]
HELDOUT = 0.1


@dataclass(frozen=True)
class Shape:
    """What the options depend on: how many rows, whether they are conversations, how long they are."""

    rows: int
    template: str | None
    """For a tokenizer that brings none, where the rows are conversations."""
    max_length: int = 512
    max_tokens: int = 128
    width: int = 768
    """Of the model: narrower ones take larger steps (arXiv 2203.03466)."""
    join: str = ""
    """What most answers lack between them and their prompt."""

    def rate(self, at_1024: float) -> str:
        return f"{at_1024 * min(max(1024 / self.width, 0.25), 32):.0e}"

    def fifth(self, epochs: int, batch: int) -> int:
        """Of the steps of a stage."""
        return max(1, round(epochs * self.rows / batch / 5))


def kinds_of(examples: Sequence[Example]) -> list[Kind | None]:
    """What each example of a file teaches; None for ties."""
    labelled: Kind = "thumbs" if labels_are_thumbs(examples) else "ratings"
    return [_kind_of(example, labelled) for example in examples]


def _kind_of(example: Example, labelled: Kind) -> Kind | None:
    if len(set(example.ranks)) > 1:
        return "pairs" if len(example.ranks) == 2 else "rankings"
    if len(example.ranks) > 1:
        return None
    if example.label is not None and example.answers:
        return labelled
    return "answers" if example.answers else "prompts"


def start(file: str, out: Path, model: str | None, columns: Mapping[str, str] | None = None) -> tuple[Path, str]:
    """Write `train.jsonl`, `heldout.jsonl`, `run.yaml` and, for prompts, `rewards.py`; the YAML and what was found.

    Raises ConfigError when the folder holds a run.yaml already, or the file fewer than two prompts of one kind, and
    FileNotFoundError when there is no such model; then nothing is written.
    """
    if (out / "run.yaml").exists():
        raise ConfigError(f"{out / 'run.yaml'} is there already; name another folder with --out, or delete it")
    found = survey(file, columns)
    kinds = kinds_of(found.examples)
    counted: Counter[Kind] = Counter(its for its in kinds if its is not None)
    if not counted:
        raise ConfigError(f"{file} has no row to learn from; clew data check {file} says why")
    kind = counted.most_common(1)[0][0]
    examples = [e for e, its in zip(found.examples, kinds, strict=True) if its == kind]
    train, heldout = split(examples)
    shape = shape_of(examples, len(train), model)
    out.mkdir(parents=True, exist_ok=True)
    convert(train, out / "train.jsonl")
    convert(heldout, out / "heldout.jsonl")
    if kind == "prompts":
        (out / "rewards.py").write_text(_reward(examples), encoding="utf-8")
    (out / "run.yaml").write_text(_yaml(file, kind, shape, model or "gpt2", out, len(heldout)), encoding="utf-8")
    return out / "run.yaml", _summary(found, kinds, kind, len(train), shape.join)


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; no prompt is on both sides. One prompt in ten is held out, at least one."""
    prompts = sorted({e.id for e in examples}, key=split_place)
    if len(prompts) < 2:
        raise ConfigError("one prompt alone cannot be split into training and held-out rows; give more rows")
    held = set(prompts[: max(1, round(HELDOUT * len(prompts)))])
    return [e for e in examples if e.id not in held], [e for e in examples if e.id in held]


def shape_of(examples: Sequence[Example], rows: int, model: str | None) -> Shape:
    """Lengths from the model's own tokenizer where it can be read."""
    is_chat = any(not isinstance(text, str) for e in examples for text in (e.prompt, *e.answers))
    template = "transcript" if is_chat else None
    join = " " if sum(map(is_glued, examples)) > len(examples) / 2 else ""
    if model is None:
        return Shape(rows, template, join=join)
    tokenizer, config = _read_model(model)
    prompts, answers = _lengths(examples, lambda text: len(tokenizer(text, add_special_tokens=False).input_ids))
    context = getattr(config, "max_position_embeddings", None) or 1 << 20
    answer = _rounded_up(answers, 16) if answers else 64
    whole = min(_rounded_up([p + a for p, a in zip(prompts, answers or [64] * len(prompts), strict=True)], 64), context)
    width = getattr(config, "hidden_size", None) or Shape.width
    template = None if tokenizer.chat_template else template
    return Shape(rows, template, whole, min(answer, max(whole // 2, 1)), width, join)


def _read_model(model: str) -> tuple[Any, Any]:
    """Tokenizer and configuration of a language model, or of the base that adapters are for."""
    from transformers import AutoConfig

    from clew.models.adapter import base_of
    from clew.models.load import is_scalar

    if is_scalar(model):
        raise ConfigError(f"{model} is a reward model, which writes nothing; --model names the one to start from")
    return read_tokenizer(model), AutoConfig.from_pretrained(base_of(model))


def read_tokenizer(model: str) -> Any:
    """Raises ConfigError where there is none."""
    from transformers import AutoTokenizer

    from clew.models.adapter import base_of

    folder = Path(model)
    if not (any(folder.iterdir()) if folder.is_dir() else not model.startswith((".", "/", "~"))):
        raise ConfigError(f"{model}: no tokenizer there; expected a Hugging Face folder or a hub name")
    try:
        return AutoTokenizer.from_pretrained(model if (folder / "tokenizer_config.json").exists() else base_of(model))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the tokenizer of {model!r}: {str(error).splitlines()[0]}") from error


def _lengths(examples: Sequence[Example], count: Any) -> tuple[list[int], list[int]]:
    def length(text: Any) -> int:
        return count(text) if isinstance(text, str) else sum(count(m.content) + 8 for m in text)

    return [length(e.prompt) + 2 for e in examples], [max(length(a) for a in e.answers) for e in examples if e.answers]


def _rounded_up(lengths: Sequence[int], to: int) -> int:
    """A length that 95 % of the rows fit."""
    return math.ceil(sorted(lengths)[int(0.95 * (len(lengths) - 1))] / to) * to + to


def _summary(found: Survey, kinds: Sequence[Kind | None], kind: Kind, num_train: int, join: str) -> str:
    left: dict[str, list[int]] = {}
    for number, its in zip(found.numbers, kinds, strict=True):
        if its != kind:
            left.setdefault(KINDS[its][0] if its else TIES, []).append(number)
    names = ", ".join(found.formats)
    lines = [
        f"{found.rows} rows ({names}): {KINDS[kind][0]}",
        f"{num_train} to train on, {kinds.count(kind) - num_train} held out",
    ]
    lines += [f"{len(numbers)} left out, {what}: {rows_named(numbers)}" for what, numbers in left.items()]
    glued = [number for number, e in zip(found.numbers, found.examples, strict=True) if is_glued(e)]
    what = "run.yaml joins them with a blank" if join else 'see data.join: " "'
    lines += [f"{len(glued)} whose answer runs into the prompt ({what}): {rows_named(glued)}"] if glued else []
    wrong = len(found.refused)
    lines += [f"{wrong} rows are wrong and left out, such as row {n}: {what}" for n, what in found.refused[:1]]
    return "\n".join(lines)


def _yaml(file: str, kind: Kind, shape: Shape, model: str, out: Path, num_heldout: int) -> str:
    what, stages = KINDS[kind]
    batch = min(32, max(4, 1 << int(math.log2(max(shape.rows / 8, 1)))))
    passes = 3 if shape.rows < 2000 else 1
    join = f", join: {json.dumps(shape.join)}" if shape.join else ""
    filled = {
        "file": file, "what": what, "rows": shape.rows, "heldout": num_heldout, "out": out, "model": json.dumps(model),
        "name": re.sub(r"\W+", "-", out.name) or "mine", "max_length": shape.max_length, "max_tokens": shape.max_tokens,
        "batch": batch, "template": TEMPLATE if shape.template else "", "prompts": min(batch, 8),
        "passes": passes, "save_passes": shape.fifth(passes, batch), "save_twice": shape.fifth(2, batch),
        "join": join, "joined": JOINED if join else "", "sft_lr": shape.rate(2e-5), "judge_lr": shape.rate(1e-5),
        "preference_lr": shape.rate(2e-6), "rl_lr": shape.rate(1e-6),
    }  # fmt: skip
    return re.sub(r"(?<=\S) {2,}# ", "  # ", "".join(part.format(**filled) for part in (HEAD, *stages)))


def _reward(examples: Sequence[Example]) -> str:
    """A first reward function: right when the known answer is in what was said, where the rows have one."""
    columns = Counter(name for e in examples for name in e.info)
    known = next((name for name in ("ground_truth", "answer", "target", "solution", "label") if name in columns), None)
    return (
        (WITH_ANSWER if known else WITHOUT_ANSWER)
        .replace("KNOWN", known or "")
        .replace("COLUMNS", ", ".join(sorted(columns)) or "none")
    )


WITH_ANSWER = '''"""What an answer is worth. Change this: the policy will learn whatever earns most here."""


def reward(prompts, completions, KNOWN, **columns):
    """One number for each completion, or None to abstain. Columns of the data: COLUMNS."""
    return [float(str(known) in completion) for completion, known in zip(completions, KNOWN)]
'''
WITHOUT_ANSWER = '''"""What an answer is worth. Change this: the policy will learn whatever earns most here."""


def reward(prompts, completions, **columns):
    """One number for each completion, or None to abstain. Columns of the data: COLUMNS."""
    return [-abs(len(completion.split()) - 20) / 20 for completion in completions]  # 20 words: only an example
'''

HEAD = """\
# Written by `clew init {file}`: {rows} {what}, and {heldout} held out (in {out}/).
#
#   clew run {out}/run.yaml               runs it; stopped or killed, the same command goes on
#   clew run {out}/run.yaml --show        every option there is, with its value
#   clew run {out}/run.yaml out=runs/second common.seed=1     another run beside the first
{joined}out: runs/{name}  # where everything is written
common:  # for every stage that has such an option
  seed: 0  # the same seed gives the same run
  encoding:
    max_length: {max_length}  # tokens of prompt and answer together
    truncation: truncate_prompt_left  # longer rows lose the beginning of their prompt; it is counted
{template}stages:
"""
JOINED = """\
#
# join: " " puts a blank between a prompt and an answer that have none; most of these rows need it.
"""
TEMPLATE = """\
    template: transcript  # turns as Human: … Assistant: …; leave it out for a model with its own way
"""
SFT = """
  sft:  # learn to write such answers
    recipe: sft
    model: {model}  # folder or hub name of the model to start from
    data: {{path: "{out}/train.jsonl"{join}}}
    heldout: {{path: "{out}/heldout.jsonl"{join}}}  # the loss on these is in sft/result.json
    epochs: 2  # passes over the data; the held-out loss says when it is too many
    batch: {batch}  # rows a step
    learner: {{lr: {sft_lr}, warmup: 0.05}}  # size of a step, larger for small models; smaller if the loss jumps
    save_every: {save_twice}  # steps between checkpoints; stopped, it goes on from the last one
"""
DPO = """
  dpo:  # prefer the chosen to the rejected answers
    recipe: preference
    model: "@sft/model"  # what the stage sft has made
    data: {{path: "{out}/train.jsonl"{join}}}
    heldout: {{path: "{out}/heldout.jsonl"{join}}}  # how often it prefers the chosen one is in dpo/result.json
    loss: {{name: dpo, beta: 0.1}}  # beta: how closely to stay by the sft model; larger is closer
    epochs: {passes}
    batch: {batch}
    learner: {{lr: {preference_lr}, warmup: 0.1}}
    save_every: {save_passes}  # steps between checkpoints; stopped, it goes on from the last one
"""
KTO = """
  kto:  # more of what was found good, less of what was found bad
    recipe: preference
    model: {model}  # folder or hub name of a model that can already answer
    data: {{path: "{out}/train.jsonl"{join}}}
    loss: {{name: kto, beta: 0.1}}  # beta: how closely to stay by the model; larger is closer
    epochs: {passes}
    batch: {batch}  # answers a step
    learner: {{lr: {preference_lr}, warmup: 0.1}}
    save_every: {save_passes}  # steps between checkpoints; stopped, it goes on from the last one
"""
JUDGE = """
  judge:  # a reward model of the same labels; how often it is right is in judge/result.json
    recipe: reward
    model: {start}
    data: {{path: "{out}/train.jsonl"{join}}}
    heldout: {{path: "{out}/heldout.jsonl"{join}}}
    loss: {loss}
    epochs: 2
    batch: {batch}
    learner: {{lr: {judge_lr}, warmup: 0.05}}
    save_every: {save_twice}  # steps between checkpoints; stopped, it goes on from the last one
"""
EVALUATION = """
  evaluation:  # is it better? Answers to held-out prompts, before and after
    recipe: evaluate
    baseline: {start}
    policies: {{{name}: "@{name}"}}
    data: {{path: "{out}/heldout.jsonl"}}
    max_tokens: {max_tokens}  # of an answer
    proxy: {proxy}
    # gold: "my_judge.py:score"  # name a function that is one: score(prompts, completions) -> numbers

  report:  # one HTML file: gain, KL, alarms, samples side by side
    recipe: report
    runs: "@evaluation/.."
"""
REWARD = """
  reward:  # learn what a good answer is; how often it is right is in reward/result.json
    recipe: reward
    model: {model}  # folder or hub name of the model to start from
    data: {{path: "{out}/train.jsonl"{join}}}
    heldout: {{path: "{out}/heldout.jsonl"{join}}}
    loss: {loss}
    epochs: 2  # passes over the data; reward models overfit soon
    batch: {batch}  # prompts a step, each with all its answers
    learner: {{lr: {judge_lr}, warmup: 0.05}}
    save_every: {save_twice}  # steps between checkpoints; stopped, it goes on from the last one

# Then let a policy learn from it: recipe rl with `reward: [{{model: "@reward/model"}}]` (docs/pipelines.md).
"""
RL = """
  rl:  # try answers, and do more of what earned most (GRPO)
    recipe: rl
    model: {model}  # folder or hub name of a model that can already answer
    data: {{path: "{out}/train.jsonl"}}
    reward: [{{function: "{out}/rewards.py:reward"}}]  # what an answer is worth: to be filled in there
    max_tokens: {max_tokens}  # of an answer
    steps: 100
    prompts: {prompts}  # prompts a step
    group: 8  # answers to each, compared with each other
    advantages: group_normalised
    kl: {{coefficient: 0.02, place: loss, loss: forward}}  # how dearly moving away from the start is paid for
    learner: {{lr: {rl_lr}, schedule: constant}}
    save_every: 20
"""


def _with(stage: str, **values: str) -> str:
    """Some of the names filled in, the others left for later."""
    for name, value in values.items():
        stage = stage.replace("{" + name + "}", value)
    return stage


ON_SFT, ON_MODEL = '"@sft/model"', "{model}"
BY_JUDGE = '"@judge/model"  # it has seen the same labels, so it is no independent judge: read the samples, or'
BY_REWARD = """\
{{function: "{out}/rewards.py:reward"}}  # what was optimised, so no independent judge: read the samples, or"""
KINDS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "pairs": (
        "pairs of answers, one better",
        (
            SFT,
            DPO,
            _with(JUDGE, start=ON_SFT, loss="bradley_terry"),
            _with(EVALUATION, start=ON_SFT, name="dpo", proxy=BY_JUDGE),
        ),
    ),
    "rankings": ("rankings of several answers", (_with(REWARD, loss="all_pairs  # every two of a ranking"),)),
    "ratings": ("answers with a rating", (_with(REWARD, loss="regression  # the rating as a number"),)),
    "thumbs": (
        "answers found good or bad",
        (
            KTO,
            _with(JUDGE, start=ON_MODEL, loss="thumbs"),
            _with(EVALUATION, start=ON_MODEL, name="kto", proxy=BY_JUDGE),
        ),
    ),
    "answers": ("answers to learn from", (SFT,)),
    "prompts": ("prompts", (RL, _with(EVALUATION, start=ON_MODEL, name="rl", proxy=BY_REWARD))),
}
"""What the rows are, in words, and the stages that fit them."""
