"""A small world on disk: guest-book data, a language model of it, and what each recipe needs to run for seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clew.config import build
from clew.data import grammar
from clew.pipeline import recipe


def write(file: Path, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> dict[str, str]:
    """Paths: files of data and a language model pretrained for some seconds."""
    folder = tmp_path_factory.mktemp("world")
    torch.set_num_threads(1)
    paths = {
        "corpus": write(folder / "corpus.jsonl", grammar.corpus(num=300, seed=0)),
        "demonstrations": write(folder / "demonstrations.jsonl", grammar.demonstrations(num=120, seed=0)),
        "prompts": write(folder / "prompts.jsonl", grammar.prompts(num=60, seed=1)),
    }
    rows = list(grammar.demonstrations(num=160, seed=3))
    worth = grammar.gold([r["prompt"] for r in rows], [r["completion"] for r in rows])
    paths["pairs"] = write(
        folder / "pairs.jsonl",
        (
            {"prompt": a["prompt"], "chosen": a["completion"], "rejected": b["completion"]}
            if x > y
            else {"prompt": a["prompt"], "chosen": b["completion"], "rejected": a["completion"]}
            for (a, x), (b, y) in zip(
                zip(rows[::2], worth[::2], strict=True), zip(rows[1::2], worth[1::2], strict=True), strict=True
            )
        ),
    )
    right = [json.loads(line) for line in Path(paths["pairs"]).read_text().splitlines()]
    turned = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in right]
    raters = [("anna", right), ("troll", turned), ("ben", right)]
    paths["votes"] = write(
        folder / "votes.jsonl",
        ({**raters[i % 3][1][i], "rater": raters[i % 3][0]} for i in range(len(right))),
    )
    paths["ratings"] = write(folder / "ratings.jsonl", ({**r, "rating": w} for r, w in zip(rows, worth, strict=True)))
    paths["thumbs"] = write(folder / "thumbs.jsonl", ({**r, "label": w > 0} for r, w in zip(rows, worth, strict=True)))
    paths["levels"] = write(
        folder / "levels.jsonl",
        ({**r, "label": int(min(max(w + 1, 0), 2))} for r, w in zip(rows, worth, strict=True)),
    )
    paths["rankings"] = write(
        folder / "rankings.jsonl",
        (
            {"prompt": rows[i]["prompt"], "completions": [r["completion"] for r in rows[i : i + 3]], "ranks": [1, 0, 1]}
            for i in range(0, 150, 3)
        ),
    )
    run_recipe("pretrain", folder / "base", BASE["pretrain"] | {"data": {"path": paths["corpus"]}})
    paths["model"] = str(folder / "base" / "model")
    run_recipe("reward", folder / "rm", configured("reward", paths))
    paths["reward"] = str(folder / "rm" / "model")
    return paths


BASE: dict[str, dict[str, Any]] = {
    "pretrain": {
        "tokenizer": {"kind": "word"}, "model": {"width": 16, "layers": 1, "heads": 2, "context": 128},
        "steps": 25, "batch": 16, "window": 64, "learner": {"lr": 1e-2}, "save_every": 7,
    },
    "sft": {"epochs": 3, "batch": 8, "learner": {"lr": 3e-3}, "save_every": 6},
    "reward": {"epochs": 3, "batch": 8, "learner": {"lr": 3e-3}, "save_every": 6},
    "preference": {"epochs": 3, "batch": 8, "learner": {"lr": 1e-3}, "save_every": 6},
    "rl": {
        "steps": 8, "prompts": 8, "max_tokens": 16, "epochs": 2, "minibatches": 2, "whiten_advantages": True,
        "learner": {"lr": 1e-3, "schedule": "constant"}, "save_every": 3, "kl": {"coefficient": 0.1, "target": 2.0},
    },
    "online": {
        "steps": 8, "prompts": 8, "max_tokens": 16, "reward": [{"function": "clew.data.grammar:gold"}], "label": "drawn",
        "round": 3, "sampler": "round", "anchor": "round", "learner": {"lr": 1e-3}, "save_every": 3,
    },
    "distill": {
        "context": "everyone hated the soup . ", "texts": "teacher", "epochs": 1, "batch": 8, "max_tokens": 16,
        "learner": {"lr": 3e-3}, "save_every": 3,
    },
    "nash": {
        "steps": 8, "prompts": 4, "max_tokens": 16, "preference": "tests.recipes.test_nash:fewer_words", "tau": 0.05,
        "opponent": "average", "decay": 0.8, "learner": {"lr": 1e-3, "schedule": "constant"}, "save_every": 3,
    },
    "label": {
        "batch": 16, "answers": 4, "sampling": {"max_tokens": 16}, "gold": "clew.data.grammar:gold", "overlap": 2,
        "raters": [{"rater": "honest", "num": 2}, {"rater": {"name": "troll", "malice": 0.5}}],
    },
}  # fmt: skip


ADAPTED = {"lora": {"rank": 4}}


def configured(name: str, paths: dict[str, str], *, adapted: bool = False) -> dict[str, Any]:
    """The options of a recipe in this world, but for `out`."""
    data = {"sft": "demonstrations", "reward": "pairs", "preference": "pairs", "pretrain": "corpus"}.get(
        name, "prompts"
    )
    values = BASE[name] | {"data": {"path": paths[data]}}
    if name != "pretrain":
        values |= {"model": paths["model"], "encoding": {"max_length": 128}}
    if name == "rl":
        critic = {"model": paths["reward"], "learner": {"lr": 1e-3, "schedule": "constant"}}
        values |= {"reward": [{"model": paths["reward"]}], "critic": critic | ADAPTED if adapted else critic}
    return values | ADAPTED if adapted else values


def run_recipe(name: str, out: Path, values: dict[str, Any]) -> Path:
    start, kind = recipe(name)
    start(build(kind, {"out": str(out), **values}, name))
    return out


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict:
    return {f.relative_to(folder).as_posix(): load_file(f) for f in sorted(folder.glob("model/**/*.safetensors"))}


def assert_same(a: Path, b: Path) -> None:
    one, two = tensors(a), tensors(b)
    assert one.keys() == two.keys()
    for file, weights in one.items():
        assert all(weights[k].equal(two[file][k]) for k in weights), file
    assert metrics(a) == metrics(b)
    assert (a / "samples.jsonl").exists() == (b / "samples.jsonl").exists()
    if (a / "samples.jsonl").exists():
        assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()
