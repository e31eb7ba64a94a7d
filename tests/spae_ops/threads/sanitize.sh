#!/bin/sh
# The CPU code under GCC's sanitizers: threads.cpp for races, the operators' tests for bad addresses and undefined
# behaviour. Builds into build/; takes the interpreter to use.
set -eu
python=$1
here=tests/spae_ops/threads
build=build/sanitize
mkdir -p "$build"
torch=$("$python" -c "import torch.utils.cpp_extension as e; print(*(f'-I{path}' for path in e.include_paths()))")
sources=$(find csrc -name '*.cpp' ! -name operators.cpp ! -name register.cpp ! -name module.cpp)

echo "threads.cpp: thread"
# shellcheck disable=SC2086
g++ -std=c++20 -O1 -g1 -fsanitize=thread -fno-sanitize-recover=all -I$here -Icsrc $torch \
    $here/threads.cpp $sources -pthread -o "$build/threads"
"$build/threads"

echo "The operators' tests: address,undefined"
CFLAGS="-g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
    LDFLAGS="-fsanitize=address,undefined" SPAE_REQUIRE_EXT=1 SPAE_NO_CUDA=1 "$python" setup.py --quiet build_py --build-lib "$build/lib" \
    build_ext --build-lib "$build/lib" --build-temp "$build/temp" > "$build/log" 2>&1 || { cat "$build/log"; exit 1; }
# Python and torch free nothing at the end, which is no leak of ours. Exceptions need libstdc++ at hand from the start.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$build/lib" OMP_NUM_THREADS=2
# Without it the tests would be skipped.
(cd "$build" && PYTHONPATH=lib "../../$python" -c "
import spae_ops._extension
assert 'sanitize' in spae_ops._extension.load().__file__")
# Compilers are not ours; and resident memory is then the sanitizer's, which keeps what was freed for a while.
"$(dirname "$python")/pytest" -q -k "not compile and not resident_memory" tests/spae_ops/test_nearest_code_cpu.py \
    tests/spae_ops/test_nearest_code_cpu_bounds.py tests/spae_ops/test_nearest_code_cpu_operator.py tests/spae_ops/test_tiles.py \
    tests/spae_ops/test_distance_cross_entropy_cpu.py tests/spae_ops/test_pyramid_quantize_cpu.py \
    tests/spae_ops/test_pyramid_quantize.py tests/spae_ops/test_code_index.py tests/spae_ops/test_vmap.py
