"""Which class a checkpoint holds."""

from __future__ import annotations

from typing import Any, TypeVar

AnyClass = TypeVar("AnyClass", bound=type)
_CLASSES: dict[str, type[Any]] = {}


def register(cls: AnyClass) -> AnyClass:
    """Class decorator: `Tokenizer.from_pretrained` finds the class by its name in what it saved.

    Raises ValueError if another class goes by that name; the same one may be defined again, as in notebooks.
    """
    name = cls.__name__
    known = _CLASSES.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"name: expected one that is free, got {name!r}, which is "
            f"{known.__module__}.{known.__qualname__}'s"
        )
    _CLASSES[name] = cls
    return cls


def registered(name: str) -> type[Any]:
    """The Tokenizer class of this name. Raises ValueError for one that no imported module registers."""
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(
            f"class: expected one of {', '.join(sorted(_CLASSES))}, got {name!r:.80}; "
            "import the module that registers it first"
        )
    return _CLASSES[name]
