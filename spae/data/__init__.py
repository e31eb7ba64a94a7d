"""Data: `open_data` for whatever a specification names, the sets that come as packages, and
collections of tokens."""

from spae.data.kinds import Unsplit, register
from spae.data.mnist import MNISTDigits
from spae.data.open import Images, Item, automatic_split, open_data
from spae.data.sets import SETS, PackagedSet, load
from spae.data.token_dataset import TokenDataset, TokenItem
from spae.data.views import Views

__all__ = [
    "SETS",
    "Images",
    "Item",
    "MNISTDigits",
    "PackagedSet",
    "TokenDataset",
    "TokenItem",
    "Unsplit",
    "Views",
    "automatic_split",
    "load",
    "open_data",
    "register",
]
