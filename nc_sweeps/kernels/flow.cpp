// The flow (20) of mean-field networks on CPUs: one call takes many steps of many networks.
//
// Notation as in nc_sweeps/dynamics/gradients.py. With B = A W and Z = S^T r the features never appear: F = (gamma/N) S B,
// g_A = Z W^T and g_W = A^T Z / N, where r stands for (gamma/n)(F - Y). A (sample, particle) pair then costs 2d + 3q
// multiply-adds and one activation, whatever p is.
//
// Vector lanes run over samples in the forward pass and over input dimensions in the backward pass, so inputs are packed
// in panels of both kinds. A tile of particles times a panel stays in registers. The residual of a sample does not depend
// on other samples. So a step goes through the samples in blocks and makes both passes over a block before it takes the
// next: the activations of a block stay in the cache in between, and never need more memory than the parameters.
//
// Particles are cut into units by the shape alone, and every sum over particles is taken unit by unit, in order. So no
// number depends on how many threads there are or on which networks are trained beside this one.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include <omp.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <typename T, int lanes> struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};
template <typename T> constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <typename T, int lanes = kLanes<T>> using Vector = typename VectorOf<T, lanes>::type;
template <typename T> constexpr int kPanel = 2 * kLanes<T>;  // samples, or input dimensions, of a panel
constexpr int kTile = 6;                                     // particles of a tile: 12 accumulators in 16 registers
constexpr long kDrawn = 4 * kTile;                           // particles whose noise is drawn together

constexpr long kCacheBytes = 128 << 10;   // of a block of U and of a block of X, which fit into the second-level cache
constexpr int kPanelsAtOnce = 8;          // panels whose activations are formed before any is finished
constexpr int kDeltaPanels = 24;          // panels whose deltas fit into the first-level cache
constexpr long kUnitTiles = 4;            // tiles of a unit, at least
constexpr long kMostUnits = 64;
constexpr long kUnitElements = 1 << 22;   // numbers in the partial sums of all units, at most
constexpr long kActivationBytes = 4 << 20;  // of a block of samples; more where the block would be too small:
constexpr long kFewestPanels = 6;           // too little work between two barriers of the threads, ...
constexpr long kSamplesAnInput = 2;         // ... or too little to be worth another pass over the gradients
constexpr double kRounding = 1e-6;          // beside vectors of norm 1: what is less is no direction
constexpr long kWholeBytes = 12 << 20;      // of the activations of all samples, if they are used twice; fit into the last cache

constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }

template <typename V, typename T> inline V load(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <typename V, typename T> inline void store(T* to, const V& v) { std::memcpy(to, &v, sizeof v); }
template <typename To, typename From> inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ---- Elementary functions of vectors, to the rounding of their type -------------------------------------------------

template <typename T> struct Real;
template <> struct Real<float> {
  using Integer = int32_t;
  static constexpr int mantissa = 23, power_terms = 5, logarithm_terms = 4, circle_terms = 5;
  static constexpr float shift = 0x1.8p23f, largest_power = 126;
};
template <> struct Real<double> {
  using Integer = int64_t;
  static constexpr int mantissa = 52, power_terms = 11, logarithm_terms = 10, circle_terms = 9;
  static constexpr double shift = 0x1.8p52, largest_power = 1022;
};

template <typename V> using Element = std::decay_t<decltype(std::declval<V>()[0])>;
template <typename V> using Integers = typename VectorOf<typename Real<Element<V>>::Integer, sizeof(V) / sizeof(Element<V>)>::type;

// Taylor coefficients of the exponential.
struct Taylor {
  double exponential[20];
  constexpr Taylor() : exponential{1} {
    for (int k = 1; k < 20; ++k) exponential[k] = exponential[k - 1] / k;
  }
};
constexpr Taylor kTaylor;

// 2^x on [-1/2, 1/2] as a polynomial: its Taylor series, in which every power above the degree is replaced by the nearest
// polynomial of lower powers, from which it differs by a Chebyshev polynomial. The error is 8e-8 at degree 5, 2e-17 at 11.
template <int degree> struct PowerOfTwo {
  static constexpr int terms = degree + 8;
  double coefficients[terms];
  constexpr PowerOfTwo() : coefficients{1} {
    for (int k = 1; k < terms; ++k) coefficients[k] = coefficients[k - 1] * M_LN2 / k;
    for (int top = terms - 1; top > degree; --top) {
      double before[terms] = {1}, chebyshev[terms] = {0, 2};  // T_k(2x), by its recurrence
      for (int k = 1; k < top; ++k) {
        double next[terms] = {};
        for (int m = 0; m < terms; ++m) next[m] = (m ? 4 * chebyshev[m - 1] : 0) - before[m];
        for (int m = 0; m < terms; ++m) before[m] = chebyshev[m], chebyshev[m] = next[m];
      }
      const double share = coefficients[top] / chebyshev[top];
      for (int m = 0; m <= top; ++m) coefficients[m] -= share * chebyshev[m];
    }
  }
};
template <typename T> constexpr PowerOfTwo<Real<T>::power_terms> kPowerOfTwo;

#if defined(__AVX2__)
// A compiler may not turn a comparison into these instructions: it has to keep the signs of zeros.
inline Vector<float, 8> maximum(Vector<float, 8> x, float least) { return _mm256_max_ps(x, _mm256_set1_ps(least)); }
inline Vector<float, 8> minimum(Vector<float, 8> x, float most) { return _mm256_min_ps(x, _mm256_set1_ps(most)); }
#endif
template <typename V> inline V maximum(V x, Element<V> least) { return x > least ? x : V{} + least; }
template <typename V> inline V minimum(V x, Element<V> most) { return x < most ? x : V{} + most; }

// 2^x.
template <typename V> inline V power_of_two(V x) {
  using T = Element<V>;
  using R = Real<T>;
  constexpr auto& c = kPowerOfTwo<T>.coefficients;
  x = minimum(maximum(x, -R::largest_power), R::largest_power);
  const V shifted = x + R::shift, rest = x - (shifted - R::shift);
  V sum = V{} + T(c[R::power_terms]);
#pragma GCC unroll 16
  for (int k = R::power_terms - 1; k >= 0; --k) sum = sum * rest + T(c[k]);
  // The low bits of the shifted number are the integer part of x; added to the exponent, they multiply by its power of two.
  return bits_of<V>(bits_of<Integers<V>>(sum) + (bits_of<Integers<V>>(shifted) << R::mantissa));
}

// e^x, accurate to the rounding of x.
template <typename V> inline V exponential(V x) { return power_of_two(x * Element<V>(M_LOG2E)); }

// a/x, for x from 1 on.
template <typename V> inline V quotient(Element<V> a, V x) {
#if defined(__AVX2__)
  if constexpr (std::is_same_v<V, Vector<float, 8>>) {  // an estimate and a Newton step: half the time of a division
    const V estimate = _mm256_rcp_ps(x);
    return (a * estimate) * (2 - x * estimate);
  }
#endif
  return a / x;
}

// Natural logarithm of positive numbers, as 2 artanh((m - 1)/(m + 1)) of a mantissa m in [1/sqrt 2, sqrt 2).
template <typename V> inline V logarithm(V x) {
  using R = Real<Element<V>>;
  using I = Integers<V>;
  using Bits = Element<I>;
  const Bits root_half = bits_of<Bits>(Element<V>(M_SQRT1_2));
  const I offset = bits_of<I>(x) - root_half;
  const I exponent = offset >> R::mantissa;
  const V m = bits_of<V>((offset & ((Bits(1) << R::mantissa) - 1)) + root_half);
  const V s = (m - 1) / (m + 1), s2 = s * s;
  V sum = V{} + Element<V>(1.0 / (2 * R::logarithm_terms + 1));
#pragma GCC unroll 16
  for (int k = R::logarithm_terms - 1; k >= 0; --k) sum = sum * s2 + Element<V>(1.0 / (2 * k + 1));
  return 2 * s * sum + __builtin_convertvector(exponent, V) * Element<V>(M_LN2);
}

template <typename V> inline Element<V> sum_of_lanes(V x) {
  constexpr int lanes = sizeof(V) / sizeof(Element<V>);
  if constexpr (lanes == 2) {
    return x[0] + x[1];
  } else {
    using Half = Vector<Element<V>, lanes / 2>;
    Half halves[2];
    std::memcpy(halves, &x, sizeof x);
    return sum_of_lanes<Half>(halves[0] + halves[1]);
  }
}

template <typename T> inline T dot(const T* a, const T* b, long size) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  V sums{};
  long k = 0;
  for (; k + L <= size; k += L) sums += load<V>(a + k) * load<V>(b + k);
  T rest = 0;
  for (; k < size; ++k) rest += a[k] * b[k];
  return sum_of_lanes(sums) + rest;
}

// Calls of(zero, k) for each vector that begins at k = 0, kLanes, ... and for each single number that is left of `size`.
template <typename T, typename Of> inline void in_vectors(long size, Of of) {
  long k = 0;
  for (; k + kLanes<T> <= size; k += kLanes<T>) of(Vector<T>{}, k);
  for (; k < size; ++k) of(T{}, k);
}

template <typename V> inline V square_root(V x) {
  Element<V> lanes[sizeof(V) / sizeof(Element<V>)];
  store(lanes, x);
  for (auto& lane : lanes) lane = std::sqrt(lane);
  return load<V>(lanes);
}

// ---- Noise: the numbers of nc_sweeps/counters.py ---------------------------------------------------------------------

constexpr int kCounters = 8, kAtOnce = 2;  // counters in a vector, and vectors of them
using Words = Vector<uint32_t, kCounters>;

inline void wide_product(Words a, uint32_t factor, Words& high, Words& low) {
#if defined(__AVX2__)
  const __m256i m = _mm256_set1_epi64x(factor), x = bits_of<__m256i>(a);
  const __m256i even = _mm256_mul_epu32(x, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
  low = bits_of<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA));
  high = bits_of<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA));
#else
  for (int l = 0; l < kCounters; ++l) {
    const uint64_t product = uint64_t(a[l]) * factor;
    high[l] = uint32_t(product >> 32), low[l] = uint32_t(product);
  }
#endif
}

// Philox 4x32-10 (Salmon et al. 2011), in place. A round waits for the one before it, so two vectors of counters take turns.
inline void philox(Words (&counters)[kAtOnce][4], uint64_t seed) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
    for (auto& c : counters) {
      Words high0, low0, high2, low2;
      wide_product(c[0], 0xD2511F53u, high0, low0);
      wide_product(c[2], 0xCD9E8D57u, high2, low2);
      c[0] = high2 ^ c[1] ^ k0, c[1] = low2, c[2] = high0 ^ c[3] ^ k1, c[3] = low0;
    }
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

// Box and Muller: the radius comes from one word, the angle from another, in which a whole turn is 2^32.
template <typename T> inline void box_muller(Words radius_word, Words angle_word, T first[], T second[]) {
  using V = Vector<T, kCounters>;
  using R = Real<T>;
  V uniform;  // (word + 1/2) / 2^32
  if constexpr (sizeof(T) == 4) {  // through signed integers, for which there is an instruction
    const auto half = bits_of<Vector<int32_t, kCounters>>(radius_word >> 1);
    uniform = __builtin_convertvector(half, V) * T(0x1p-31) + T(0x1p-33);
  } else {
    uniform = (__builtin_convertvector(radius_word, V) + T(0.5)) * T(0x1p-32);
  }
  const V radius = square_root(maximum(T(-2) * logarithm(uniform), T(0)));
  const Words quarter = (angle_word + (1u << 29)) >> 30;
  const auto rest = bits_of<Vector<int32_t, kCounters>>(angle_word - (quarter << 30));
  const V x = __builtin_convertvector(rest, V) * T(2 * M_PI * 0x1p-32), x2 = x * x;
  V sine = V{} + T(kTaylor.exponential[2 * R::circle_terms + 1]), cosine = V{} + T(kTaylor.exponential[2 * R::circle_terms]);
#pragma GCC unroll 16
  for (int k = R::circle_terms - 1; k >= 0; --k) {
    sine = T(kTaylor.exponential[2 * k + 1]) - sine * x2;
    cosine = T(kTaylor.exponential[2 * k]) - cosine * x2;
  }
  sine *= x;
  using I = Integers<V>;
  const I turn = __builtin_convertvector(quarter, I);
  const V across = (turn & 1) != 0 ? sine : cosine, along = (turn & 1) != 0 ? cosine : sine;
  const V x_part = ((turn + 1) & 2) != 0 ? -across : across, y_part = (turn & 2) != 0 ? -along : along;
  store(first, radius * x_part);
  store(second, radius * y_part);
}

constexpr uint32_t kNoiseStream = 2;  // counters.Stream.NOISE

// Standard normals of `rows` particles from `first` on: `blocks` groups of four numbers for each, row after row. Writes up
// to kAtOnce * kCounters groups beyond the last.
template <typename T> void normals(uint64_t seed, uint64_t step, long first, long rows, long blocks, T* out) {
  const uint32_t all = uint32_t(blocks);
  Words block{}, row{};
  for (uint32_t l = 0; l < kCounters; ++l) block[l] = l % all, row[l] = uint32_t(first) + l / all;
  for (long start = 0; start < rows * blocks; start += kAtOnce * kCounters) {
    Words counters[kAtOnce][4];
    for (auto& c : counters) {
      c[0] = block, c[1] = row, c[2] = Words{} + uint32_t(step), c[3] = Words{} + (kNoiseStream | uint32_t(step >> 32) << 8);
      block += kCounters % all, row += kCounters / all;
      const Words carry = block >= all ? Words{} + 1 : Words{};
      block -= carry * all, row += carry;
    }
    philox(counters, seed);
    for (const auto& c : counters) {
      T z[4][kCounters];
      box_muller<T>(c[0], c[1], z[0], z[1]);
      box_muller<T>(c[2], c[3], z[2], z[3]);
      for (int l = 0; l < kCounters; ++l, out += 4)
        for (int m = 0; m < 4; ++m) out[m] = z[m][l];
    }
  }
}

// ---- Activations ----------------------------------------------------------------------------------------------------
//
// sigma(z) is last(first(scale z)). Both are short chains of operations, so that a CPU can work on many of them at a time.
// The slope is a function of the value.

struct Tanh {
  static constexpr double scale = 2 * M_LOG2E;
  template <typename V> static V first(V z) { return power_of_two(z); }
  template <typename V> static V last(V power) { return 1 - quotient(2, 1 + power); }
  template <typename V> static V slope(V s) { return 1 - s * s; }
};
struct Sigmoid {
  static constexpr double scale = -M_LOG2E;
  template <typename V> static V first(V z) { return power_of_two(z); }
  template <typename V> static V last(V power) { return quotient(1, 1 + power); }
  template <typename V> static V slope(V s) { return s - s * s; }
};
struct Relu {
  static constexpr double scale = 1;
  template <typename V> static V first(V z) { return z; }
  template <typename V> static V last(V z) { return maximum(z, 0); }
  template <typename V> static V slope(V s) { return s > 0 ? V{} + 1 : V{}; }
};
struct Softplus {
  static constexpr double scale = 1;
  template <typename V> static V first(V z) { return z; }
  // log(1 + e^z) = max(z, 0) + log(1 + e^-|z|), where log(1+x) = x log(1+x)/((1+x)-1) keeps the digits of the logarithm.
  template <typename V> static V last(V z) {
    const V x = exponential(z > 0 ? -z : z), more = 1 + x, grown = more - 1;
    return maximum(z, 0) + (grown == 0 ? x : logarithm(more) * (x / grown));
  }
  // 1 - e^-s. For small s, where the difference loses its digits, the series s - s^2/2 + s^3/6 - ...
  template <typename V> static V slope(V s) {
    const V series = s * (1 - s / 2 * (1 - s / 3 * (1 - s / 4 * (1 - s / 5 * (1 - s / 6)))));
    return s < Element<V>(sizeof(Element<V>) == 4 ? 0.1 : 0.003) ? series : 1 - exponential(-s);
  }
};

// ---- Passes over a unit of particles ---------------------------------------------------------------------------------

struct Shape {
  long n, d, N;             // samples, input dimensions, particles
  long columns;             // of the residual
  long averaged = columns;  // columns of what is averaged over particles
};

template <typename T> struct Layout {
  static constexpr int panel = kPanel<T>;
  long sample_panels, input_panels, tiles, units, tiles_a_block, panels_a_block, blocks;

  // `whole`: take all samples as one block if their activations are at most kWholeBytes.
  explicit Layout(const Shape& s, bool whole = false)
      : sample_panels(ceil_div(s.n, panel)), input_panels(ceil_div(s.d, panel)), tiles(ceil_div(s.N, kTile)),
        tiles_a_block(std::clamp(kCacheBytes / long(kTile * s.d * sizeof(T)), 1l, tiles)) {
    const long a_panel = tiles * kTile * panel * sizeof(T);
    const long fitting = whole && sample_panels * a_panel <= kWholeBytes ? sample_panels : kActivationBytes / a_panel;
    const long most = std::max({fitting, kFewestPanels, ceil_div(kSamplesAnInput * s.d, panel)});
    blocks = ceil_div(sample_panels, most);
    panels_a_block = ceil_div(sample_panels, blocks);
    units = std::clamp(std::min(tiles / kUnitTiles, kUnitElements / (panels_a_block * panel * s.averaged)), 1l, kMostUnits);
  }

  long first_tile(long unit) const { return unit * tiles / units; }
  long first_panel(long block) const { return std::min(sample_panels, block * panels_a_block); }
};

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

// Aligned memory that begins as zeros. Throws std::bad_alloc.
template <typename T> class Buffer {
 public:
  explicit Buffer(long size) : data_(size ? static_cast<T*>(std::aligned_alloc(64, ceil_div(size * sizeof(T), 64) * 64)) : nullptr) {
    if (size && !data_) throw std::bad_alloc();
    if (size) std::memset(data_.get(), 0, size * sizeof(T));
  }
  operator T*() const { return data_.get(); }

 private:
  std::unique_ptr<T, Free> data_;
};

// Sizes, in numbers, of the arrays that a team of threads needs for one network.
template <typename T> struct Needs {
  long by_sample, by_input, targets, residual, columns, averaged, sums, activations, gradient, Z, head, head_sums;

  Needs(const Shape& s, const Layout<T>& at, bool forward, bool backward, long p, bool whole = false) {
    const long samples = at.sample_panels * at.panel, particles = at.tiles * kTile, a_block = at.panels_a_block * at.panel;
    by_sample = samples * s.d;
    by_input = backward * at.input_panels * at.panel * samples;
    targets = forward * backward * samples * s.columns;
    residual = backward * samples * s.columns;
    columns = particles * s.columns;
    averaged = (s.averaged != s.columns || whole) * particles * s.averaged;
    sums = forward * at.units * a_block * s.averaged;
    activations = forward * backward * particles * a_block;
    gradient = backward * (at.blocks > 1) * particles * at.input_panels * at.panel;
    Z = backward * (at.blocks > 1) * particles * s.columns;
    head = p * s.columns;
    head_sums = at.units * p * s.columns;
  }

  long bytes() const {
    const long passes = by_sample + by_input + targets + residual + columns + averaged + sums + activations + gradient + Z;
    const long count = passes + head + head_sums;
    return count * long(sizeof(T));
  }
};

template <typename T> struct Workspace {
  Shape shape;
  Layout<T> at;
  Buffer<T> by_sample;    // inputs, (sample panel, d, panel)
  Buffer<T> by_input;     // inputs, (input panel, padded n, panel)
  Buffer<T> targets;      // (sample panel, columns, panel)
  Buffer<T> residual;     // (gamma/n)(F - Y), likewise
  Buffer<T> columns;      // B, which is also what is summed over particles unless `averaged` is, (tile, columns, kTile)
  Buffer<T> averaged;     // what is summed over particles instead of B, (tile, averaged, kTile), or nothing
  Buffer<T> sums;         // sums over the particles of a unit, for a block, (unit, sample panel, averaged, panel)
  Buffer<T> activations;  // of a block, (tile, sample panel, kTile, panel), or nothing
  Buffer<T> gradient;     // g_U of the blocks so far, (particle, padded d), or nothing for a single block
  Buffer<T> Z;            // likewise, (particle, columns)
  Buffer<T> head;         // W^T, (q, p)
  Buffer<T> head_sums;    // Z^T A of a unit's particles, (unit, q, p)

  Workspace(const Shape& s, bool forward, bool backward, long p = 0, bool whole = false)
      : Workspace(s, Layout<T>(s, whole), Needs<T>(s, Layout<T>(s, whole), forward, backward, p, whole)) {}

  Workspace(const Shape& s, const Layout<T>& layout, const Needs<T>& need)
      : shape(s), at(layout), by_sample(need.by_sample), by_input(need.by_input), targets(need.targets),
        residual(need.residual), columns(need.columns), averaged(need.averaged), sums(need.sums), activations(need.activations),
        gradient(need.gradient), Z(need.Z), head(need.head), head_sums(need.head_sums) {}

  T* unit_sums(long unit) const { return sums + unit * at.panels_a_block * shape.averaged * at.panel; }
  T* tile_activations(long tile) const { return activations + tile * at.panels_a_block * kTile * at.panel; }

  // Sums over all particles, for one panel of a block of samples and one column.
  void sum_of_units(long panel, long column, T out[kPanel<T>]) const {
    std::fill_n(out, at.panel, T(0));
    for (long unit = 0; unit < at.units; ++unit) {
      const T* const from = unit_sums(unit) + (panel * shape.averaged + column) * at.panel;
      for (int l = 0; l < at.panel; ++l) out[l] += from[l];
    }
  }
};

// The threads that work on one network.
struct Team {
  int rank, size;
  void meet() const {
    if (size > 1) {
#pragma omp barrier
    }
  }
};

// Packs the inputs of the chosen samples, and the values of each (targets or residuals), into panels. Without `chosen` all
// samples are taken, in order.
template <typename Act, typename T>
void pack(const Workspace<T>& w, const Team& team, const T* X, const T* values, T* into, const int64_t* chosen, long n) {
  constexpr int panel = kPanel<T>;
  const long d = w.shape.d, q = w.shape.columns, padded_n = w.at.sample_panels * panel;
  for (long i = team.rank; i < w.at.sample_panels; i += team.size)
    for (int l = 0; l < panel; ++l) {
      const long position = i * panel + l, sample = position < n ? (chosen ? chosen[position] : position) : -1;
      const T* const x = sample < 0 ? nullptr : X + sample * d;
      T* const column = w.by_sample + i * d * panel + l;
      for (long k = 0; k < d; ++k) column[k * panel] = x ? x[k] * T(Act::scale) : T(0);
      if (w.by_input)
        for (long k = 0; k < d; ++k)
          w.by_input[(k / panel * padded_n + position) * panel + k % panel] = x ? x[k] : T(0);
      if (values)
        for (long c = 0; c < q; ++c) into[(i * q + c) * panel + l] = x ? values[sample * q + c] : T(0);
    }
}

template <typename T> void pack_columns(const Workspace<T>& w, const Team& team, const T* Z, T* into) {
  const long q = w.shape.columns;
  for (long particle = team.rank; particle < w.at.tiles * kTile; particle += team.size)
    for (long c = 0; c < q; ++c)
      into[(particle / kTile * q + c) * kTile + particle % kTile] = particle < w.shape.N ? Z[particle * q + c] : T(0);
}

// Rows of a tile. Beyond the last particle its row is repeated; the columns there are zero.
template <typename T> inline void tile_rows(const T* U, const Shape& s, long tile, const T* rows[kTile]) {
  for (int j = 0; j < kTile; ++j) rows[j] = U + std::min(tile * kTile + j, s.N - 1) * s.d;
}

// Activations S of a tile for some panels, panel after panel, in rows of a panel. z: room for as many numbers; may be S.
template <typename Act, typename T>
inline void activate(const T* const rows[kTile], const T* inputs, long d, long panels, T* z, T* S) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  for (long i = 0; i < panels; ++i) {
    V sum[2][kTile] = {};
    for (long k = 0; k < d; ++k, inputs += panel) {
      const V x0 = load<V>(inputs), x1 = load<V>(inputs + L);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) sum[0][j] += rows[j][k] * x0, sum[1][j] += rows[j][k] * x1;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j)
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) store(z + (i * kTile + j) * panel + half * L, Act::first(sum[half][j]));
  }
  for (long k = 0; k < panels * kTile * panel; k += L) store(S + k, Act::last(load<V>(z + k)));
}

// Adds the products of a tile's activations and its averaged columns to the sums of some panels.
template <typename T> inline void add_tile(const T* S, long panels, const T* columns, long q, T* sums) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  for (long c = 0; c < q; ++c, columns += kTile) {
    V column[kTile];
    for (int j = 0; j < kTile; ++j) column[j] = V{} + columns[j];
    for (long i = 0; i < panels; ++i) {
      const T* const s = S + i * kTile * panel;
      T* const sum = sums + (i * q + c) * panel;
      V f0 = load<V>(sum), f1 = load<V>(sum + L);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) f0 += column[j] * load<V>(s + j * panel), f1 += column[j] * load<V>(s + j * panel + L);
      store(sum, f0), store(sum + L, f1);
    }
  }
}

// Sets the sums of a unit to zero for a block of samples, and calls of(tile, its rows of U, first panel, panels, where the
// sums of these panels begin) for each tile and stretch of panels.
template <typename T, typename Of>
inline void for_each_stretch(const Workspace<T>& w, const T* U, long unit, long block, Of of) {
  constexpr int panel = kPanel<T>;
  const Shape& s = w.shape;
  const long q = s.averaged, begin = w.at.first_panel(block), end = w.at.first_panel(block + 1);
  const long cached_panels = std::max(1l, kCacheBytes / long(s.d * panel * sizeof(T)));
  const long first = w.at.first_tile(unit), last = w.at.first_tile(unit + 1);
  T* const sums = w.unit_sums(unit);
  std::fill_n(sums, (end - begin) * q * panel, T(0));
  for (long tiles = first; tiles < last; tiles += w.at.tiles_a_block)
    for (long start = begin; start < end; start += cached_panels)
      for (long tile = tiles; tile < std::min(last, tiles + w.at.tiles_a_block); ++tile) {
        const T* rows[kTile];
        tile_rows(U, s, tile, rows);
        const long stop = std::min(end, start + cached_panels);
        for (long i = start; i < stop; i += kPanelsAtOnce)
          of(tile, rows, i, std::min<long>(kPanelsAtOnce, stop - i), sums + (i - begin) * q * panel);
      }
}

// Sums the products of activations and averaged columns over the particles of a unit, for a block of samples. `again`: use
// the activations that the workspace holds.
template <typename Act, typename T>
void forward(const Workspace<T>& w, const T* U, const T* averaged, long unit, long block, bool again = false) {
  constexpr int panel = kPanel<T>;
  const long d = w.shape.d, q = w.shape.averaged, begin = w.at.first_panel(block);
  alignas(kVectorBytes) T local[kPanelsAtOnce * kTile * panel];
  for_each_stretch<T>(w, U, unit, block, [&](long tile, const T* const rows[kTile], long i, long panels, T* sums) {
    T* const S = w.activations ? w.tile_activations(tile) + (i - begin) * kTile * panel : local;
    if (!again) activate<Act>(rows, w.by_sample + i * d * panel, d, panels, local, S);
    add_tile(S, panels, averaged + tile * q * kTile, q, sums);
  });
}

// Forms the activations of the particles of a unit for a block of samples, and keeps them in the workspace.
template <typename Act, typename T> void form(const Workspace<T>& w, const T* U, long unit, long block) {
  const long d = w.shape.d, begin = w.at.first_panel(block);
  for_each_stretch<T>(w, U, unit, block, [&](long tile, const T* const rows[kTile], long i, long panels, T*) {
    T* const S = w.tile_activations(tile) + (i - begin) * kTile * w.at.panel;
    activate<Act>(rows, w.by_sample + i * d * w.at.panel, d, panels, S, S);
  });
}

// What `activate` makes of a tile that has no activation: products of its rows and the inputs.
struct Identity {
  template <typename V> static V first(V z) { return z; }
  template <typename V> static V last(V z) { return z; }
};

// Sums the derivative of these products over the particles of a unit, for a block of samples, where the averaged columns
// hold the change of the columns and dU that of U. `again`: use the activations that the workspace holds.
template <typename Act, typename T>
void forward_derivative(const Workspace<T>& w, const T* U, const T* dU, long unit, long block, bool again = false) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  const long d = w.shape.d, q = w.shape.columns, begin = w.at.first_panel(block);
  alignas(kVectorBytes) T local[kPanelsAtOnce * kTile * panel], dS[kPanelsAtOnce * kTile * panel];
  for_each_stretch<T>(w, U, unit, block, [&](long tile, const T* const rows[kTile], long i, long panels, T* sums) {
    const T* changes[kTile];
    tile_rows(dU, w.shape, tile, changes);
    const T* const inputs = w.by_sample + i * d * panel;
    T* const S = again ? w.tile_activations(tile) + (i - begin) * kTile * panel : local;
    if (!again) activate<Act>(rows, inputs, d, panels, S, S);
    activate<Identity>(changes, inputs, d, panels, dS, dS);
    for (long k = 0; k < panels * kTile * panel; k += L)  // the packed inputs have the activation's scale
      store(dS + k, V(Act::slope(load<V>(S + k)) * (load<V>(dS + k) * T(1 / Act::scale))));
    add_tile<T>(S, panels, w.averaged + tile * q * kTile, q, sums);
    add_tile<T>(dS, panels, w.columns + tile * q * kTile, q, sums);
  });
}

template <typename T> constexpr int kDeltas = kDeltaPanels * kPanel<T>;  // deltas of a particle

// S r of a tile and some panels, lane by lane, for `count` columns of r; `r` points to the first of them.
template <int count, typename T, typename V = Vector<T>>
inline void weighted_sums(const T* S, const T* r, long q, long panels, V* sums) {
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  V sum[count][kTile] = {};
  for (long i = 0; i < panels; ++i, S += kTile * panel, r += q * panel)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      V weights[count];
#pragma GCC unroll 2
      for (int c = 0; c < count; ++c) weights[c] = load<V>(r + c * panel + half * L);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) {
        const V s = load<V>(S + j * panel + half * L);
#pragma GCC unroll 2
        for (int c = 0; c < count; ++c) sum[c][j] += s * weights[c];
      }
    }
  for (int c = 0; c < count; ++c) std::copy_n(sum[c], kTile, sums + c * kTile);
}

// delta = (B r^T) * slope(S) of a tile and some panels, and Z = S r, lane by lane. `S` points to the first of the panels.
template <typename Act, typename T, typename V = Vector<T>>
inline void deltas(const Workspace<T>& w, long tile, long start, long panels, const T* S, T* delta, V* Z) {
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  const long q = w.shape.columns;
  const T* const columns = w.columns + tile * q * kTile;
  const T* const residual = w.residual + start * q * panel;
  for (long c = 0; c < q; c += 2) {
    const T* const r = residual + c * panel;
    c + 1 < q ? weighted_sums<2>(S, r, q, panels, Z + c * kTile) : weighted_sums<1>(S, r, q, panels, Z + c * kTile);
  }
  const T* r = residual;
  for (long i = 0; i < panels; ++i, S += kTile * panel, delta += panel) {
    V t[kTile][2] = {};
    for (long c = 0; c < q; ++c, r += panel) {
      const V r0 = load<V>(r), r1 = load<V>(r + L);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) t[j][0] += columns[c * kTile + j] * r0, t[j][1] += columns[c * kTile + j] * r1;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j) {
      store(delta + j * kDeltas<T>, t[j][0] * Act::slope(load<V>(S + j * panel)));
      store(delta + j * kDeltas<T> + L, t[j][1] * Act::slope(load<V>(S + j * panel + L)));
    }
  }
}

// g_U += delta X of a tile and some samples, whose inputs begin at `inputs`.
template <typename T>
inline void outer_sums(const Workspace<T>& w, const T* inputs, long samples, const T* delta, T* gradient, long width) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, panel = kPanel<T>;
  for (long k = 0; k < w.at.input_panels; ++k, inputs += w.at.sample_panels * panel * panel, gradient += panel) {
    V sum[kTile][2];
    for (int j = 0; j < kTile; ++j) sum[j][0] = load<V>(gradient + j * width), sum[j][1] = load<V>(gradient + j * width + L);
    for (long i = 0; i < samples; ++i) {
      const V x0 = load<V>(inputs + i * panel), x1 = load<V>(inputs + i * panel + L);
#pragma GCC unroll 8
      for (int j = 0; j < kTile; ++j) sum[j][0] += delta[j * kDeltas<T> + i] * x0, sum[j][1] += delta[j * kDeltas<T> + i] * x1;
    }
    for (int j = 0; j < kTile; ++j) store(gradient + j * width, sum[j][0]), store(gradient + j * width + L, sum[j][1]);
  }
}

// Adds a block of samples to g_U and Z of a unit's particles. After the last block calls, for each tile,
// emit(first particle, count, g_U without decay in rows `width` apart, Z in rows of q).
template <typename Act, typename T, typename Emit>
void backward(const Workspace<T>& w, const T* U, long unit, long block, Emit emit) {
  using V = Vector<T>;
  constexpr int panel = kPanel<T>;
  const long q = w.shape.columns, width = w.at.input_panels * panel;
  const long begin = w.at.first_panel(block), end = w.at.first_panel(block + 1);
  const long panels_at_once = ceil_div(end - begin, ceil_div(end - begin, kDeltaPanels));
  static thread_local std::vector<T> delta, local, local_gradient, local_Z;
  static thread_local std::vector<V> lanes;
  delta.resize(kTile * kDeltas<T>), lanes.resize(kTile * q);
  if (!w.activations) local.resize(kTile * kDeltas<T>);
  if (!w.gradient) local_gradient.resize(w.at.tiles_a_block * kTile * width), local_Z.resize(w.at.tiles_a_block * kTile * q);
  const long last = w.at.first_tile(unit + 1);
  for (long tiles = w.at.first_tile(unit); tiles < last; tiles += w.at.tiles_a_block) {
    const long tiles_end = std::min(last, tiles + w.at.tiles_a_block);
    T* const gradient = w.gradient ? w.gradient + tiles * kTile * width : local_gradient.data();
    T* const Z = w.gradient ? w.Z + tiles * kTile * q : local_Z.data();
    if (block == 0) {
      std::fill_n(gradient, (tiles_end - tiles) * kTile * width, T(0));
      std::fill_n(Z, (tiles_end - tiles) * kTile * q, T(0));
    }
    for (long start = begin; start < end; start += panels_at_once) {
      const long panels = std::min(panels_at_once, end - start);
      for (long tile = tiles; tile < tiles_end; ++tile) {
        T* const S = w.activations ? w.tile_activations(tile) + (start - begin) * kTile * panel : local.data();
        if (!w.activations) {
          const T* rows[kTile];
          tile_rows(U, w.shape, tile, rows);
          activate<Act>(rows, w.by_sample + start * w.shape.d * panel, w.shape.d, panels, S, S);
        }
        deltas<Act>(w, tile, start, panels, S, delta.data(), lanes.data());
        for (int j = 0; j < kTile; ++j)
          for (long c = 0; c < q; ++c) Z[((tile - tiles) * kTile + j) * q + c] += sum_of_lanes(lanes[c * kTile + j]);
        outer_sums<T>(w, w.by_input + start * panel * panel, panels * panel, delta.data(),
                      gradient + (tile - tiles) * kTile * width, width);
      }
    }
    if (block + 1 == w.at.blocks)
      for (long tile = tiles; tile < tiles_end; ++tile)
        emit(tile * kTile, std::min<long>(kTile, w.shape.N - tile * kTile), gradient + (tile - tiles) * kTile * width,
             Z + (tile - tiles) * kTile * q);
  }
}

}  // namespace

extern "C" {

// Mirrored by nc_sweeps/kernels/library.py.
struct NcNetworks {
  int64_t runs, n, d, N, columns;
  const void *X, *U;
  int64_t X_stride;  // elements from one run's inputs to the next run's; 0: all runs share them
  int32_t activation, threads;
};

struct NcFlow {
  NcNetworks networks;
  int64_t p, Y_stride;
  const void* Y;
  void *U, *A, *W;
  const double* gamma;      // (run)
  const double* particles;  // growth, gradient, noise of a step, (run, 3)
  const double* head;       // growth, gradient, (run, 2)
  const int64_t* seeds;     // (run)
  double radius, c0;        // of the truncation; an infinite radius is none
  int64_t first, last;      // steps first + 1 ... last
  const int64_t* order;     // permutations of the samples, one an epoch, (run, epochs * n); null: all samples a step
  int64_t order_stride, batch, position;  // samples a step, and where in the first epoch to begin
  void* heads;              // W after every step, (run, last - first, p, q), or null
};

}  // extern "C"

namespace {

template <typename T> const T* of_run(const void* values, long run, long stride) { return static_cast<const T*>(values) + run * stride; }
template <typename T> T* of_run(void* values, long run, long stride) { return static_cast<T*>(values) + run * stride; }

// Gives each thread a network of its own while there are enough; all threads work together on each network that is left.
template <typename T, typename Make, typename Of> void for_each_run(long runs, int threads, Make make, Of of) {
  std::vector<std::unique_ptr<Workspace<T>>> alone(runs >= threads ? threads : 0);
  for (auto& workspace : alone) workspace.reset(make());
  std::unique_ptr<Workspace<T>> common(runs % threads ? make() : nullptr);
  const long solo = runs / threads * threads;
#pragma omp parallel num_threads(threads)
  {
    const int rank = omp_get_thread_num(), size = omp_get_num_threads();
    for (long run = rank; run < solo; run += size) of(run, Team{0, 1}, *alone[rank]);
    for (long run = solo; run < runs; ++run) {
#pragma omp barrier
      of(run, Team{rank, size}, *common);
    }
  }
}

// Adds up the sums of all units for a block of samples and divides them by a number.
template <typename T> void unite(const Workspace<T>& w, const Team& team, long block, T divisor, T* out) {
  constexpr int panel = kPanel<T>;
  const long begin = w.at.first_panel(block), columns = w.shape.averaged;
  for (long i = begin + team.rank; i < w.at.first_panel(block + 1); i += team.size)
    for (long c = 0; c < columns; ++c) {
      T sum[panel];
      w.sum_of_units(i - begin, c, sum);
      for (long l = 0; l < std::min<long>(panel, w.shape.n - i * panel); ++l)
        out[(i * panel + l) * columns + c] = sum[l] / divisor;
    }
}

// sum_j sigma(x_i . u_j) z_j.
template <typename Act, typename T> void particle_sums(const NcNetworks& a, const T* Z, T* out) {
  const Shape shape{a.n, a.d, a.N, a.columns};
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, true, false); },
                  [&](long run, const Team& team, const Workspace<T>& w) {
    pack<Act, T>(w, team, of_run<T>(a.X, run, a.X_stride), nullptr, nullptr, nullptr, a.n);
    pack_columns<T>(w, team, Z + run * a.N * a.columns, w.columns);
    team.meet();
    const T* const U = of_run<T>(a.U, run, a.N * a.d);
    for (long block = 0; block < w.at.blocks; ++block) {
      for (long unit = team.rank; unit < w.at.units; unit += team.size) forward<Act, T>(w, U, w.columns, unit, block);
      team.meet();
      unite(w, team, block, T(1), out + run * a.n * a.columns);
      team.meet();
    }
  });
}

// sum_j sigma(x_i . u_j) dz_j + sigma'(x_i . u_j) (x_i . du_j) z_j.
template <typename Act, typename T>
void particle_sums_derivative(const NcNetworks& a, const T* Z, const T* dU, const T* dZ, T* out) {
  const Shape shape{a.n, a.d, a.N, a.columns};
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, true, false, 0, true); },
                  [&](long run, const Team& team, const Workspace<T>& w) {
    pack<Act, T>(w, team, of_run<T>(a.X, run, a.X_stride), nullptr, nullptr, nullptr, a.n);
    pack_columns<T>(w, team, Z + run * a.N * a.columns, w.columns);
    pack_columns<T>(w, team, dZ + run * a.N * a.columns, w.averaged);
    team.meet();
    const T* const U = of_run<T>(a.U, run, a.N * a.d);
    for (long block = 0; block < w.at.blocks; ++block) {
      for (long unit = team.rank; unit < w.at.units; unit += team.size)
        forward_derivative<Act, T>(w, U, dU + run * a.N * a.d, unit, block);
      team.meet();
      unite(w, team, block, T(1), out + run * a.n * a.columns);
      team.meet();
    }
  });
}

// g_U = ((B r^T) * sigma'(U X^T)) X and Z = sigma(U X^T) r.
template <typename Act, typename T> void sample_sums(const NcNetworks& a, const T* B, const T* r, T* g_U, T* Z) {
  const long q = a.columns;
  const Shape shape{a.n, a.d, a.N, q};
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, false, true); },
                  [&](long run, const Team& team, const Workspace<T>& w) {
    pack<Act, T>(w, team, of_run<T>(a.X, run, a.X_stride), r + run * a.n * q, w.residual, nullptr, a.n);
    pack_columns<T>(w, team, B + run * a.N * q, w.columns);
    team.meet();
    const long width = w.at.input_panels * kPanel<T>;
    const auto emit = [&](long first, long count, const T* gradient, const T* z) {
      for (long j = 0; j < count; ++j) {
        std::copy_n(gradient + j * width, a.d, g_U + (run * a.N + first + j) * a.d);
        std::copy_n(z + j * q, q, Z + (run * a.N + first + j) * q);
      }
    };
    const T* const U = of_run<T>(a.U, run, a.N * a.d);
    for (long unit = team.rank; unit < w.at.units; unit += team.size)
      for (long block = 0; block < w.at.blocks; ++block) backward<Act>(w, U, unit, block, emit);
  });
}

template <typename T> struct Truncation {
  T radius, c0;
  T progress(T a) const { return std::clamp((std::abs(a) - radius) / (2 * c0), T(0), T(1)); }
  T value(T a) const {
    const T t = progress(a);
    return std::copysign(std::min(std::abs(a), radius) + 2 * c0 * (t - t * t * t + t * t * t * t / 2), a);
  }
  T slope(T a) const {
    const T t = progress(a);
    return 1 - t * t * (3 - 2 * t);
  }
};

template <typename Act, typename T> class Flow {
 public:
  Flow(const NcFlow& f, long run, const Team& team, const Workspace<T>& w)
      : f_(f), a_(f.networks), run_(run), team_(team), w_(w), q_(f.networks.columns),
        U_(of_run<T>(f.U, run, a_.N * a_.d)), A_(of_run<T>(f.A, run, a_.N * f.p)), W_(of_run<T>(f.W, run, f.p * q_)),
        truncated_(std::isfinite(f.radius)), truncation_{T(f.radius), T(f.c0)} {}

  void advance() {
    if (team_.rank == 0) transpose_head();
    if (!f_.order) take(nullptr, a_.n);
    long position = f_.position, epoch = 0;
    for (long step = f_.first + 1; step <= f_.last; ++step) {
      long samples = a_.n;
      if (f_.order) {
        samples = std::min(f_.batch, a_.n - position);
        take(f_.order + run_ * f_.order_stride + epoch * a_.n + position, samples);
        if ((position += samples) == a_.n) position = 0, ++epoch;
      }
      for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) find_columns(unit);
      for (long block = 0; block < w_.at.blocks; ++block) {
        for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) forward<Act, T>(w_, U_, w_.columns, unit, block);
        team_.meet();
        find_residual(block, samples);
        team_.meet();
        for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) move_particles(unit, block, step);
      }
      team_.meet();
      if (team_.rank == 0) move_head(step);
      team_.meet();
    }
  }

  // Spans the Krylov space of the Gauss-Newton operator, as nc_sweeps/dynamics/stability.py defines it, by `count` unit
  // vectors from `start` on, and finds their images. dU: room for as many numbers as U has.
  void span(bool head_moves, long count, const T* start, T* basis, T* images, T* dU) {
    const long size = a_.n * q_;
    const bool again = w_.at.blocks == 1;
    const double gamma = f_.gamma[run_];
    if (team_.rank == 0) transpose_head();
    pack<Act, T>(w_, team_, of_run<T>(a_.X, run_, a_.X_stride), nullptr, nullptr, nullptr, a_.n);
    team_.meet();
    for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) find_columns(unit);
    for (long k = 0; k < count; ++k) {
      T* const v = basis + k * size;
      if (team_.rank == 0) orthogonalise(k ? images + (k - 1) * size : start, basis, k, v);
      team_.meet();
      pack_residual(v);
      team_.meet();
      for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) find_changes(unit, k == 0 || !again, dU);
      team_.meet();
      if (head_moves)
        for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) add_change_of_head(unit);
      for (long block = 0; block < w_.at.blocks; ++block) {
        for (long unit = team_.rank; unit < w_.at.units; unit += team_.size)
          forward_derivative<Act, T>(w_, U_, dU, unit, block, again);
        team_.meet();
        unite(w_, team_, block, T(a_.N / (gamma * gamma)), images + k * size);
        team_.meet();
      }
    }
  }

  // Finds the linearisation of this run, as nc_sweeps/dynamics/gradients.py defines it.
  void linearise(T decay, T* H, T* g_A, T* g_U, T* R) {
    const long p = f_.p, d = a_.d, width = w_.at.input_panels * kPanel<T>;
    if (team_.rank == 0) transpose_head();
    take(nullptr, a_.n);
    for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) find_columns(unit), find_averaged(unit);
    for (long block = 0; block < w_.at.blocks; ++block) {
      for (long unit = team_.rank; unit < w_.at.units; unit += team_.size) forward<Act, T>(w_, U_, w_.averaged, unit, block);
      team_.meet();
      unite(w_, team_, block, T(a_.N), H);
      find_residual_of(H, block);
      team_.meet();
      for (long unit = team_.rank; unit < w_.at.units; unit += team_.size)
        backward<Act>(w_, U_, unit, block, [&](long first, long count, const T* gradient, const T* z) {
          for (long j = 0; j < count; ++j, gradient += width, z += q_) {
            const T* const a = A_ + (first + j) * p;
            T* const g = g_A + (first + j) * p;
            std::copy_n(gradient, d, g_U + (first + j) * d);
            std::fill_n(g, p, T(0));
            for (long c = 0; c < q_; ++c)
              for (long k = 0; k < p; ++k) g[k] += z[c] * w_.head[c * p + k];
            if (truncated_)
              for (long k = 0; k < p; ++k) g[k] *= truncation_.slope(a[k]);
            for (long k = 0; k < p; ++k) w_.averaged[(first * p + k * kTile) + j] = g[k] + decay * a[k];
          }
        });
    }
    team_.meet();
    for (long block = 0; block < w_.at.blocks; ++block) {
      const bool again = w_.at.blocks == 1;
      for (long unit = team_.rank; unit < w_.at.units; unit += team_.size)
        forward<Act, T>(w_, U_, w_.averaged, unit, block, again);
      team_.meet();
      unite(w_, team_, block, T(a_.N), R);
      team_.meet();
    }
  }

 private:
  void take(const int64_t* chosen, long samples) {
    pack<Act, T>(w_, team_, of_run<T>(a_.X, run_, a_.X_stride), of_run<T>(f_.Y, run_, f_.Y_stride), w_.targets, chosen, samples);
    team_.meet();
  }

  // Returns the second layer of a particle as the features see it: truncated.
  const T* second_layer(long particle) const {
    const T* const a = A_ + particle * f_.p;
    if (!truncated_) return a;
    static thread_local std::vector<T> values;
    values.resize(f_.p);
    for (long k = 0; k < f_.p; ++k) values[k] = truncation_.value(a[k]);
    return values.data();
  }

  void find_columns(long unit) {
    const long p = f_.p;
    for (long particle = w_.at.first_tile(unit) * kTile; particle < w_.at.first_tile(unit + 1) * kTile; ++particle) {
      T* const columns = w_.columns + particle / kTile * q_ * kTile + particle % kTile;
      const T* const a = second_layer(std::min(particle, a_.N - 1));
      for (long c = 0; c < q_; ++c) columns[c * kTile] = particle < a_.N ? dot<T>(a, w_.head + c * p, p) : T(0);
    }
  }

  void find_averaged(long unit) {
    const long p = f_.p;
    for (long particle = w_.at.first_tile(unit) * kTile; particle < w_.at.first_tile(unit + 1) * kTile; ++particle) {
      T* const averaged = w_.averaged + particle / kTile * p * kTile + particle % kTile;
      const T* const a = second_layer(std::min(particle, a_.N - 1));
      for (long k = 0; k < p; ++k) averaged[k * kTile] = particle < a_.N ? a[k] : T(0);
    }
  }

  // Writes the direction of what `count` orthonormal vectors leave of a vector; zero if that is only rounding.
  void orthogonalise(const T* vector, const T* basis, long count, T* out) const {
    const long size = a_.n * q_;
    std::vector<double> rest(vector, vector + size);
    const auto norm = [&] {
      double sum = 0;
      for (const double x : rest) sum += x * x;
      return std::sqrt(sum);
    };
    const double before = norm();
    for (long twice = 0; twice < 2 * count; ++twice) {  // once leaves the rounding of what it takes off
      const T* const u = basis + twice % count * size;
      double share = 0;
      for (long i = 0; i < size; ++i) share += u[i] * rest[i];
      for (long i = 0; i < size; ++i) rest[i] -= share * u[i];
    }
    const double after = norm();
    const bool is_new = after > kRounding * before;
    for (long i = 0; i < size; ++i) out[i] = is_new ? T(rest[i] / after) : T(0);
  }

  void pack_residual(const T* v) {
    constexpr int panel = kPanel<T>;
    for (long i = team_.rank; i < w_.at.sample_panels; i += team_.size)
      for (long c = 0; c < q_; ++c)
        for (long l = 0; l < panel; ++l) {
          const long sample = i * panel + l;
          w_.residual[(i * q_ + c) * panel + l] = sample < a_.n ? v[sample * q_ + c] : T(0);
        }
  }

  // Finds how the particles of a unit move by the gradients that the packed residual gives: dU, and in the averaged columns
  // the change of B while W is held; and the unit's part of the gradient of W.
  void find_changes(long unit, bool forms, T* dU) {
    const long p = f_.p, d = a_.d, width = w_.at.input_panels * kPanel<T>;
    static thread_local std::vector<T> moved;
    moved.resize(p);
    T* const head = w_.head_sums + unit * p * q_;
    std::fill_n(head, p * q_, T(0));
    const auto emit = [&](long first, long count, const T* gradient, const T* z) {
      for (long j = 0; j < count; ++j, gradient += width, z += q_) {
        std::copy_n(gradient, d, dU + (first + j) * d);
        const T *const a = A_ + (first + j) * p, *const value = second_layer(first + j);
        std::fill(moved.begin(), moved.end(), T(0));
        for (long c = 0; c < q_; ++c)
          for (long k = 0; k < p; ++k) moved[k] += z[c] * w_.head[c * p + k], head[c * p + k] += z[c] * value[k];
        if (truncated_)
          for (long k = 0; k < p; ++k) moved[k] *= truncation_.slope(a[k]) * truncation_.slope(a[k]);
        for (long c = 0; c < q_; ++c) w_.averaged[first * q_ + c * kTile + j] = dot<T>(moved.data(), w_.head + c * p, p);
      }
    };
    for (long block = 0; block < w_.at.blocks; ++block) {
      if (forms) form<Act>(w_, U_, unit, block);
      backward<Act>(w_, U_, unit, block, emit);
    }
  }

  // Adds to the change of B of a unit's particles what the move of W adds.
  void add_change_of_head(long unit) {
    const long p = f_.p, begin = w_.at.first_tile(unit) * kTile;
    std::vector<T> change(p * q_);
    for (long other = 0; other < w_.at.units; ++other)
      for (long i = 0; i < p * q_; ++i) change[i] += w_.head_sums[other * p * q_ + i];
    for (T& x : change) x /= T(a_.N);
    for (long particle = begin; particle < std::min(w_.at.first_tile(unit + 1) * kTile, a_.N); ++particle) {
      const T* const a = second_layer(particle);
      T* const averaged = w_.averaged + particle / kTile * q_ * kTile + particle % kTile;
      for (long c = 0; c < q_; ++c) averaged[c * kTile] += dot<T>(a, change.data() + c * p, p);
    }
  }

  // Finds the residual of the samples whose features this thread has found.
  void find_residual_of(const T* H, long block) {
    constexpr int panel = kPanel<T>;
    const double gamma = f_.gamma[run_], scale = gamma / double(a_.n);
    const long p = f_.p, begin = w_.at.first_panel(block);
    for (long i = begin + team_.rank; i < w_.at.first_panel(block + 1); i += team_.size)
      for (long c = 0; c < q_; ++c)
        for (long l = 0; l < panel; ++l) {
          const long sample = i * panel + l, at = (i * q_ + c) * panel + l;
          double output = 0;
          for (long k = 0; k < p && sample < a_.n; ++k) output += double(H[sample * p + k]) * double(w_.head[c * p + k]);
          w_.residual[at] = sample < a_.n ? T(scale * (gamma * output - double(w_.targets[at]))) : T(0);
        }
  }

  void find_residual(long block, long samples) {
    constexpr int panel = kPanel<T>;
    const T gamma = T(f_.gamma[run_]), output = gamma / T(a_.N), scale = gamma / T(samples);
    const long begin = w_.at.first_panel(block);
    for (long i = begin + team_.rank; i < w_.at.first_panel(block + 1); i += team_.size)
      for (long c = 0; c < q_; ++c) {
        T sum[panel];
        w_.sum_of_units(i - begin, c, sum);
        const T* const y = w_.targets + (i * q_ + c) * panel;
        T* const r = w_.residual + (i * q_ + c) * panel;
        for (long l = 0; l < panel; ++l) r[l] = i * panel + l < samples ? scale * (output * sum[l] - y[l]) : T(0);
      }
  }

  // Adds a block of samples to the gradients of a unit's particles, and moves the particles after the last block.
  void move_particles(long unit, long block, long step) {
    const double* const coefficients = f_.particles + 3 * run_;
    const T growth = T(coefficients[0]), rate = T(coefficients[1]), noise = T(coefficients[2]);
    const long p = f_.p, d = a_.d, blocks = ceil_div(p + d, 4), width = w_.at.input_panels * kPanel<T>;
    const long begin = w_.at.first_tile(unit) * kTile, end = std::min(w_.at.first_tile(unit + 1) * kTile, a_.N);
    static thread_local std::vector<T> xi;
    xi.resize(4 * (kDrawn * blocks + kAtOnce * kCounters));
    if (noise == 0) std::fill(xi.begin(), xi.end(), T(0));
    static thread_local std::vector<T> slopes;
    slopes.resize(p);
    T* const head = w_.head_sums + unit * p * q_;
    if (block == 0) std::fill_n(head, p * q_, T(0));
    backward<Act>(w_, U_, unit, block, [&](long first, long count, const T* gradient, const T* z) {
      const long drawn = (first - begin) % kDrawn;
      if (noise != 0 && drawn == 0)
        normals(uint64_t(f_.seeds[run_]), uint64_t(step), first, std::min(kDrawn, end - first), blocks, xi.data());
      const T* normal = xi.data() + drawn * 4 * blocks;
      for (long j = 0; j < count; ++j, gradient += width, z += q_, normal += 4 * blocks) {
        T *const a = A_ + (first + j) * p, *const u = U_ + (first + j) * d;
        const T* const value = second_layer(first + j);
        if (truncated_) std::transform(a, a + p, slopes.begin(), [&](T at) { return truncation_.slope(at); });
        // The increment is summed before it is added: parameters are rounded once a step.
        const auto moved = [&](auto at, auto g, auto xi) { return at + (growth * at - rate * g + noise * xi); };
        in_vectors<T>(p, [&](auto of, long k) {
          using V = decltype(of);
          V g{};
          for (long c = 0; c < q_; ++c) {
            T* const sum = head + c * p + k;
            g += z[c] * load<V>(w_.head + c * p + k);
            store(sum, V(load<V>(sum) + load<V>(value + k) * z[c]));
          }
          if (truncated_) g *= load<V>(slopes.data() + k);
          store(a + k, V(moved(load<V>(a + k), g, load<V>(normal + k))));
        });
        in_vectors<T>(d, [&](auto of, long k) {
          using V = decltype(of);
          store(u + k, V(moved(load<V>(u + k), load<V>(gradient + k), load<V>(normal + p + k))));
        });
      }
    });
  }

  void transpose_head() {
    for (long k = 0; k < f_.p; ++k)
      for (long c = 0; c < q_; ++c) w_.head[c * f_.p + k] = W_[k * q_ + c];
  }

  void move_head(long step) {
    const T growth = T(f_.head[2 * run_]), rate = T(f_.head[2 * run_ + 1]);
    const long p = f_.p, size = p * q_;
    for (long k = 0; k < p; ++k)
      for (long c = 0; c < q_; ++c) {
        T g = 0;
        for (long unit = 0; unit < w_.at.units; ++unit) g += w_.head_sums[unit * size + c * p + k];
        W_[k * q_ + c] += growth * W_[k * q_ + c] - rate * (g / T(a_.N));
      }
    transpose_head();
    if (f_.heads) std::copy_n(W_, size, static_cast<T*>(f_.heads) + (run_ * (f_.last - f_.first) + step - f_.first - 1) * size);
  }

  const NcFlow& f_;
  const NcNetworks& a_;
  const long run_;
  const Team& team_;
  const Workspace<T>& w_;
  const long q_;
  T *const U_, *const A_, *const W_;
  const bool truncated_;
  const Truncation<T> truncation_;
};

template <typename Act, typename T> void advance(const NcFlow& f) {
  const NcNetworks& a = f.networks;
  const Shape shape{f.order ? std::min(f.batch, a.n) : a.n, a.d, a.N, a.columns};
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, true, true, f.p); },
                  [&](long run, const Team& team, const Workspace<T>& w) { Flow<Act, T>(f, run, team, w).advance(); });
}

template <typename Act, typename T>
void linearise(const NcFlow& f, const double* decay, T* H, T* g_A, T* g_U, T* R) {
  const NcNetworks& a = f.networks;
  const Shape shape{a.n, a.d, a.N, a.columns, f.p};
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, true, true, f.p, true); },
                  [&](long run, const Team& team, const Workspace<T>& w) {
    Flow<Act, T>(f, run, team, w)
        .linearise(T(decay[run]), H + run * a.n * f.p, g_A + run * a.N * f.p, g_U + run * a.N * a.d, R + run * a.n * f.p);
  });
}

template <typename Act, typename T>
void span(const NcFlow& f, const int64_t* head_moves, const int64_t* counts, long most, const T* start, T* basis, T* images, T* dU) {
  const NcNetworks& a = f.networks;
  const Shape shape{a.n, a.d, a.N, a.columns};
  const long size = a.n * a.columns;
  for_each_run<T>(a.runs, a.threads, [&] { return new Workspace<T>(shape, true, true, f.p, true); },
                  [&](long run, const Team& team, const Workspace<T>& w) {
    Flow<Act, T>(f, run, team, w)
        .span(head_moves[run], counts[run], start + run * size, basis + run * most * size, images + run * most * size,
              dU + run * a.N * a.d);
  });
}

// Calls `of` with the activation that a number stands for. Returns 0, or 1 if memory ran out, or 2 for an unknown activation.
template <typename Of> int with_activation(int activation, Of of) {
  try {
    switch (activation) {
      case 0: of(Tanh{}); return 0;
      case 1: of(Sigmoid{}); return 0;
      case 2: of(Relu{}); return 0;
      case 3: of(Softplus{}); return 0;
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 2;
}

}  // namespace

#define NC_EXPORT(T)                                                                                               \
  int nc_particle_sums_##T(const NcNetworks* a, const T* Z, T* out) {                                              \
    return with_activation(a->activation, [=](auto act) { particle_sums<decltype(act)>(*a, Z, out); });            \
  }                                                                                                                \
  int nc_particle_sums_derivative_##T(const NcNetworks* a, const T* Z, const T* dU, const T* dZ, T* out) {         \
    return with_activation(a->activation,                                                                          \
                           [=](auto act) { particle_sums_derivative<decltype(act)>(*a, Z, dU, dZ, out); });        \
  }                                                                                                                \
  int nc_sample_sums_##T(const NcNetworks* a, const T* B, const T* r, T* g_U, T* Z) {                              \
    return with_activation(a->activation, [=](auto act) { sample_sums<decltype(act)>(*a, B, r, g_U, Z); });        \
  }                                                                                                                \
  int nc_advance_##T(const NcFlow* f) {                                                                            \
    return with_activation(f->networks.activation, [=](auto act) { advance<decltype(act), T>(*f); });              \
  }                                                                                                                \
  int nc_linearise_##T(const NcFlow* f, const double* decay, T* H, T* g_A, T* g_U, T* R) {                         \
    return with_activation(f->networks.activation,                                                                 \
                           [=](auto act) { linearise<decltype(act), T>(*f, decay, H, g_A, g_U, R); });             \
  }                                                                                                                \
  int nc_span_##T(const NcFlow* f, const int64_t* head_moves, const int64_t* counts, int64_t most, const T* start,  \
                  T* basis, T* images, T* dU) {                                                                    \
    return with_activation(f->networks.activation, [=](auto act) {                                                 \
      span<decltype(act)>(*f, head_moves, counts, most, start, basis, images, dU);                                 \
    });                                                                                                            \
  }                                                                                                                \
  int64_t nc_step_bytes_##T(int64_t n, int64_t d, int64_t N, int64_t p, int64_t q) {                              \
    const Shape step{n, d, N, q}, whole{n, d, N, q, p};                                                            \
    return std::max(Needs<T>(step, Layout<T>(step), true, true, p).bytes(),                                        \
                    Needs<T>(whole, Layout<T>(whole, true), true, true, p, true).bytes());                         \
  }                                                                                                                \
  int nc_normals_##T(int64_t seed, int64_t step, int64_t first, int64_t rows, int64_t blocks, T* out) {            \
    normals(uint64_t(seed), uint64_t(step), first, rows, blocks, out);                                             \
    return 0;                                                                                                      \
  }

extern "C" {
NC_EXPORT(float)
NC_EXPORT(double)

int64_t nc_whole_bytes() { return kWholeBytes; }
}
