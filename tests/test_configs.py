"""Fields and arguments are checked in one way, and messages have one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from spae.configs import Config, Count, Decay, Natural, Positive, Range, Share, check_arguments, checked


@dataclass(frozen=True)
class Example(Config):
    section = "example"

    count: Count
    ratio: Positive | None = None
    pair: tuple[Decay, Decay] = (0.5, 0.9)
    sizes: tuple[int | tuple[int, ...], ...] = ()
    kind: Literal["a", "b"] = "a"
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None


def test_what_fits():
    example = Example.from_dict(
        {
            "count": 3,
            "pair": [0, 0.25],
            "sizes": [1, [2, 3]],
            "weights": {"x": 1},
            "ratio": 2,
            "anything": {1},
        }
    )
    assert example == Example(3, 2, (0, 0.25), (1, (2, 3)), "a", {"x": 1}, {1})
    assert Example.from_dict(example.to_dict()) == example


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "example.count: expected a whole number from 1, got 0"),
        ({"count": 1.0}, "example.count: expected a whole number from 1, got 1.0"),
        ({"count": True}, "example.count: expected a whole number from 1, got True"),
        ({"count": "abc"}, "example.count: expected a whole number from 1, got 'abc'"),
        ({"count": None}, "example.count: expected a whole number from 1, got None"),
        ({"ratio": 0}, "example.ratio: expected a number above 0 or null, got 0"),
        ({"ratio": float("nan")}, "example.ratio: expected a number above 0 or null, got nan"),
        ({"ratio": float("inf")}, "example.ratio: expected a number above 0 or null, got inf"),
        ({"ratio": 10**400}, "example.ratio: expected a number above 0 or null, got 1000"),
        ({"pair": [0.5]}, r"example.pair: expected \(a number from 0 to below 1, a number .*\), got \[0.5\]"),
        ({"pair": [0.5, 1]}, "example.pair: expected"),
        ({"pair": 0.5}, "example.pair: expected"),
        (
            {"sizes": [1, [2, "3"]]},
            "example.sizes: expected a list of: a whole number or a list of: a whole number",
        ),
        ({"kind": "c"}, "example.kind: expected 'a' or 'b', got 'c'"),
        ({"kind": ["a"]}, r"example.kind: expected 'a' or 'b', got \['a'\]"),
        (
            {"weights": {"x": "y"}},
            r"example.weights: expected a mapping of names to: a number, got \{'x': 'y'\}",
        ),
        ({"weights": {1: 1}}, "example.weights: expected a mapping of names"),
        ({"weights": []}, "example.weights: expected a mapping of names"),
        ({"colour": 1}, r"example: expected no fields but count, ratio, .*, got \['colour'\]"),
    ],
)
def test_what_does_not(change, message):
    with pytest.raises(ValueError, match=message):
        Example.from_dict({"count": 1, **change})


def test_what_is_missing_or_no_mapping():
    with pytest.raises(ValueError, match=r"example: expected count too, got \['ratio'\]"):
        Example.from_dict({"ratio": 1})
    with pytest.raises(ValueError, match=r"example: expected a mapping of count, ratio.*, got \[1\]"):
        Example.from_dict([1])  # pyright: ignore[reportArgumentType]


def test_arguments_of_functions():
    def function(
        first, thresholds: Sequence[Share] = (), *, names: Mapping[str, Natural] | None = None, other: Any = 3
    ): ...

    check_arguments("it", function, {"thresholds": [0, 0.5, 1], "names": {"a": 1}}, given=1)
    for bad, message in [
        ({"thresholds": [2]}, r"it.thresholds: expected a list of: a number from 0 to 1, got \[2\]"),
        ({"thresholds": 0.5}, r"it.thresholds: expected a list"),
        ({"names": {"a": -1}}, r"it.names: expected a mapping of names to: a whole number from 0 or null"),
        ({"first": 1}, r"it: expected no fields but thresholds, names, other.*, got \['first'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_arguments("it", function, bad, given=1)
    with pytest.raises(ValueError, match=r"it: expected first too, got \[\]"):
        check_arguments("it", function, {})
    check_arguments("it", lambda **anything: None, {"x": 1})
    assert checked("x", 5, Annotated[int, Range(most=5)]) == 5
