"""`clew init`: the method that fits, a split by prompt, and a pipeline that runs as it is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clew import pipeline
from clew.cli import app
from clew.config import ConfigError, import_function
from clew.data.formats import parse_row
from clew.data.sources import read_rows
from clew.starter import KINDS, kinds_of, split, start

SAID = ["They went home.", "The sun was warm.", "It was a big dog.", "She gave him a red ball."]
ROWS = [
    {"prompt": f"Once there were {n} cats.", "a": f" {SAID[n % 4]}", "b": f" {SAID[(n + 1) % 4]} No."}
    for n in range(40)
]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


FILES = {
    "pairs": [{"prompt": r["prompt"], "chosen": r["a"], "rejected": r["b"]} for r in ROWS],
    "rankings": [{"prompt": r["prompt"], "completions": [r["a"], r["b"], " no"]} for r in ROWS],
    "ratings": [{"prompt": r["prompt"], "completion": r["a"], "rating": 0.5 + n % 4} for n, r in enumerate(ROWS)],
    "thumbs": [{"prompt": r["prompt"], "completion": r["a"], "label": n % 2 == 0} for n, r in enumerate(ROWS)],
    "answers": [{"messages": [user(r["prompt"]), {"role": "assistant", "content": r["a"].strip()}]} for r in ROWS],
    "prompts": [{"prompt": r["prompt"], "answer": "warm"} for r in ROWS],
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    for name, rows in FILES.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_the_method_fits_the_rows_and_every_stage_loads(kind, here):
    assert set(kinds_of([e for row in FILES[kind] for e in parse_row(row, "x")])) == {kind}
    told = CliRunner().invoke(app, ["init", f"{kind}.jsonl"])
    assert told.exit_code == 0, told.output
    assert f"{kind}/run.yaml is ready" in told.output
    _, stages = pipeline.load(here / kind / "run.yaml")
    first = {
        "pairs": "sft",
        "answers": "sft",
        "rankings": "reward",
        "ratings": "reward",
        "thumbs": "kto",
        "prompts": "rl",
    }
    assert stages[0].name == first[kind]
    text = (here / kind / "run.yaml").read_text()
    assert text.count("  # ") >= 10
    assert ("template: transcript" in text) == (kind == "answers")


@pytest.mark.parametrize("levels", [(1, 2, 3, 4, 5), (1, 1, 1, 1, 5), (0, 1, 0, 1, 2)])
def test_a_rating_of_1_or_0_is_no_thumb(levels, here):
    rows = [{**FILES["ratings"][n], "rating": levels[n % 5]} for n in range(40)]
    (here / "stars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, says = start("stars.jsonl", here / "out", None)
    assert says.splitlines() == ["40 rows (demonstration): answers with a rating", "36 to train on, 4 held out"]
    assert pipeline.load(here / "out" / "run.yaml")[1][0].name == "reward"


def test_every_kind_has_a_file_here():
    assert set(FILES) == set(KINDS)


def test_no_prompt_is_on_both_sides_and_the_split_is_the_same_again(here):
    doubled = [row for row in FILES["pairs"] for _ in range(2)]
    examples = [e for row in doubled for e in parse_row(row, "x")]
    train, heldout = split(examples)
    assert not {e.id for e in train} & {e.id for e in heldout}
    assert (len(train), len(heldout)) == (72, 8)
    assert split(examples[::-1])[1] == [e for e in examples[::-1] if e in heldout]
    start("pairs.jsonl", here / "out", None)
    written = [row["prompt"] for side in ("train", "heldout") for row in read_rows(str(here / "out" / f"{side}.jsonl"))]
    assert sorted(written) == sorted(row["prompt"] for row in FILES["pairs"])


def test_a_reward_for_known_answers_is_written_and_can_be_imported_by_its_file(here):
    start("prompts.jsonl", here / "out", None)
    reward = import_function(f"{here / 'out' / 'rewards.py'}:reward")
    assert reward(["q", "q"], ["it was warm", "cold"], answer=["warm", "warm"]) == [1.0, 0.0]


def test_a_module_beside_the_user_can_be_named(here):
    (here / "my_rewards.py").write_text("def short(prompts, completions):\n    return []\n")
    (here / "c.yaml").write_text("out: runs/p\nfiles: {rows: {name: 'my_rewards:missing'}}\n")
    script = (
        "import sys; sys.path.remove(''); sys.argv = ['clew', 'prepare', 'c.yaml']; from clew.cli import main; main()"
    )
    says = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
    assert "module 'my_rewards' has no attribute 'missing'" in says


def test_lengths_come_from_the_models_tokenizer(here, shared_data):
    start("pairs.jsonl", here / "out", str(shared_data / "stories260k/hf"))
    _, stages = pipeline.load(here / "out" / "run.yaml")
    encoding = stages[0].config.model_dump()["encoding"]
    assert 32 < encoding["max_length"] <= 128


def test_what_cannot_begin_is_explained(here):
    start("pairs.jsonl", here / "out", None)
    with pytest.raises(ConfigError, match=r"run.yaml is there already; name another folder with --out"):
        start("pairs.jsonl", here / "out", None)
    (here / "one.jsonl").write_text(json.dumps(FILES["pairs"][0]) + "\n")
    with pytest.raises(ConfigError, match="one prompt alone cannot be split"):
        start("one.jsonl", here / "one", None)
    (here / "none.jsonl").write_text('{"foo": 1}\n')
    with pytest.raises(ConfigError, match="has no row to learn from; clew data check none.jsonl says why"):
        start("none.jsonl", here / "none", None)


def test_without_its_model_nothing_is_written(here):
    (here / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: no config.json there, so no model; expected a Hugging Face"):
        start("pairs.jsonl", here / "out", str(here / "empty"))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; expected a Hugging Face folder or a hub"):
        start("pairs.jsonl", here / "out", "./nowhere")
    assert not (here / "out").exists()


def test_answers_that_run_into_their_prompt_are_joined_where_most_do(here):
    rows = [{**row, "chosen": row["chosen"].strip()} for row in FILES["pairs"]]
    (here / "glued.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, says = start("glued.jsonl", here / "out", None)
    assert says.endswith(
        "\n40 whose answer runs into the prompt (run.yaml joins them with a blank): row 1, 2, 3, 4, 5, …"
    )
    stages = {stage.name: stage.config.model_dump() for stage in pipeline.load(here / "out" / "run.yaml")[1]}
    assert {stages[name]["data"]["join"] for name in ("sft", "dpo", "judge")} == {" "}
    few = [*FILES["pairs"][2:], *rows[:2]]
    (here / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    _, says = start("few.jsonl", here / "few", None)
    assert says.endswith('\n2 whose answer runs into the prompt (see data.join: " "): row 39, 40')
    assert "join" not in (here / "few" / "run.yaml").read_text()


def test_every_stage_is_saved_about_five_times(here):
    start("pairs.jsonl", here / "out", None)
    stages = {stage.name: stage.config.model_dump() for stage in pipeline.load(here / "out" / "run.yaml")[1]}
    steps = {name: stages[name]["epochs"] * 36 / stages[name]["batch"] for name in ("sft", "dpo", "judge")}
    assert steps == {"sft": 18, "dpo": 27, "judge": 18}
    assert {name: stages[name]["save_every"] for name in steps} == {"sft": 4, "dpo": 5, "judge": 4}


def test_rows_of_other_kinds_and_wrong_rows_are_said(here):
    tie = {"prompt": "q", "completions": ["a", "b"], "ranks": [0, 0]}
    with (here / "pairs.jsonl").open("a") as file:
        for row in ({"prompt": "q"}, tie, tie, {"prompt": "q", "chosen": 3, "rejected": "a"}):
            file.write(json.dumps(row) + "\n")
    _, says = start("pairs.jsonl", here / "out", None)
    assert "1 left out, prompts: row 41\n" in says
    assert "2 left out, pairs or rankings that are all ties: row 42, 43\n" in says
    assert "1 rows are wrong and left out, such as row 44: column 'chosen' needs text" in says


QUICK = {
    "pairs": ["sft.epochs=0.5", "judge.epochs=0.5", "evaluation.max_tokens=8"],
    "answers": ["sft.epochs=0.5"],
    "rankings": ["reward.epochs=0.5"],
    "thumbs": ["judge.epochs=0.5", "evaluation.max_tokens=8"],
    "prompts": ["rl.steps=1", "rl.prompts=2", "rl.group=2", "rl.max_tokens=8", "evaluation.max_tokens=8"],
}


@pytest.mark.parametrize(
    "kind", ["pairs", "answers", "prompts", *(pytest.param(k, marks=pytest.mark.slow) for k in ("rankings", "thumbs"))]
)
def test_the_pipeline_runs_on_a_real_model(kind, here, shared_data):
    start(f"{kind}.jsonl", Path(kind), str(shared_data / "stories260k/hf"))
    described, stages = pipeline.load(here / kind / "run.yaml", QUICK[kind])
    pipeline.run(described, stages, lambda said: None)
    models = list((here / "runs" / kind).glob("*/model/model.safetensors"))
    assert len(models) == {"pairs": 3, "thumbs": 2}.get(kind, 1)
    assert (here / "runs" / kind / "report" / "report.html").exists() == (kind in ("pairs", "thumbs", "prompts"))
