"""`clew import-config`: a configuration of TRL or LLaMA-Factory as one of clew's, with the same meaning.

Options that stand alone go through `aliases.ALIASES`, those that mean something together through
`together.TOGETHER`. What has no counterpart is said, with the reason.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from clew.config import ConfigError, build, read_yaml
from clew.peers.aliases import ALIASES, AVERAGINGS, COMMON, DEFAULTS, METHODS, PAIR_LOSSES, SAID, SETTLED, STAGES, TOOLS
from clew.peers.together import TOGETHER, Plan
from clew.pipeline import recipe


def translate(file: Path, method: str | None = None) -> tuple[str, str]:
    """The recipe, and its YAML with comments. Raises ConfigError when nothing says which method it is for."""
    theirs = {k: v for k, v in read_yaml(file).items() if v is not None}
    is_llama = "stage" in theirs or "finetuning_type" in theirs
    tool = "llamafactory" if is_llama else "trl"
    if method is not None and method not in METHODS:
        near = get_close_matches(method, METHODS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"--method {method!r} is none of {', '.join(METHODS)}{meant}")
    method = method or (STAGES.get(theirs.get("stage", "sft")) if is_llama else _guess(theirs))
    if method not in METHODS:
        raise ConfigError(f"{file} does not say what it is for; --method is one of {', '.join(METHODS)}")
    defaults = {**COMMON, **TOOLS[tool], **DEFAULTS.get((tool, method), {})}
    plan = Plan(tool, method, file.parent, theirs, {**defaults, **theirs})
    for together in TOGETHER:
        together(plan)
    _alone(plan)
    kind = recipe(METHODS[method])[1]
    for path in [p for p in plan.ours if p.split(".")[0] not in kind.model_fields]:
        plan.notes[path] = f"{METHODS[method]} has no such option; it was {plan.ours.pop(path)!r}"
    nested = _nested(plan.ours)
    build(kind, nested, f"{file}, translated")
    return METHODS[method], _written(plan, nested, file)


def _guess(theirs: Mapping[str, Any]) -> str | None:
    """TRL's files do not name their trainer; some options belong to one alone. GRPO and RLOO share nearly all."""
    telling = {
        "grpo": ("scale_rewards", "delta", "importance_sampling_level", "entropy_coef", "top_entropy_quantile"),
        "rloo": ("normalize_advantages", "reward_clip_range"),
        "kto": ("desirable_weight", "undesirable_weight"),
        "reward": ("center_rewards_coefficient",),
        "dpo": ("f_divergence_type", "loss_weights"),
        "sft": ("packing", "completion_only_loss", "assistant_only_loss", "dataset_text_field"),
    }
    found = next((method for method, names in telling.items() if any(n in theirs for n in names)), None)
    loss = str(theirs.get("loss_type"))
    if found is None and loss in PAIR_LOSSES:
        return "kto" if loss == "kto" else "dpo"
    return "grpo" if found is None and loss in AVERAGINGS else found


def _alone(plan: Plan) -> None:
    for name, value in plan.all.items():
        if name in plan.done:
            continue
        path, change = ALIASES.get(name, ("", str))
        try:
            if path:
                plan.ours[path] = change(value)
            elif name in plan.theirs and name not in SAID:
                plan.notes[name] = SETTLED.get(name, f"no counterpart{_meant(name, plan)}")
        except (KeyError, ValueError, TypeError):
            plan.notes[name] = f"no counterpart for the value {value!r}"


def _meant(name: str, plan: Plan) -> str:
    known = {*ALIASES, *SETTLED, *SAID, *plan.done, *plan.all} - {*plan.theirs}
    near = get_close_matches(name, known, n=1, cutoff=0.85)
    return f"; did you mean {near[0]}?" if near else ""


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as a tree."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return tree


ORDER = (
    "out",
    "model",
    "reference",
    "lora",
    "data",
    "heldout",
    "result",
    "encoding",
    "reward",
    "loss",
    "advantages",
    "kl",
)


def _written(plan: Plan, nested: Mapping[str, Any], file: Path) -> str:
    names = {"trl": "TRL", "llamafactory": "LLaMA-Factory"}[plan.tool]
    head = [
        f"# {file.name} ({names}, {plan.method}), translated by `clew import-config`. To run it:",
        "#   clew " + METHODS[plan.method] + " THIS_FILE",
        f"# Where {file.name} is silent, {names}'s defaults are written out.",
    ]
    keys = [k for k in ORDER if k in nested] + [k for k in nested if k not in ORDER]
    ordered = {k: nested[k] for k in keys}
    body = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return "\n".join([*head, body.rstrip(), *_remarks(plan)]) + "\n"


def _remarks(plan: Plan) -> Iterator[str]:
    if plan.notes:
        yield "# Not translated, or to be looked at:"
    first = ("dataset", "dataset_name", "data")
    for name, why in sorted(plan.notes.items(), key=lambda n: -first.index(n[0]) if n[0] in first else 1):
        given = f" ({plan.theirs[name]!r:.60})" if name in plan.theirs else ""
        yield f"#   {name}{given}: {why}"
