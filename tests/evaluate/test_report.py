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


def evaluated(folder, points, **about):
    found = {"points": points, "prompts": 1, "temperature": 1.0, **about}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    return write_report(folder, folder / "r.html").read_text()


def without(names: str, point: dict) -> dict:
    return {key: value for key, value in point.items() if key not in names.split()}


def test_without_gold_the_proxy_is_compared_and_nothing_is_empty(folder):
    points = [
        without("gold gain win_rate", point(name, -1, final=True, gold=gold, kl=0.0))
        | {"proxy_gain": interval(gold), "proxy_win_rate": interval(0.7)}
        for name, gold in (("baseline", 0.0), ("DPO", 1.0))
    ]
    page = evaluated(folder, points, judges=["Proxy is judge/model, <so> no independent judge."])
    assert "<b>DPO</b>: better than the start on the proxy (+1.00" in page
    assert "<th>policy</th><th>proxy</th><th>gain in proxy</th><th>wins</th><th>KL, nats</th>" in page
    assert "70 % " in page
    assert "–" not in page[: page.index("<h2>Alarms")]
    assert "&lt;so&gt; no independent judge." in page
    assert "1 held-out prompt, one answer each" in page
    assert "<!-- gold -->" not in page
    assert "<!-- proxy -->" in page


def test_without_any_judge_there_is_no_plot(folder):
    points = [
        without("gold gain win_rate proxy", point(name, -1, final=True, gold=0.0, kl=0.0)) for name in ("baseline", "A")
    ]
    page = evaluated(folder, points)
    assert "<b>A</b>: no judge was asked" in page
    assert "Reward against KL" not in page
    assert "<th>policy</th><th>KL, nats</th>" in page


def test_answers_that_were_cut_and_warnings_are_shown(folder):
    points = [point(name, -1, final=True, gold=0.0, kl=0.0) | {"ended": 0.25} for name in ("baseline", "A")]
    page = evaluated(folder, points, warnings=["most answers of A were cut"])
    assert "<th>ended</th>" in page
    assert "<td>25 %</td>" in page
    assert 'watch">watch</span> most answers of A were cut' in page


def test_what_was_not_measured_has_no_number_and_no_colour(folder):
    points = [point(name, -1, final=True, gold=0.0, kl=0.0) for name in ("baseline", "A")]
    points[1]["findings"] = [
        {"rule": "gap", "state": "not measured", "value": None, "watch": 0.4, "alarm": 0.8, "says": ""},
        {"rule": "cut", "state": "ok", "value": -0.001, "watch": 0.5, "alarm": None, "says": ""},
    ]
    page = evaluated(folder, points)
    assert '<td><span class="badge not measured">not measured</span></td><td>0.4 / 0.8</td>' in page
    assert "&nbsp;0.00</td><td>0.5 / –</td>" in page


def test_held_out_results_have_a_table(folder):
    (folder / "sft" / "result.json").write_text(json.dumps({"heldout": {"nll": 1.58349}}))
    page = write_report(folder, folder / "r.html").read_text()
    assert "On held-out rows" in page
    assert "<td>sft</td><td>1.583 nats a token</td>" in page


def test_the_report_does_not_report_on_itself(folder):
    (folder / "report").mkdir()
    (folder / "report" / "run.json").write_text(json.dumps({"state": "running", "recipe": "report"}))
    (folder / "report" / "config.yaml").write_text("out: x\n")
    assert [run.name for run in find_runs(folder)] == ["sft", "evaluation"]
    assert "running" not in write_report(folder, folder / "r.html").read_text()
    assert "· 1 run<" in write_report(folder / "sft", folder / "one.html").read_text()
