import json
from pathlib import Path

import pytest

from clew import pipeline
from clew.config import ConfigError
from clew.runs import RunExists

ROOT = Path(__file__).parents[1]


def write(folder: Path, text: str) -> Path:
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


TWO = """
out: {out}
common: {{seed: 5, nobody_has_this: 1}}
stages:
  data:
    recipe: prepare
    files: {{prompts: {{name: "clew.data.grammar:prompts", num: 4, seed: 0}}}}
  sft: {{recipe: sft, model: "@data/model", data: {{path: "@data/prompts.jsonl"}}}}
"""


def test_artefacts_pass_by_name_and_common_options_reach_who_has_them(tmp_path):
    _, stages = pipeline.load(write(tmp_path, TWO.format(out=tmp_path)), ["sft.batch=7", "common.seed=6"])
    sft = stages[1].config
    assert sft.model == f"{tmp_path}/data/model"
    assert sft.data.path == f"{tmp_path}/data/prompts.jsonl"
    assert (sft.seed, sft.batch, sft.out) == (6, 7, f"{tmp_path}/sft")
    assert stages[1].needs == {"data": tmp_path / "data"}


@pytest.mark.parametrize(
    ("old", "new", "overrides", "says"),
    [
        ("@data/model", "@dta/model", [], "stage 'sft' needs @dta, which is no earlier stage"),
        ("recipe: sft", "recipe: sftt", [], "no recipe 'sftt'"),
        ("recipe: sft, ", "", [], "stage 'sft' names no recipe"),
        ("batch", "batch", ["sft.btch=3"], "has no option 'btch'; did you mean 'batch'"),
        ("batch", "batch", ["nope.batch=3"], "has no such stage"),
        ("@data/model", "${CLEW_TEST_UNSET}/x", [], "needs the environment variable CLEW_TEST_UNSET"),
        ("stages:", "stagess:", [], "did you mean 'stages'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tmp_path, old, new, overrides, says):
    file = write(tmp_path, TWO.format(out=tmp_path).replace(old, new))
    with pytest.raises(ConfigError, match=says.replace("$", r"\$")):
        pipeline.load(file, overrides)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.yaml"]


ONE = """
out: {out}
stages:
  data:
    recipe: prepare
    files: {{prompts: {{name: "clew.data.grammar:prompts", num: 4, seed: 0}}}}
  copy:
    recipe: prepare
    files: {{again: {{name: "tests.test_pipeline:copied", path: "@data/prompts.jsonl"}}}}
"""


def copied(*, path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_finished_stages_are_skipped_and_remade_inputs_are_noticed(tmp_path):
    told: list[str] = []
    file = write(tmp_path, ONE.format(out=tmp_path / "runs"))
    pipeline.run(*pipeline.load(file), told.append)
    pipeline.run(*pipeline.load(file), told.append)
    assert told[2:] == ["[1/2] data: already finished", "[2/2] copy: already finished"]
    assert (tmp_path / "runs/copy/again.jsonl").read_text() == (tmp_path / "runs/data/prompts.jsonl").read_text()

    import shutil

    shutil.rmtree(tmp_path / "runs" / "data")
    with pytest.raises(ConfigError, match="was made from an earlier data, which has been made anew since; delete"):
        pipeline.run(*pipeline.load(file), told.append)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "pipelines").glob("*.yaml")))
def test_every_pipeline_that_comes_with_clew_is_valid(name, monkeypatch):
    monkeypatch.setenv("CLEW_DATA", "/data")
    described, stages = pipeline.load(pipeline.find(name))
    assert len(stages) == len(described.stages) > 1


def test_pipelines_are_found_by_name_or_path():
    assert pipeline.find("quickstart") == ROOT / "pipelines" / "quickstart.yaml"
    assert pipeline.find("pipelines/quickstart.yaml").name == "quickstart.yaml"
    with pytest.raises(ConfigError, match=r"no pipeline 'nope': neither a file nor one of .*quickstart"):
        pipeline.find("nope")


def test_a_finished_stage_does_not_hide_a_changed_configuration(tmp_path):
    file = write(tmp_path, ONE.format(out=tmp_path / "runs"))
    pipeline.run(*pipeline.load(file), lambda text: None)
    with pytest.raises(RunExists, match="files.prompts.num: 4 -> 5"):
        pipeline.run(*pipeline.load(file, ["data.files.prompts.num=5"]), lambda text: None)


def test_a_stage_may_lie_elsewhere(tmp_path):
    text = ONE.format(out=tmp_path / "runs").replace("recipe: prepare", f"recipe: prepare\n    out: {tmp_path}/far", 1)
    pipeline.run(*pipeline.load(write(tmp_path, text)), lambda text: None)
    assert (tmp_path / "runs/copy/again.jsonl").read_text() == (tmp_path / "far/prompts.jsonl").read_text()
