// The text of tiles.h's kernels, included once in each file that compiles them, in an unnamed namespace, after
//   SPAE_TARGET, the functions' target attribute;
//   Tiles, the eight registers: constructed for a number of words in a step, with load<T>(lines, bytes apart),
//     store<T>(..) and add_products<C, A, B>(): C += A B, signed queries A times unsigned codes B;
//   Vec, 16 floats, with load, store, broadcast, multiply, multiply_add(a, b, c) = a b + c, maximum,
//     to_float(16 integers), any_reaches(a, b) = some a >= b, equal(a, b) = all of 16 integers are;
//   add_up(panel, words, sums): the sums over words of a panel's 16 codes, and
//   largest_of_lines(lines [16, 16], largest [16]): the largest of each line.
//
// Registers: 0 to 3 hold sums (queries' half, panel), 4 and 5 the halves, 6 and 7 the panels.

// A pair of block and tile whose products are all added up.
struct Pair {
  const TileBlock* block;        // null: none
  int64_t number;                // the block's
  int64_t place;                 // the tile's, in the list
  int64_t code;                  // the tile's first
  const int32_t (*sums)[kTile];  // [32, 32]
  const int32_t* known;          // [32]: what the check lines must hold
  int scored;                    // rows
  uint32_t hits;
};

SPAE_TARGET inline bool is_whole(const Pair& pair) {
  bool whole = true;
  for (int line = kHalfRows; line < (pair.block->count > kHalfRows ? 2 : 1) * kLines; line += kLines)
    for (int64_t j = 0; j < kTile; j += kPanel) whole &= equal(pair.sums[line] + j, pair.known + j);
  return whole;
}

// Scores rows up to `end`: as screen8 does, but for maxima leaves 16 of 32 to be compared in `scores` [R, 16].
template <bool kMaxima>
SPAE_TARGET inline void score_rows(const TileScan& scan, Pair& pair, int end, float* scores) {
  const float *bias = scan.bias + pair.code, *norms = scan.norms + pair.code;
  const float *residuals = scan.residuals + pair.code, *steps = scan.steps + pair.code;
  for (int r = pair.scored; r < end; ++r) {
    const QueryRow8& row = pair.block->rows[r];
    const int32_t* sums = pair.sums[r + r / kHalfRows];
    const Vec step = broadcast(row.step), residual_slope = broadcast(row.residual_slope);
    const Vec norm_slope = broadcast(row.norm_slope);
    Vec v[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int64_t j = i * kPanel;
      const Vec y = multiply_add(norm_slope, load(norms + j), load(bias + j));
      const Vec z = multiply_add(residual_slope, load(residuals + j), y);
      v[i] = multiply_add(to_float(sums + j), multiply(step, load(steps + j)), z);
    }
    if constexpr (kMaxima) {
      store(scores + r * kPanel, maximum(v[0], v[1]));
    } else {
      const Vec threshold = broadcast(pair.block->thresholds[r]);
      if (__builtin_expect(any_reaches(v[0], threshold) || any_reaches(v[1], threshold), 0)) {
        pair.hits |= 1u << r;
        store(scores + r * kTile, v[0]);
        store(scores + r * kTile + kPanel, v[1]);
      }
    }
  }
  pair.scored = std::max(pair.scored, end);
}

template <bool kMaxima>
SPAE_TARGET inline void finish(const TileScan& scan, Pair& pair, float* scores) {
  score_rows<kMaxima>(scan, pair, pair.block->count, scores);
  if constexpr (kMaxima) {
    alignas(kLineBytes) float largest[2 * kLines];
    for (int first = 0; first < pair.block->count; first += kLines)
      largest_of_lines(scores + first * kPanel, largest + first);
    scan.sink->take(pair.number, pair.place, 0, largest);
  } else if (pair.hits != 0) {
    scan.sink->take(pair.number, pair.place, pair.hits, scores);
  }
}

// Lines [begin, end) of what the next pair of panels has of them, into the second-level cache.
SPAE_TARGET inline void prefetch(const TileScan& scan, const uint8_t* panels, int64_t begin, int64_t end) {
  for (int64_t line = begin; line < end; ++line) {
    const int64_t at = line < scan.words ? line : line - scan.words + scan.panel_words;
    __builtin_prefetch(panels + at * kLineBytes, 0, 2);
  }
}

// Adds up one pair's products and scores another's rows meanwhile: tiles and vectors are apart in the processor.
template <int kHalves, bool kMaxima>
SPAE_TARGET inline void add_up_pair(Tiles& tiles, const TileScan& scan, const TileBlock& block, const uint8_t* panels,
                                    const uint8_t* next, int64_t share, int32_t (*sums)[kTile], Pair& other,
                                    float* scores) {
  constexpr int64_t kRegister = kLines * kLineBytes, kSumsBytes = kTile * sizeof(int32_t);
  const uint8_t* panels1 = panels + scan.panel_words * kLineBytes;
  const int32_t* start1 = block.start + kLines * kLines;
  tiles.template load<0>(block.start, kLineBytes);
  tiles.template load<1>(block.start, kLineBytes);
  if constexpr (kHalves == 2) {
    tiles.template load<2>(start1, kLineBytes);
    tiles.template load<3>(start1, kLineBytes);
  }
  const int64_t steps = num_steps(scan.words), lines = 2 * scan.words;
  const int64_t first = share * lines / scan.num_blocks, last = (share + 1) * lines / scan.num_blocks;
  for (int64_t step = 0; step < steps; ++step) {
    const int8_t* queries = block.queries + step * 2 * kRegister;
    const int64_t at = step_begin(scan.words, step) * kLineBytes;
    tiles.template load<4>(queries, kLineBytes);
    tiles.template load<6>(panels + at, kLineBytes);
    tiles.template add_products<0, 4, 6>();
    tiles.template load<7>(panels1 + at, kLineBytes);
    tiles.template add_products<1, 4, 7>();
    if constexpr (kHalves == 2) {
      tiles.template load<5>(queries + kRegister, kLineBytes);
      tiles.template add_products<2, 5, 6>();
      tiles.template add_products<3, 5, 7>();
    }
    if (next != nullptr)
      prefetch(scan, next, first + step * (last - first) / steps, first + (step + 1) * (last - first) / steps);
    if (other.block != nullptr)
      score_rows<kMaxima>(scan, other, static_cast<int>((step + 1) * other.block->count / steps), scores);
  }
  tiles.template store<0>(sums[0], kSumsBytes);
  tiles.template store<1>(sums[0] + kPanel, kSumsBytes);
  if constexpr (kHalves == 2) {
    tiles.template store<2>(sums[kLines], kSumsBytes);
    tiles.template store<3>(sums[kLines] + kPanel, kSumsBytes);
  }
}

template <bool kMaxima>
SPAE_TARGET int64_t scan_pairs(const TileScan& scan) {
  alignas(kLineBytes) int32_t sums[2][2 * kLines][kTile], known[2][kTile];
  alignas(kLineBytes) float scores[2 * kLines * kTile] = {};
  Tiles tiles(step_words(scan.words));
  Pair last{};
  int64_t count = 0;
  for (int64_t t = 0; t < scan.num_tiles; ++t) {
    const int64_t tile_bytes = 2 * scan.panel_words * kLineBytes;
    const uint8_t* panels = scan.panels + scan.tiles[t] * tile_bytes;
    const uint8_t* next = t + 1 < scan.num_tiles ? scan.panels + scan.tiles[t + 1] * tile_bytes : nullptr;
    for (int64_t i = 0; i < 2; ++i)
      add_up(panels + i * scan.panel_words * kLineBytes, scan.words, known[t & 1] + i * kPanel);
    for (int64_t b = 0; b < scan.num_blocks; ++b, ++count) {
      if (last.block != nullptr && !is_whole(last)) return count - 1;
      const TileBlock& block = scan.blocks[b];
      int32_t(*to)[kTile] = sums[count & 1];
      if (block.count > kHalfRows) {
        add_up_pair<2, kMaxima>(tiles, scan, block, panels, next, b, to, last, scores);
      } else {
        add_up_pair<1, kMaxima>(tiles, scan, block, panels, next, b, to, last, scores);
      }
      if (last.block != nullptr) finish<kMaxima>(scan, last, scores);
      last = {&block, b, t, scan.tiles[t] * kTile, to, known[t & 1], 0, 0};
    }
  }
  if (last.block == nullptr) return count;
  if (!is_whole(last)) return count - 1;
  finish<kMaxima>(scan, last, scores);
  return count;
}
