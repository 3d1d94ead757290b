"""Figures with units: what is read out of a text, and which are the same."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantities
from quantities import Figures


def read(text: str) -> list[tuple[float, str]]:
    """The figures of a text in base units, each with its kind."""
    return [(figure.value, figure.unit.kind if figure.unit else "") for figure in quantities.find(text)]


def has(text: str, said: str) -> bool:
    """Whether a text has each figure that is said."""
    figures = Figures(text)
    return all(figures.has(figure) for figure in quantities.find(said))


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("902-928 MHz", [(902e6, "frequency"), (928e6, "frequency")]),
        ("2.4 and 5.8 GHz", [(2.4e9, "frequency"), (5.8e9, "frequency")]),
        ("902\N{EN DASH}928, 5725\N{EN DASH}5850\N{NO-BREAK SPACE}MHz", [(f * 1e6, "frequency") for f in (902, 928, 5725, 5850)]),
        ("from 5.15 to 5.25GHz", [(5.15e9, "frequency"), (5.25e9, "frequency")]),
        ("1,705 kHz", [(1.705e6, "frequency")]),
        ("one watt", [(1.0, "power")]),
        ("ten (10) minutes", [(10.0, ""), (600.0, "time")]),
        ("twenty-five milliwatts", [(0.025, "power")]),
        ("two hundred feet", [(60.96, "length")]),
        ("-41.25 dBm/MHz", [(10**-4.125 / 1000, "power")]),
        ("100 \N{MICRO SIGN}V/m at 3 meters", [(1e-4, "field strength"), (3.0, "length")]),
        ("500 microvolts per meter", [(5e-4, "field strength")]),
        ("54 dB(\N{GREEK SMALL LETTER MU}V/m)", [(5.012e-4, "field strength")]),
        ("a 10-minute interval", [(600.0, "time")]),
        ("1.6 W/kg, 1 mW/cm\N{SUPERSCRIPT TWO}", [(1.6, "absorption"), (10.0, "power density")]),
        ("5 mW or 5 MW", [(0.005, "power"), (5e6, "power")]),
        ("20 ppm and 0.01%", [(2e-5, "share"), (1e-4, "share")]),
        ("6 dBi", [(6.0, "dBi")]),
        ("the 1990s", [(1990.0, "")]),
        ("in 3 m. Then", [(3.0, "length")]),
        (".5 W", [(0.5, "power")]),
        ("9999 dBm", [(9999.0, "")]),
        ("step 4.3.2", []),
    ],
)
def test_find(text: str, figures: list[tuple[float, str]]) -> None:
    """Figures are read with their units, however they are written; a unit at the end of a list counts for all of it."""
    found = read(text)
    assert [kind for _, kind in found] == [kind for _, kind in figures]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in figures], rel=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2400-2483.5 MHz", "2.4 GHz"),
        ("2400-2483.5 MHz", "2.48 GHz"),
        ("13.56 MHz", "13,560 kHz"),
        ("1 watt", "30 dBm"),
        ("30 dBm", "1 W"),
        ("4 watts", "36 dBm"),
        ("36 dBm", "4 W"),
        ("0 dBW", "1000 mW"),
        ("200 microvolts/meter", "46 dBuV/m"),
        ("10 meters", "33 feet"),
        ("30 feet", "9.1 m"),
        ("10 minutes", "600 seconds"),
        ("within 24 hours", "one day"),
        ("12 months", "a term of one year"),
        ("0.01 percent", "100 ppm"),
        ("three antennas", "3 antennas"),
        ("| Frequency (MHz) | Field strength (microvolts/meter) |\n| 30-88 | 100 |", "100 uV/m at 30-88 MHz"),
        ("1,000 dollars", "1000 dollars"),
        ("The term is 10 years", "10.0 years"),
    ],
)
def test_same(text: str, said: str) -> None:
    """A figure is the same in another unit, in words, below its unit in a table, and rounded to the digits given."""
    assert has(text, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2400-2483.5 MHz", "2.5 GHz"),
        ("2400-2483.5 MHz", "2483 MHz"),
        ("1.04 W", "1 W"),
        ("1.26 W", "30 dBm"),
        ("36 dBm", "3.6 W"),
        ("1 watt", "1 mW"),
        ("5 mW", "5 MW"),
        ("10 meters", "30 feet"),
        ("6 dBi", "6 dB"),
        ("4 W", "4 MHz"),
        ("10 minutes", "10 seconds"),
        ("every ten minutes, with 5 labels", "5 minutes"),
        ("", "0 dBm"),
    ],
)
def test_not_same(text: str, said: str) -> None:
    """Another figure, or the same number of something else, is not."""
    assert not has(text, said)


def test_text_is_as_written() -> None:
    """A figure can be told in the characters that it was written in."""
    figures = quantities.find("30\N{EN DASH}88 MHz, at most 100 \N{MICRO SIGN}V/m")
    assert [figure.text for figure in figures] == ["30 MHz", "88 MHz", "100 \N{MICRO SIGN}V/m"]


def test_range_spans() -> None:
    """A figure within a range that a text gives is told from one that is nowhere."""
    figures = Figures("between 5.725 and 5.85 GHz, or 902-928 MHz")
    inside, outside = quantities.find("5.8 GHz, 60 GHz")
    assert figures.spans(inside)
    assert not figures.has(inside)
    assert not figures.spans(outside)


def test_range_below_a_head_spans() -> None:
    """In a table the unit of a range stands in the column's head; where no head names one, a range spans nothing."""
    rows = "| 30-88 | 100 |\n| 88-216 | 150 |"
    (inside,) = quantities.find("100 MHz")
    (outside,) = quantities.find("300 MHz")
    table = Figures(f"| Frequency (MHz) | Field strength |\n| --- | --- |\n{rows}")
    assert table.spans(inside)
    assert not table.spans(outside)
    assert not Figures(rows).spans(inside)


METRIC = [("GHz", "MHz"), ("MHz", "kHz"), ("W", "mW"), ("kW", "watts"), ("V/m", "mV/m"), ("m", "cm"), ("hours", "minutes")]


@given(st.integers(1, 10**6), st.integers(0, 3), st.sampled_from(METRIC))
def test_metric_round_trip(number: int, places: int, pair: tuple[str, str]) -> None:
    """What is converted exactly, and written in full, is the same figure both ways."""
    large, small = pair
    written = f"{number / 10**places:.{places}f} {large}"
    factor = 60 if large == "hours" else 100 if large == "m" else 1000
    converted = f"{number * factor / 10**places:.{places}f} {small}"
    assert has(written, converted)
    assert has(converted, written)


@given(st.integers(-300, 600))
def test_decibel_round_trip(tenths: int) -> None:
    """A power in dBm is the same in watts, both ways."""
    decibels = f"{tenths / 10} dBm"
    watts = f"{10 ** (tenths / 100) * 1000:.9f} uW"
    assert has(decibels, watts)
    assert has(watts, decibels)


@given(st.integers(1, 99_999), st.integers(0, 2), st.sampled_from(["{:,}", "{}"]))
def test_writing_round_trip(number: int, places: int, form: str) -> None:
    """A number is read as it was written, with separators and without."""
    value = number if not places else number / 10**places
    (figure,) = quantities.find(f"It is {form.format(value)} W.")
    assert figure.number == value


@given(st.text(alphabet="0123456789.,- andtoMHzGWdBm()/%\n", max_size=80))
def test_any_text(text: str) -> None:
    """Any text is read without an error, and has its own figures."""
    figures = Figures(text)
    assert all(figures.has(figure) for figure in quantities.find(text))


@pytest.mark.parametrize(
    "text",
    ["1," * 9000, "1 and " * 9000, "9" * 50_000, "1-" * 9000 + "MHz", "1.1.1 " * 20_000, "1" + " " * 50_000 + "1", "one " * 9000],
)
def test_hostile_figures_cost_no_time(text: str) -> None:
    """No run of figures in a document makes reading it take long."""
    started = time.perf_counter()
    assert not has(text, "It works at 2 GHz.")
    assert time.perf_counter() - started < 2
