// The processor's own tiles: when they may be taken, and the kernels on them. setup.py asks the compiler whether it knows
// their instructions and defines SPAE_WITH_AMX.
#include <cstdlib>
#include <cstring>
#include <string>

#include "simd/tiles.h"

namespace spae::simd {
namespace {

// SPAE_AMX=off. Whatever else it says but "on" also errs on the safe side.
bool is_turned_off() {
  const char* value = std::getenv("SPAE_AMX");
  return value != nullptr && *value != '\0' && std::strcmp(value, "on") != 0;
}

}  // namespace
}  // namespace spae::simd

#if SPAE_X86 && defined(SPAE_WITH_AMX)

#include <cpuid.h>
#include <immintrin.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

#include <array>
#include <chrono>
#include <thread>

#define SPAE_TARGET __attribute__((target("amx-tile,amx-int8,avx512f,avx512vnni,avx2,fma")))

namespace spae::simd {
namespace {

// LDTILECFG's operand.
struct alignas(kLineBytes) TileShapes {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t bytes[16];
  uint8_t lines[16];
};
static_assert(sizeof(TileShapes) == kLineBytes);

// In static storage: compilers have been seen to drop one on the stack that only the instruction reads.
constexpr std::array<TileShapes, kLineWords + 1> kShapes = [] {
  std::array<TileShapes, kLineWords + 1> made{};
  for (int64_t words = 1; words <= kLineWords; ++words) {
    TileShapes& shapes = made[static_cast<size_t>(words)];
    shapes.palette = 1;
    for (int t = 0; t < 8; ++t) {
      shapes.lines[t] = static_cast<uint8_t>(t < 6 ? kLines : words);
      shapes.bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? 4 * words : kLineBytes);
    }
  }
  return made;
}();

// As instructions: the intrinsics of GCC take register numbers as literal text only, and do not say that they read memory.
class AmxTiles {
 public:
  SPAE_TARGET explicit AmxTiles(int64_t words) {
    asm volatile("ldtilecfg %0" : : "m"(kShapes[static_cast<size_t>(words)]) : "memory");
  }
  SPAE_TARGET ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int T>
  SPAE_TARGET void load(const void* from, int64_t apart) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(apart), "i"(T) : "memory");
  }
  template <int T>
  SPAE_TARGET void store(void* to, int64_t apart) const {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(apart), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  SPAE_TARGET void add_products() {
    asm volatile("tdpbsud %%tmm%c0, %%tmm%c1, %%tmm%c2" : : "i"(B), "i"(A), "i"(C));
  }
};

#include "simd/tile_lanes_avx512.h"

using Tiles = AmxTiles;

#include "simd/tile_schedule.h"

std::atomic<bool> lost{false};
constexpr TileKernels kTiles = {scan_pairs<false>, scan_pairs<true>, &lost};

// Why the processor or the operating system has none.
std::string what_is_missing() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTileAndInt8 = 1u << 24 | 1u << 25, kSaves = 1u << 27;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTileAndInt8) != kTileAndInt8)
    return "this processor has none";
  const Kernels* base = avx512();
  if (base == nullptr || base->rows8 == 0) return "this processor has no AVX-512 with VNNI beside it";
  if (__get_cpuid_count(0x1d, 1, &eax, &ebx, &ecx, &edx) == 0 || (ebx & 0xffff) != kLineBytes || ebx >> 16 < 8 ||
      (ecx & 0xffff) != kLines)
    return "this processor's tiles have another shape";
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kSaves) == 0) return "the operating system saves no tiles";
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  constexpr unsigned kTileState = 1u << 17 | 1u << 18;
  return (eax & kTileState) == kTileState ? "" : "the operating system saves no tiles";
}

// Linux gives a process the use of tile registers on demand, for all its threads.
std::string ask_permission() {
#ifdef __linux__
  constexpr int kAsk = 0x1023, kRead = 0x1022, kTileData = 18;
  if (syscall(SYS_arch_prctl, kAsk, kTileData) != 0) return std::string("permission refused: ") + std::strerror(errno);
  uint64_t granted = 0;
  if (syscall(SYS_arch_prctl, kRead, &granted) != 0 || (granted >> kTileData & 1) == 0)
    return "permission was given but does not show";
  return "";
#else
  return "known on Linux only";
#endif
}

// Whether registers hold their data while this thread is switched out.
SPAE_TARGET bool keeps_data() {
  alignas(kLineBytes) uint8_t before[kLines * kLineBytes], after[kLines * kLineBytes] = {};
  for (size_t i = 0; i < sizeof before; ++i) before[i] = static_cast<uint8_t>(i * 7 + 1);
  AmxTiles tiles(kLineWords);
  for (int i = 0; i < 3; ++i) {
    tiles.load<0>(before, kLineBytes);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    tiles.store<0>(after, kLineBytes);
    if (std::memcmp(before, after, sizeof before) != 0) return false;
  }
  return true;
}

std::string try_out() {
  std::string why = what_is_missing();
  if (why.empty()) why = ask_permission();
  if (!why.empty()) return why;
  if (!keeps_data()) return "self-test failed: registers lose their data when a thread is switched out";
  return agree(kTiles, *emulated_tiles_avx512()) ? "" : "self-test failed: its scores are not the emulation's";
}

const std::string& why_not() {
  static const std::string why = try_out();
  return why;
}

}  // namespace

const Kernels* amx() {
  if (is_turned_off() || !why_not().empty()) return nullptr;
  static const Kernels kernels = [] {
    Kernels made = *avx512();
    made.name = "amx";
    made.tiles = &kTiles;
    return made;
  }();
  return &kernels;
}

std::string amx_status() {
  if (is_turned_off()) return "turned off by SPAE_AMX";
  if (!why_not().empty()) return why_not();
  return lost ? "no longer taken: tile registers lost their data" : "permitted, self-test passed";
}

}  // namespace spae::simd

#else

namespace spae::simd {
const Kernels* amx() { return nullptr; }
std::string amx_status() {
  if (is_turned_off()) return "turned off by SPAE_AMX";
  return SPAE_X86 ? "not compiled: the compiler does not know its instructions" : "this processor has none";
}
}  // namespace spae::simd

#endif
