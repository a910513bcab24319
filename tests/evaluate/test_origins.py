import pytest
import yaml

from clew.evaluate.origins import joined, of_gold, of_proxy

RUNS = {
    "ppo": {"reward": [{"model": "judge/model"}], "data": {"path": "prompts.jsonl"}, "loss": {"name": "clipped"}},
    "grpo": {"reward": [{"function": {"name": "rewards.py:tidy"}}], "data": {"path": "prompts.jsonl"}},
    "dpo": {"data": {"path": "pairs.jsonl"}, "loss": {"name": "dpo"}},
    "judge": {"data": {"path": "./pairs.jsonl"}, "loss": {"name": "bradley_terry"}},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for name, config in RUNS.items():
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_gold_that_was_a_reward_is_warned_of(here):
    policies = {"GRPO": "grpo", "DPO": "dpo/model"}
    assert of_gold("mine:gold", policies) == ("Gold is mine:gold, which none of these policies learnt from.", None)
    _, warning = of_gold(f"{here}/rewards.py:tidy", policies)
    assert warning is not None
    assert warning.endswith("rewards.py:tidy, is what GRPO learnt from: no independent judge of GRPO")


def test_of_models_from_elsewhere_nothing_is_claimed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.json").write_text("{}")  # of another program
    assert of_gold("mine:gold", {"theirs": "elsewhere", "DPO": "dpo"}) == ("Gold is mine:gold.", None)
    assert of_proxy([{"model": "judge/model"}], {"theirs": "ppo/model/org"}) == "Proxy is judge/model."  # no folder


def test_the_proxy_is_said_to_be_what_it_is_to_each_policy():
    judge = {"model": "judge/model", "function": None, "weight": 1.0}
    says = "no independent judge of DPO, whose labels it has seen."
    assert of_proxy([judge], {"DPO": "dpo/model"}) == f"Proxy is judge/model, {says}"
    both = of_proxy([judge], {"PPO": "ppo", "DPO": "dpo"})
    assert both == f"Proxy is judge/model, the reward that PPO learnt from, {says}"
    assert of_proxy([judge], {"GRPO": "grpo"}).endswith(", which none of these policies learnt from.")
    function = {"model": None, "function": {"name": "./rewards.py:tidy"}}
    assert of_proxy([function, judge], {"GRPO": "grpo", "PPO": "ppo"}) == (
        "Proxy is ./rewards.py:tidy + judge/model, the reward that GRPO and PPO learnt from."
    )


def test_names_are_joined():
    assert [joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
