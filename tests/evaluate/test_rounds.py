import json

import pytest
import yaml

from clew.evaluate.report import write_report
from clew.evaluate.rounds import Round, rounds, told


def make_run(folder, recipe, config, result=None):
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "state": "finished", "ledger": {}}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two rounds: the reward model before, in between, and after."""
    made, accuracy = [], (0.60, 0.70, 0.70)
    for number, right in enumerate(accuracy):
        data = f"{tmp_path}/ask-{number}/votes.jsonl" if number else f"{tmp_path}/labels/votes.jsonl"
        if number:
            config = {"reward": f"{tmp_path}/reward-{number - 1}/model"}
            about = {"number": number, "labels": 50, "raters": 3, "agreement": 0.8, "cost": 10.0}
            made.append(make_run(tmp_path / f"ask-{number}", "ask", config, {"round": about}))
        heldout = {
            "accuracy": right,
            "accuracy_low": right,
            "accuracy_high": right,
            "pairs": 9,
            "calibration_error": 0.0,
        }
        found = {"heldout": heldout, "raters": {"<anna>": 0.9, "troll": 0.1}}
        made.append(make_run(tmp_path / f"reward-{number}", "reward", {"data": {"path": data}}, found))
    return made


def test_a_round_goes_from_the_model_that_asked_to_the_one_that_learnt(runs):
    first, second = rounds(runs)
    assert first == Round(1, 50, 0.8, 10.0, 0.60, 0.70)
    assert first.gain == pytest.approx(0.1)
    assert (first.labels_a_point, first.cost_a_point) == (pytest.approx(5), pytest.approx(1))
    assert second.gain == 0
    assert (second.labels_a_point, second.cost_a_point) == (None, None)


def test_what_is_not_known_is_not_said():
    assert told(Round(1, 50, 0.8, 10.0, 0.6, 0.7)) == (
        "round 1: 50 answers, agreement 80 %, accuracy 60.0 % -> 70.0 %, 5 answers a point, cost 10, 1.00 a point"
    )
    assert told(Round(1, 50, None, 0.0, None, None)) == "round 1: 50 answers"


def test_rounds_and_raters_are_in_the_report(runs, tmp_path):
    page = write_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Rounds of asking" in page
    assert "+10.0" in page
    assert "&lt;anna&gt;" in page
    assert "90.0 %" in page
