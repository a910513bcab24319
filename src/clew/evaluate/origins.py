"""Who judges whom: is a judge the reward that a policy learnt from, or has it learnt from the same labels?

It is read from the configurations of the runs that made them; of models from elsewhere nothing is known, or said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Judge = Mapping[str, Any]
"""A source of reward as a configuration has it: `{"model": folder}` or `{"function": {"name": "module:function"}}`."""


def of_gold(gold: str, policies: Mapping[str, str]) -> tuple[str, str | None]:
    """What may be said of gold, and what is to be warned of: policies that were trained on it."""
    made = {name: made_by(place) for name, place in policies.items()}
    learnt = [name for name, config in made.items() if _place({"function": {"name": gold}}) in rewards(config)]
    if learnt:
        names = joined(learnt)
        return f"Gold is {gold}.", f"gold, {gold}, is what {names} learnt from: no independent judge of {names}"
    independent = ", which none of these policies learnt from" if all(made.values()) else ""
    return f"Gold is {gold}{independent}.", None


def of_proxy(proxy: Sequence[Judge], policies: Mapping[str, str]) -> str:
    """What the proxy is to each policy."""
    made = {name: made_by(place) for name, place in policies.items()}
    proxy = _leaves(proxy)
    judges, labels = {_place(judge) for judge in proxy}, {_labels(made_by(j["model"])) for j in proxy if j.get("model")}
    learnt = [name for name, config in made.items() if judges & rewards(config)]
    shared = [name for name, c in made.items() if name not in learnt and _labels(c) in labels - {None}]
    says = [f"Proxy is {' + '.join(_name(judge) for judge in proxy)}"]
    says += [f"the reward that {joined(learnt)} learnt from"] if learnt else []
    says += [f"no independent judge of {joined(shared)}, whose labels it has seen"] if shared else []
    says += ["which none of these policies learnt from"] if all(made.values()) and not learnt and not shared else []
    return f"{', '.join(says)}."


def made_by(place: str) -> dict[str, Any]:
    """Configuration of the run that a run's folder, its model or its checkpoint belongs to."""
    folder = Path(place).absolute()
    inside = (folder, *folder.parents[:2]) if folder.is_dir() else ()  # a hub name is in no run
    found = next((f for f in inside if (f / "run.json").exists() and (f / "config.yaml").exists()), None)
    return yaml.safe_load((found / "config.yaml").read_text(encoding="utf-8")) if found else {}


def rewards(config: Mapping[str, Any]) -> set[tuple[str, str]]:
    """What a run's policy was rewarded by."""
    tasks = [config, *(config.get("tasks") or {}).values()]
    found = [task.get("reward") for task in tasks]
    return {_place(judge) for judges in found if isinstance(judges, list) for judge in _leaves(judges)}


def _leaves(judges: Sequence[Judge]) -> list[Judge]:
    """The models and functions in all combinations."""
    return [leaf for judge in judges for leaf in (_leaves(judge["of"]) if judge.get("of") else [judge])]


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _place(judge: Judge) -> tuple[str, str]:
    """The same for the same model or function, however its path is written."""
    if judge.get("model"):
        return str(Path(judge["model"]).resolve()), ""
    module, _, name = judge["function"]["name"].rpartition(":")
    return (str(Path(module).resolve()) if module.endswith(".py") else module), name


def _name(judge: Judge) -> str:
    return judge.get("model") or judge["function"]["name"]


def _labels(config: Mapping[str, Any]) -> str | None:
    """File of the labels that a run learnt from, where it is one that learns from labels."""
    is_labelled = "loss" in config and "data" in config and "reward" not in config
    return str(Path(config["data"]["path"]).resolve()) if is_labelled else None
