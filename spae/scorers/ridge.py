"""A linear map from image features to text features, fitted on captioned images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from spae.scorers.protocol import unit

_FORMAT = "spae-ridge-1"


@dataclass(frozen=True)
class RidgeMap:
    """x -> ((x - mean) / scale) @ weight, towards text features less `centre`.

    weight: [F, E]. mean, scale: [F], of the features it was fitted on. centre: [E], the mean of the unit text
    features it was fitted on. All float32.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor
    centre: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[B, F] -> unit vectors float32 [B, E]."""
        mean, scale, weight = (t.to(features.device) for t in (self.mean, self.scale, self.weight))
        return unit(((features.float() - mean) / scale) @ weight)

    def save(self, path: Path | str) -> None:
        from safetensors.torch import save_file

        save_file(vars(self), str(path), {"format": _FORMAT})

    @classmethod
    def load(cls, path: Path | str) -> RidgeMap:
        """Raises ValueError for a file that `save` did not write."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(
                f"path: expected a map of the format {_FORMAT!r}, got no file {str(path)!r}"
            )
        try:
            with safe_open(str(path), "pt") as file:
                if (file.metadata() or {}).get("format") == _FORMAT:
                    return cls(**{field.name: file.get_tensor(field.name) for field in fields(cls)})
        except SafetensorError as error:
            raise ValueError(
                f"path: expected a map of the format {_FORMAT!r}, got {str(path)!r} ({error})"
            ) from error
        raise ValueError(f"path: expected a map of the format {_FORMAT!r}, got {str(path)!r} of another")


def fit(features: Tensor, texts: Tensor, penalty: float = 2.0) -> RidgeMap:
    """The ridge regression from standardised features to centred unit text features, in float64.

    features: [n, F], images'. texts: [n, E], their captions'. penalty: per image, on the squared weights; on
    emoji from about 0.5 to 5 it makes little difference.

    Raises:
        ValueError: the rows do not pair up, there are fewer than two, or the penalty is not positive.
    """
    if features.ndim != 2 or texts.ndim != 2 or len(features) != len(texts) or len(features) < 2:
        raise ValueError(
            f"features, texts: expected [n, F] and [n, E] with n > 1, got {list(features.shape)} and "
            f"{list(texts.shape)}"
        )
    if not penalty > 0:
        raise ValueError(f"penalty: expected a positive number, got {penalty}")
    x, y = features.double(), unit(texts).double()
    mean, centre = x.mean(0), y.mean(0)
    scale = x.std(0).clamp_min(1e-6)
    x = (x - mean) / scale
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (y - centre))
    return RidgeMap(*(tensor.float().contiguous() for tensor in (weight, mean, scale, centre)))
