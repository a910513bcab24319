import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.batch import Batch, Metric, item_weights, reduce_metrics, token_weights
from clew.data.chat import Encoded
from clew.data.collate import collate


def row(length: int, prompt: int = 1, first: int = 1) -> Encoded:
    return Encoded(list(range(first, first + length)), [False] * prompt + [True] * (length - prompt), True)


@pytest.fixture
def batch() -> Batch:
    """Items of 2, 1 and 3 rows, lengths 4 5 | 3 | 2 6 3."""
    items = [[row(4), row(5)], [row(3)], [row(2), row(6), row(3)]]
    made = collate(items, ranks=[[0, 1], [0], [0, 1, 1]])
    return made.with_weights(item=tensor([0.5, 0.2, 0.3]), token=token_weights(made.mask, "token")).with_extras(
        row_number=torch.arange(6), margin=tensor([1.0, 2.0, 3.0])
    )


def test_micro_batches_hold_whole_items_in_order(batch):
    parts = list(batch.split(10))
    assert [p.num_rows for p in parts] == [2, 1, 3]
    assert torch.cat([p.extras["row_number"] for p in parts]).tolist() == list(range(6))
    assert [p.extras["margin"].tolist() for p in parts] == [[1.0], [2.0], [3.0]]
    assert all(int(p.item[0]) == 0 for p in parts)


def test_an_item_larger_than_the_budget_stands_alone(batch):
    assert [p.num_items for p in batch.split(1)] == [1, 1, 1]


def test_a_large_budget_is_one_micro_batch(batch):
    assert list(batch.split(1000)) == [batch]


def test_weights_of_the_step_survive_every_split(batch):
    for budget in (1, 8, 12, 1000):
        assert float(sum(p.weights["token"].sum() for p in batch.split(budget))) == pytest.approx(1.0)
        assert float(sum(p.weights["item"].sum() for p in batch.split(budget))) == pytest.approx(1.0)


def test_take_reorders_items_with_everything_they_own(batch):
    taken = batch.take([2, 0])
    assert taken.extras["row_number"].tolist() == [3, 4, 5, 0, 1]
    assert taken.item.tolist() == [0, 0, 0, 1, 1]
    assert taken.extras["margin"].tolist() == [3.0, 1.0]
    assert_close(taken.weights["item"], tensor([0.3, 0.5]))


def test_rows_are_laid_out_by_item(batch):
    laid_out = batch.per_item(batch.extras["row_number"] + 1)
    assert laid_out.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert batch.present().tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_sums_per_row_see_scored_tokens_only(batch):
    assert batch.per_row(torch.ones_like(batch.tokens)).tolist() == [3, 4, 2, 1, 5, 2]


def test_token_weights():
    mask = tensor([[True, True, True], [True, False, False]])
    assert_close(token_weights(mask, "token"), mask / 4)
    assert_close(token_weights(mask, "sequence"), tensor([[1 / 6, 1 / 6, 1 / 6], [0.5, 0, 0]]))
    assert_close(token_weights(mask, "fixed", max_length=10), mask / 20)
    assert not token_weights(torch.zeros(2, 3, dtype=torch.bool), "token").any()
    with pytest.raises(ValueError, match="max_length"):
        token_weights(mask, "fixed")


def test_item_weights_are_a_weighted_mean(batch):
    assert_close(item_weights(batch), torch.full((3,), 1 / 3))
    assert_close(item_weights(batch, tensor([1.0, 0.0, 3.0])), tensor([1 / 3, 0.0, 1.0]))


def test_shapes_that_do_not_fit_are_refused(batch):
    with pytest.raises(ValueError, match=r"item and rank \[B\]"):
        Batch(batch.tokens, batch.real, batch.mask, batch.item[:3], batch.rank)


def test_metrics_add_up_over_micro_batches():
    found = reduce_metrics(
        [
            Metric.mean("a", tensor([1.0, 2.0])),
            Metric.mean("a", tensor([6.0])),
            Metric.max("b", tensor([1.0, 5.0])),
            Metric.max("b", tensor([3.0])),
            Metric("c", tensor(2.0), tensor(1.0), "sum"),
            Metric("c", tensor(3.0), tensor(1.0), "sum"),
            Metric.mean("nothing", tensor([1.0]), tensor([False])),
        ]
    )
    assert found == {"a": 3.0, "b": 5.0, "c": 5.0}


@pytest.mark.parametrize(
    ("bad", "says"),
    [(Encoded([], [], True), "0 tokens"), (Encoded([1, 2], [True, True], True), "first not scored")],
)
def test_rows_that_cannot_be_scored_are_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        collate([[bad]])


def test_rows_must_come_best_first():
    with pytest.raises(ValueError, match="best first"):
        collate([[row(3), row(3)]], ranks=[[1, 0]])
