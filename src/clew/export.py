"""A run's model for others: an ordinary Hugging Face folder with a card, read back before it is called done."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from clew import __version__
from clew.config import ConfigError
from clew.data.chat import Encoded
from clew.durable import read_rows
from clew.models.adapter import base_of
from clew.models.load import is_scalar, load_policy, load_scalar
from clew.models.perturbed import PerturbedPolicy
from clew.models.reload import check_reload
from clew.runs import best_checkpoint, checkpoints


def export(run: Path, out: Path, *, checkpoint: str = "result", half: bool = False) -> Path:
    """Write the model of a run to `out`, which must not be there yet; what a fresh process makes of it is compared.

    `checkpoint` is "result", "best", or a number of steps; `half` rounds the weights to bfloat16. Raises ConfigError
    for what is not there, ReloadMismatch when the folder does not say what the run's model says.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already; name another folder, or delete it")
    source = weights_of(run, checkpoint)
    model = (load_scalar if is_scalar(str(source)) else load_policy)(str(source), device="cpu")
    if isinstance(model, PerturbedPolicy):
        raise ConfigError(
            f"{source} answers by its Q heads, which plain transformers does not read: others would get the language "
            "model alone, without what was learnt of rewards; let `clew sft` learn its answers, and export that"
        )
    if half:
        nn.Module.to(model, torch.bfloat16)
    building = out.with_name(f"{out.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    model.save(building)
    adapter = source / "adapter"
    if adapter.is_dir() and not Path(base_of(str(adapter))).exists():  # adapters of a folder here help nobody else
        shutil.copytree(adapter, building / "adapter")
    about = card(run, source, is_scalar(str(source)), out.name)
    (building / "README.md").write_text(about, encoding="utf-8")
    nn.Module.to(model, torch.float32)  # of the weights as they were rounded
    ids = model.tokenizer(about).input_ids  # any text will do
    check_reload(model, [Encoded(ids[:n], [False] + [True] * (n - 1), False) for n in (8, 16, 32)], building)
    building.rename(out)
    return out


def weights_of(run: Path, checkpoint: str) -> Path:
    """The folder that holds the wanted weights of a run."""
    if not (run / "run.json").exists():
        inside = [f.parent.name for f in sorted(run.glob("*/run.json"))]
        runs = f"it holds the runs {', '.join(inside)}: name one" if inside else "`clew runs` lists what is one"
        raise ConfigError(f"{run} is no run directory; {runs}")
    saved = {step_of(folder): folder for folder in checkpoints(run)}
    there = f"its checkpoints: {', '.join(map(str, saved)) or 'none'}"
    if checkpoint == "result":
        if not (run / "model" / "config.json").exists():
            raise ConfigError(f"{run} has no model; run it to its end, or name a checkpoint ({there})")
        return run / "model"
    if checkpoint == "best":
        best = best_checkpoint(run) or best_evaluated(run)
        if best is None:
            raise ConfigError(
                f"nothing says which checkpoint of {run} is best: give the recipe held-out rows, or `evaluate` the run "
                f"with a judge that it did not train on ({there})"
            )
        return best
    if not checkpoint.isdigit() or int(checkpoint) not in saved:
        raise ConfigError(f"{run} has no checkpoint {checkpoint!r}; expected result, best, or one of {there}")
    return saved[int(checkpoint)]


def best_evaluated(run: Path) -> Path | None:
    """Of what an `evaluate` beside the run measured of it: best by gold, else by judges it did not train on."""
    found: list[tuple[float, Path]] = []
    for file in sorted(run.parent.glob("*/evaluation.json")):
        for row in json.loads(file.read_text(encoding="utf-8"))["points"]:
            folder = Path(row["folder"]).resolve()
            worth = row["gold"]["value"] if "gold" in row else row["signs"]["heldout"]
            if worth is not None and folder.is_relative_to(run.resolve()) and folder.is_dir():
                found.append((worth, folder))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def lineage(run: Path) -> list[str]:
    """What the run's model was made from, the first last: the folders of earlier runs by their names."""
    start = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")).get("model")
    if not isinstance(start, str):
        return ["scratch"]
    before = Path(start).parent
    if (before / "run.json").exists():
        return [before.name, *lineage(before)]
    return [Path(start).name if Path(start).exists() else start]


def card(run: Path, source: Path, scalar: bool, name: str) -> str:
    """What the model is, from what, how it was made, how good it was, and how to load it."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    origins = lineage(run)
    method = config["loss"]["name"] if isinstance(config.get("loss"), dict) else info["recipe"]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if scalar else "text-generation",
        "tags": list(dict.fromkeys(["clew", info["recipe"], method])),
    }
    if "/" in origins[-1]:  # a hub name; a folder here would mean nothing to others
        front["base_model"] = origins[-1]
    made = f"`{info['recipe']}`" + ("" if method == info["recipe"] else f" with `{method}`")
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            f"\n# {run.name}\n",
            f"Made by {made} of clew {info['clew']} from {', which is from '.join(f'`{o}`' for o in origins)}"
            + (f", {source.name}" if source.name != "model" else "")
            + ".\n",
            "## Load\n",
            "```python",
            (LOAD_SCALAR if scalar else LOAD_POLICY).replace("FOLDER", json.dumps(name)),
            "```\n",
            *measured(run, source, config),
            "## Configuration\n",
            f"`clew {info['recipe']} config.yaml` with\n",
            "```yaml",
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True).strip(),
            "```",
            f"\nExported by clew {__version__}.\n",
        ]
    )


def measured(run: Path, source: Path, config: Mapping[str, Any]) -> list[str]:
    """What was measured at the step that these weights are of, as a table."""
    rows = {row["step"] + 1: row for row in read_rows(run / "metrics.jsonl")}
    result: dict[str, float] = {}
    if source.name != "model":
        step = step_of(source)
    else:
        best = best_checkpoint(run) if config.get("result") == "best" else None
        step = step_of(best) if best is not None else max(rows, default=0)
        if (run / "result.json").exists():
            result = json.loads((run / "result.json").read_text(encoding="utf-8")).get("heldout", {})
    values = rows.get(step, {}) | {f"heldout/{name}": value for name, value in result.items()}
    table = [f"| {name} | {v:.4g} |" for name, v in values.items() if name != "step" and isinstance(v, (int, float))]
    return [f"## Measured\n\nAfter step {step}.\n", "| | |", "|---|---|", *table, ""] if table else []


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


LOAD_POLICY = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
if tokenizer.chat_template:
    messages = [{"role": "user", "content": "Hello"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(asked, add_special_tokens=False, return_tensors="pt")
else:
    inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64, do_sample=True)[0]))"""
LOAD_SCALAR = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=1)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
inputs = tokenizer("a prompt and its answer, as in training" + tokenizer.eos_token, return_tensors="pt")
print(model(**inputs).logits)  # compares answers to one prompt; clew reports (score - centre) / scale of clew.json"""
