import pytest

from clew.data.imports import imported
from clew.data.sources import read_rows
from clew.feedback.aggregate import bradley_terry, outcomes
from clew.feedback.records import StepLabels
from clew.feedback.store import Store


def winner(found, record):
    """The text that was said to be better; None for a tie."""
    place = {"first": 0, "second": 1}.get(record.answer.verdict)
    return None if place is None else found.items[record.items[place]].completion


def test_a_pair_is_a_vote_whose_order_does_not_tell_who_won():
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "margin": 2.0} for i in range(40)]
    found = imported(rows, "hh")
    assert {winner(found, f) for f in found.feedback.values()} == {"good"}
    verdicts = [f.answer.verdict for f in found.feedback.values()]
    assert 8 < verdicts.count("first") < 32
    assert {f.answer.margin for f in found.feedback.values()} == {2.0}
    assert {f.rater.id for f in found.feedback.values()} == {"hh"}


def test_pandalm_keeps_each_annotators_verdict():
    row = {
        "instruction": "q",
        "input": "",
        "response1": "x",
        "response2": "y",
        "annotator1": 1,
        "annotator2": 2,
        "annotator3": 0,
    }
    found = imported([row], "pandalm")
    assert {f.rater.id: winner(found, f) for f in found.feedback.values()} == {
        "annotator1": "x",
        "annotator2": "y",
        "annotator3": None,
    }
    assert len(found.tasks) == 1


def test_an_arena_battle_is_a_vote_on_the_last_replies_and_knows_tie_from_both_bad():
    asked = [{"role": "user", "content": "q"}]
    a, b = ([*asked, {"role": "assistant", "content": c}] for c in "xy")
    row = {"judge": "u1", "model_a": "m1", "model_b": "m2", "conversation_a": a, "conversation_b": b}
    names = ("model_a", "tie", "tie (bothbad)")
    found = imported([{**row, "winner": w, "judge": w} for w in names], "arena")
    said = {f.rater.id: f for f in found.feedback.values()}
    assert winner(found, said["model_a"]) == "x"
    assert [said[w].answer.verdict for w in names[1:]] == ["tie", "both_bad"]
    assert {i.completion: i.source for i in found.items.values()} == {"x": "m1", "y": "m2"}
    other = {**row, "winner": "model_a", "conversation_b": [{"role": "user", "content": "other"}, b[1]]}
    assert imported([other], "arena").left_out == {"texts are elsewhere": 1}


def test_a_tree_of_oasst_is_a_ranking_at_every_turn_with_ranked_replies():
    replies = [{"role": "assistant", "text": t, "rank": r, "replies": []} for t, r in (("b", 1), ("a", 0), ("c", 2))]
    row = {"message_tree_id": "1", "prompt": {"role": "prompter", "text": "q", "replies": replies}}
    found = imported([row], "oasst")
    (record,) = found.feedback.values()
    order = [found.items[record.items[place]].completion for (place,) in record.answer.groups]
    assert order == ["a", "b", "c"]


def test_prm800k_is_step_labels_of_its_labeller():
    steps = [{"completions": [{"text": t, "rating": r}], "chosen_completion": 0} for t, r in (("s1", 1), ("s2", -1))]
    row = {"labeler": "L7", "question": {"problem": "1+1"}, "label": {"steps": steps, "finish_reason": "found_error"}}
    found = imported([row], "prm800k")
    (record,) = found.feedback.values()
    assert record.answer == StepLabels(labels=(1, -1), first_error=1, finish_reason="found_error")
    assert record.rater.id == "L7"
    assert found.items[record.items[0]].steps == ("s1", "s2")


def test_argilla_and_label_studio_keep_who_said_what():
    fields = {"prompt": "q", "response_1": "x", "response_2": "y"}
    given = [
        {"user_id": u, "value": v, "status": s}
        for u, v, s in (
            ("u1", "response_1", "submitted"),
            ("u2", "response_2", "submitted"),
            ("u3", "response_2", "discarded"),
        )
    ]
    argilla = imported([{"fields": fields, "responses": {"better": given}}], "argilla")
    assert {f.rater.id: winner(argilla, f) for f in argilla.feedback.values()} == {"u1": "x", "u2": "y"}
    assert argilla.left_out == {"no answer": 1} or argilla.left_out == {}
    studio = {
        "data": fields,
        "annotations": [
            {"completed_by": 4, "result": [{"from_name": "c", "value": {"selected": "left"}}]},
            {"completed_by": {"email": "b@x.org"}, "result": [{"from_name": "c", "value": {"selected": "right"}}]},
        ],
    }
    found = imported([studio], "studio")
    assert {f.rater.id: winner(found, f) for f in found.feedback.values()} == {"4": "x", "b@x.org": "y"}


def test_what_says_nothing_is_counted():
    rows = [{"prompt": "q", "chosen": "same", "rejected": "same"}, {"prompt": "only asked"}]
    found = imported(rows, "x")
    assert found.left_out == {"the same answer twice": 1, "no answer": 1}
    assert not found.feedback


def test_the_same_person_on_the_same_task_again_is_a_repeat():
    row = {"question_id": 1, "turn": 1, "judge": "j", "model_a": "m1", "model_b": "m2"}
    found = imported([{**row, "winner": w} for w in ("model_a", "model_b")], "bench")
    assert sorted(f.repeat for f in found.feedback.values()) == [0, 1]


def test_thumbs_ratings_and_demonstrations():
    rows = [
        {"prompt": "q", "completion": c, **more}
        for c, more in (("a", {"label": True}), ("b", {"rating": 3.5}), ("c", {}))
    ]
    found = imported(rows, "x", kind="model")
    assert {f.answer.kind for f in found.feedback.values()} == {"thumb", "rating", "demonstration"}
    assert {f.rater.kind for f in found.feedback.values()} == {"model"}


def test_imported_twice_is_imported_once(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    for _ in range(2):
        imported(rows, "x").into(store)
    assert len(store.feedback()) == len(store.tasks()) == 1
    assert store.damage() == []


@pytest.mark.parametrize(
    ("name", "kinds"), [("hh_rlhf", {"comparison"}), ("oasst", {"comparison", "ranking"}), ("pandalm", {"comparison"})]
)
def test_real_files(shared_data, name, kinds):
    files = [
        f
        for f in sorted((shared_data / name).iterdir())
        if f.suffix in (".jsonl", ".json", ".gz") and "PROV" not in f.name
    ]
    for file in files:
        rows = list(read_rows(str(file)))[:200]
        if "idx" in rows[0] and "instruction" not in rows[0]:
            continue
        found = imported(rows, file.stem)
        assert len(found.feedback) > 50
        assert {f.answer.kind for f in found.feedback.values()} <= kinds


def test_the_votes_of_mt_bench_rank_its_models_as_known(shared_data):
    found = imported(read_rows(str(shared_data / "mt_bench_judgments" / "human.jsonl")), "mt_bench")
    model = {key: item.source for key, item in found.items.items()}
    judged = [o._replace(first=model[o.first], second=model[o.second]) for o in outcomes(found.feedback.values())]
    strengths = bradley_terry(judged)
    order = sorted(strengths, key=lambda m: -strengths[m])
    assert order[0] == "gpt-4"
    assert set(order[1:3]) == {"claude-v1", "gpt-3.5-turbo"}  # too close to tell apart
    assert order[3:] == ["vicuna-13b-v1.2", "alpaca-13b", "llama-13b"]
