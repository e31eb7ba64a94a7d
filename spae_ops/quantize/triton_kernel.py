"""Kernels of the pyramid ops on GPUs: queries, features, and the gradient of queries.

Values are those of `rules.py`, bit for bit. Sums of codes are float64, added in order of layers; queries and
averages are float64, rounded once to float32. (m + 1) z is exact for a z of at most 24 bits, so that fused
multiply-add changes nothing. Every program owns what it writes. Offsets are 64-bit.

chains int64 [P, J] holds the tokens at each latent position in order of layers, then -1; ids int64
[B, tokens] the code of each token; codes [K, D] and latents are fp32, fp16 or bf16.
Programs: (block of PLACES places of one image, block of BLOCK channels).
"""

# What pyright knows of Triton's types is not what its compiler does with them.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _where(places, D, PLACES: tl.constexpr, BLOCK: tl.constexpr):
    """The program's image, its places [PLACES, 1] and channels [1, BLOCK], and which of both there are."""
    blocks = tl.cdiv(places, PLACES)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    place = (tl.program_id(0) % blocks) * PLACES + tl.arange(0, PLACES)[:, None]
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    return image, place.to(tl.int64), channel, place < places, channel < D


@triton.jit
def _sum(
    ids, codes, chain, valid, length, limit, channel, inside, D, PLACES: tl.constexpr, BLOCK: tl.constexpr
):
    """The sum of the codes of the first `length` tokens at the pointers chain [PLACES, 1], of those below
    `limit`: float64 [PLACES, BLOCK]; and how many there are, int32 [PLACES, 1]."""
    total = tl.zeros((PLACES, BLOCK), tl.float64)
    count = tl.zeros((PLACES, 1), tl.int32)
    for i in range(length):
        token = tl.load(chain + i, mask=valid, other=-1)
        known = (token >= 0) & (token < limit)
        code = tl.load(ids + token, mask=known, other=0)
        value = tl.load(codes + code * D + channel, mask=known & inside, other=0.0)
        total += value.to(tl.float32).to(tl.float64)
        count += known.to(tl.int32)
    return total, count


@triton.jit
def queries(
    z, ids, codes, positions, chains, out, places, tokens, row, length, limit, D,
    image_stride, stride, place_stride,
    AVERAGE: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The next query at each position, fp32 out [B, places, D]: (m + 1) z - sum if AVERAGE, else z - sum.

    z [B, D, P] with the strides given; positions int64 [places]. row: J of chains, of which the first
    `length` tokens, and those below `limit`, count.
    """
    image, place, channel, valid, inside = _where(places, D, PLACES, BLOCK)
    at = tl.load(positions + place, mask=valid, other=0)
    total, count = _sum(
        ids + image * tokens,
        codes,
        chains + at * row,
        valid,
        length,
        limit,
        channel,
        inside,
        D,
        PLACES,
        BLOCK,
    )
    source = z + image * image_stride + channel * stride + at * place_stride
    latent = tl.load(source, mask=valid & inside, other=0.0).to(tl.float32).to(tl.float64)
    if AVERAGE:
        latent = latent * (count + 1).to(tl.float64)
    target = out + (image * places + place) * D + channel
    tl.store(target, (latent - total).to(tl.float32), mask=valid & inside)


@triton.jit
def features(
    ids, codes, sources, chains, out, places, tokens, row, D,
    AVERAGE: tl.constexpr, NEAREST: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The average of each position's codes if AVERAGE, else their sum, fp32 out [B, D, places].

    NEAREST: position p takes the feature of position sources[p], int64 [places]. Without codes it is zero.
    """
    image, place, channel, valid, inside = _where(places, D, PLACES, BLOCK)
    at = place
    if NEAREST:
        at = tl.load(sources + place, mask=valid, other=0)
    total, count = _sum(
        ids + image * tokens, codes, chains + at * row, valid, row, tokens, channel, inside, D, PLACES, BLOCK
    )
    if AVERAGE:
        total = total / tl.maximum(count, 1).to(tl.float64)
    target = out + (image * D + channel) * places + place
    tl.store(target, total.to(tl.float32), mask=valid & inside)


@triton.jit
def queries_backward(
    grad, chains, out, places, first, tokens, row, D,
    AVERAGE: tl.constexpr, PLACES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient in z, out [B, D, places], of the queries of the layer with `tokens` tokens, from `first`.

    grad [B, tokens, D] of out's dtype: times m + 1 if AVERAGE (of fp32 or fp64). Zero where the layer has no
    token.
    """
    image, place, channel, valid, inside = _where(places, D, PLACES, BLOCK)
    index = tl.zeros((PLACES, 1), tl.int64) - 1
    scale = tl.zeros((PLACES, 1), tl.int32)
    for i in range(row):
        token = tl.load(chains + place * row + i, mask=valid, other=-1) - first
        here = (token >= 0) & (token < tokens)
        index = tl.where(here, token, index)
        scale = tl.where(here, i + 1, scale)
    source = grad + (image * tokens + index) * D + channel
    value = tl.load(source, mask=(index >= 0) & inside, other=0.0)
    if AVERAGE:
        value = value * scale.to(value.dtype)
    tl.store(out + (image * D + channel) * places + place, value, mask=valid & inside)
