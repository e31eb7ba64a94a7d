// The kernels around the screen: a warp per row.
#include <cuda_fp16.h>

#include "nearest_code/cuda/kernels.h"
#include "nearest_code/cuda/ptx.cuh"

namespace spae::cuda {
namespace {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kFrameWarps = 8;
constexpr int kCertifyRows = 8;
constexpr int kResolveWarps = 4;
constexpr int kMaxScreenWidth = 1 << 20;
constexpr int kEntryBytes = static_cast<int>(sizeof(double) + sizeof(int64_t));

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kWarp, value, step);
  return value;
}

// A row of a Matrix; every value is exact in fp32.
class Row {
 public:
  __device__ Row(const Matrix& matrix, int64_t row)
      : data_(matrix.data), element_(matrix.element), offset_(row * matrix.width) {}

  __device__ float operator[](int64_t column) const {
    const int64_t index = offset_ + column;
    if (element_ == Element::kFloat) return static_cast<const float*>(data_)[index];
    if (element_ == Element::kHalf) return __half2float(static_cast<const __half*>(data_)[index]);
    return __int_as_float(static_cast<const uint16_t*>(data_)[index] << 16);
  }

 private:
  const void* data_;
  Element element_;
  int64_t offset_;
};

// sqdist64 (spae_ops/lookup/distance.py), the same in all lanes: lane j is the definition's lane j, and the
// exchanges add the definition's pairs, a + b here where b + a there. The products are exact, fused or not.
__device__ __forceinline__ double squared_distance(const Row& q, const Row& c, int64_t width) {
  double sum = 0;
#pragma unroll 4
  for (int64_t d = lane(); d < width; d += 32) {
    const double t = static_cast<double>(q[d]) - static_cast<double>(c[d]);
    const double high = __longlong_as_double((__double_as_longlong(t) + (1ll << 26)) & -(1ll << 27));
    const double low = t - high;
    sum += high * high;
    sum += (2 * high) * low;
    sum += low * low;
  }
  return warp_sum(sum);
}

__global__ void __launch_bounds__(32 * kFrameWarps) frame_kernel(const __grid_constant__ Frame arguments) {
  const int64_t row = int64_t{blockIdx.x} * kFrameWarps + warp();
  if (row >= arguments.rows) return;
  const bool exists = row < arguments.x.rows;
  const Row source(arguments.x, row);
  const int64_t width = exists ? arguments.x.width : 0;
  const double scale = arguments.frame[arguments.x.width];
  const auto framed = [&](int64_t d) { return (static_cast<double>(source[d]) - arguments.frame[d]) * scale; };

  bool screened = exists;
  double unit = 1, back = 1;  // r and 1 / r
  if (arguments.inverse != nullptr) {
    double largest = 0;
    for (int64_t d = lane(); d < width; d += 32) largest = fmax(largest, fabs(framed(d)));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) largest = fmax(largest, __shfl_xor_sync(kWarp, largest, step));
    // largest = [1, 2) 2^exponent; r brings it into [2^14, 2^15) unless that needs more than 2^30.
    const auto exponent = static_cast<int>(__double_as_longlong(largest) >> 52) - 1023;
    int shift = 14 - exponent < 30 ? 14 - exponent : 30;
    screened = screened && shift >= -45;
    if (!screened) shift = 0;
    unit = __longlong_as_double(static_cast<long long>(1023 + shift) << 52);
    back = __longlong_as_double(static_cast<long long>(1023 - shift) << 52);
  }
  double squares = 0, residual_squares = 0;
  for (int64_t d = lane(); d < arguments.padded; d += 32) {
    const double t = screened && d < width ? framed(d) * unit : 0;
    const __half rounded = __float2half_rn(fabs(t) < kLeast ? 0.0f : static_cast<float>(t));
    const double residual = t - static_cast<double>(__half2float(rounded));
    squares += t * t;
    residual_squares += residual * residual;
    arguments.out[row * arguments.padded + d] = __half_as_ushort(rounded);
  }
  squares = warp_sum(squares);
  const double root = sqrt(squares);
  const double off = sqrt(warp_sum(residual_squares)) + root * 0x1p-53;
  const double norm = (root + off) * kInflation * back;
  if (lane() != 0) return;
  arguments.norms[row] = static_cast<float>(norm);
  arguments.residuals[row] = static_cast<float>(off * kInflation * back);
  if (arguments.inverse != nullptr) {
    const auto terms = static_cast<double>(3 * ((arguments.x.width + 31) / 32) + 9);  // e is this many 2^-53
    const auto slack = static_cast<float>(0.5 * terms * 0x1p-53 * norm * norm * kInflation);
    const bool usable = (screened || !exists) && arguments.x.width <= kMaxScreenWidth;
    arguments.extra[row] = usable ? slack : kUnscreened;
    arguments.inverse[row] = static_cast<float>(back);
  } else {
    arguments.extra[row] = exists ? static_cast<float>(-0.5 * squares) : kAbsent;
  }
}

// A tile's two largest w with their slacks.
struct Bounds {
  float first;
  float first_slack;
  float second;
  float second_slack;
};

class RowBounds {
 public:
  __device__ RowBounds(const Summary& summary, int64_t row)
      : summary_(summary), row_(row), norm_(summary.norms[row]), residual_(summary.residuals[row]),
        own_(summary.owns[row]) {}

  __device__ Bounds operator()(int tile) const {
    const float* factors = summary_.bounds + tile;
    const int64_t source = int64_t{tile} * summary_.rows + row_;
    const float own = own_ + factors[2 * int64_t{summary_.tiles}];
    const float base = (norm_ * factors[0] + residual_ * factors[summary_.tiles]) + own;
    const float first = summary_.first[source], second = summary_.second[source];
    return {first, base + kColumnSlack * fabsf(first), second, base + kColumnSlack * fabsf(second)};
  }

 private:
  const Summary& summary_;
  int64_t row_;
  float norm_;
  float residual_;
  float own_;
};

__device__ __forceinline__ int64_t code_of(int tile, float score) {
  return int64_t{tile} * kTile + (__float_as_int(score) & (kTile - 1));
}

// A block takes kCertifyRows rows: first its threads share their tiles, 32 threads a row, then each warp has one row.
__global__ void __launch_bounds__(32 * kCertifyRows) certify_kernel(const __grid_constant__ Certify arguments) {
  __shared__ float limits[32][kCertifyRows + 1];
  __shared__ int counts[32][kCertifyRows + 1];
  __shared__ int64_t picks[32][kCertifyRows + 1];
  const int local = static_cast<int>(threadIdx.x) % kCertifyRows, share = static_cast<int>(threadIdx.x) / kCertifyRows;
  const int64_t start = int64_t{blockIdx.x} * kCertifyRows;
  const int tiles = arguments.summary.tiles;
  // Rows of the summary are padded to a multiple of kRowBlock, so that this one exists.
  const RowBounds bounds(arguments.summary, start + local);
  float limit = kFloor;
#pragma unroll 4
  for (int tile = share; tile < tiles; tile += 32) {
    const Bounds b = bounds(tile);
    limit = fmaxf(limit, b.first - b.first_slack);
  }
  limits[share][local] = limit;
  __syncthreads();
  for (int i = 0; i < 32; ++i) limit = fmaxf(limit, limits[i][local]);
  int count = 0;
  int64_t pick = 0;
#pragma unroll 4
  for (int tile = share; tile < tiles; tile += 32) {
    const Bounds b = bounds(tile);
    if (b.first + b.first_slack >= limit) {
      ++count;
      pick = code_of(tile, b.first);
    }
    if (b.second + b.second_slack >= limit) ++count;
  }
  counts[share][local] = count;
  picks[share][local] = pick;
  __syncthreads();

  const int64_t row = start + warp();
  if (row >= arguments.x.rows) return;
  count = counts[lane()][warp()];
  pick = picks[lane()][warp()];
  limit = limits[lane()][warp()];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    count += __shfl_xor_sync(kWarp, count, step);
    const int64_t other = __shfl_xor_sync(kWarp, pick, step);
    pick = other > pick ? other : pick;
    limit = fmaxf(limit, __shfl_xor_sync(kWarp, limit, step));
  }
  if (count != 1) {
    if (lane() == 0) arguments.threshold[row] = limit;
    return;
  }
  const double found = squared_distance(Row(arguments.x, row), Row(arguments.codes, pick), arguments.x.width);
  if (lane() != 0) return;
  arguments.threshold[row] = INFINITY;
  arguments.ids[row] = pick;
  arguments.sqdist[row] = found;
}

// The k lowest (squared distance, id) that a warp has been offered, ascending, in shared memory. Codes must be offered
// in ascending order of id among equal distances.
class Nearest {
 public:
  __device__ Nearest(unsigned char* memory, int k)
      : distances_(reinterpret_cast<double*>(memory)), ids_(reinterpret_cast<int64_t*>(distances_ + k)), k_(k) {
    for (int i = lane(); i < k; i += 32) {
      distances_[i] = INFINITY;
      ids_[i] = -1;
    }
    __syncwarp();
  }

  // All lanes give the same arguments.
  __device__ void offer(double distance, int64_t id) {
    if (!(distance < distances_[k_ - 1])) return;
    // Entries behind move up by one, 32 at a time from the end.
    for (int start = (k_ - 1) / 32 * 32; start >= 0; start -= 32) {
      const int i = start + lane();
      const bool moves = i < k_ && distances_[i] > distance;
      const bool enters = moves && (i == 0 || !(distances_[i - 1] > distance));
      const double moved = moves && !enters ? distances_[i - 1] : distance;
      const int64_t moved_id = moves && !enters ? ids_[i - 1] : id;
      __syncwarp();
      if (moves) {
        distances_[i] = moved;
        ids_[i] = moved_id;
      }
      __syncwarp();
    }
  }

  __device__ void write(int64_t* ids, double* distances) const {
    for (int i = lane(); i < k_; i += 32) {
      ids[i] = ids_[i];
      distances[i] = distances_[i];
    }
  }

 private:
  double* distances_;
  int64_t* ids_;
  int k_;
};

// A warp per row and range of tiles.
__global__ void __launch_bounds__(32 * kResolveWarps, 4) resolve_kernel(const __grid_constant__ Resolve arguments) {
  const int64_t row = int64_t{blockIdx.x} * kResolveWarps + warp();
  if (row >= arguments.x.rows) return;
  const float limit = arguments.threshold[row];
  if (!(limit < INFINITY)) return;
  Nearest nearest(ptx::dynamic_shared() + warp() * arguments.k * kEntryBytes, arguments.k);
  const RowBounds bounds(arguments.summary, row);
  const Row query(arguments.x, row);
  const auto evaluate = [&](int64_t code) {
    if (!(arguments.bias[code] > 0.5f * kAbsent)) return;
    const double found = squared_distance(query, Row(arguments.codes, code), arguments.x.width);
    if (arguments.after != nullptr) {
      const double last = arguments.after[row];
      if (!(found > last || (found == last && code > arguments.after_ids[row]))) return;
    }
    nearest.offer(found, code);
  };
  const int begin = static_cast<int>(blockIdx.y) * arguments.tiles_per_range;
  const int end = min(begin + arguments.tiles_per_range, arguments.summary.tiles);
  for (int start = begin; start < end; start += 32) {
    const int tile = start + lane();
    Bounds b = {kLowest, 0, kLowest, 0};
    if (tile < end) b = bounds(tile);
    unsigned pending = __ballot_sync(kWarp, tile < end && b.first + b.first_slack >= limit);
    const unsigned whole = __ballot_sync(kWarp, tile < end && b.second + b.second_slack >= limit);
    for (; pending != 0; pending &= pending - 1) {
      const int next = __ffs(static_cast<int>(pending)) - 1;
      const bool all = (whole >> next & 1) != 0;
      const int64_t best = code_of(start + next, __shfl_sync(kWarp, b.first, next));
      const int64_t first = all ? int64_t{start + next} * kTile : best;
      for (int64_t code = first; code < first + (all ? kTile : 1); ++code) evaluate(code);
    }
  }
  const int64_t target = (row * arguments.ranges + blockIdx.y) * arguments.k;
  nearest.write(arguments.ids + target, arguments.sqdist + target);
}

// A warp per row. Ranges come in ascending order of their codes, so that the order of offers is as Nearest needs it.
__global__ void __launch_bounds__(32 * kResolveWarps, 4) merge_kernel(const __grid_constant__ Merge arguments) {
  const int64_t row = int64_t{blockIdx.x} * kResolveWarps + warp();
  if (row >= arguments.rows || !(arguments.threshold[row] < INFINITY)) return;
  Nearest nearest(ptx::dynamic_shared() + warp() * arguments.k * kEntryBytes, arguments.k);
  const int64_t source = row * arguments.size;
  for (int i = 0; i < arguments.size; ++i) {
    nearest.offer(arguments.partial[source + i], arguments.partial_ids[source + i]);
  }
  nearest.write(arguments.ids + row * arguments.k, arguments.sqdist + row * arguments.k);
}

dim3 blocks(int64_t rows, int per_block, int ranges = 1) {
  return dim3(static_cast<unsigned>((rows + per_block - 1) / per_block), static_cast<unsigned>(ranges));
}

}  // namespace

cudaError_t frame_rows(const Frame& frame, cudaStream_t stream) {
  return launch(frame_kernel, blocks(frame.rows, kFrameWarps), 32 * kFrameWarps, 0, stream, frame);
}

cudaError_t certify(const Certify& certify, cudaStream_t stream) {
  return launch(certify_kernel, blocks(certify.x.rows, kCertifyRows), 32 * kCertifyRows, 0, stream, certify);
}

cudaError_t resolve(const Resolve& resolve, cudaStream_t stream) {
  const dim3 grid = blocks(resolve.x.rows, kResolveWarps, resolve.ranges);
  return launch(resolve_kernel, grid, 32 * kResolveWarps, kResolveWarps * resolve.k * kEntryBytes, stream, resolve);
}

cudaError_t merge(const Merge& merge, cudaStream_t stream) {
  const dim3 grid = blocks(merge.rows, kResolveWarps);
  return launch(merge_kernel, grid, 32 * kResolveWarps, kResolveWarps * merge.k * kEntryBytes, stream, merge);
}

}  // namespace spae::cuda
