"""A published system as a YAML file: stages are recipes, artefacts pass by name, finished stages are skipped.

    out: runs/quickstart
    threads: 1
    common: {seed: 0, encoding: {max_length: 128}}     # for every stage that has such an option
    stages:
      sft:    {recipe: sft, model: gpt2, data: {path: demonstrations.jsonl}}
      reward: {recipe: reward, model: "@sft/model", data: {path: "@labels/pairs.jsonl"}}

"@stage/path" is a path in that stage's run directory, `out` is filled in, `${NAME}` is an environment variable.

What is to be done again and again, each round from what the last one made, stands under `round`: stages that become
`name-1`, `name-2` … In there, and in the stages that come `after`, "@name" is the newest of that name, which in the
first round may be one of `stages`; "{round}" is the number.
"""

import gc
import importlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pydantic import Field

from clew.config import Config, ConfigError, apply_overrides, build, check_inputs, read_yaml
from clew.durable import write_durably

RECIPES = (
    "prepare", "pretrain", "sft", "distill", "label", "ask", "reward", "preference", "online", "nash", "cgpo", "rl",
    "reject", "ilql", "evaluate", "report",
)  # fmt: skip

REFERENCE = re.compile(r"^@([\w-]+)(?=/|$)")


class Pipeline(Config):
    """The file, before its stages are looked into."""

    out: str
    """Directory of all stages' runs."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; torch's own choice when absent. Exact resume needs the same number."""
    common: dict[str, Any] = Field(default_factory=dict)
    """Options for every stage that has them and does not set them."""
    stages: dict[str, dict[str, Any]]
    round: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Stages of a round: the loop."""
    rounds: int = Field(default=1, ge=1)
    after: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Stages when all rounds are done."""

    def in_order(self) -> dict[str, dict[str, Any]]:
        """All stages, those of every round under a name of its own."""
        found, newest = dict(self.stages), {name: name for name in self.stages}
        for number in range(1, self.rounds + 1):
            for name, values in self.round.items():
                found[f"{name}-{number}"] = _map(values, lambda text, n=number: _meant(text, newest, n))
                newest[name] = f"{name}-{number}"
        return found | {n: _map(v, lambda text: _meant(text, newest, self.rounds)) for n, v in self.after.items()}


SECTIONS = ("stages", "round", "after")


class Stage(NamedTuple):
    name: str
    run: Callable[[Any], None]
    config: Config
    needs: dict[str, Path]
    """Earlier stages it reads from, with their folders."""

    @property
    def folder(self) -> Path:
        return Path(self.config.model_dump()["out"])


def recipe(name: str) -> tuple[Callable[[Any], None], type[Config]]:
    """A recipe's `run` and the configuration it takes. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r} (recipes: {', '.join(RECIPES)})")
    with _uncollected(f"clew.recipes.{name}"):
        run = importlib.import_module(f"clew.recipes.{name}").run
    return run, get_type_hints(run)["config"]


@contextmanager
def _uncollected(module: str) -> Iterator[None]:
    """Importing torch and transformers makes 600,000 objects that stay: to look for garbage among them takes a sixth of
    the time of the import, and half a second at every full collection of the run.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def find(name: str) -> Path:
    """A pipeline file by path, or by the name of one that comes with clew."""
    given = Path(name)
    if given.exists():
        return given
    stem = given.name.removesuffix(".yaml")
    for folder in shipped():
        if (folder / f"{stem}.yaml").exists():
            return folder / f"{stem}.yaml"
    known = sorted(file.stem for folder in shipped() for file in folder.glob("*.yaml"))
    raise ConfigError(f"no pipeline {name!r}: neither a file nor one of {', '.join(known)}")


def shipped() -> list[Path]:
    """Where clew's own pipelines lie: in the installed package, or in the checkout."""
    here = Path(__file__).parent
    return [folder for folder in (here / "pipelines", here.parents[1] / "pipelines") if folder.is_dir()]


def load(file: Path, overrides: Sequence[str] = ()) -> tuple[Pipeline, list[Stage]]:
    """Every stage's configuration, checked before anything runs. Overrides are `out=…` or `stage.key=value`."""
    values = read_yaml(file)
    own = [o for o in overrides if o.partition("=")[0].split(".")[0] in Pipeline.model_fields]
    section = {name: section for section in SECTIONS for name in values.get(section) or {}}
    for override in overrides:
        if override not in own and override.split(".")[0] not in section:
            raise ConfigError(f"{override!r}: {file.stem} has no such stage (stages: {', '.join(section)})")
    theirs = [f"{section[o.split('.')[0]]}.{o}" for o in overrides if o not in own]
    values = apply_overrides(values, [*own, *theirs])
    pipeline = build(Pipeline, _expand(values), str(file))
    stages: list[Stage] = []
    for name, options in pipeline.in_order().items():
        stages.append(_stage(name, options, pipeline, {s.name: s.folder for s in stages}, file))
    return pipeline, stages


def run(pipeline: Pipeline, stages: Sequence[Stage], tell: Callable[[str], None] = print) -> None:
    """Run what is not finished, in order, once `check` has found what it reads. A stage made from another life of its
    inputs is refused.

    Example: `run(*load(Path("pipelines/quickstart.yaml"), ["ppo.kl.coefficient=0.1"]))`
    """
    check(stages)
    if pipeline.threads is not None:
        import torch

        torch.set_num_threads(pipeline.threads)
    for number, stage in enumerate(stages, 1):
        finished = _claim(stage)
        tell(f"[{number}/{len(stages)}] {stage.name}: {'already finished' if finished else stage.folder}")
        stage.run(stage.config)  # a finished one returns at once, or says that its configuration has changed


def check(stages: Sequence[Stage]) -> None:
    """What unfinished stages read is there, or an earlier one will write it. Raises ConfigError for all that lacks."""
    coming: list[Path] = []
    wrong: list[str] = []
    for stage in stages:
        if _is_finished(stage.folder):
            continue
        try:
            check_inputs(stage.config, f"stage {stage.name}", coming)
        except ConfigError as error:
            wrong.append(str(error))
        coming.append(stage.folder)
    if wrong:
        raise ConfigError("\n".join(wrong))


def _meant(text: str, newest: Mapping[str, str], number: int) -> str:
    """A text of a round: references to the newest stages, and the number."""
    return REFERENCE.sub(lambda m: f"@{newest.get(m[1], m[1])}", text).replace("{round}", str(number))


def _stage(name: str, options: Mapping[str, Any], pipeline: Pipeline, earlier: Mapping[str, Path], file: Path) -> Stage:
    values = dict(options)
    if "recipe" not in values:
        raise ConfigError(f"{file}: stage {name!r} names no recipe (recipes: {', '.join(RECIPES)})")
    start, kind = recipe(values.pop("recipe"))
    inherited = {k: v for k, v in pipeline.common.items() if k in kind.model_fields}
    values = {"out": f"{pipeline.out}/{name}", **inherited, **values}
    needs = sorted({found for text in _texts(values) for found in REFERENCE.findall(text)})
    for needed in needs:
        if needed not in earlier:
            raise ConfigError(
                f"{file}: stage {name!r} needs @{needed}, which is no earlier stage ({', '.join(earlier)})"
            )
    resolved = _map(values, lambda text: REFERENCE.sub(lambda m: str(earlier[m[1]]), text))
    config = build(kind, resolved, f"{file}, stage {name}")
    return Stage(name, start, config, {needed: earlier[needed] for needed in needs})


def _claim(stage: Stage) -> bool:
    """Give the run an identity, note those of its inputs, and say whether it is finished."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    inputs = {n: json.loads((folder / "identity.json").read_text())["id"] for n, folder in stage.needs.items()}
    file = stage.folder / "identity.json"
    if not file.exists():
        write_durably(file, json.dumps({"id": uuid.uuid4().hex, "inputs": inputs}))
    changed = [n for n, i in json.loads(file.read_text())["inputs"].items() if inputs.get(n) != i]
    if changed:
        raise ConfigError(
            f"{stage.folder} was made from an earlier {', '.join(changed)}, which has been made anew since; delete "
            f"{stage.folder} to make it again too"
        )
    return _is_finished(stage.folder)


def _is_finished(folder: Path) -> bool:
    info = folder / "run.json"
    return info.exists() and json.loads(info.read_text()).get("state") == "finished"


def _expand(value: Any) -> Any:
    """`${NAME}` in texts, from the environment."""

    def expanded(text: str) -> str:
        found = os.path.expandvars(text)
        missing = re.search(r"\$\{(\w+)\}", found)
        if missing:
            raise ConfigError(f"{text!r} needs the environment variable {missing[1]}, which is not set")
        return found

    return _map(value, expanded)


def _map(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {k: _map(v, change) for k, v in value.items()}
    return [_map(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def _texts(value: Any) -> list[str]:
    found: list[str] = []
    _map(value, lambda text: found.append(text) or text)
    return found
