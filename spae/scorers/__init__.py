"""Scorers: how well a word describes an image."""

from spae.scorers.caption import CaptionScorer
from spae.scorers.features import TextFeatureCache, dataset_features
from spae.scorers.open_clip import OpenCLIPScorer
from spae.scorers.protocol import ImageTextScorer

__all__ = ["CaptionScorer", "ImageTextScorer", "OpenCLIPScorer", "TextFeatureCache", "dataset_features"]
