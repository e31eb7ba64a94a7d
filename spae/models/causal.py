"""Layers that never look ahead along the first grid axis, time, and clips that pass through them in chunks.

As in MAGVIT-v2 (Yu et al. 2024) the first frame stands alone: where time shrinks by s, 1 + s k frames become
1 + k, so an image is a video of one frame. All padding lies before the first frame, and norms look at one
frame at a time; a frame's outputs depend on it and on those before it, which is what lets a clip be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from spae.configs import Count, checked

TIME = 2  # of [B, C, T, ..]
_streams: ContextVar[dict[nn.Module, Tensor | None] | None] = ContextVar("spae_streams", default=None)


class Stream:
    """A causal network called on one chunk of a clip after another: ``Stream(encoder)(chunk)``.

    The first chunk holds 1 + f k frames, later ones f k, for a network that shrinks time by f; of latents,
    any number. Put together, the results are those of the whole clip; each chunk costs its own memory, and
    what is kept between chunks does not grow with the clip. Each stream remembers its own clips (a batch of
    them); threads do not mix. Raises ValueError for a network that remembers nothing: it has no causal layer,
    or is compiled.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self._past: dict[nn.Module, Tensor | None] = {}

    def __call__(self, chunk: Tensor) -> Tensor:
        token = _streams.set(self._past)
        try:
            result = self.network(chunk)
        finally:
            _streams.reset(token)
        if not self._past:
            raise ValueError(f"network: expected causal layers, not compiled, got {self.network!r:.80}")
        return result


def in_chunks(network: Callable[[Tensor], Tensor], clip: Tensor, first: int, further: int) -> Tensor:
    """`network(clip)` by way of a `Stream`: a chunk of `first` frames, then `further` at a time.

    clip: [B, C, T, ..], frames or latents. Raises ValueError for less than one of either.
    """
    stream = Stream(network)
    return torch.cat([stream(part) for part in chunks(clip, first, further)], TIME)


def chunks(clip: Tensor, first: int, further: int) -> Iterator[Tensor]:
    """A clip [B, C, T, ..] along time: `first` frames, then `further` at a time, at last what is left."""
    checked("first", first, Count)
    checked("further", further, Count)
    yield from clip.tensor_split(tuple(range(first, clip.shape[TIME], further)), TIME)


def streamed() -> bool:
    """Whether a stream calls."""
    return _stream() is not None


def _stream() -> dict[nn.Module, Tensor | None] | None:
    """What the stream that calls remembers, None outside of any; compiled graphs are outside."""
    return None if torch.compiler.is_compiling() else _streams.get()


def continues(layer: nn.Module) -> bool:
    """Whether this call of `layer` goes on with a clip that the stream has begun; notes that it has begun."""
    stream = _stream()
    if stream is None:
        return False
    begun = layer in stream
    stream.setdefault(layer, None)
    return begun


class _CausalConv:
    """What both convolutions add to torch's: zeros, or a stream's last frames, before the first frame."""

    kernel_size: tuple[int, ...]

    def _after_past(self, x: Tensor) -> Tensor:
        count = self.kernel_size[0] - 1
        stream = _stream()
        past = None if stream is None else stream.get(self)  # pyright: ignore[reportArgumentType]
        if past is None:
            past = x.new_zeros(*x.shape[:TIME], count, *x.shape[TIME + 1 :])
        x = torch.cat([past, x], TIME)
        if stream is not None:
            # A copy: a view would keep the whole chunk.
            stream[self] = x[:, :, x.shape[TIME] - count :].clone()  # pyright: ignore[reportArgumentType]
        return x


class CausalConv1d(_CausalConv, nn.Conv1d):
    """`nn.Conv1d` whose outputs see no later input: [B, C_in, T] -> [B, C_out, T]; odd kernel, stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self._after_past(input))


class CausalConv3d(_CausalConv, nn.Conv3d):
    """`nn.Conv3d` whose outputs see no later frame: [B, C_in, T, H, W] -> [B, C_out, T, H, W]; odd kernel,
    stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self._after_past(input))


CausalConv = {1: CausalConv1d, 3: CausalConv3d}


class FrameNorm(nn.GroupNorm):
    """GroupNorm of each frame by itself: [B, C, T, ..] to the same shape."""

    def forward(self, input: Tensor) -> Tensor:
        frames = input.transpose(1, TIME)  # [B, T, C, ..]
        normed = super().forward(frames.flatten(0, 1))
        return normed.unflatten(0, frames.shape[:2]).transpose(1, TIME)


def inflate(network: nn.Module, images: nn.Module) -> None:
    """Set a causal 3D network's weights to those of its 2D twin, of the same parts by name.

    A kernel's last place in time, the frame itself, takes the 2D kernel, and the earlier ones are zero
    ("central inflation" of MAGVIT, Yu et al. 2023). So at first each frame is worked on as an image would be:
    a one-frame video gives what the 2D network gives.

    Raises ValueError for parts that the other has not, or of another shape.
    """
    state, given = network.state_dict(), images.state_dict()
    if missing := sorted(state.keys() ^ given.keys()):
        raise ValueError(
            f"images: expected the parts of the 3D network, got others: {', '.join(missing[:4])}"
        )
    for name, value in given.items():
        wanted = state[name]
        if value.ndim == 4 and wanted.ndim == 5 and value.shape == wanted.shape[:2] + wanted.shape[3:]:
            inflated = torch.zeros_like(wanted)
            inflated[:, :, -1] = value
            state[name] = inflated
        elif value.shape == wanted.shape:
            state[name] = value
        else:
            raise ValueError(
                f"images: expected {name} of the shape {list(wanted.shape)} without its time, "
                f"got {list(value.shape)}"
            )
    network.load_state_dict(state)
