"""A language model of a few thousand random weights, with a real tokenizer: for the logic around models."""

from __future__ import annotations

from typing import Any

import torch

from spae.llm.local import LocalLLM

VOCABULARY = 340
_CORPUS = [
    "an image of a small red fox and a blue bird",
    "the quick brown fox jumps over the lazy dog",
    "input output images of digits: three seven eight",
] * 4
_END = "<|end|>"


def tiny_tokenizer() -> Any:
    """A byte-level BPE with some words of its own and one control token, id 0."""
    import tokenizers
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[_END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=_END)


def tiny_model(kind: str = "llama", *, context: int = 4096) -> Any:
    """A transformers model with weights of a scale at which every token's logits depend on all before it.

    kind: "llama", "gemma3" (sliding and full attention), "mistral" (sliding everywhere) or "bloom" (positions
    as a bias).
    """
    import transformers

    size: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model: Any
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**size))
    elif kind == "gemma3":
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        options: dict[str, Any] = {
            "head_dim": 8,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "layer_types": layers,
        }
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**size, **options))
    elif kind == "mistral":
        model = transformers.MistralForCausalLM(transformers.MistralConfig(**size, sliding_window=6))
    elif kind == "bloom":
        config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
        config.max_position_embeddings = context
        model = transformers.BloomForCausalLM(config)
    else:
        raise ValueError(f"kind: expected llama, gemma3, mistral or bloom, got {kind!r}")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tiny_llm(kind: str = "llama", *, context: int = 4096) -> LocalLLM:
    """`tiny_model` and `tiny_tokenizer` as a `FrozenLLM`."""
    return LocalLLM(tiny_model(kind, context=context), tiny_tokenizer(), name="tiny")


def tiny_words(llm: LocalLLM, ids: torch.Tensor) -> list[str]:
    """Distinct words for ids [K] of a tiny model: what it reads them as, where that is a text of its own."""
    read = {i: llm.decode([i]) for i in ids.tolist()}
    return [word if word.isascii() and word.strip() else f"<{i}>" for i, word in read.items()]
