"""The desk's contract, on SQLite and on PostgreSQL: leases, answers, skips, undo, and what many people do at once."""

import shutil
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clew.feedback import schema
from clew.feedback.answers import Expired, Submission
from clew.feedback.desk import Desk
from clew.feedback.projects import Gold, ProjectConfig
from clew.feedback.records import (
    Comparison,
    Conversation,
    Demonstration,
    Exchange,
    Item,
    Ranking,
    Span,
    Spans,
    StepLabels,
    Task,
    Thumb,
)
from clew.feedback.store import Conflict, Store
from tests.feedback.conftest import draw_from_a_seed, new_schema

MINUTE, DAY = 60_000, 24 * 60 * 60_000
FIRST, SECOND = (Submission(answer=Comparison(verdict=v)) for v in ("first", "second"))


def pairs(num: int) -> tuple[list[Item], list[Task]]:
    items = [Item(prompt=f"q{i}", completion=c, source=f"model {c}") for i in range(num) for c in "ab"]
    return items, [
        Task(kind="comparison", prompt=f"q{i}", items=(items[2 * i].id, items[2 * i + 1].id)) for i in range(num)
    ]


def start(desk: Desk, num: int = 6, *, gold: int = 0, training: int = 0, people: int = 1, groups: str = "", **config):
    """Project and people; the first `gold` tasks are known to have their first item better, the next ones train."""
    plain = {"kind": "comparison", "audit_share": 0.0, "gold_rate": 0.0, "repeat_rate": 0.0}
    project = desk.projects.add("p", ProjectConfig(**{**plain, **config}), actor="o", now=0)
    items, tasks = pairs(num)
    known = {t.id: Gold(Comparison(verdict="first"), "a is right") for t in tasks[: gold + training]}
    desk.projects.put(
        project.id, tasks[gold : gold + training], items=items, gold=known, training=True, actor="o", now=0
    )
    desk.projects.put(project.id, tasks, items=items, gold=known, actor="o", now=0)
    found = [desk.people.add("annotator", group=groups[i : i + 1], actor="o", now=0)[0].id for i in range(people)]
    return project.id, found, tasks


def first_of_task(leased) -> Submission:
    """The answer for which the item "a", the first in the task's order, is better."""
    return FIRST if leased.items[0].completion == "a" else SECOND


def answer_all(desk, person, project, now=0, limit=1000, right=True):
    """Everything there is for a person; the leases as they were shown."""
    done = []
    while len(done) < limit and (found := desk.lease(person, project, 1, now=now)):
        submission = first_of_task(found[0])
        wrong = SECOND if submission is FIRST else FIRST
        desk.answer(person, found[0].lease, submission if right else wrong, now=now)
        done.append(found[0])
    return done


def test_an_answer_is_feedback_with_the_items_as_they_were_shown(desk):
    project, (anna,), tasks = start(desk, 1)
    (leased,) = desk.lease(anna, project, 3, now=5)
    assert leased.expires == 5 + 15 * MINUTE
    assert {i.id for i in leased.items} == set(tasks[0].items)
    receipt = desk.answer(anna, leased.lease, Submission(answer=Comparison(verdict="first"), client_ms=1500), now=9)
    (found,) = desk.store.feedback()
    assert (found.id, found.items, found.seconds) == (receipt.answer, tuple(i.id for i in leased.items), 1.5)
    assert (found.rater.id, found.rater.kind) == (anna, "person")
    assert receipt.undo_until == 9 + 10 * MINUTE
    assert desk.lease(anna, project, 3, now=10) == []
    assert [e.type for e in desk.store.events()][-2:] == ["leased", "answer"]


def test_a_judge_is_recorded_as_a_model(desk):
    project, _, _ = start(desk, 1)
    judge = desk.people.add("judge", name="gpt", actor="o", now=0)[0].id
    answer_all(desk, judge, project)
    assert desk.store.feedback()[0].rater.kind == "model"


def test_sent_again_it_is_the_same_and_another_answer_is_a_conflict(desk):
    project, (anna,), _ = start(desk)
    (leased,) = desk.lease(anna, project, now=0)
    first = desk.answer(anna, leased.lease, FIRST, now=1)
    again = desk.answer(anna, leased.lease, FIRST.model_copy(update={"client_ms": 9}), now=20 * MINUTE)
    assert (again.answer, again.is_new, again.undo_until) == (first.answer, False, first.undo_until)
    for other in (SECOND, FIRST.model_copy(update={"note": "hm"})):
        with pytest.raises(Conflict, match="has another answer already; undo it"):
            desk.answer(anna, leased.lease, other, now=2)
    with pytest.raises(Expired):
        desk.skip(anna, leased.lease, now=2)
    assert len(desk.store.feedback()) == 1


def test_own_leases_come_first_and_there_are_never_more_than_five(desk):
    project, (anna,), _ = start(desk, 9)
    two = [x.lease for x in desk.lease(anna, project, 2, now=0)]
    assert [x.lease for x in desk.lease(anna, project, 3, now=1)][:2] == two
    assert len(desk.lease(anna, project, 50, now=2)) == 5
    desk.answer(anna, two[0], FIRST, now=3)
    assert len(desk.lease(anna, project, 50, now=4)) == 5


def test_who_holds_tasks_of_one_project_gets_those_of_another(desk):
    project, (anna,), _ = start(desk, 9)
    other = desk.projects.add("other", ProjectConfig(kind="comparison"), actor="o", now=0).id
    desk.projects.put(other, desk.store.tasks(), actor="o", now=0)
    assert len(desk.lease(anna, project, 5, now=1)) == 5
    assert len(desk.lease(anna, other, 5, now=2)) == 4


def test_another_persons_lease_is_as_if_it_were_not_there(desk):
    project, (anna, ben), _ = start(desk, people=2)
    (leased,) = desk.lease(anna, project, now=0)
    for act in (
        lambda: desk.answer(ben, leased.lease, FIRST, now=1),
        lambda: desk.skip(ben, leased.lease, now=1),
        lambda: desk.heartbeat(ben, leased.lease, now=1),
        lambda: desk.leased(ben, leased.lease),
        lambda: desk.undo(ben, desk.answer(anna, leased.lease, FIRST, now=1).answer, now=1),
    ):
        with pytest.raises(KeyError, match="you have no"):
            act()


def test_nobody_who_is_paused_and_no_project_that_is_closed_gives_tasks(desk):
    project, (anna,), _ = start(desk)
    desk.people.set_state(anna, "paused", actor="o", now=0)
    assert desk.lease(anna, project, now=1) == []
    desk.people.set_state(anna, "active", actor="o", now=2)
    desk.projects.change(project, state="paused", actor="o", now=2)
    assert desk.lease(anna, project, now=3) == []


def test_excluded_people_are_left_out_until_they_are_active_again_and_nothing_is_deleted(desk):
    project, (anna, ben), _ = start(desk, 3, need=2, people=2)
    answer_all(desk, anna, project)
    answer_all(desk, ben, project)
    desk.people.set_state(ben, "excluded", reason="spam", actor="o", now=1)
    assert {f.rater.id for f in desk.store.feedback()} == {anna}
    assert len(desk.store.feedback(excluded=True)) == 6
    desk.people.set_state(ben, "active", actor="o", now=2)
    assert len(desk.store.feedback()) == 6


def test_a_task_gets_as_many_answers_as_it_needs_of_as_many_people(desk):
    project, people, tasks = start(desk, 4, people=4, need=3)
    done = [len(answer_all(desk, person, project)) for person in people]
    assert done == [4, 4, 4, 0]
    assert Counter(f.task_id for f in desk.store.feedback()) == {t.id: 3 for t in tasks}
    assert desk.projects.progress(project) == (4, 4, 0, 12, 12, 0, 12)


def test_an_audit_share_gets_three_answers(desk):
    project, _, _ = start(desk, 400, audit_share=0.1)
    need = desk.projects.progress(project).needed
    assert 400 + 2 * 20 < need < 400 + 2 * 65


def test_begun_tasks_are_finished_before_new_ones_are_begun(desk):
    project, (anna, ben), _ = start(desk, 30, people=2, need=2)
    begun = {x.items[0].prompt for x in answer_all(desk, anna, project, limit=7)}
    assert {x.items[0].prompt for x in answer_all(desk, ben, project, limit=7)} == begun


def test_what_active_selection_found_comes_first_and_at_random_is_the_baseline(desk):
    project, (anna,), tasks = start(desk, 30)
    wanted = [tasks[i] for i in (3, 17, 22)]
    desk.projects.prioritise(project, {t.id: 1.0 + i for i, t in enumerate(wanted)}, actor="o", now=0)
    assert [x.prompt for x in desk.lease(anna, project, 3, now=0)] == [t.prompt for t in reversed(wanted)]
    config = desk.projects.find(project).config
    desk.projects.change(project, config=config.model_copy(update={"by": "random"}), actor="o", now=0)
    ben = desk.people.add("annotator", actor="o", now=0)[0].id
    assert {x.prompt for x in desk.lease(ben, project, 5, now=0)} != {t.prompt for t in wanted}


def test_a_lease_that_runs_out_is_given_to_others_and_a_heartbeat_keeps_it(desk):
    project, (anna, ben), _ = start(desk, 1, people=2)
    (leased,) = desk.lease(anna, project, now=0)
    assert desk.lease(ben, project, now=14 * MINUTE) == []
    assert desk.heartbeat(anna, leased.lease, now=14 * MINUTE) == 29 * MINUTE
    assert desk.lease(ben, project, now=20 * MINUTE) == []
    (taken,) = desk.lease(ben, project, now=29 * MINUTE)
    assert taken.prompt == leased.prompt
    with pytest.raises(Expired, match="has run out"):
        desk.heartbeat(anna, leased.lease, now=30 * MINUTE)


def test_a_late_answer_is_kept_while_the_task_is_open_and_refused_when_it_is_not(desk):
    project, (anna, ben, cleo), _ = start(desk, 1, people=3)
    leases = {who: desk.lease(who, project, now=t)[0].lease for who, t in ((anna, 0), (ben, 20 * MINUTE))}
    late = desk.answer(anna, leases[anna], FIRST, now=21 * MINUTE)
    assert late.is_late
    assert desk.projects.progress(project)[4:] == (0, 1, 1)  # Ben still has the seat
    desk.answer(ben, leases[ben], FIRST, now=22 * MINUTE)
    assert desk.projects.progress(project)[4:] == (1, 0, 2)
    assert desk.lease(cleo, project, now=23 * MINUTE) == []
    assert [e.type for e in desk.store.events() if e.type in ("late", "answer")] == ["late", "answer"]


def test_a_late_answer_takes_the_seat_that_nobody_has(desk):
    project, (anna, ben), _ = start(desk, 1, people=2)
    (leased,) = desk.lease(anna, project, now=0)
    desk.expire(now=20 * MINUTE)
    assert desk.answer(anna, leased.lease, FIRST, now=21 * MINUTE).is_late
    assert desk.projects.progress(project)[4:] == (1, 0, 1)
    assert desk.lease(ben, project, now=22 * MINUTE) == []


def test_too_late_for_a_task_that_others_have_answered(desk):
    project, (anna, ben), _ = start(desk, 1, people=2)
    (old,) = desk.lease(anna, project, now=0)
    (new,) = desk.lease(ben, project, now=20 * MINUTE)
    desk.answer(ben, new.lease, FIRST, now=21 * MINUTE)
    with pytest.raises(Expired, match="others have answered"):
        desk.answer(anna, old.lease, FIRST, now=22 * MINUTE)
    assert len(desk.store.feedback()) == 1


def test_what_a_person_let_run_out_comes_back_as_it_was_shown(desk):
    project, (anna,), _ = start(desk, 1)
    (before,) = desk.lease(anna, project, now=0)
    (after,) = desk.lease(anna, project, now=20 * MINUTE)
    assert (after.lease, after.items) == (before.lease, before.items)


def test_who_skips_never_sees_it_again_and_the_third_puts_it_before_the_operator(desk):
    project, people, tasks = start(desk, 1, people=4)
    for person in people[:3]:
        (leased,) = desk.lease(person, project, now=0)
        desk.skip(person, leased.lease, reason="unclear", now=1)
        desk.skip(person, leased.lease, reason="unclear", now=2)
        with pytest.raises(Conflict, match="was skipped"):
            desk.answer(person, leased.lease, FIRST, now=3)
        assert desk.lease(person, project, now=3) == []
    assert desk.lease(people[3], project, now=4) == []
    assert desk.projects.progress(project).held == 1
    assert [e.body["held"] for e in desk.store.events(types=["skipped"])] == [False, False, True]
    desk.projects.release(project, tasks[0].id, actor="o", now=5)
    assert len(desk.lease(people[3], project, now=6)) == 1


def test_an_answer_can_be_changed_for_ten_minutes_as_a_new_revision(desk):
    project, (anna,), _ = start(desk, 1)
    (leased,) = desk.lease(anna, project, now=0)
    given = desk.answer(anna, leased.lease, FIRST, now=0)
    again = desk.undo(anna, given.answer, now=9 * MINUTE)
    assert (again.items, again.answer) == (leased.items, FIRST.answer)
    assert desk.undo(anna, given.answer, now=9 * MINUTE).lease == again.lease
    assert desk.store.feedback()[0].answer == FIRST.answer  # it counts until another comes
    changed = desk.answer(anna, again.lease, SECOND, now=10 * MINUTE)
    assert [f.answer.verdict for f in desk.store.feedback()] == ["second"]
    assert [f.revision for f in desk.store.feedback(history=True)] == [0, 1]
    assert desk.projects.progress(project)[4:] == (1, 0, 1)
    with pytest.raises(Conflict, match="newer revision; undo that one"):
        desk.undo(anna, given.answer, now=10 * MINUTE)
    with pytest.raises(Expired, match="for 10 minutes"):
        desk.undo(anna, changed.answer, now=21 * MINUTE)
    assert [g.answer for g in desk.history(anna)] == [changed.answer, given.answer]


def test_training_explains_and_screening_and_checks_look_like_work(desk):
    project = desk.projects.add(
        "q",
        ProjectConfig(kind="comparison", audit_share=0, training=2, screening=3, gold_rate=0.2, repeat_rate=0),
        actor="o",
        now=0,
    ).id
    items, tasks = pairs(110)
    known = {t.id: Gold(Comparison(verdict="first"), "a is right") for t in tasks[:42]}
    desk.projects.put(project, tasks[:2], items=items, gold=known, training=True, actor="o", now=0)
    desk.projects.put(project, tasks[2:], items=items, gold=known, actor="o", now=0)
    anna = desk.people.add("annotator", actor="o", now=0)[0].id
    for right in (True, False):
        (leased,) = desk.lease(anna, project, now=0)
        assert leased.mode == "training"
        better = first_of_task(leased)
        given = desk.answer(anna, leased.lease, better if right else (SECOND if better is FIRST else FIRST), now=0)
        assert given.lesson == (right, "a is right")
        with pytest.raises(Conflict, match="the explanation has been shown"):
            desk.undo(anna, given.answer, now=0)
    seen, fields = [], set()
    gold = {t.prompt for t in tasks[:42]}
    while len(seen) < 60:
        (leased,) = desk.lease(anna, project, now=0)
        assert leased.mode == "work"
        assert desk.answer(anna, leased.lease, first_of_task(leased), now=0).lesson is None
        fields.add(tuple(type(getattr(leased, name)).__name__ for name in leased.__dataclass_fields__))
        seen.append(leased.prompt in gold)
    assert seen[:3] == [True] * 3
    assert not any(a and b for a, b in pairwise(seen[2:]))  # never two in a row
    assert 6 <= sum(seen[3:]) <= 17  # of 57, at a rate of 0.2
    assert len(fields) == 1  # nothing in what is sent tells a check from work
    assert len(desk.store.feedback()) == 60 - sum(seen)
    assert len(desk.store.feedback(purposes=["gold", "screening"])) == sum(seen)


def test_screening_is_the_same_for_everybody_and_who_fails_is_paused(desk):
    project, (anna, ben), _ = start(desk, 20, gold=8, people=2, screening=4, screening_pass=0.75)
    shown = [answer_all(desk, who, project, limit=4, right=right) for who, right in ((anna, True), (ben, False))]
    assert [x.prompt for x in shown[0]] == [x.prompt for x in shown[1]]
    assert desk.people.find(anna).state == "active"
    assert desk.people.find(ben).state == "paused"
    assert desk.store.events(types=["person.state"])[0].body["reason"] == "screening of p: 0 of 4 right"
    assert desk.lease(ben, project, now=1) == []


def test_a_repeat_comes_after_a_day_with_the_slots_swapped_and_is_no_vote(desk):
    project, (anna,), _ = start(desk, 24, repeat_rate=0.9)
    before = {x.prompt: x for x in answer_all(desk, anna, project, limit=12)}
    again = [x for x in answer_all(desk, anna, project, now=DAY, limit=12) if x.prompt in before]
    assert len(again) > 5
    assert all(x.items == before[x.prompt].items[::-1] for x in again)
    assert len({x.prompt for x in again}) == len(again)
    assert len(desk.store.feedback(repeats=True)) == 24
    assert desk.projects.progress(project).answered == 24 - len(again)


def test_asking_stops_when_the_label_is_sure_and_goes_on_when_it_is_not(desk):
    project, people, tasks = start(desk, 2, people=6, need=3, adaptive=True, max_need=5, accuracy=0.85)
    agreed, disputed = tasks
    for number, person in enumerate(people):
        for leased in desk.lease(person, project, 2, now=number):
            verdict = first_of_task(leased)
            if leased.prompt == disputed.prompt and number % 2:
                verdict = SECOND if verdict is FIRST else FIRST
            desk.answer(person, leased.lease, verdict, now=number)
    assert Counter(f.task_id for f in desk.store.feedback()) == {agreed.id: 2, disputed.id: 5}


def test_a_task_is_spread_over_groups_of_raters(desk):
    project, people, tasks = start(desk, 12, people=4, groups="nnss", need=2)
    for person in people:
        answer_all(desk, person, project, limit=6)
    groups = dict(zip(people, "nnss", strict=True))
    by_task = {t.id: "" for t in tasks}
    for f in desk.store.feedback():
        by_task[f.task_id] += groups[f.rater.id]
    assert {"".join(sorted(g)) for g in by_task.values()} == {"ns"}


def test_both_orders_of_a_pair_are_shown_equally_often_over_its_annotators(desk):
    project, people, tasks = start(desk, 10, people=4, need=4)
    for person in people:
        answer_all(desk, person, project)
    first = Counter((f.task_id, f.items[0]) for f in desk.store.feedback())
    assert set(first.values()) == {2}
    assert len(first) == 2 * len(tasks)


def test_an_order_that_was_skipped_is_given_to_the_next(desk):
    project, people, _ = start(desk, 1, people=3, need=2)
    shown = []
    for number, person in enumerate(people):
        (leased,) = desk.lease(person, project, now=0)
        if number == 0:
            desk.skip(person, leased.lease, now=0)
        else:
            shown.append(leased.items)
            desk.answer(person, leased.lease, FIRST, now=0)
    assert shown[0] == shown[1][::-1]


@pytest.mark.parametrize(
    ("kind", "items", "good", "bad", "says"),
    [
        (
            "thumb",
            1,
            Thumb(up=True),
            Comparison(verdict="tie"),
            "a thumb task is answered by a thumb; got a comparison",
        ),
        ("prompt", 0, Demonstration(text="Why?"), Thumb(up=True), "a prompt task is answered by a demonstration"),
        ("clips", 2, Comparison(verdict="tie"), Thumb(up=True), "a clips task is answered by a comparison"),
        ("ranking", 3, Ranking(groups=((2,), (0, 1))), Ranking(groups=((0,), (1,))), "place each of 3 slots once"),
        (
            "spans",
            1,
            Spans(spans=(Span(start=1, end=3, text="👍x", category="c"),)),
            Spans(spans=(Span(start=2, end=4, text="👍x", category="c"),)),
            "code points",
        ),
        (
            "steps",
            1,
            StepLabels(labels=(1, -1), first_error=1, finish_reason="found_error"),
            StepLabels(labels=(1,)),
            "1 of 2 steps have no label",
        ),
        ("steps", 1, StepLabels(labels=(0, 1)), StepLabels(labels=(1, 1), first_error=1), "must be a step labelled -1"),
        ("steps", 1, StepLabels(labels=(0, 1)), StepLabels(labels=(1, 1, 1)), "there are 2 steps to label"),
    ],
)
def test_an_answer_that_does_not_fit_its_task_is_refused(desk, kind, items, good, bad, says):
    project = desk.projects.add("k", ProjectConfig(kind=kind, audit_share=0, gold_rate=0), actor="o", now=0).id
    shown = [Item(prompt="q", completion=f"a👍x{i}", steps=("a👍", f"x{i}")) for i in range(items)]
    desk.projects.put(
        project, [Task(kind=kind, prompt="q", items=tuple(i.id for i in shown))], items=shown, actor="o", now=0
    )
    anna = desk.people.add("annotator", actor="o", now=0)[0].id
    (leased,) = desk.lease(anna, project, now=0)
    with pytest.raises(ValueError, match=says):
        desk.answer(anna, leased.lease, Submission(answer=bad), now=0)
    desk.answer(anna, leased.lease, Submission(answer=good), now=0)


def test_a_conversation_is_a_comparison_each_turn(desk):
    config = ProjectConfig(kind="conversation", audit_share=0, gold_rate=0)
    project = desk.projects.add("c", config, actor="o", now=0).id
    desk.projects.put(project, [Task(kind="conversation", prompt="Be kind.")], actor="o", now=0)
    anna = desk.people.add("annotator", actor="o", now=0)[0].id
    (leased,) = desk.lease(anna, project, now=0)
    assert desk.turn(anna, leased.lease, "Hi", ("Hello", "What?"), choice=None, now=0) == 0
    with pytest.raises(ValueError, match="choose reply 0 or 1"):
        desk.turn(anna, leased.lease, "More", ("x", "y"), choice=None, now=0)
    desk.turn(anna, leased.lease, "More", ("yes", "no"), choice=0, now=0)
    assert [t.user for t in desk.leased(anna, leased.lease).turns] == ["Hi", "More"]
    said = (Exchange(user="Hi", choice=0, margin=2), Exchange(user="More", choice=1))
    with pytest.raises(ValueError, match="turn 0 went on from reply 0; got 1"):
        other = (said[0].model_copy(update={"choice": 1}), said[1])
        desk.answer(anna, leased.lease, Submission(answer=Conversation(exchanges=other)), now=0)
    given = desk.answer(anna, leased.lease, Submission(answer=Conversation(exchanges=said)), now=0)
    first, second = desk.store.feedback("comparison")
    items = desk.store.items()
    assert [items[i].completion for i in first.items + second.items] == ["Hello", "What?", "yes", "no"]
    assert (first.answer.verdict, first.answer.margin, second.answer.verdict) == ("first", 2, "second")
    assert [m.content for m in items[second.items[0]].prompt] == ["Be kind.", "Hi", "Hello", "More"]
    again = desk.undo(anna, given.answer, now=1)
    changed = (said[0], said[1].model_copy(update={"choice": 0}))
    desk.answer(anna, again.lease, Submission(answer=Conversation(exchanges=changed)), now=2)
    assert [f.answer.verdict for f in desk.store.feedback("comparison")] == ["first", "first"]
    assert desk.store.damage() == []


def test_a_pair_the_other_way_round_is_the_same_question_and_equal_answers_are_none(desk):
    project, _, tasks = start(desk, 2)
    turned = [Task(kind="comparison", prompt=t.prompt, items=t.items[::-1]) for t in tasks]
    assert desk.projects.put(project, turned, actor="o", now=0) == 0
    assert desk.projects.progress(project).tasks == 2
    same = Task(kind="comparison", prompt="q0", items=(tasks[0].items[0],) * 2)
    with pytest.raises(ValueError, match="shows the same answer twice: 'q0'"):
        desk.projects.put(project, [same], actor="o", now=0)
    with pytest.raises(ValueError, match="asks for comparison; got a demonstration task"):
        desk.projects.put(project, [Task(kind="demonstration", prompt="q")], actor="o", now=0)


def test_tokens_let_in_until_they_are_rotated_and_only_their_hash_is_kept(desk, place):
    anna, token = desk.people.add("annotator", name="Anna", actor="o", now=0)
    assert desk.people.by_token(token) == anna
    assert desk.people.by_token(token[:-1]) is None
    assert len(token) >= 43  # 256 bits
    secret = desk.people.open_session(anna.id, expires=100)
    assert desk.people.in_session(secret, now=99) == anna
    assert desk.people.in_session(secret, now=100) is None
    new = desk.people.rotate(anna.id, actor="o", now=1)
    assert desk.people.by_token(token) is desk.people.in_session(secret, now=1) is None
    assert desk.people.by_token(new) == anna
    with desk.store.read() as connection:
        kept = str([connection.execute(sa.select(t)).all() for t in (schema.people, schema.sessions, schema.events)])
    assert all(word not in kept for word in (token, secret, new))
    desk.people.erase(anna.id, actor="o", now=2)
    assert desk.people.by_token(new) is None
    assert desk.people.find(anna.id).name == ""
    with pytest.raises(KeyError, match="nobody has the id 'x'"):
        desk.people.rotate("x", actor="o", now=0)


def test_a_reply_is_remembered_by_its_key(desk):
    anna = desk.people.add("annotator", actor="o", now=0)[0].id
    assert desk.replied("k", anna, "/x") is None
    desk.remember("k", anna, "/x", 201, "{}", now=0)
    assert desk.replied("k", anna, "/x") == (201, "{}")
    assert desk.replied("k", "ben", "/x") is None
    with pytest.raises(ValueError, match="was used for /x; use a new one"):
        desk.replied("k", anna, "/y")


def at_once(num: int, work) -> None:
    """Run work(i) in threads that start together; the first error is raised."""
    barrier, errors = threading.Barrier(num), []

    def run(i):
        barrier.wait()
        try:
            work(i)
        except BaseException as error:  # noqa: BLE001 - the thread would swallow it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_eight_people_at_once_neither_lose_nor_double_anything(desk):
    project, people, tasks = start(desk, 16, people=8, need=3)

    def work(i):
        for _ in range(60):
            if desk.projects.progress(project).answered == 48:
                return
            for leased in desk.lease(people[i], project, 2, now=0):
                desk.answer(people[i], leased.lease, first_of_task(leased), now=0)

    at_once(8, work)
    found = desk.store.feedback()
    assert Counter(f.task_id for f in found) == {t.id: 3 for t in tasks}
    assert len({(f.task_id, f.rater.id) for f in found}) == 48
    assert desk.projects.progress(project) == (16, 16, 0, 48, 48, 0, 48)
    assert desk.store.damage() == []


def test_of_eight_who_send_one_lease_at_once_one_is_new(desk):
    project, (anna,), _ = start(desk, 1)
    (leased,) = desk.lease(anna, project, now=0)
    receipts = []
    at_once(8, lambda i: receipts.append(desk.answer(anna, leased.lease, FIRST, now=i)))
    assert sum(r.is_new for r in receipts) == 1
    assert len({r.answer for r in receipts}) == 1
    assert len(desk.store.feedback(history=True)) == 1


class Crowd(RuleBasedStateMachine):
    """Many people lease, answer, skip, let run out and undo in any order; what was acknowledged is what is there."""

    def open_store(self) -> Store:
        return Store.open(self.folder / "s.sqlite")

    @initialize(need=st.integers(1, 3))
    def begin(self, need):
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        store = self.open_store()
        self.patch = pytest.MonkeyPatch()
        draw_from_a_seed(self.patch)
        self.desk = Desk(store)
        self.project, self.people, self.tasks = start(self.desk, 5, gold=1, people=4, need=need, gold_rate=0.2)
        self.now = 0
        self.leases: list[tuple[str, object]] = []
        self.sent: dict[str, Submission] = {}
        self.said: dict[tuple[str, str, int], str] = {}
        self.receipts: list[tuple[str, str]] = []

    @rule(person=st.integers(0, 3), num=st.integers(1, 5))
    def lease(self, person, num):
        for leased in self.desk.lease(self.people[person], self.project, num, now=self.now):
            if all(leased.lease != old.lease for _, old in self.leases):
                self.leases.append((self.people[person], leased))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), verdict=st.sampled_from(["first", "second", "tie", "unsure"]))
    def answer(self, data, verdict):
        person, leased = data.draw(st.sampled_from(self.leases))
        submission = Submission(answer=Comparison(verdict=verdict))
        try:
            receipt = self.desk.answer(person, leased.lease, submission, now=self.now)
        except (Conflict, Expired):
            assert self.sent.get(leased.lease) != submission
            return
        assert self.sent.setdefault(leased.lease, submission) == submission
        if receipt.is_new:
            self.receipts.append((person, receipt.answer))
        revision = int(leased.lease.partition(".")[2] or 0)
        self.said[leased.prompt, person, revision] = verdict

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), act=st.sampled_from(["skip", "heartbeat"]))
    def skip_or_hold(self, data, act):
        person, leased = data.draw(st.sampled_from(self.leases))
        with suppress(Expired):
            getattr(self.desk, act)(person, leased.lease, now=self.now)

    @precondition(lambda self: self.receipts)
    @rule(data=st.data())
    def undo(self, data):
        person, answer = data.draw(st.sampled_from(self.receipts))
        try:
            again = self.desk.undo(person, answer, now=self.now)
        except (Conflict, Expired):
            return
        if all(again.lease != old.lease for _, old in self.leases):
            self.leases.append((person, again))

    @rule(minutes=st.sampled_from([1, 6, 16]))
    def wait(self, minutes):
        self.now += minutes * MINUTE

    @rule()
    def expire(self):
        self.desk.expire(now=self.now)

    @invariant()
    def seats_add_up(self):
        if not hasattr(self, "desk"):
            return
        with self.desk.store.read() as connection:
            rows = connection.execute(sa.text(SEATS)).all()
            most = connection.execute(sa.text(MOST_LIVE)).scalar() or 0
        assert all(row.open >= 0 and row.open + row.live + row.answered == row.need for row in rows), rows
        assert all(row.on_time <= row.need for row in rows), rows
        assert most <= 5

    def teardown(self):
        if not hasattr(self, "desk"):
            return
        found = self.desk.store.feedback(history=True, purposes=["work", "gold"])
        prompts = {t.id: t.prompt for t in self.tasks}
        assert {(prompts[f.task_id], f.rater.id, f.revision): f.answer.verdict for f in found} == self.said
        assert len(found) == len(self.said)
        assert self.desk.store.damage() == []
        self.desk.store.close()
        self.patch.undo()
        shutil.rmtree(self.folder, ignore_errors=True)


SEATS = """
SELECT e.need, e.open, e.answered,
  (SELECT count(*) FROM lease l WHERE l.entry = e.id AND l.state = 'live' AND l.revision = 0 AND l.repeat = 0) AS live,
  (SELECT count(*) FROM feedback f WHERE f.task = e.task AND f.late = 0 AND f.revision = 0) AS on_time
FROM entry e WHERE e.purpose = 'work'"""
MOST_LIVE = """
SELECT max(n) FROM (SELECT count(*) AS n FROM lease WHERE state = 'live' AND revision = 0 GROUP BY person) AS counts"""

TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_a_crowd_on_postgres(postgres):
    class OnPostgres(Crowd):
        def open_store(self) -> Store:
            return Store.open(new_schema(postgres))

    run_state_machine_as_test(OnPostgres, settings=settings(TestCrowd.settings, max_examples=4))


@pytest.mark.slow
class TestCrowdAtLength(Crowd.TestCase):
    settings = settings(
        max_examples=200,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
