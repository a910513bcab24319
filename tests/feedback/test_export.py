import json

import pytest

from clew.data.formats import parse_row
from clew.feedback.export import EXPORTS, pairs, rankings, scores, singles, votes, weighted, write_rows
from clew.feedback.records import Comparison, Feedback, Item, Ranking, Rater, Rating, Revision, Task, Thumb
from clew.feedback.store import Store
from clew.types import Message


def only(row, where):
    (example,) = parse_row(row, where)
    return example


ITEMS = {c: Item(prompt="q", completion=c) for c in "abc"}


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    store.add_items(list(ITEMS.values()))
    yield store
    store.close()


def add(store, kind, names, answer, rater="r"):
    task = Task(kind=kind, prompt="q", items=tuple(ITEMS[n].id for n in names))
    store.add_tasks([task])
    store.add_feedback(
        [Feedback(task_id=task.id, items=task.items, rater=Rater(id=rater, kind="person"), answer=answer)]
    )


def test_votes_on_a_pair_become_one_row_with_their_agreement(store):
    add(store, "comparison", "ab", Comparison(verdict="first"), "r1")
    add(store, "comparison", "ab", Comparison(verdict="first"), "r2")
    add(store, "comparison", "ba", Comparison(verdict="first"), "r3")  # shown the other way round, for b
    (row,) = pairs(store)
    assert (row["chosen"], row["rejected"], row["weight"]) == ("a", "b", 3.0)
    assert row["agreement"] == pytest.approx(2 / 3)


def test_a_verdict_that_flips_flips_the_label(store):
    add(store, "comparison", "ba", Comparison(verdict="second"), "r1")
    assert pairs(store)[0]["chosen"] == "a"


def test_even_votes_have_no_winner_and_revisions_are_pairs(store):
    add(store, "comparison", "ab", Comparison(verdict="first"), "r1")
    add(store, "comparison", "ab", Comparison(verdict="second"), "r2")
    assert pairs(store) == []
    add(store, "revision", "c", Revision(text="better c"))
    assert pairs(store)[0]["chosen"] == "better c"


def test_votes_count_as_their_raters_deserve(store):
    add(store, "comparison", "ab", Comparison(verdict="first"), "sure")
    add(store, "comparison", "ba", Comparison(verdict="first"), "troll")  # for b, that is: for a
    add(store, "comparison", "bc", Comparison(verdict="first"), "coin")
    (row,) = weighted(store, {"sure": 0.9, "troll": 0.2, "coin": 0.5})
    assert (row["chosen"], row["rejected"]) == ("a", "b")
    assert row["agreement"] == pytest.approx(36 / 37)  # odds 9 * 4
    assert row["weight"] == pytest.approx(0.7 / (36 / 37 - 0.5))  # pulls as hard as 0.4 + 0.3
    with pytest.raises(ValueError, match="no reliability of raters coin"):
        weighted(store, {"sure": 0.9, "troll": 0.2})


def test_without_reliabilities_people_are_trusted_and_outvote_a_troll(store):
    pairs_of_names = [(x, y) for x, y in ("ab", "bc", "ac", "ba", "cb", "ca")]
    for x, y in pairs_of_names:
        for rater in ("r1", "r2", "r3", "troll"):
            right = (x < y) == (rater != "troll")
            add(store, "comparison", x + y, Comparison(verdict="first" if right else "second"), rater)
    rows = weighted(store)
    assert {(r["chosen"], r["rejected"]) for r in rows} == {("a", "b"), ("b", "c"), ("a", "c")}
    assert min(r["agreement"] for r in rows) > max(r["agreement"] for r in pairs(store)) == 0.75


def test_every_vote_is_a_row_with_its_rater(store):
    add(store, "comparison", "ab", Comparison(verdict="first", margin=2), "r1")
    add(store, "comparison", "ab", Comparison(verdict="second"), "r2")
    add(store, "comparison", "ab", Comparison(verdict="tie"), "r3")
    add(store, "revision", "c", Revision(text="better c"), "r4")
    found = [(r["chosen"], r["rater"], r["margin"], r["agreement"], r["weight"]) for r in votes(store)]
    assert found == [("a", "r1", 2, 1, 1), ("b", "r2", 0, 1, 1), ("better c", "r4", 0, 1, 1)]


def test_rankings_and_scores(store):
    add(store, "ranking", "abc", Ranking(groups=((1,), (0,), (2,))))
    (row,) = rankings(store)
    assert (row["completions"], row["ranks"]) == (["b", "a", "c"], [0, 1, 2])
    by_text = {r["completion"]: r for r in scores(store)}
    assert by_text["b"]["score"] > by_text["a"]["score"] > by_text["c"]["score"]
    assert by_text["b"]["elo"] > by_text["c"]["elo"]
    assert by_text["a"]["judgements"] == 2


def test_a_tie_ranks_equal(store):
    add(store, "ranking", "abc", Ranking(groups=((1,), (0, 2))))
    assert rankings(store)[0]["ranks"] == [0, 1, 1]


def test_single_answers(store):
    add(store, "thumb", "a", Thumb(up=True))
    add(store, "rating", "b", Rating(scales={"x": 2, "y": 4}))
    assert singles(store) == [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "b", "rating": 3.0},
    ]


def test_conversations_are_exported_as_messages_and_read_back_whole(store):
    asked = (Message("user", "How was it?"), Message("assistant", "Fine."), Message("user", "Really?"))
    a, b = (Item(prompt=asked, completion=c) for c in ("Yes.", "No."))
    task = Task(kind="comparison", prompt=asked, items=(a.id, b.id))
    store.add_items([a, b])
    store.add_tasks([task])
    verdict = Comparison(verdict="second")
    store.add_feedback(
        [Feedback(task_id=task.id, items=task.items, rater=Rater(id="r", kind="person"), answer=verdict)]
    )
    assert store.items()[a.id] == a
    example = only(json.loads(json.dumps(pairs(store)[0])), "row")
    assert example.prompt == asked
    assert example.answers == ((Message("assistant", "No."),), (Message("assistant", "Yes."),))


def test_every_export_is_read_back_as_training_data(store, tmp_path):
    add(store, "ranking", "abc", Ranking(groups=((1,), (0,), (2,))))
    add(store, "thumb", "a", Thumb(up=True))
    for name, export in EXPORTS.items():
        file = tmp_path / f"{name}.jsonl"
        assert write_rows(file, export(store)) > 0
        for line in file.read_text().splitlines():
            assert only(json.loads(line), name).prompt == "q"


def test_strength_of_preference_and_cut_answers_reach_training(store):
    cut = Item(prompt="q", completion="unfinish", cut=True)
    store.add_items([cut])
    task = Task(kind="comparison", prompt="q", items=(ITEMS["a"].id, cut.id))
    store.add_tasks([task])
    answers = [
        Comparison(verdict="first", margin=3.0),
        Comparison(verdict="second", margin=1.0),
        Comparison(verdict="first"),
    ]
    for i, verdict in enumerate(answers):
        rater = Rater(id=str(i), kind="person")
        store.add_feedback([Feedback(task_id=task.id, items=task.items, rater=rater, answer=verdict)])
    example = only(pairs(store)[0], "row")
    assert example.answers == ("a", "unfinish")
    assert example.margin == pytest.approx(2 / 3)
    assert example.cut == (1,)
