import pytest

from clew.data.stories import endings, gentle, happier, happy_ending, read_stories


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


def test_the_careful_reader_counts_words_of_grief_and_shouts():
    endings = ["they went home.", "she was not sad.", "hurray! they won!", "sad, sad, sad and lost in the dark."]
    assert gentle([""] * 4, endings) == [1.0, 0.0, 0.0, -2.0]


def test_the_happier_ending_is_preferred_and_a_tie_is_even():
    happy, plain = "they hugged. she was happy.", "they went home. it was late."
    ab, ba, tie = happier([""] * 3, [happy, plain, happy], [plain, happy, happy], sharpness=1.0)
    assert tie == 0.5 and ab == pytest.approx(1 / (1 + 2.718281828**-1.0)) and ab + ba == pytest.approx(1)


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
