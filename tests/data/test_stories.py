import pytest

from clew.data.stories import endings, happy_ending, read_stories


@pytest.mark.parametrize(
    ("ending", "worth"),
    [
        ("they hugged. she was happy.", 1.5),
        ('"thank you," he said. they were happy.', 1.0 * 2 / 3 + 1.0),
        ("she was not sad. they played.", 1.5),
        ("the dog died. she cried.", -0.5),
        ("they went home. it was late.", 0.5),
        ("she was happy", -2.0),
        ("", -2.0),
    ],
)
def test_the_readers_taste(ending, worth):
    assert happy_ending(["x"], [ending]) == [pytest.approx(worth)]


def test_repeating_is_not_rewarded():
    once, often = "they were happy.", " ".join(["they were happy."] * 5)
    assert happy_ending([""], [often])[0] < happy_ending([""], [once + " he smiled."])[0]


def test_endings_of_real_stories(shared_data):
    path = str(shared_data / "text" / "tinystories_4mb.txt")
    assert len(read_stories(path)) > 4000
    rows = list(endings(path=path, start=0, num=50))
    assert all(r["prompt"].endswith((".", "!", "?", '"')) and r["completion"].startswith(" ") for r in rows)
    with pytest.raises(ValueError, match="usable stories"):
        list(endings(path=path, start=4500, num=1000))
