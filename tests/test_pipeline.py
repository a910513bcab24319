import json
import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from clew import pipeline
from clew.config import Config, ConfigError
from clew.data.sources import Source
from clew.runs import NoState, Run, RunExists

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


LOOP = """
out: {out}
stages:
  ask: {{recipe: label, model: m, data: {{path: p.jsonl}}, gold: "a:b", raters: [{{rater: honest}}]}}
rounds: 2
round:
  reward: {{recipe: reward, model: m, data: {{path: "@ask/votes.jsonl"}}, seed: "{{round}}"}}
  ask: {{recipe: ask, model: m, reward: "@reward/model", data: {{path: p.jsonl}}, store: "s.sqlite", round: "{{round}}"}}
after:
  last: {{recipe: evaluate, baseline: "@ask/m", policies: {{one: "@reward-1"}}, data: {{path: "p.jsonl"}}, heldout: ["@reward/model"]}}
"""


def test_rounds_take_what_is_newest_and_go_on_from_each_other(tmp_path):
    _, stages = pipeline.load(write(tmp_path, LOOP.format(out=tmp_path)), ["ask.pairs=7", "rounds=2"])
    found = {s.name: s.config for s in stages}
    assert list(found) == ["ask", "reward-1", "ask-1", "reward-2", "ask-2", "last"]
    assert found["reward-1"].data.path == f"{tmp_path}/ask/votes.jsonl"
    assert found["ask-1"].reward == f"{tmp_path}/reward-1/model"
    assert found["reward-2"].data.path == f"{tmp_path}/ask-1/votes.jsonl"
    assert (found["ask-2"].round, found["ask-2"].pairs, found["reward-2"].seed) == (2, 7, 2)
    assert found["last"].baseline == f"{tmp_path}/ask-2/m"
    assert found["last"].heldout == (f"{tmp_path}/reward-2/model",)
    assert found["last"].policies == {"one": f"{tmp_path}/reward-1"}
    assert stages[-1].needs.keys() == {"ask-2", "reward-1", "reward-2"}


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
    assert len(stages) == len(described.in_order()) > 1


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


CHAIN = """
out: runs
stages:
  sft: {recipe: sft, model: start, data: {path: demos.jsonl}}
  grpo:
    recipe: rl
    model: "@sft/model"
    data: {path: asked.csv}
    reward: [{function: "rewards.py:tidy"}]
    advantages: group_mean
    group: 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What CHAIN reads; the model is only a folder with a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").write_text("{}")
    (tmp_path / "demos.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "asked.csv").write_text("prompt,answer\na,b\n")
    (tmp_path / "rewards.py").write_text("def tidy(prompts, completions):\n    return [0.0] * len(prompts)\n")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["grpo.data.path=nope.csv"], "stage grpo: data: nope.csv does not exist (paths are relative to the current folder, {cwd})"),
        (["grpo.data.columns={prompt: question}"], "asked.csv row 1: no column 'question' (columns: prompt, answer)"),
        (["sft.data.path=rewards.py"], "stage sft: data: rewards.py"),
        (['grpo.reward=[{function: "rewardz.py:tidy"}]'], "stage grpo: reward.0.function: cannot import 'rewardz.py:tidy'"),
        (['grpo.reward=[{function: "rewards.py:tidyy"}]'], "cannot import 'rewards.py:tidyy'"),
        (["grpo.loss=rewards.py:tidyy"], "stage grpo: loss: cannot import 'rewards.py:tidyy'"),
        (["grpo.trackers=[nowhere:tracker]"], "stage grpo: trackers.0: cannot import 'nowhere:tracker'"),
        (["grpo.reference=./old"], "stage grpo: reference: ./old: no such folder in {cwd}; expected a model's folder"),
        (["grpo.reward=[{model: runs/old/reward/model}]"], "stage grpo: reward.0.model: runs/old/reward/model: no such folder"),
        (["sft.model=."], "stage sft: model: . holds no model: there is neither config.json nor adapter_config.json"),
        (["sft.data.path=nope.jsonl", "grpo.data.path=nope.csv"], "stage grpo: data: nope.csv"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_before_the_first_stage(folder, overrides, says):
    with pytest.raises(ConfigError, match=re.escape(says.replace("{cwd}", str(folder)))):
        pipeline.run(*pipeline.load(write(folder, CHAIN), overrides), lambda text: None)
    assert not (folder / "runs").exists()


def test_what_earlier_stages_write_need_not_be_there_yet(folder):
    described, stages = pipeline.load(write(folder, CHAIN), ["grpo.data.path=@sft/asked.csv"])
    pipeline.check(stages)
    (folder / "runs" / "sft").mkdir(parents=True)
    (folder / "runs" / "sft" / "run.json").write_text('{"state": "finished"}')
    with pytest.raises(ConfigError, match="runs/sft/model: no such folder"):  # it will not write any more
        pipeline.check(stages)
    (folder / "demos.jsonl").unlink()  # and does not read any more
    with pytest.raises(ConfigError) as error:
        pipeline.check(stages)
    assert "demos.jsonl" not in str(error.value)
    assert described.out == "runs"


def test_the_folder_of_a_run_is_told_from_its_model(folder):
    (folder / "old").mkdir()
    (folder / "start").rename(folder / "old" / "model")
    _, stages = pipeline.load(write(folder, CHAIN), ["sft.model=old"])
    with pytest.raises(ConfigError, match="old holds no model: .*; did you mean old/model?"):
        pipeline.check(stages)


def command_of(name: str) -> list[str]:
    """The overrides of the command that a shipped pipeline begins with."""
    text = pipeline.find(name).read_text()
    lines = re.search(rf"#   clew run {name} ((?:.*\\\n)*.*)\n", text)
    assert lines is not None
    return shlex.split(lines[1].replace("\\\n#", " "))


def sources(config: Config) -> list[str]:
    inner = [value for value in dict(config).values() if isinstance(value, BaseModel)]
    found = [path for value in inner if isinstance(value, Config) for path in sources(value)]
    return [config.path] if isinstance(config, Source) else found


ROWS = {
    "demonstrations": {"prompt": "a", "completion": "b"},
    "pairs": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "rankings": {"prompt": "a", "completions": ["b", "c"]},
    "prompts": {"prompt": "a"},
    "text": {"text": "a"},
}


@pytest.mark.parametrize("name", ["dpo"])
def test_shipped_pipelines_read_the_files_they_are_given_and_no_others(name, folder):
    overrides = command_of(name)
    for kind, row in ROWS.items():
        (folder / f"my_{kind}.jsonl").write_text(json.dumps(row) + "\n")
    mine = [re.sub(r"=(\w+)\.jsonl", r"=my_\1.jsonl", o).replace("=gpt2", "=start") for o in overrides]
    assert sum("my_" in o for o in mine) >= 2
    _, stages = pipeline.load(pipeline.find(name), mine)
    pipeline.check(stages)
    read = {path for stage in stages for path in sources(stage.config)}
    assert len(read) >= 2
    assert all(path.startswith("my_") for path in read)
    assert read == {path for path in read if (folder / path).exists()}


def test_a_run_that_begins_again_without_a_checkpoint_says_so(tmp_path):
    _, stages = pipeline.load(write(tmp_path, ONE.format(out=tmp_path / "runs")))

    def steps() -> None:
        with Run(stages[0].config, tmp_path / "one", "prepare") as run:
            for step in run.steps(3, NoState(), save_every=2, keep=None):
                step.track({"loss": 1.0})
                if step.number == 1:
                    raise RuntimeError("killed")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            steps()
    notes = [json.loads(line)["note"] for line in (tmp_path / "one" / "notes.jsonl").read_text().splitlines()]
    assert notes.count("one: no checkpoint yet: from the beginning") == 1
