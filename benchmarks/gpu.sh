#!/usr/bin/env bash
# Builds, tests and measures on a machine with a GPU, without a network; needs torch with CUDA, nvcc, and pytest.
# Results and logs go to ${OUT:-benchmarks/results}. Every step's exit status is shown; the last is the worst.
# Steps have time limits that add up to less than 8 minutes.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results}
python=${PYTHON:-python}
mkdir -p "$out/logs"
worst=0

step() { # step NAME SECONDS COMMAND...: runs it, its output shown and kept in logs/NAME.txt
    local name=$1 limit=$2 status
    shift 2
    printf '\n--- %s: %s\n' "$name" "$*"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/logs/$name.txt"
    status=${PIPESTATUS[0]}
    printf '%s: exit status %s after %s s\n' "$name" "$status" "$SECONDS" | tee -a "$out/logs/steps.txt"
    if ((status > worst)); then worst=$status; fi
}

lookup() { # lookup NAME SECONDS ARGUMENTS...: one run of the benchmark on the GPU
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" -m benchmarks lookup --device cuda "$@" --out "$out/$name"
}

: >"$out/logs/steps.txt"
step machine 20 nvidia-smi
step build 80 env SPAE_REQUIRE_EXT=1 "$python" setup.py build_ext --inplace
step implementations 30 "$python" -c \
    'import spae_ops; print(*spae_ops.implementations("nearest_code"), sep="\n")'
step tests 120 "$python" -m pytest -q -p no:cacheprovider tests/spae_ops/test_on_gpu.py
lookup gpu-float32 70 --codebook random:65536x640 --queries 64 597 4776 --kind random near-code --repeats 3
lookup gpu-float16 60 --codebook random:65536x640 --dtype float16 --queries 64 597 4776 --repeats 3
lookup gpu-batch-256 35 --codebook random:65536x256 --dtype float16 --queries 38208 --repeats 3
lookup gpu-batch-1536 40 --codebook random:65536x1536 --dtype float16 --queries 38208 --repeats 3

others() { # others NAME SECONDS QUESTION ARGUMENTS...: one more benchmark, in what is left of the 8 minutes
    local name=$1 limit=$2 question=$3 left=$((475 - SECONDS))
    shift 3
    if ((left < 20)); then
        printf '%s: skipped, no time left\n' "$name" | tee -a "$out/logs/steps.txt"
        return
    fi
    step "$name" "$((limit < left ? limit : left))" \
        "$python" -m benchmarks "$question" --device cuda "$@" --out "$out/$name"
}

others gpu-cross-entropy-float32 70 cross-entropy --codebook random:65536x640 --queries 2728 --repeats 3
others gpu-cross-entropy-bfloat16 60 cross-entropy --codebook random:65536x256 --dtype bfloat16 \
    --queries 341 2728 --kind random --repeats 3
others gpu-pyramid 50 pyramid --codebook random:65536x640 --batch 8 --repeats 3
others gpu-quantizer 70 quantizer --codebook random:65536x256 --batch 8 --channels 128 --res-blocks 2 \
    --sizes 128 --works encode step --axes --repeats 3
others gpu-growth 80 growth --codebook random:65536x640 --dtype float16 --largest 262144 --repeats 3
cat "$out/logs/steps.txt"
exit "$worst"
