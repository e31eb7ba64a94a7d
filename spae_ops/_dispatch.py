"""The one dispatch: which implementation of an op runs.

A family of ops has a table of implementations in order of preference; `_implementation` says what one must
have. It is imported only when asked for, so that importing `spae_ops` needs no compiler, GPU or Triton; one
whose import fails with ImportError is unavailable for that reason. Those on trial (`admission.verdicts`) are
taken by "auto" on GPUs only, where they passed their examination.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from spae_ops import _checks, _extension
from spae_ops._implementation import CrossEntropy, Implementation, PyramidOps, Search
from spae_ops.admission import verdicts

T = TypeVar("T", bound=Implementation)
_told = False  # that plain torch runs on a GPU for want of an examination


class _Row(NamedTuple):
    name: str
    available: bool
    reason: str


class ImplementationInfo(_Row):
    """One row of `implementations`: (name, available, reason), admission and instructions.

    reason: why it cannot run, empty where it can. admission: whether "auto" takes it on this GPU, "" where
    that needs no examination, else "untested", "off", or what examinations found: "passed (..)",
    "failed: ..", "unknown: ..". instructions: the instruction sets that it can take on this processor,
    fastest first, and whether AMX is compiled, permitted and has passed its self-test, or why not; "" where
    it has none to choose from.
    """

    admission: str
    instructions: str

    def __new__(
        cls, name: str, available: bool, reason: str, admission: str = "", instructions: str = ""
    ) -> ImplementationInfo:
        row = super().__new__(cls, name, available, reason)
        row.admission = admission
        row.instructions = instructions
        return row

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"ImplementationInfo({fields})"

    def _asdict(self) -> dict[str, Any]:
        row = {**super()._asdict(), "admission": self.admission}
        return {**row, "instructions": self.instructions} if self.instructions else row


class Family(Generic[T]):
    """The implementations of a family of ops, by name, the most preferred first.

    kind: the family's name, in verdicts. Each implementation is the name of its module, or an object.
    """

    def __init__(self, kind: str, implementations: dict[str, str | T]) -> None:
        self.kind = kind
        self._implementations = implementations

    @property
    def names(self) -> list[str]:
        return list(self._implementations)

    def register(self, name: str, implementation: str | T) -> None:
        """Adds an implementation, preferred to all others; one of the same name is replaced."""
        others = {key: value for key, value in self._implementations.items() if key != name}
        self._implementations = {name: implementation, **others}

    def unregister(self, name: str) -> None:
        del self._implementations[name]

    def load(self, name: str, device: torch.device | None) -> tuple[T | None, str | None]:
        """The implementation, or None if its import fails, and why it cannot run on `device`, if so."""
        found: Any = self._implementations[name]
        if isinstance(found, str):
            try:
                found = import_module(found)
            except ImportError as error:
                return None, str(error)
        return cast(T, found), found.unavailable(device)

    def resolve(
        self,
        op: str,
        impl: str,
        device: torch.device,
        dtype: torch.dtype | None = None,
        preferred: str = "",
        codes: Tensor | None = None,
        vouched: bool = False,
        queries: int = 0,
    ) -> tuple[str, T]:
        """Name and implementation that run `op` on `device` (for values of `dtype`, if given).

        "auto" takes the preferred one (that the codes were prepared for, say) if it is here and can run, else
        the first that can. Of those on trial it takes what was admitted for codes [.., D] of this dtype and
        width, and the preferred one if it is vouched for, as where this process prepared the codes for it.
        Naming one that cannot run raises RuntimeError with the reason.
        queries: how many are to be looked up; where much work falls to plain torch for want of the
        extension, that is said once.
        """
        if impl != "auto" and impl not in self._implementations:
            raise ValueError(f"impl: expected 'auto' or one of {self.names} for {op}, got {impl!r}")
        names = self._automatic(preferred, device, codes, vouched) if impl == "auto" else [impl]
        for name in names:
            implementation, reason = self.load(name, device)
            dtypes: tuple[torch.dtype, ...] = getattr(implementation, "DTYPES", _checks.DIFFERENTIABLE_DTYPES)
            if reason is None and dtype is not None and dtype not in dtypes:
                reason = f"takes {_checks.dtype_names(dtypes)}, got {_checks.dtype_names([dtype])}"
            if implementation is not None and reason is None:
                if impl == "auto" and codes is not None:
                    self._say(name, device, codes, queries, vouched=vouched and name == preferred)
                return name, implementation
            if impl != "auto":
                raise RuntimeError(f"impl: {impl!r} cannot run {op} on {device}: {reason}")
        raise RuntimeError(f"impl: no implementation of {op} runs on {device}")

    def _automatic(
        self, preferred: str, device: torch.device, codes: Tensor | None, vouched: bool
    ) -> list[str]:
        """The names that "auto" may take, best first."""
        names = self.names
        if preferred in names:
            names = [preferred, *(name for name in names if name != preferred)]
        return [
            name
            for name in names
            if name not in verdicts.ON_TRIAL
            or (vouched and name == preferred)
            or self._outcome(name, device, codes) == verdicts.PASSED
        ]

    def _outcome(self, name: str, device: torch.device, codes: Tensor | None) -> str:
        """What an examination of an implementation on trial found, "" if there was none, "barred" where none
        counts."""
        barred = not verdicts.on_trial(device) or verdicts.mode() == "off" or verdicts.interpreted(name)
        if codes is None or barred:
            return "barred"
        verdict = verdicts.kept(device, verdicts.case(self.kind, name, codes.dtype, codes.shape[-1]))
        return "" if verdict is None else verdict.outcome

    def _say(self, chosen: str, device: torch.device, codes: Tensor, queries: int, *, vouched: bool) -> None:
        """What a user should know of the choice, each once in a process."""
        if chosen == "torch" and device.type == "cpu":
            _extension.warn_fallback(_extension.reason(), queries * codes.numel())
        if not vouched:
            self._tell_once(chosen, device, codes)

    def _tell_once(self, chosen: str, device: torch.device, codes: Tensor) -> None:
        """Says if something on trial would run in place of what was chosen, and nobody has examined it."""
        global _told
        if _told or chosen in verdicts.ON_TRIAL or not verdicts.on_trial(device):
            return
        names = [name for name in verdicts.ON_TRIAL if name in self.names]
        names = [name for name in names if self._outcome(name, device, codes) == ""]
        names = [name for name in names if self.load(name, device)[1] is None]
        if not names:
            return
        _told = True
        dtype, width = str(codes.dtype).removeprefix("torch."), codes.shape[-1]
        warnings.warn(
            f"spae_ops: {chosen!r} runs {self.kind} on {device}, because {' and '.join(map(repr, names))} "
            f"cannot be taken before an examination there, for {dtype} codes of width {width}. Making a "
            f"CodeIndex of the codebook does that, and so does "
            f"spae_ops.admit(dtype=torch.{dtype}, width={width}).",
            verdicts.AdmissionWarning,
            stacklevel=4,
        )


SEARCH = Family[Search](
    "nearest_code",
    {
        "cuda": "spae_ops.lookup.cuda",
        "triton": "spae_ops.lookup.triton",
        "cpu": "spae_ops.lookup.cpu",
        "torch": "spae_ops.lookup.torch",
        "reference": "spae_ops.lookup.reference",
    },
)
CROSS_ENTROPY = Family[CrossEntropy](
    "distance_cross_entropy",
    {
        "triton": "spae_ops.cross_entropy.triton",
        "cpu": "spae_ops.cross_entropy.cpu",
        "torch": "spae_ops.cross_entropy.torch",
        "reference": "spae_ops.cross_entropy.reference",
    },
)
PYRAMID = Family[PyramidOps](
    "pyramid",
    {
        "triton": "spae_ops.quantize.triton",
        "cpu": "spae_ops.quantize.cpu",
        "torch": "spae_ops.quantize.torch",
        "reference": "spae_ops.quantize.reference",
    },
)
TABLES: dict[str, Family[Any]] = {family.kind: family for family in (SEARCH, CROSS_ENTROPY, PYRAMID)}
FAMILIES: dict[str, Family[Any]] = {
    "nearest_code": SEARCH,
    "topk_codes": SEARCH,
    "pyramid_quantize": SEARCH,  # rounds of lookups: it runs wherever the lookup runs
    "pyramid_dequantize": PYRAMID,
    "layer_queries": PYRAMID,
    "dilation_subsample": PYRAMID,
    "distance_cross_entropy": CROSS_ENTROPY,
}


def implementations(op: str) -> list[ImplementationInfo]:
    """The implementations of an op in order of preference, and which of them can run on this machine.

    >>> import spae_ops
    >>> [(i.name, i.available) for i in spae_ops.implementations("nearest_code")][-1]
    ('reference', True)
    """
    if not isinstance(op, str) or op not in FAMILIES:
        raise ValueError(f"op: expected one of {', '.join(FAMILIES)}, got {op!r}")
    rows = []
    for name in FAMILIES[op].names:
        implementation, reason = FAMILIES[op].load(name, None)
        admission = verdicts.summary(FAMILIES[op].kind, name)
        tell = getattr(implementation, "instructions", None)
        instructions = tell() if tell is not None and reason is None else ""
        rows.append(ImplementationInfo(name, reason is None, reason or "", admission, instructions))
    return rows
