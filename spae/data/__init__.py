"""Data: `open_data` for whatever a specification names, and the sets that come as packages."""

from spae.data.mnist import MNISTDigits
from spae.data.open import Images, Item, Unsplit, automatic_split, open_data, register
from spae.data.sets import SETS, PackagedSet, load
from spae.data.views import Views

__all__ = [
    "SETS",
    "Images",
    "Item",
    "MNISTDigits",
    "PackagedSet",
    "Unsplit",
    "Views",
    "automatic_split",
    "load",
    "open_data",
    "register",
]
