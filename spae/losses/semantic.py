"""SPAE's semantic guidance: pools of fitting words (eqs. 4 to 6), and the loss (eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from spae.configs import Count, checked
from spae.losses.targets import TargetRules, draw_targets, same_pools
from spae_ops import CodeIndex, Pyramid, distance_cross_entropy, layer_queries

THRESHOLDS = (0.98, 0.95, 0.9, 0.85, 0.8)
"""The paper's rho of layers 1 to 5."""


def relative_scores(scores: Tensor) -> Tensor:
    """Each image's scores brought to 0 (its worst word) .. 1 (its best), eq. 6.

    scores: finite floating-point [B, K], e.g. image features times text features.

    Returns float32 (float64 for float64) [B, K]. Where all words score the same, all are the best: 1.

    >>> relative_scores(torch.tensor([[0.1, 0.3, 0.2], [0.4, 0.4, 0.4]]))
    tensor([[0.0000, 1.0000, 0.5000],
            [1.0000, 1.0000, 1.0000]])
    """
    _check_scores(scores)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    low, high = scores.aminmax(dim=1, keepdim=True)
    spread = high - low
    return torch.where(spread > 0, (scores - low) / spread, torch.ones_like(scores))


@dataclass(frozen=True)
class SemanticPools:
    """For each image and layer the words that fit (eq. 4), as prefixes of one ranking.

    ranked: int64 [B, M], each image's best M words, best first; M is the size of the largest pool.
    sizes: int64 [B, L'], how many of them make each layer's pool; at least 1.
    """

    ranked: Tensor
    sizes: Tensor

    @property
    def num_layers(self) -> int:
        return self.sizes.shape[1]

    def sample(self, uniform: Tensor, layer: int) -> Tensor:
        """Words drawn uniformly from the pools of one layer: numbers in [0, 1) [B, n] -> int64 [B, n]."""
        if uniform.ndim != 2 or len(uniform) != len(self.ranked) or not uniform.is_floating_point():
            raise ValueError(
                f"uniform: expected floating-point [{len(self.ranked)}, n] in [0, 1), "
                f"got {uniform.dtype} {list(uniform.shape)}"
            )
        if not isinstance(layer, int) or not 0 <= layer < self.num_layers:
            raise ValueError(f"layer: expected 0..{self.num_layers - 1}, got {layer!r}")
        low, high = uniform.aminmax() if uniform.numel() else (0, 0)
        if not (low >= 0 and high <= 1):  # nan too; 1 is what rounding to fewer bits makes of numbers below
            raise ValueError(f"uniform: expected numbers in [0, 1), got {float(low):g} to {float(high):g}")
        return self.ranked.gather(1, _places(uniform, self.sizes[:, layer, None]))

    def sample_regions(self, uniform: Tensor, layer: int, regions: Tensor) -> Tensor:
        """As `sample`, where the rows are R regions of each image, one image after the other: position i of
        an image takes its word from the pool of its region `regions[i]`, int64 [n]. [B, n] -> [B, n]."""
        batch = len(uniform)
        count = len(self.ranked) // max(batch, 1)
        ranked = self.ranked.unflatten(0, (batch, count))
        places = _places(uniform, self.sizes[:, layer].unflatten(0, (batch, count))[:, regions])
        return ranked[torch.arange(batch, device=ranked.device)[:, None], regions, places]


def _places(uniform: Tensor, sizes: Tensor) -> Tensor:
    """Numbers in [0, 1) as places in pools of some sizes."""
    # The product may round up to the size itself.
    return torch.minimum((uniform.double() * sizes).long(), sizes - 1)


def semantic_pools(
    scores: Tensor,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    least: Sequence[int | None] | None = None,
    most: Sequence[int | None] | None = None,
) -> SemanticPools:
    """The words whose relative score reaches each layer's threshold, eq. 4. The best word always does.

    scores: finite floating-point [B, K], raw (see `relative_scores`). thresholds: a rho in [0, 1] per layer.
    least, most: for each layer bounds of its pools' sizes, at least 1, whatever the threshold says; the best
    words make them. None: no bound, as in the paper.

    Raises ValueError for scores, thresholds and bounds of another form.

    >>> pools = semantic_pools(torch.tensor([[0.0, 1.0, 0.96, 0.9]]), (0.98, 0.95))
    >>> pools.ranked, pools.sizes
    (tensor([[1, 2]]), tensor([[1, 2]]))
    """
    _check_thresholds(thresholds)
    for name, bounds in (("least", least), ("most", most)):
        if bounds is not None and len(checked(name, bounds, Sequence[Count | None])) != len(thresholds):
            raise ValueError(f"{name}: expected one for each of {len(thresholds)} layers, got {bounds}")
    relative = relative_scores(scores)
    # Layer by layer: no [B, L', K] tensor.
    sizes = torch.stack([(relative >= rho).sum(1) for rho in thresholds], dim=1)
    for bounds, bounded in ((most, Tensor.clamp_max_), (least, Tensor.clamp_min_)):
        for layer, bound in enumerate(bounds or ()):
            if bound is not None:
                bounded(sizes[:, layer], min(bound, scores.shape[1]))
    largest = int(sizes.max()) if len(sizes) else 1
    return SemanticPools(relative.topk(largest, dim=1).indices, sizes)


def semantic_loss(
    z: Tensor,
    ids: Tensor,
    codes: Tensor | CodeIndex,
    pyramid: Pyramid,
    targets: Sequence[Tensor],
    *,
    rule: str = "saq",
    temperature: float = 1.0,
) -> Tensor:
    """-log of the softmax over all words of -||z_l - e(c)||^2 / temperature at the target c, eq. 7.

    z: latents [B, D, *pyramid.shape]. ids: int64 [B, n], the codes they were quantized to. targets: for each
    of the first L' layers int64 [B, n_l], a word of the pool for each position (`SemanticPools.sample`).

    Returns a scalar: the mean over layers of the mean over a layer's positions and images. Computed in
    float32 (float64 for float64); the gradient reaches z only, with eq. 2's factor of the number of lookups.
    """
    if not 1 <= len(targets) <= pyramid.num_layers:
        raise ValueError(f"targets: expected 1 to {pyramid.num_layers} layers, got {len(targets)}")
    if not isinstance(z, Tensor):
        raise TypeError(f"z: expected a torch.Tensor, got {type(z).__name__}")
    for layer, target in enumerate(targets):
        expected = (len(z), pyramid.tokens_per_layer[layer])
        if not isinstance(target, Tensor) or target.dtype != torch.int64:
            got = getattr(target, "dtype", type(target).__name__)
            raise TypeError(f"targets[{layer}]: expected int64 {list(expected)}, got {got}")
        if target.shape != expected:
            raise ValueError(f"targets[{layer}]: expected shape {list(expected)}, got {list(target.shape)}")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    queries = [layer_queries(z, ids, codes, pyramid, layer, rule=rule) for layer in range(len(targets))]
    losses = distance_cross_entropy(
        torch.cat(queries, 1), codes, torch.cat(list(targets), 1), temperature=temperature, reduction="none"
    )
    per_layer = losses.split([target.shape[1] for target in targets], dim=1)
    return torch.stack([layer.mean() for layer in per_layer]).mean()


class _Codebook(Protocol):
    @property
    def index(self) -> CodeIndex: ...


class _Output(Protocol):
    """What `SemanticLoss` reads of a tokenizer's output."""

    @property
    def tokens(self) -> Any: ...
    @property
    def features(self) -> Tensor: ...


class Mixture(NamedTuple):
    """Guidance [B, ..] of a batch whose pictures are mixed: `shares[i]` of picture i, float [B], the rest of
    the one before it in the batch (of the last one, for the first)."""

    guidance: Tensor
    shares: Tensor


class SemanticLoss(nn.Module):
    """The semantic loss of a tokenizer's output, given each image's feature: ``semantic(output, guidance)``.

    One word per position is drawn from its layer's pool. The draws are a function of the seed and of how many
    training steps came before, which the state dict holds, so a resumed run repeats them; they are made on
    the CPU, the same for every device. Processes that share a batch, every world-th sample each, draw what
    one process with the whole batch would. In evaluation mode the count stands still.

    Args:
        codebook: what the model's latents are looked up in; its rows are the words e(c).
        text_features: floating-point [K, E], the scorer's feature of each word (eq. 5); in no state dict.
        thresholds: rho of the first layers (eq. 4); later layers get no guidance.
        temperature: divides the squared distances; the paper has 1.
        rule: the model's, "saq" or "rq".
        seed: of the draws.
        rules: how targets are found, None for the paper's way.
    """

    text_features: Tensor
    step: Tensor
    offset: Tensor | None

    def __init__(
        self,
        codebook: _Codebook,
        text_features: Tensor,
        thresholds: Sequence[float] = THRESHOLDS,
        *,
        temperature: float = 1.0,
        rule: str = "saq",
        seed: int = 0,
        rules: TargetRules | None = None,
    ) -> None:
        super().__init__()
        count = len(codebook.index.codes)
        checked("rule", rule, Literal["saq", "rq"])
        _check_text_features(text_features, count)
        _check_thresholds(thresholds)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
        self.codebook = codebook
        self.thresholds, self.temperature = tuple(thresholds), temperature
        self.rule, self.seed = rule, seed
        self.rules = TargetRules() if rules is None else rules
        self.rules.check(len(self.thresholds), count)
        self.register_buffer("text_features", text_features.detach().float(), persistent=False)
        offset = self.rules.offset
        self.register_buffer("offset", None if offset is None else offset.detach().float(), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def mix(self, images: Tensor, guidance: Tensor) -> tuple[Tensor, Tensor | Mixture]:
        """What the next step trains on, for images [B, C, *shape] and their guidance: with
        `TargetRules.mixup`, in training mode, each picture mixed with the one before it in the batch.

        Not in the paper. A batch's order is drawn already, so its neighbours are pairs as good as any. The
        shares are a function of seed and step, as the words are.
        """
        if not self.rules.mixup or not self.training:
            return images, guidance
        rank, world = _place()
        stream = self._stream()
        # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
        random = np.random.RandomState([stream & 0xFFFFFFFF, stream >> 32])
        drawn = random.beta(self.rules.mixup, self.rules.mixup, len(images) * world)[rank::world]
        shares = torch.from_numpy(drawn).to(images)
        weights = shares.view(-1, *[1] * (images.ndim - 1))
        return torch.lerp(images.roll(1, 0), images, weights), Mixture(guidance, shares)

    def forward(self, output: _Output, guidance: Tensor | Mixture) -> Tensor:
        """output: a `SPAEOutput` of B images. guidance: unit image features [B, E]; [B, R, E] of every region
        (`TargetRules.regions`), if there are more than one; or what `mix` gave beside the images. Returns a
        scalar."""
        z, ids, pyramid = output.features, output.tokens.ids, output.tokens.pyramid
        targets = self.targets(guidance, pyramid, len(z))
        if self.training:
            self.step += 1
        return semantic_loss(
            z, ids, self.codebook.index, pyramid, targets, rule=self.rule, temperature=self.temperature
        )

    def targets(self, guidance: Tensor | Mixture, pyramid: Pyramid, batch: int) -> list[Tensor]:
        """The words that guide the next step: int64 [B, n_l] for each guided layer. guidance: as above; a
        position of a mixed picture takes its own picture's word or the other's for the same position, by the
        shares."""
        shares = None
        if isinstance(guidance, Mixture):
            guidance, shares = guidance
        if len(self.thresholds) > pyramid.num_layers:
            raise ValueError(
                f"thresholds: expected at most {pyramid.num_layers}, one for each layer, "
                f"got {len(self.thresholds)}"
            )
        rules, layers = self.rules, range(len(self.thresholds))
        scores = self._regional_scores(guidance, batch)
        regions = [rules.regions.of_layer(pyramid, layer).to(scores.device) for layer in layers]
        counts = [len(region) for region in regions]
        drawn = self._uniform(batch, sum(counts) * (1 if shares is None else 2)).to(scores.device)
        uniform = drawn[:, : sum(counts)].split(counts, dim=1)
        targets: dict[int, Tensor] = {}
        for group in same_pools(regions, rules.allowed):
            wanted = regions[group[0]].unique()
            pools = self._pools(scores[:, wanted], group)
            for place, layer in enumerate(group):
                # Regions by their row in the group's scores.
                rows = torch.searchsorted(wanted, regions[layer])
                if rules.draw == "uniform":
                    targets[layer] = pools.sample_regions(uniform[layer], place, rows)
                    continue
                ranked = pools.ranked.unflatten(0, (batch, len(wanted)))
                sizes = pools.sizes[:, place].unflatten(0, (batch, len(wanted)))
                numbers = uniform[layer] if rules.draw == "distinct" else None
                targets[layer] = draw_targets(ranked, sizes, rows, numbers)
        words = [targets[layer] for layer in layers]
        if shares is None:
            return words
        own = drawn[:, sum(counts) :] < shares.to(drawn)[:, None]
        pairs = zip(own.split(counts, dim=1), words, strict=True)
        return [torch.where(mine, layer, layer.roll(1, 0)) for mine, layer in pairs]

    def _pools(self, scores: Tensor, layers: list[int]) -> SemanticPools:
        """Pools of layers whose words are the same, of raw scores [B, R', K]: rows are images' regions."""
        low, high = self.rules.bounds(len(self.thresholds))
        words = None
        if self.rules.allowed is not None:
            words = self.rules.allowed[layers[0]].to(scores.device).nonzero()[:, 0]
            scores = scores[..., words]
        pools = semantic_pools(
            scores.flatten(0, 1),
            [self.thresholds[layer] for layer in layers],
            least=[low[layer] for layer in layers],
            most=[high[layer] for layer in layers],
        )
        return pools if words is None else SemanticPools(words[pools.ranked], pools.sizes)

    def scores(self, guidance: Tensor, batch: int) -> Tensor:
        """Image features [B, E] times the words' features: raw scores float32 [B, K], which eq. 6 normalises;
        less the rules' offset. Of regions [B, R, E] the first counts, the whole."""
        return self._regional_scores(guidance, batch)[:, 0]

    def _regional_scores(self, guidance: Tensor, batch: int) -> Tensor:
        """Raw scores float32 [B, R, K]."""
        count, width = len(self.rules.regions), self.text_features.shape[1]
        expected = (batch, width) if count == 1 else (batch, count, width)
        if guidance.shape != expected:
            raise ValueError(f"guidance: expected shape {list(expected)}, got {list(guidance.shape)}")
        scores = guidance.to(self.text_features).reshape(batch, count, width) @ self.text_features.T
        return scores if self.offset is None else scores - self.offset

    def _uniform(self, batch: int, count: int) -> Tensor:
        """This process's rows of the step's random numbers, float64 [batch, count]."""
        rank, world = _place()
        generator = torch.Generator().manual_seed(self._stream())
        numbers = torch.rand(batch * world, count, generator=generator, dtype=torch.float64)
        return numbers[rank::world]

    def _stream(self) -> int:
        """The number of the step's stream of random numbers."""
        # Seeds are spread over 64 bits, so that neither the next step nor the next seed repeats a stream.
        return (self.seed * 0x9E3779B97F4A7C15 + int(self.step) * 0xD1342543DE82EF95) % 2**63


def _place() -> tuple[int, int]:
    """This process's number among those that share a batch, and how many those are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _check_text_features(features: Any, count: int) -> None:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
        got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"text_features: expected [{count}, E], one row per word, got {got}")
    if not torch.isfinite(features).all():
        raise ValueError("text_features: expected finite numbers, got nan or inf")


def _check_thresholds(thresholds: Sequence[float]) -> None:
    several = isinstance(thresholds, list | tuple)
    if (
        not several
        or not thresholds
        or not all(isinstance(rho, Real) and 0 <= rho <= 1 for rho in thresholds)
    ):
        got = tuple(thresholds) if several else thresholds
        raise ValueError(f"thresholds: expected at least one, all from 0 to 1, got {got!r}")


def _check_scores(scores: Tensor) -> None:
    if not isinstance(scores, Tensor):
        kind = type(scores).__name__
        raise TypeError(f"scores: expected floating-point [B, K] with K >= 1, got {kind}")
    if scores.ndim != 2 or scores.shape[1] == 0 or not scores.is_floating_point():
        raise ValueError(
            f"scores: expected floating-point [B, K] with K >= 1, got {scores.dtype} {list(scores.shape)}"
        )
    if not torch.isfinite(scores).all():
        raise ValueError("scores: expected finite numbers, got nan or inf")
