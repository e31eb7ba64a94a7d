"""The images that few-shot episodes show and ask about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from spae.eval.centroids import Features
from spae.eval.episodes import Episode
from spae.eval.images import pictures_of
from spae.eval.labelled import LabelledSet


class EpisodePictures:
    """each: the pictures by number, of what is shown and, where queries are of another data set, of what is
    asked."""

    def __init__(self, labelled: LabelledSet, episodes: Sequence[Episode]) -> None:
        self._of_item = labelled.items or range(len(labelled.labels.shown))
        self._two = labelled.asked is not None
        used = {self._of_item[shot.item] for episode in episodes for shot in episode.shots}
        queries = {episode.query.item for episode in episodes}
        if labelled.asked is None:
            self.each = [pictures_of(labelled.shown, used | {self._of_item[item] for item in queries})]
        else:
            self.each = [pictures_of(labelled.shown, used), pictures_of(labelled.asked, queries)]

    def by_item(self, values: dict[int, Any]) -> dict[int, Any]:
        """Values of shown images as those of the items that are about them."""
        return {item: values[image] for item, image in enumerate(self._of_item) if image in values}

    def features(self, of: Callable[[dict[int, Tensor]], dict[int, Tensor]]) -> Features:
        found = [of(pictures) for pictures in self.each]
        shown = self.by_item(found[0])
        return Features(shown, found[1] if self._two else shown)
