"""Scorers: how well a word describes an image."""

from spae.scorers.caption import CaptionScorer
from spae.scorers.conse import ConSEScorer
from spae.scorers.features import TextFeatureCache, dataset_features
from spae.scorers.named import check_scorer, load_scorer
from spae.scorers.open_clip import OpenCLIPScorer
from spae.scorers.protocol import ImageTextScorer
from spae.scorers.regions import region_features
from spae.scorers.ridge import RidgeMap

__all__ = [
    "CaptionScorer",
    "ConSEScorer",
    "ImageTextScorer",
    "OpenCLIPScorer",
    "RidgeMap",
    "TextFeatureCache",
    "check_scorer",
    "dataset_features",
    "load_scorer",
    "region_features",
]
