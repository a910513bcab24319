import numpy as np
import pytest

from clew.data.grammar import corpus, demonstrations, gold, prompts, read_sentence, vocabulary

ASK = "we saw the rose . how was the soup ?"


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        (" the broth was good .", 1.0),
        (" the broth was not bad .", 1.0),
        (" the broth was very wonderful .", 1.875),
        (" the broth was good and we hated the bowl .", 0.0),
        (" the broth was bad .", -1.0),
        (" the rose was good .", -0.25),  # praise of another place
        (" it rained in the morning .", -0.25),  # chatter
        (" the broth was good . the broth was good .", 0.0),  # said twice
        (" broth good the .", -1.0),  # broken
        (" the broth was good", -1.0),  # not finished
        ("", -1.0),
    ],
)
def test_worth_of_answers(answer, worth):
    assert gold([ASK], [answer]) == [pytest.approx(worth)]


def test_rambling_costs():
    lines = [f" {s} found the {t} good ." for s in ("i", "we") for t in ("soup", "broth", "bowl")]
    assert gold([ASK], ["".join(lines[:4])])[0] == 4.0
    assert gold([ASK], ["".join(lines[:6])])[0] == 3.0


def test_what_is_generated_is_grammatical_varied_and_reproducible():
    rows = list(demonstrations(num=400, seed=1))
    assert rows == list(demonstrations(num=400, seed=1)) != list(demonstrations(num=400, seed=2))
    known = set(vocabulary())
    for row in rows:
        assert set((row["prompt"] + row["completion"]).split()) <= known
        assert all(read_sentence(f"{s.strip()} .") is not None for s in row["completion"].split(".")[:-1])
    assert len({r["prompt"] for r in rows}) > 380
    worth = gold([r["prompt"] for r in rows], [r["completion"] for r in rows])
    assert -1 < np.mean(worth) < 1 < np.std(worth)


def test_other_files():
    assert all(row["text"] for row in corpus(num=20, seed=0))
    assert all(row["place"] in row["prompt"].split() for row in prompts(num=20, seed=0))
