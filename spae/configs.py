"""One way to check what a configuration says: types from annotations, ranges beside them."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T", bound="Config")


@dataclass(frozen=True)
class Range:
    """Bounds of a number in an annotation; `open` names the one that is excluded."""

    least: float = -math.inf
    most: float = math.inf
    open: Literal["left", "right", ""] = ""

    def holds(self, value: float) -> bool:
        above = value > self.least if self.open == "left" else value >= self.least
        return above and (value < self.most if self.open == "right" else value <= self.most)

    def __str__(self) -> str:
        low = f" {'above' if self.open == 'left' else 'from'} {self.least:g}"
        high = f" {'to below' if self.open == 'right' else 'to'} {self.most:.12g}"
        return low * (self.least > -math.inf) + high * (self.most < math.inf)


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open="left")]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, "right")]
"""Of a moving average: 1 would never move."""


class Config:
    """Base of the frozen dataclasses of a configuration: their fields are checked when they are made.

    `section` names it in messages, as in "train.steps: expected a whole number from 1, got 'abc'". Numbers
    are finite; a whole number is no float and no truth value; lists become tuples where those are annotated.
    """

    section: ClassVar[str] = "config"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            if get_origin(hint) is not ClassVar:
                value = checked(f"{self.section}.{name}", getattr(self, name), hint)
                object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
        """From the fields by name. Raises ValueError for others, for missing ones and for bad values."""
        check_entries(cls.section, values, [field.name for field in fields(cls)])  # pyright: ignore
        parameters = inspect.signature(cls).parameters.values()
        if missing := [p.name for p in parameters if p.default is p.empty and p.name not in values]:
            raise ValueError(f"{cls.section}: expected {', '.join(missing)} too, got {sorted(values)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # pyright: ignore[reportArgumentType]


def check_entries(section: str, values: Any, known: Sequence[str]) -> None:
    """Raises ValueError unless `values` is a mapping of known names."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{section}: expected a mapping of {', '.join(known)}, got {values!r:.200}")
    if unknown := sorted(set(map(str, values)) - set(known)):
        raise ValueError(f"{section}: expected no fields but {', '.join(known) or 'none'}, got {unknown}")


def check_arguments(section: str, function: Callable[..., Any], values: Any, *, given: int = 0) -> None:
    """Raises ValueError unless `function` takes the mapping's values by name, as far as annotations say.

    given: how many of its first parameters the caller fills in itself.
    """
    parameters = list(inspect.signature(function).parameters.values())[given:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    check_entries(section, values, [p.name for p in named])
    for name, value in values.items():
        checked(f"{section}.{name}", value, _hint(function, name))
    if missing := [p.name for p in named if p.default is p.empty and p.name not in values]:
        raise ValueError(f"{section}: expected {', '.join(missing)} too, got {sorted(values)}")


def read_object(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError if there is no such file, and ValueError for
    anything else in it; both name the file and `what` was expected there."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected {what}, got no such file")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected {what} in JSON, got what is none ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected {what}, an object, got {values!r:.80}")
    return values


def checked(name: str, value: Any, hint: Any) -> Any:
    """The value if it is of an annotated type, tuples for lists. Raises ValueError with the name otherwise.

    Knows numbers, bool, str, None, Literal, unions, tuples, sequences and mappings of those, and `Range` in
    Annotated; any other type holds what it wants.
    """
    fits, fitted = _fit(value, hint)
    if not fits:
        raise ValueError(f"{name}: expected {_described(hint)}, got {value!r:.200}")
    return fitted


def _hint(function: Callable[..., Any], name: str) -> Any:
    """The type of one parameter; Any where only a type checker knows the names in it."""
    if is_dataclass(function):
        return get_type_hints(function, include_extras=True)[name]
    where = function.__init__ if inspect.isclass(function) else getattr(function, "__func__", function)
    where = inspect.unwrap(where)
    alone = SimpleNamespace(__annotations__={name: where.__annotations__.get(name, Any)})
    try:
        return get_type_hints(alone, where.__globals__, include_extras=True)[name]
    except NameError:
        return Any


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        fits, value = _fit(value, arguments[0])
        return fits and all(rule.holds(value) for rule in arguments[1:] if isinstance(rule, Range)), value
    if origin in (Union, UnionType):
        found = [_fit(value, one) for one in arguments]
        return next((one for one in found if one[0]), (False, value))
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments), value
    if hint is bool:
        return isinstance(value, bool), value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= _LARGEST and math.isfinite(value), value
    if hint is str or hint in (None, NoneType):
        return isinstance(value, str if hint is str else NoneType), value
    return _fit_several(value, origin or hint, arguments)


_LARGEST = float(2**1023)  # whole numbers beyond have no float


def _fit_several(value: Any, origin: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if origin is tuple or origin is Sequence or origin is list:
        if not isinstance(value, list | tuple):
            return False, value
        hints = arguments[:1] * len(value) if origin is not tuple or arguments[1:] == (...,) else arguments
        if arguments and len(hints) != len(value):
            return False, value
        found = [_fit(*pair) for pair in zip(value, hints, strict=True)] if arguments else []
        items = tuple(item for _, item in found) if arguments else tuple(value)
        return all(fits for fits, _ in found), list(items) if origin is list else items
    if origin is dict or origin is Mapping:
        if not isinstance(value, Mapping):
            return False, value
        key, item = arguments or (Any, Any)
        return all(_fit(k, key)[0] and _fit(v, item)[0] for k, v in value.items()), value
    try:
        return not inspect.isclass(origin) or isinstance(value, origin), value
    except TypeError:  # a protocol that cannot be asked
        return True, value


def _described(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = (str(rule) for rule in arguments[1:] if isinstance(rule, Range))
        return _described(arguments[0]) + "".join(rules)
    if origin in (Union, UnionType):
        return " or ".join(_described(one) for one in arguments)
    if origin is Literal:
        values = [repr(one) for one in arguments]
        return f"one of {', '.join(values)}" if len(values) > 2 else " or ".join(values)
    if origin is tuple and arguments[1:] != (...,):
        return f"({', '.join(_described(one) for one in arguments)})"
    if origin in (tuple, Sequence, list):
        return f"a list of: {_described(arguments[0])}"
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return "a mapping" + (f" of names to: {_described(arguments[1])}" if arguments else "")
    names: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint) or ("null" if hint is NoneType else getattr(hint, "__name__", str(hint)))
