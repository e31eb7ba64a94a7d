"""The rows of the paper's ablation (Table 4) as overrides of a preset with the full recipe."""

from __future__ import annotations


def ablations(size: int = 16, guided: int = 5) -> dict[str, tuple[str, ...]]:
    """Overrides for `load_preset`, by the row's name, for a preset with semantic guidance and latents of
    `size` x `size`, whose first `guided` layers are guided.

    The paper names the rows, not these numbers: the guidance of a single layer has the threshold 0.8, that of
    two layers acts on the first, as the full pyramid's last layer has none; the one threshold is 0.9.

    >>> ablations()["2-layer RQ"]
    ('quantizer.grids=[16, 16]', 'quantizer.rule=rq', 'objective.semantic.thresholds=[0.8]')
    """
    one, two = f"quantizer.grids={[size]}", f"quantizer.grids={[size, size]}"
    first, off = "objective.semantic.thresholds=[0.8]", "objective.semantic=null"
    learned = ("tokenizer=vqgan", "codebook={}", "quantizer.latent_norm=none")
    return {
        "learned codebook VQ": (*learned, one, off),
        "+ frozen codebook": (one, off),
        "+ semantic loss": (one, first),
        "2-layer RQ": (two, "quantizer.rule=rq", first),
        "2-layer SAQ": (two, first),
        "6-layer pyramid SAQ": (),
        "one threshold for all layers": (f"objective.semantic.thresholds={[0.9] * guided}",),
        "no dynamic weight": ("objective.dynamic_weight=false",),
        "no perceptual loss": ("objective.perceptual=null",),
    }
