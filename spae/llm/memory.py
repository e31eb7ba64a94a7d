"""What a language model remembers of a text: every layer's keys and values, with room to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

if TYPE_CHECKING:
    from spae.llm.protocol import Prefix

_ROOM = 256


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer at the beginning of larger tensors.

    transformers' own layer copies all tokens before for every token more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rooms: Any = None, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        filled = self.get_seq_length()
        total = filled + key_states.shape[-2]
        keys, values = self._rooms
        self._rooms = _appended(keys, filled, key_states), _appended(values, filled, value_states)
        self.cut(total)
        return self.keys, self.values

    def cut(self, length: int) -> None:
        """Forget all but the first tokens."""
        if self.is_initialized:
            self.keys, self.values = (room[..., :length, :] for room in self._rooms)

    def copied(self, length: int) -> GrowingLayer:
        """A layer of its own with the first tokens."""
        layer = GrowingLayer()
        if length and self.is_initialized:
            layer.update(self._rooms[0][..., :length, :], self._rooms[1][..., :length, :])
        return layer


def _appended(room: Tensor | None, filled: int, new: Tensor) -> Tensor:
    total = filled + new.shape[-2]
    if room is None or room.shape[-2] < total:
        larger = new.new_empty(*new.shape[:-2], total + max(_ROOM, total // 4), new.shape[-1])
        if room is not None:
            larger[..., :filled, :] = room[..., :filled, :]
        room = larger
    room[..., filled:total, :] = new
    return room


class Memory:
    """A text's keys and values. Prefixes hold its beginnings; one reading at a time goes on behind one."""

    def __init__(self) -> None:
        self.cache = Cache(layer_class_to_replicate=GrowingLayer)
        self._layers: Any = self.cache.layers
        self._held: WeakSet[Prefix] = WeakSet()
        self._in_use = False

    def behind(self, length: int) -> Memory:
        """What a reading behind the first `length` tokens may write to until it calls `close`.

        This, if nobody holds more than those and nobody else is reading; otherwise a copy.
        """
        memory = self
        if self._in_use or any(len(prefix.ids) > length for prefix in self._held):
            memory = Memory()
            memory._layers += [layer.copied(length) for layer in self._layers]
        else:
            for layer in self._layers:
                layer.cut(length)
        memory._in_use = True
        return memory

    def hold(self, prefix: Prefix) -> None:
        """Keep a prefix's tokens for as long as it lives."""
        self._held.add(prefix)

    def close(self) -> None:
        self._in_use = False
