from clew.evaluate.compare import compared, headline, samples_of, signs_of


def record(**changes):
    return {
        "prompts": ["a", "b", "c", "d"], "texts": ["v w x y z"] * 4, "length": [5, 6, 7, 8], "ended": [True] * 4,
        "kl": [0.0] * 4, "entropy": 1.0, "gold": [], "proxy": [], "heldout": [], **changes,
    }  # fmt: skip


START = record(gold=[0.0, 0.0, 1.0, 1.0], proxy=[0.0, 2.0, 0.0, 2.0], heldout=[[1.0, 3.0, 1.0, 3.0]])


def test_a_policy_beside_its_start_worked_by_hand():
    now = START | {"gold": [1.0, 0.0, 2.0, 2.0], "proxy": [3.0, 3.0, 3.0, 3.0], "ended": [True, False, True, True]}
    found = compared(now, START)
    assert found["gold"]["value"] == 1.25
    assert found["gain"]["value"] == found["win_rate"]["value"] - 0.125 == 0.75  # three wins and a tie
    assert found["proxy_gain"]["value"] == 2.0
    assert found["proxy_win_rate"]["value"] == 1.0
    assert found["ended"] == 0.75
    signs = signs_of(now, START)
    assert signs.proxy == 2.0  # from the start's mean 1 to 3, in spreads of 1
    assert signs.heldout == 0.0
    assert signs.disagreement is None  # one model agrees with itself
    assert {f["rule"]: f["value"] for f in found["findings"]}["gap"] == 1.0


def test_without_judges_there_is_only_what_the_answers_show():
    found = compared(record(), record())
    assert {"gold", "gain", "proxy", "proxy_gain", "proxy_win_rate"}.isdisjoint(found)
    states = {f["rule"]: f["state"] for f in found["findings"]}
    assert states["gap"] == states["disagreement"] == "not measured"
    assert set(states.values()) == {"ok", "not measured"}
    assert headline({"policy": "PPO", **found}) == "PPO: no judge was asked, KL 0.0 nats, alarms: none"


def test_prompts_on_which_a_judge_abstains_are_left_out_for_both():
    now = START | {"proxy": [None, 3.0, 1.0, 3.0]}
    start = START | {"proxy": [5.0, 2.0, 0.0, None]}
    assert compared(now, start)["proxy_gain"]["value"] == 1.0
    assert "proxy" not in compared(START | {"proxy": [None] * 4}, START)
    assert samples_of("PPO", now, 1) == [
        {"policy": "PPO", "prompt": "a", "text": "v w x y z", "proxy": None, "gold": 0.0}
    ]


def test_a_proxy_that_says_the_same_of_every_answer_has_no_spread():
    assert signs_of(START, START | {"proxy": [1.0] * 4}).proxy is None


def test_two_held_out_models_may_disagree():
    agreed = record(heldout=[[0.0, 1.0, 2.0, 3.0]] * 2)
    reversed_by_one = record(heldout=[[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    assert signs_of(reversed_by_one, agreed).disagreement == 1.0
    assert signs_of(agreed, agreed).disagreement == 0.0


def test_the_headline_goes_by_gold_then_by_the_proxy_and_never_says_minus_zero():
    assert headline({"policy": "P", **compared(START, START)}).startswith("P: gold +0.00 [+0.00, +0.00] against the")
    only_proxy = {
        "policy": "P",
        **compared(START | {"gold": [], "ended": [False] * 4, "kl": [-0.001] * 4}, START | {"gold": []}),
    }
    assert headline(only_proxy) == (
        "P: no gold, the proxy says +0.00 [+0.00, +0.00] against the start, KL 0.0 nats, alarms: none (watch: cut)"
    )
