"""The published pipelines on stories260k: shortened in the default suite, whole and better than SFT in the slow one."""

import json
from pathlib import Path

import pytest

from clew import pipeline
from clew.config import read_yaml

PIPELINES = ("instructgpt", "llama2", "anthropic_hh", "starling", "nash", "cgpo")
SHORT = {
    "prepare": {"files.endings.num": 24, "files.prompts.num": 24, "files.heldout.num": 8},
    "sft": {"epochs": 1, "batch": 24},
    "distill": {"epochs": 1, "batch": 24},
    "label": {"sampling.max_tokens": 12},
    "ask": {"sampling.max_tokens": 12, "prompts": 12, "pairs": 12},
    "reward": {"epochs": 1, "batch": 12},
    "rl": {"steps": 2, "prompts": 4},
    "reject": {"rounds": 2, "prompts": 4, "epochs": 1},
    "nash": {"steps": 2, "prompts": 4},
    "cgpo": {"steps": 2},
    "evaluate": {},
    "report": {},
}


def shortened(file: Path, out: Path) -> list[str]:
    values = read_yaml(file)
    stages = {name: options for section in pipeline.SECTIONS for name, options in (values.get(section) or {}).items()}
    short = [f"{name}.{key}={value}" for name, o in stages.items() for key, value in SHORT[o["recipe"]].items()]
    return [f"out={out}", "common.max_tokens=12", *short]


def run(name: str, overrides: list[str]) -> tuple[list[pipeline.Stage], list[str]]:
    told: list[str] = []
    described, stages = pipeline.load(pipeline.find(name), overrides)
    pipeline.run(described, stages, told.append)
    return stages, told


@pytest.mark.parametrize("name", PIPELINES)
def test_a_published_pipeline_runs_from_text_to_report(name, tmp_path, shared_data):
    overrides = shortened(pipeline.find(name), tmp_path / name)
    stages, _ = run(name, overrides)
    told = json.loads((tmp_path / name / "evaluation" / "evaluation.json").read_text())
    policies = {point["policy"] for point in told["points"] if point["final"]} - {"baseline"}
    config = next(stage.config for stage in stages if stage.name == "evaluation")
    assert policies == set(config.policies)
    assert all(-2 <= point["gold"]["value"] <= 2 for point in told["points"])
    assert (tmp_path / name / "report" / "report.html").stat().st_size > 10_000
    assert all("already finished" in line for line in run(name, overrides)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_a_published_pipeline_makes_better_endings(name, tmp_path, shared_data):
    """The policy that it ends with; those on the way need not be better than where all began."""
    stages, _ = run(name, [f"out={tmp_path / name}"])
    told = json.loads((tmp_path / name / "evaluation" / "evaluation.json").read_text())
    last = list(next(stage.config for stage in stages if stage.name == "evaluation").policies)[-1]
    gains = {p["policy"]: p["gain"] for p in told["points"] if p["final"]}
    assert gains[last]["low"] > 0, gains
