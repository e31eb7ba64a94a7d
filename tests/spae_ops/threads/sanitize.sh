#!/bin/sh
# The CPU code under GCC's sanitizers: threads.cpp for races, bad addresses and undefined behaviour, then the operators'
# tests for the last two. Each sanitizer must also report a fault of its kind that is planted in a copy of a source.
# Builds into build/, where what has not changed is kept; takes the interpreter to use.
set -eu
python=$1
here=tests/spae_ops/threads
build=build/sanitize
mkdir -p "$build"
torch=$("$python" -c "import torch.utils.cpp_extension as e; print(*(f'-I{path}' for path in e.include_paths()))")
sources=$(find csrc -name '*.cpp' ! -name operators.cpp ! -name register.cpp ! -name module.cpp)

# compile FOLDER SOURCE FLAGS: an object, made again where the source or any header has changed.
compile() {
    object=$1/$(basename "$2").o
    if [ ! -e "$object" ] || [ -n "$(find "$2" csrc $here -newer "$object" '(' -name '*.h' -o -path "$2" ')')" ]; then
        # shellcheck disable=SC2086
        g++ -std=c++20 -O1 -g1 $3 -fno-sanitize-recover=all -I$here -Icsrc $torch -c "$2" -o "$object"
    fi
}

# try_threads NAME FLAGS: threads.cpp by itself, nothing reported.
try_threads() {
    echo "threads.cpp: $1"
    mkdir -p "$build/$1"
    for source in $here/threads.cpp $sources; do compile "$build/$1" "$source" "$2"; done
    # shellcheck disable=SC2086
    g++ $2 "$build/$1"/*.o -pthread -o "$build/$1/threads"
    "$build/$1/threads"
}

# plant NAME FLAGS SOURCE OLD NEW REPORT: the same with one change must end in that report.
plant() {
    mkdir -p "$build/$1/planted"
    fault=$build/$1/planted/$(basename "$3")
    sed "s|$4|$5|" "$3" > "$fault.new"
    if cmp -s "$3" "$fault.new"; then echo "planting: expected '$4' in $3, found none"; exit 1; fi
    if cmp -s "$fault" "$fault.new"; then rm "$fault.new"; else mv "$fault.new" "$fault"; fi
    compile "$build/$1/planted" "$fault" "$2"
    others=$(ls "$build/$1"/*.o | grep -v "/$(basename "$3").o")
    # shellcheck disable=SC2086
    g++ $2 "$build/$1/planted/$(basename "$3").o" $others -pthread -o "$build/$1/planted/threads"
    if "$build/$1/planted/threads" > "$build/$1/planted/report" 2>&1 || ! grep -q "$6" "$build/$1/planted/report"; then
        echo "planted in $3: expected '$6', got"; cat "$build/$1/planted/report"; exit 1
    fi
    rm "$build/$1/planted/threads" "$build/$1/planted/$(basename "$3").o"
    echo "planted in $(basename "$3"): reported, as it should be ($6)"
}

thread=-fsanitize=thread
address=-fsanitize=address,undefined
export ASAN_OPTIONS=detect_leaks=0  # Python and torch free nothing at the end, which is no leak of ours
try_threads thread $thread
plant thread $thread csrc/nearest_code/cpu/steps.cpp "list = ranges <= workers_ ? range : worker;" "list = 0;" \
    "ThreadSanitizer: data race"
try_threads address $address
plant address $address csrc/nearest_code/cpu/pass.cpp "bounds_.resize(static_cast<size_t>(rows()));" \
    "bounds_.resize(static_cast<size_t>(rows() - 1));" "AddressSanitizer: heap-buffer-overflow"
plant address $address csrc/nearest_code/cpu/prepare.cpp "uint32_t random = 1;" "uint32_t random = 1 << (width + 9);" \
    "runtime error: shift exponent"

echo "The operators' tests: address,undefined"
CFLAGS="-g1 $address -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
    LDFLAGS="$address" SPAE_REQUIRE_EXT=1 SPAE_NO_CUDA=1 "$python" setup.py --quiet build_py --build-lib "$build/lib" \
    build_ext --build-lib "$build/lib" --build-temp "$build/temp" > "$build/log" 2>&1 || { cat "$build/log"; exit 1; }
# Exceptions need libstdc++ at hand from the start.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export PYTHONPATH="$build/lib" OMP_NUM_THREADS=2
# Without it the tests would be skipped.
(cd "$build" && PYTHONPATH=lib "../../$python" -c "
import spae_ops._extension
assert 'sanitize' in spae_ops._extension.load().__file__")
# Compilers are not ours; and resident memory is then the sanitizer's, which keeps what was freed for a while.
"$(dirname "$python")/pytest" -q -k "not compile and not resident_memory" tests/spae_ops/test_nearest_code_cpu.py \
    tests/spae_ops/test_nearest_code_cpu_bounds.py tests/spae_ops/test_nearest_code_cpu_operator.py tests/spae_ops/test_tiles.py \
    tests/spae_ops/test_distance_cross_entropy_cpu.py tests/spae_ops/test_distance_cross_entropy_truncation.py \
    tests/spae_ops/test_distance_cross_entropy_bounds.py tests/spae_ops/test_distance_cross_entropy_ties.py tests/spae_ops/test_pyramid_quantize_cpu.py \
    tests/spae_ops/test_pyramid_quantize.py tests/spae_ops/test_code_index.py tests/spae_ops/test_vmap.py
# Of the tests of every implementation those of the C++: what torch's own code makes takes hours under a sanitizer.
"$(dirname "$python")/pytest" -q -k "cpu and not compile and not opcheck" tests/spae_ops/test_nearest_code.py \
    tests/spae_ops/test_distance_cross_entropy.py
