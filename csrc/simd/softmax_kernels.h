// The text of softmax.h's kernels, included once in each instruction set's file, in an unnamed namespace, after
//   SPAE_TARGET, the functions' target attribute;
//   kGroup[V], as many codes (or elements) times V vectors as there are registers to add up in, dividing 16;
//   Vec, a vector of kLanes floats with + - * by element, and load, store, broadcast, maximum, minimum,
//   multiply_add(a, b, c) = a b + c, any_reaches(a, b) = some a >= b, to_integer = rounded to an integral value,
//   times_power(x, n) = x 2^n, and zero_below(value, x, bound) = x >= bound ? value : 0.

// Elements whose products are added up before they join a score. Shorter sums round less, and so much of a block's
// queries stays in the first-level cache while all codes of a tile pass by.
inline constexpr int64_t kChunk = 128;

template <int V, int G>
SPAE_TARGET inline void clear(Vec (&sums)[G][V]) {
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[g][v] = broadcast(0.0f);
}

template <int V>
SPAE_TARGET void score(const ScoreArguments& a) {
  constexpr int G = kGroup[V];
  constexpr int64_t kRows = V * kLanes;
  const int64_t steps = (a.width + kChunk - 1) / kChunk;
  const char* prefetch = a.prefetch;
  const int64_t prefetch_step = a.prefetch_bytes * G / (a.codes * a.width);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t begin = step * a.width / steps, end = (step + 1) * a.width / steps;
    const float* queries = a.queries + begin * kRows;
    for (int64_t first = 0; first < a.codes; first += G) {
      const int64_t panel = first / simd::kPanel;
      const float* codes = a.panels + (panel * a.width + begin) * simd::kPanel + first % simd::kPanel;
      Vec sums[G][V];
      clear(sums);
      const float* q = queries;
      for (int64_t d = begin; d < end; ++d, q += kRows, codes += simd::kPanel) {
        Vec rows[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) rows[v] = load(q + v * kLanes);
        __builtin_prefetch(prefetch, 0, 2);
        prefetch += prefetch_step;
#pragma GCC unroll 16
        for (int g = 0; g < G; ++g) {
          const Vec code = broadcast(codes[g]);
#pragma GCC unroll 3
          for (int v = 0; v < V; ++v) sums[g][v] = multiply_add(code, rows[v], sums[g][v]);
        }
      }
      float* scores = a.scores + first * kRows;
#pragma GCC unroll 16
      for (int g = 0; g < G; ++g) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
          float* at = scores + g * kRows + v * kLanes;
          store(at, step == 0 ? sums[g][v] : load(at) + sums[g][v]);
        }
      }
    }
  }
  Vec best[V];
  for (int v = 0; v < V; ++v) best[v] = broadcast(-__builtin_inff());
  for (int64_t k = 0; k < a.codes; ++k) {
    const Vec bias = broadcast(a.bias[k]);
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      float* at = a.scores + k * kRows + v * kLanes;
      const Vec sum = load(at) + bias;
      store(at, sum);
      best[v] = maximum(best[v], sum);
    }
  }
  for (int v = 0; v < V; ++v) store(a.best + v * kLanes, best[v]);
}

template <int V>
SPAE_TARGET int64_t select(const SelectArguments& a) {
  constexpr int64_t kRows = V * kLanes;
  Vec reference[V], floor[V];
  for (int v = 0; v < V; ++v) reference[v] = load(a.reference + v * kLanes), floor[v] = load(a.floor + v * kLanes);
  const Vec slope = broadcast(a.slope);
  int64_t count = 0;
  for (int64_t k = 0; k < a.codes; ++k) {
    bool any = false;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const Vec exponent = slope * (load(a.scores + k * kRows + v * kLanes) - reference[v]);
      store(a.exponents + count * kRows + v * kLanes, exponent);
      any |= any_reaches(exponent, floor[v]);
    }
    a.selected[count] = static_cast<int32_t>(k);
    count += any;
  }
  return count;
}

// e^x within two units in the last place: 2^n e^r, with a polynomial fitted to (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2.
SPAE_TARGET inline Vec exponential(Vec x) {
  constexpr float kLowest = -86.0f, kHighest = 88.0f;
  const Vec y = minimum(x, broadcast(kHighest));
  const Vec n = to_integer(y * broadcast(1.44269504f));
  // ln(2) in two parts, the first short enough that its multiples are exact.
  const Vec r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), y));
  Vec p = broadcast(0x1.6a23e2p-10f);
  p = multiply_add(p, r, broadcast(0x1.123a1ep-7f));
  p = multiply_add(p, r, broadcast(0x1.5558f2p-5f));
  p = multiply_add(p, r, broadcast(0x1.555492p-3f));
  p = multiply_add(p, r, broadcast(0x1.fffffcp-2f));
  p = multiply_add(p * r, r, r) + broadcast(1.0f);
  return zero_below(times_power(p, n), x, broadcast(kLowest));
}

template <int V>
SPAE_TARGET void exponentiate(float* exponents, int64_t count, float* totals) {
  constexpr int64_t kRows = V * kLanes;
  Vec sums[V];
  for (int v = 0; v < V; ++v) sums[v] = broadcast(0.0f);
  for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      float* at = exponents + i * kRows + v * kLanes;
      const Vec weight = exponential(load(at));
      store(at, weight);
      sums[v] = sums[v] + weight;
    }
  }
  for (int v = 0; v < V; ++v) store(totals + v * kLanes, load(totals + v * kLanes) + sums[v]);
}

// Elements d to d + G of the sums; a tile's own sum is taken first, so that it rounds less.
template <int V, int G>
SPAE_TARGET inline void add_elements(const AddArguments& a, const int64_t* offsets, int64_t d) {
  constexpr int64_t kRows = V * kLanes;
  Vec sums[G][V];
  clear(sums);
  const float* weights = a.weights;
  const float* codes = a.panels + d * simd::kPanel;
  for (int64_t i = 0; i < a.count; ++i, weights += kRows) {
    const float* code = codes + offsets[i];
    Vec rows[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) rows[v] = load(weights + v * kLanes);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) {
      const Vec element = broadcast(code[g * simd::kPanel]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[g][v] = multiply_add(element, rows[v], sums[g][v]);
    }
  }
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      float* at = a.sums + (d + g) * kRows + v * kLanes;
      store(at, load(at) + sums[g][v]);
    }
  }
}

template <int V>
SPAE_TARGET void add(const AddArguments& a) {
  int64_t offsets[kTileCodes];
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t k = a.selected[i];
    offsets[i] = k / simd::kPanel * a.width * simd::kPanel + k % simd::kPanel;
  }
  int64_t d = 0;
  for (; d + kGroup[V] <= a.width; d += kGroup[V]) add_elements<V, kGroup[V]>(a, offsets, d);
  for (; d + 4 <= a.width; d += 4) add_elements<V, 4>(a, offsets, d);
  for (; d < a.width; ++d) add_elements<V, 1>(a, offsets, d);
}

template <int V>
SPAE_TARGET void scale(float* values, int64_t rows, const float* factors) {
  constexpr int64_t kRows = V * kLanes;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t r = 0; r < kRows; r += kLanes)
      store(values + i * kRows + r, load(values + i * kRows + r) * load(factors + r));
}

constexpr Kernels kKernels = {
    kLanes,
    {nullptr, score<1>, score<2>, score<3>},
    {nullptr, select<1>, select<2>, select<3>},
    {nullptr, exponentiate<1>, exponentiate<2>, exponentiate<3>},
    {nullptr, add<1>, add<2>, add<3>},
    {nullptr, scale<1>, scale<2>, scale<3>},
};
