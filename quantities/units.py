"""The units that figures in rules are written with, and what each is worth. Knows nothing about text around them."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

MOST_DECIBELS = 300  # more cannot be told as a ratio, and nobody means it


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of one `kind`; `scale` of its kind's base unit (hertz, watt, volt/metre, metre, second, ...) make one of it.

    `decibels` is 10 or 20 for a logarithmic unit, whose `scale` is then its reference. `rough` tells that a figure in it is
    seldom another unit's figure exactly, so that one of the two was rounded: feet and metres, decibels and watts.
    """

    kind: str
    scale: float = 1.0
    decibels: int = 0
    rough: bool = False

    def in_base(self, number: float) -> float:
        """That many of this unit in the kind's base unit. Raises OverflowError for decibels beyond all meaning."""
        if not self.decibels:
            return number * self.scale
        if abs(number) > MOST_DECIBELS:
            raise OverflowError(number)
        return float(self.scale * 10 ** (number / self.decibels))

    def from_base(self, value: float) -> float:
        """The other way round; a logarithmic unit takes positive values only."""
        return self.decibels * math.log10(value / self.scale) if self.decibels else value / self.scale


_SHORT = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "": 1.0}
_LONG = {"kilo": 1e3, "mega": 1e6, "giga": 1e9, "tera": 1e12, "centi": 1e-2, "milli": 1e-3, "": 1.0}
_LONG |= {"micro": 1e-6, "nano": 1e-9, "pico": 1e-12}
_DAY = 86_400.0


def _symbols() -> Iterator[tuple[str, Unit]]:
    """Units whose case tells: mW and MW."""
    for kind, symbol, prefixes in (
        ("power", "W", "k M m u n p"),
        ("voltage", "V", "k m u"),
        ("field strength", "V/m", "m u"),
        ("length", "m", "k c m"),
        ("time", "s", "m u n"),
        ("bit rate", "bps", "k M G"),
        ("bit rate", "bit/s", "k M G"),
    ):
        for prefix in ("", *prefixes.split()):
            yield prefix + symbol, Unit(kind, _SHORT[prefix])
    yield from {
        "mA": Unit("current", 1e-3),
        "uA": Unit("current", 1e-6),
        "h": Unit("time", 3600),
        "%": Unit("share", 1e-2),
        "ppm": Unit("share", 1e-6),
        "dBm": Unit("power", 1e-3, 10, rough=True),
        "dBW": Unit("power", 1.0, 10, rough=True),
        "dBuV": Unit("voltage", 1e-6, 20, rough=True),
        "dBuV/m": Unit("field strength", 1e-6, 20, rough=True),
        "dB(uV/m)": Unit("field strength", 1e-6, 20, rough=True),
        "dBmV/m": Unit("field strength", 1e-3, 20, rough=True),
        **{name: Unit(name) for name in ("dB", "dBi", "dBd", "dBc")},
        "W/kg": Unit("absorption"),
        "mW/g": Unit("absorption"),
        "mW/cm2": Unit("power density", 10.0),
        "W/m2": Unit("power density"),
        "\N{DEGREE SIGN}": Unit("angle"),
        "\N{DEGREE SIGN}C": Unit("celsius"),
        "\N{DEGREE SIGN}F": Unit("fahrenheit"),
    }.items()


def _words() -> Iterator[tuple[str, Unit]]:
    """Units whose case does not tell, in lower case; a space stands for any."""
    for prefix in ("", "k", "M", "G", "T"):
        yield f"{prefix}hz".lower(), Unit("frequency", _SHORT[prefix])
    for prefix in ("", "kilo", "mega", "giga", "tera"):
        yield f"{prefix}hertz", Unit("frequency", _LONG[prefix])
    for prefix in ("", "kilo", "mega", "milli", "micro", "nano", "pico"):
        yield from _both(f"{prefix}watt", Unit("power", _LONG[prefix]))
    for prefix in ("", "kilo", "milli", "micro"):
        yield from _both(f"{prefix}volt", Unit("voltage", _LONG[prefix]))
        for per in (" per meter", " per metre", "/meter", "/metre", "/m"):
            for volts, unit in _both(f"{prefix}volt", Unit("field strength", _LONG[prefix])):
                yield volts + per, unit
    for prefix in ("", "kilo", "centi", "milli"):
        yield from _both(f"{prefix}meter", Unit("length", _LONG[prefix]))
        yield from _both(f"{prefix}metre", Unit("length", _LONG[prefix]))
    for prefix in ("", "milli", "micro", "nano"):
        yield from _both(f"{prefix}second", Unit("time", _LONG[prefix]))
    for name, unit in {
        "ampere": Unit("current"),
        "amp": Unit("current"),
        "sec": Unit("time"),
        "min": Unit("time", 60),
        "minute": Unit("time", 60),
        "hour": Unit("time", 3600),
        "day": Unit("time", _DAY),
        "week": Unit("time", 7 * _DAY),
        "month": Unit("months"),  # as long as they happen to be
        "year": Unit("months", 12),
        "mile": Unit("length", 1609.344, rough=True),
        "nautical mile": Unit("length", 1852, rough=True),
        "yard": Unit("length", 0.9144, rough=True),
        "decibel": Unit("dB"),
        "degree": Unit("angle"),
        "baud": Unit("baud"),
        "watt per kilogram": Unit("absorption"),
        "milliwatt per square centimeter": Unit("power density", 10.0),
    }.items():
        yield from _both(name, unit)
    yield from dict.fromkeys(("foot", "feet", "ft"), Unit("length", 0.3048, rough=True)).items()
    yield from dict.fromkeys(("inch", "inches"), Unit("length", 0.0254, rough=True)).items()
    yield from dict.fromkeys(("percent", "per cent"), Unit("share", 1e-2)).items()
    yield "parts per million", Unit("share", 1e-6)
    yield from dict.fromkeys(("degrees celsius", "degrees c"), Unit("celsius")).items()
    yield from dict.fromkeys(("degrees fahrenheit", "degrees f"), Unit("fahrenheit")).items()


def _both(name: str, unit: Unit) -> Iterator[tuple[str, Unit]]:
    first, space, rest = name.partition(" per ")
    yield name, unit
    yield f"{first}s{space}{rest}", unit


_BY_SYMBOL = dict(_symbols())
_BY_WORD = dict(_words())


def _alternatives(names: dict[str, Unit]) -> str:
    longest_first = sorted(names, key=len, reverse=True)
    return "|".join(re.escape(name).replace(r"\ ", r"\s") for name in longest_first)


PATTERN = rf"(?:(?:{_alternatives(_BY_SYMBOL)})(?![A-Za-z0-9])|(?i:{_alternatives(_BY_WORD)})(?![A-Za-z0-9]))"

NAMES = frozenset(word for name in (*_BY_SYMBOL, *_BY_WORD) for word in re.findall(r"[a-z]+", name.lower()))  # words of units


def named(name: str) -> Unit:
    """The unit of a text that matches PATTERN."""
    return _BY_SYMBOL.get(name) or _BY_WORD[" ".join(name.lower().split())]
