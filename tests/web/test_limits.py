import pytest

from clew.web.limits import Buckets, depth


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    clock = Clock()
    buckets = Buckets(2, 3, clock)
    assert [buckets.take("anna") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now = 0.5
    assert buckets.take("anna") == 0
    assert buckets.take("anna") == pytest.approx(0.5)


def test_one_key_does_not_pay_for_another():
    buckets = Buckets(1, 1, Clock())
    assert buckets.take("anna") == 0
    assert buckets.take("ben") == 0
    assert buckets.take("anna") > 0


def test_a_flood_of_keys_does_not_fill_the_memory():
    clock = Clock()
    buckets = Buckets(1, 2, clock, most=100)
    for i in range(1000):
        clock.now += 0.001
        buckets.take(str(i))
    assert len(buckets._levels) <= 100


def test_who_is_out_of_tokens_is_not_forgotten_while_others_are_full_again():
    clock = Clock()
    buckets = Buckets(1, 2, clock, most=3)
    buckets.take("early")
    clock.now = 10
    for _ in range(2):
        buckets.take("greedy")
    for key in ("a", "b", "c"):
        buckets.take(key)
    assert buckets.take("greedy") > 0


@pytest.mark.parametrize(
    ("body", "levels"),
    [
        (b"", 0),
        (b"1", 0),
        (b"{}", 1),
        (b'{"a": [1, {"b": []}]}', 4),
        (b'{"a": "[[[[[[{{{{"}', 1),
        (b'{"a": "\\"[[[["}', 1),
        (b'["\\\\", [[]]]', 3),
        (b"[" * 100_000, 100_000),
        (b'"' + b"\\" * 100_001, 0),
        (b'[["unended [[[', 2),
    ],
)
def test_depth_counts_brackets_that_a_parser_would_nest(body, levels):
    assert depth(body) == levels
