import json
import math
from itertools import combinations, permutations

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from clew.feedback.aggregate import Outcome, bradley_terry, outcomes
from clew.feedback.plackett_luce import Order, fit_orders, orders
from clew.feedback.records import Comparison, Feedback, Ranking, Rater


def ranked(text: str) -> Order:
    """`"a bc d"`: a best, b and c tied, d last."""
    return Order(tuple(tuple(group) for group in text.split()))


def log_likelihood(order, strengths):
    """Of one order under these strengths."""
    likelihood = fit_orders([order]).likelihood
    return likelihood.gradient(np.array([strengths[item] for item in likelihood.items]), likelihood.counts)[0]


def simulated(rng, n, count, size):
    """Orders of random items drawn by Gumbel noise, best first, and the strengths behind them."""
    strengths = rng.normal(size=n)
    shown = np.array([rng.choice(n, size, replace=False) for _ in range(count)])
    best = np.argsort(-(strengths[shown] + rng.gumbel(size=shown.shape)), axis=1)
    return strengths - strengths.mean(), np.take_along_axis(shown, best, axis=1)


def names(row):
    return tuple((f"{i:03}",) for i in row)


def found(fit):
    return np.array(list(fit.strengths.values()))


S = {"a": 0.7, "b": -0.2, "c": 0.4, "d": -1.1}
E = {item: math.exp(s) for item, s in S.items()}


def test_three_places_worked_by_hand():
    chance = E["a"] / (E["a"] + E["b"] + E["c"]) * E["c"] / (E["b"] + E["c"])
    assert log_likelihood(ranked("a c b"), S) == pytest.approx(math.log(chance))


def test_chances_of_all_orders_sum_to_one_and_those_of_the_first_place_too():
    full = [math.exp(log_likelihood(ranked(" ".join(p)), S)) for p in permutations("abcd")]
    assert sum(full) == pytest.approx(1)
    first = [math.exp(log_likelihood(Order(((i,),), tuple(set("abcd") - {i})), S)) for i in "abcd"]
    assert first == pytest.approx([e / sum(E.values()) for e in E.values()])
    best_worst = [
        math.exp(log_likelihood(Order(((i,),), tuple(set("abcd") - {i, j}), j), S)) for i, j in permutations("abcd", 2)
    ]
    assert sum(best_worst) == pytest.approx(1)


def test_the_unordered_rest_is_what_its_orders_sum_to():
    orders_of_rest = [ranked(" ".join(("a", *p))) for p in permutations("bcd")]
    total = sum(math.exp(log_likelihood(order, S)) for order in orders_of_rest)
    assert math.exp(log_likelihood(Order((("a",),), ("b", "c", "d")), S)) == pytest.approx(total)


def test_a_tie_is_the_mean_over_its_orders():
    for text, group in (("d abc", "abc"), ("ab c", "ab"), ("abcd", "abcd")):
        unseen = [ranked(text.replace(group, " ".join(p))) for p in permutations(group)]
        assert log_likelihood(ranked(text), S) == pytest.approx(np.mean([log_likelihood(o, S) for o in unseen]))


def test_the_worst_of_two_is_the_second():
    assert log_likelihood(Order((("a",),), ("b",), "c"), S) == pytest.approx(log_likelihood(ranked("a b c"), S))
    assert log_likelihood(Order((), ("b",), "c"), S) == pytest.approx(math.log(expit(S["b"] - S["c"])))
    assert log_likelihood(Order((("a",), ("b",)), worst="c"), S) == pytest.approx(log_likelihood(ranked("a b c"), S))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.permutations("abcd"), st.sampled_from([1.0, 0.5, 0.0]), st.sampled_from([1.0, 2.5])), min_size=1
    ),
    st.sampled_from([0.05, 1.0]),
)
def test_rankings_of_two_are_bradley_terry(drawn, prior):
    judged = [Outcome(p[0], p[1], won, weight) for p, won, weight in drawn]
    texts = {1.0: "{0} {1}", 0.5: "{0}{1}", 0.0: "{1} {0}"}
    two = [ranked(texts[won].format(*p))._replace(weight=weight) for p, won, weight in drawn]
    assert fit_orders(two, prior=prior).strengths == pytest.approx(bradley_terry(judged, prior=prior), abs=1e-8)


ORDERS = st.lists(
    st.tuples(st.permutations("abcde"), st.integers(1, 4), st.integers(0, 3), st.booleans()).map(
        lambda d: Order(
            (*((i,) for i in d[0][: d[1] - 1]), tuple(d[0][d[1] - 1 : 5 - d[2]])),
            tuple(d[0][max(5 - d[2], d[1]) :]) if not d[3] else (),
        )
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(ORDERS, st.randoms(use_true_random=False))
def test_sequence_names_and_duplicates_do_not_matter(judged, random):
    judged = [order for order in judged if all(order.groups)]
    base = fit_orders(judged).strengths
    assert fit_orders(random.sample(judged, len(judged))).strengths == pytest.approx(base, abs=1e-8)
    assert fit_orders([o._replace(weight=0.5) for o in judged for _ in range(2)]).strengths == pytest.approx(
        base, abs=1e-8
    )
    new = dict(zip("abcde", "zyxwv", strict=True))
    renamed = [Order(tuple(tuple(new[i] for i in g) for g in o.groups), tuple(new[i] for i in o.rest)) for o in judged]
    assert fit_orders(renamed).strengths == pytest.approx({new[i]: s for i, s in base.items()}, abs=1e-8)


MIXED = [
    ranked("a bcd e"),
    ranked("c ab"),
    ranked("ab"),
    Order((("e",),), ("b", "c"), "a"),
    Order((("e",), ("d",)), ("b", "a"), "c", weight=2.0),
    Order((("b",),), ("a", "c", "d", "e")),
]


def test_derivatives_are_those_of_the_likelihood():
    rng = np.random.default_rng(0)
    likelihood = fit_orders(MIXED).likelihood
    theta, counts = rng.normal(size=5), rng.integers(1, 4, size=len(MIXED)).astype(float)
    step = 1e-5 * np.eye(5)

    def differences(value):
        return np.array([(value(theta + h) - value(theta - h)) / 2e-5 for h in step])

    slope = likelihood.gradient(theta, counts)[1]
    assert slope == pytest.approx(differences(lambda t: likelihood.gradient(t, counts)[0]), abs=1e-6)
    assert slope.sum() == pytest.approx(0)
    curvature = differences(lambda t: -likelihood.gradient(t, counts)[1])
    assert likelihood.information(theta, counts).toarray() == pytest.approx(curvature, abs=1e-6)
    assert likelihood.scores(theta).T @ counts == pytest.approx(slope)
    assert likelihood.gradient(theta + 3, counts)[0] == pytest.approx(likelihood.gradient(theta, counts)[0])


def test_choix_finds_the_same_maximum():
    _, rows = simulated(np.random.default_rng(1), 7, 60, 4)
    judged, theirs = [Order(names(row)) for row in rows], [tuple(map(int, row)) for row in rows]
    assert found(fit_orders(judged, prior=0)) == pytest.approx(choix.ilsr_rankings(7, theirs, tol=1e-12), abs=1e-6)
    said = choix.opt_rankings(7, theirs, alpha=0.5, tol=1e-10)
    assert found(fit_orders(judged, prior=1.0)) == pytest.approx(said - said.mean(), abs=1e-6)
    tops = [Order(names(row[:1]), tuple(f"{i:03}" for i in row[1:])) for row in rows]
    first = choix.ilsr_top1(7, [(r[0], r[1:]) for r in theirs], tol=1e-12)
    assert found(fit_orders(tops, prior=0)) == pytest.approx(first, abs=1e-6)


def test_the_truth_is_recovered_from_every_kind_of_order():
    truth, rows = simulated(np.random.default_rng(2), 8, 4000, 5)
    rest = [tuple(f"{i:03}" for i in row) for row in rows]
    kinds = {
        "full": [Order(names(row)) for row in rows],
        "prefix": [Order(names(row[:2]), r[2:]) for row, r in zip(rows, rest, strict=True)],
        "top-1": [Order(names(row[:1]), r[1:]) for row, r in zip(rows, rest, strict=True)],
    }
    for kind, judged in kinds.items():
        assert found(fit_orders(judged)) == pytest.approx(truth, abs=0.15), kind


def test_the_truth_is_recovered_from_best_and_worst():
    rng = np.random.default_rng(3)
    truth, judged = np.linspace(-1, 1, 6), []
    for _ in range(4000):
        shown = rng.choice(6, 4, replace=False)
        best = rng.choice(shown, p=np.exp(truth[shown]) / np.exp(truth[shown]).sum())
        left = shown[shown != best]
        worst = rng.choice(left, p=np.exp(-truth[left]) / np.exp(-truth[left]).sum())
        middle = tuple(f"{i:03}" for i in left if i != worst)
        judged.append(Order(names([best]), middle, f"{worst:03}"))
    assert found(fit_orders(judged)) == pytest.approx(truth, abs=0.1)


def test_what_is_unranked_is_not_tied():
    """Taken for a tie, the rest of a top-1 answer would be said to be equal, and strengths draw together."""
    truth, rows = simulated(np.random.default_rng(4), 8, 3000, 5)
    tied = [Order((*names(row[:1]), tuple(f"{i:03}" for i in row[1:]))) for row in rows]
    assert np.ptp(found(fit_orders(tied))) < 0.7 * np.ptp(truth)


def test_a_ranking_says_less_than_its_pairs_as_if_they_were_independent():
    """With few rankings of many items, strengths from all pairs are further from the truth (METHODS A3)."""
    errors = []
    for seed in range(40):
        truth, rows = simulated(np.random.default_rng(seed), 4, 60, 4)
        pairs = [Outcome(f"{a:03}", f"{b:03}", 1.0) for row in rows for a, b in combinations(row, 2)]
        whole = found(fit_orders([Order(names(row)) for row in rows], prior=0.01))
        parts = np.array(list(bradley_terry(pairs, prior=0.01).values()))
        errors.append([np.mean((s - truth) ** 2) for s in (whole, parts)])
    whole, parts = np.mean(errors, axis=0)
    assert whole < parts


def test_an_item_that_is_never_beaten_needs_a_prior():
    with pytest.raises(ValueError, match="use a prior > 0"):
        fit_orders([ranked("a b c"), ranked("a c b")], prior=0)
    assert np.isfinite(found(fit_orders([ranked("a b c"), ranked("a c b")]))).all()
    assert fit_orders([]).strengths == {}
    assert fit_orders([ranked("a b"), ranked("b c")._replace(weight=0.0)]).strengths.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("judged", "options", "message"),
    [
        (ranked("a ab"), {}, "each item once"),
        (Order((("a",),), ("b",), "b"), {}, "each item once"),
        (ranked("abcdefghijk l"), {}, "at most 10 items can be tied"),
        (ranked("a b"), {"clusters": ["r", "s"]}, "a cluster for each of 1 orders"),
    ],
)
def test_what_is_no_order_is_refused(judged, options, message):
    with pytest.raises(ValueError, match=message):
        fit_orders([judged], **options)


def test_orders_of_records_leave_out_what_was_not_rankable():
    rater = Rater(id="r", kind="person")

    def feedback(items, answer):
        return Feedback(task_id="t", items=items, rater=rater, answer=answer)

    records = [
        feedback(("a", "b", "c", "d"), Ranking(groups=((2,), (0, 1)), not_rankable=(3,))),
        feedback(("a", "b"), Comparison(verdict="first")),
        feedback(("a", "b"), Ranking(groups=((0,),), not_rankable=(1,))),
    ]
    assert orders(records) == [Order((("c",), ("a", "b")), rater="r")]


def rankings_of_oasst(folder):
    """Replies of each message of the trees in the order of people's ranks; places of rank."""
    with (folder / "oasst/en_100_tree.jsonl").open() as lines:
        stack = [json.loads(line)["prompt"] for line in lines]
    while stack:
        replies = stack.pop()["replies"]
        stack += replies
        places = [reply for reply in replies if reply.get("rank") is not None]
        if len(places) > 1:
            yield sorted(places, key=lambda reply: reply["rank"])


def test_rankings_of_oasst_come_back_in_their_order(shared_data):
    read = list(rankings_of_oasst(shared_data))
    judged = [Order(tuple((reply["message_id"],) for reply in replies)) for replies in read]
    assert len(judged) > 100 and max(len(order.groups) for order in judged) >= 5
    fit = fit_orders(judged)
    for order in judged:
        places = [fit.strengths[group[0]] for group in order.groups]
        assert places == sorted(places, reverse=True)
        assert sum(places) == pytest.approx(0, abs=1e-8)
    assert len(set(fit.components.values())) == len(judged)
    records = [
        Feedback(
            task_id="t",
            items=tuple(group[0] for group in order.groups),
            rater=Rater(id="crowd", kind="person"),
            answer=Ranking(groups=tuple((place,) for place in range(len(order.groups)))),
        )
        for order in judged
    ]
    assert [o.groups for o in orders(records)] == [o.groups for o in judged]
    by_pairs = bradley_terry(outcomes(records))
    assert np.corrcoef([fit.strengths[i] for i in by_pairs], list(by_pairs.values()))[0, 1] > 0.97
