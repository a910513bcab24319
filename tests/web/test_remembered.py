from clew.web.remembered import Remembered


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_was_found_is_kept_for_its_time():
    clock, asked = Clock(), []
    kept = Remembered[str](seconds=2, clock=clock)

    def find(key):
        asked.append(key)
        return key.upper()

    for clock.now in (0, 1.9, 2.1):
        assert kept.get("anna", find) == "ANNA"
    assert asked == ["anna", "anna"]


def test_nothing_is_kept_where_nothing_was_found():
    kept = Remembered[str | None](seconds=2, clock=Clock())
    assert kept.get("anna", lambda key: None) is None
    assert kept.get("anna", lambda key: "found") == "found"


def test_a_change_while_something_is_found_wins():
    kept = Remembered[str](seconds=2, clock=Clock())

    def find(key):
        kept.forget()
        return "old"

    assert kept.get("anna", find) == "old"
    assert kept.known("anna") is None


def test_memory_is_bounded():
    kept = Remembered[str](seconds=2, clock=Clock(), most=10)
    for i in range(100):
        kept.get(str(i), str)
    assert len(kept._kept) <= 10
