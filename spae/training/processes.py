"""Steps that the processes of a run take together: they all go on, or all raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """What `action` returns in the main process, in every process; what it raises, all raise."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_each(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Every process runs `action`; if one of them fails, all raise what the first of those did."""
    failures: list[Exception | None] = [None]
    try:
        action()
    except Exception as error:
        failures = [error]
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        failures = gather_object(failures)
    for failure in failures:
        if failure is not None:
            raise failure
