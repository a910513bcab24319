import json
import re

import pytest

from clew.evaluate.report import find_runs, write_report


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def point(policy: str, step: int, *, final: bool, gold: float, kl: float, state: str = "ok") -> dict:
    rule = {"rule": "entropy", "state": state, "value": 0.5, "watch": 0.4, "alarm": 0.7, "says": "less <of> it"}
    return {
        "policy": policy, "step": step, "final": final, "gold": interval(gold), "gain": interval(gold), "win_rate": interval(0.6),
        "proxy": interval(gold + 1), "kl": interval(kl), "length": interval(20.0), "ended": 1.0, "findings": [rule], "verdict": state,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in ("sft", "evaluation"):
        run = tmp_path / name
        run.mkdir()
        ledger = {"tokens_trained": 12345, "labels/program": 7, "cpu_seconds": 3.0}
        (run / "run.json").write_text(json.dumps({"state": "finished", "ledger": ledger}))
        (run / "config.yaml").write_text(f"name: {name}\n")
    (tmp_path / "sft" / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss/nll": 2.0 - i / 10}) + "\n" for i in range(5))
    )
    (tmp_path / "sft" / "notes.jsonl").write_text(json.dumps({"time": 0, "note": "3 rows <dropped>"}) + "\n")
    points = [
        point("baseline", 0, final=True, gold=0.0, kl=0.0),
        point("PPO", 20, final=False, gold=0.5, kl=2.0),
        point("PPO", -1, final=True, gold=1.0, kl=4.0),
        point("no KL", -1, final=True, gold=-1.0, kl=80.0, state="alarm"),
    ]
    (tmp_path / "evaluation" / "evaluation.json").write_text(
        json.dumps({"points": points, "prompts": 64, "temperature": 1.0})
    )
    samples = [
        {"step": 0, "policy": p, "prompt": "how <b>?", "text": f"answer of {p}", "proxy": 1.0, "gold": 0.5}
        for p in ("baseline", "PPO")
    ]
    (tmp_path / "evaluation" / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    return tmp_path


def test_the_report_is_one_file_that_says_it_all(folder):
    page = write_report(folder, folder / "r.html").read_text()
    assert "PPO</b>: better than the start" in page
    assert "no KL</b>: worse than the start" in page
    assert "alarm</span> entropy" in page
    assert page.count("<svg") == 2  # the frontier and one run's curves
    assert "12.3 k" in page
    assert "answer of PPO" in page
    assert "name: sft" in page
    assert page.count("<td>baseline</td>") == 1


def test_nothing_is_loaded_from_elsewhere_and_text_is_escaped(folder):
    page = write_report(folder, folder / "r.html").read_text()
    assert not re.search(r'(src|href)="(?!#)[^"]', page)
    assert "how &lt;b&gt;?" in page
    assert "3 rows &lt;dropped&gt;" in page
    assert "<script" not in page


def test_a_single_run_has_a_report_too(folder):
    assert find_runs(folder / "sft") == [folder / "sft"]
    page = write_report(folder / "sft", folder / "one.html").read_text()
    assert "loss/nll" in page
    assert "What became better" not in page


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        write_report(tmp_path, tmp_path / "r.html")
