"""Stop strings in text that arrives in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.stops import StopMatcher

NARROW = st.text(alphabet="ab", max_size=30)  # few letters, so that stop strings occur, overlap and nest
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


def passed(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    text = "".join([*map(matcher.feed, pieces), matcher.flush()])
    return text, matcher.found is not None


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    starts = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(starts)], True) if starts else (text, False)


@given(STOPS, st.lists(NARROW, max_size=12))
def test_any_chopping(stops: list[str], pieces: list[str]) -> None:
    """However an answer is cut into pieces, it ends where the earliest stop string starts in the whole text."""
    assert passed(stops, pieces) == naive(stops, "".join(pieces))


@given(STOPS, NARROW)
def test_letter_by_letter(stops: list[str], text: str) -> None:
    """An answer that comes letter by letter ends at the same place."""
    assert passed(stops, list(text)) == naive(stops, text)


def test_longer_before_shorter() -> None:
    """A longer stop string wins over a shorter one inside it if it starts earlier, and only if it comes whole."""
    assert passed(["bc", "abcd"], ["x ab", "c", "d y"]) == ("x ", True)
    assert passed(["bc", "abcd"], ["x ab", "c", "e y"]) == ("x a", True)
    assert passed(["bc", "abcd"], ["x ab", "c"]) == ("x a", True)


@given(NARROW)
def test_prompt_text(text: str) -> None:
    """Without stop strings every piece is passed on as it comes."""
    matcher = StopMatcher([])
    assert matcher.feed(text) == text
    assert matcher.flush() == ""


def test_holds_back_little() -> None:
    """Text that cannot become a stop string is not kept from the reader."""
    matcher = StopMatcher(["\nUser:"])
    assert matcher.feed("The limit is 1 W.\nUs") == "The limit is 1 W."
    assert matcher.feed("ually") == "\nUsually"


def test_nothing_after() -> None:
    """Nothing follows a stop string, and it is not shown itself."""
    matcher = StopMatcher(["END"])
    assert matcher.feed("so EN") == "so "
    assert matcher.feed("D more") == ""
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""
    assert matcher.found


def test_empty_stop() -> None:
    """An empty stop string, which would end every answer at once, is refused."""
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])
