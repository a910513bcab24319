import numpy as np
import pytest

from clew.asking import all_pairs, answer_features, drawn_pairs, known_of, most_telling
from clew.data.chat import Codec, Encoding
from clew.feedback.active import Posterior, by_information
from clew.feedback.aggregate import Outcome
from clew.feedback.records import Item

A, B, C = (Item(prompt="q", completion=c) for c in ("the soup was good", "the room was bad", "we liked it"))
FEATURES = {A.id: np.array([1.0, 0.0]), B.id: np.array([0.0, 0.0]), C.id: np.array([0.0, 3.0])}


def test_all_pairs_stay_within_their_prompt():
    assert all_pairs([[A, B, C], [A], [B, C]]) == [(A, B), (A, C), (B, C), (B, C)]


def test_the_pair_that_tells_most_is_asked_and_either_order_is_shown():
    known, pairs = Posterior(np.zeros(2), np.eye(2)), all_pairs([[A, B, C]])
    shown = {
        most_telling(pairs, known, FEATURES, lambda *a: by_information(*a, explored=0), 1, np.random.default_rng(s))[0]
        for s in range(20)
    }
    assert shown == {(A, C), (C, A)}
    assert len(most_telling(pairs, known, FEATURES, by_information, 9, np.random.default_rng(0))) == 3
    assert most_telling([], known, FEATURES, by_information, 9, np.random.default_rng(0)) == []


def test_thompson_draws_one_pair_a_prompt():
    sure = Posterior(np.array([2.0, 1.0]), 1e-6 * np.eye(2))
    assert drawn_pairs([[A, B, C], [B]], sure, FEATURES, np.random.default_rng(0)) == [(C, A)]


class Head:
    def __init__(self, *weights):
        import torch

        self.head = torch.nn.Linear(len(weights), 1)
        self.head.weight.data = torch.tensor([weights])


def test_answers_make_the_head_surer_along_what_was_compared():
    before = known_of(Head(1.0, 1.0), [], FEATURES)
    assert before.mean_D.tolist() == [1, 1]
    assert before.covariance_DD == pytest.approx(np.eye(2))  # as large as the head's own weights
    after = known_of(Head(1.0, 1.0), [Outcome(A.id, B.id, 1.0)] * 4 + [Outcome(A.id, "unknown", 1.0)], FEATURES)
    p = 1 / (1 + np.exp(-1))
    assert after.covariance_DD == pytest.approx(np.diag([1 / (1 + 4 * p * (1 - p)), 1]))


def test_features_are_what_the_head_scores(new_module, tokenizer):
    import torch
    from transformers import LlamaForSequenceClassification

    from clew.batch import evaluate
    from clew.data.collate import collate
    from clew.models.reward import ScalarModel, give_pad_token
    from clew.models.trunk import Trunk

    config = new_module().config
    config.num_labels = 1
    torch.manual_seed(0)
    module = LlamaForSequenceClassification(config).eval()
    give_pad_token(module, tokenizer)
    model = ScalarModel(Trunk(module), tokenizer)
    codec = Codec(tokenizer, Encoding(max_length=10, truncation="drop"))
    long = Item(prompt="q", completion="good " * 20)
    found = answer_features(model, codec, [A, B, long], max_tokens=8)
    assert set(found) == {A.id, B.id}
    from clew.asking import _example

    rows = [codec.encode(_example(item)) for item in (A, B)]
    scores = evaluate(model, collate(rows), max_tokens=1000).scores
    weights = model.head.weight[0].detach().numpy()
    assert [found[i.id] @ weights for i in (A, B)] == pytest.approx(scores.tolist(), rel=1e-4)
