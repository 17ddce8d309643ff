// Vectors of 32 bytes, storage types, and tiles of tokens: what the fused steps on the CPU are written in.
// Plain C++17 with the vector extensions of GCC and Clang, no other header of this project or of PyTorch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__FMA__) || defined(__F16C__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define MHC_INLINE static inline __attribute__((always_inline))
#define MHC_UNROLL _Pragma("GCC unroll 16")  // constant bounds: what the loop indexes shall live in registers

namespace mhc {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

typedef float floats __attribute__((vector_size(32)));
typedef double doubles __attribute__((vector_size(32)));
typedef int32_t ints __attribute__((vector_size(32)));
typedef uint32_t words __attribute__((vector_size(32)));
typedef uint16_t halves __attribute__((vector_size(16)));

template <class F> struct lanes;
template <> struct lanes<float> { using type = floats; };
template <> struct lanes<double> { using type = doubles; };
template <class F> using vec = typename lanes<F>::type;
template <class F> constexpr int W = 32 / sizeof(F);  // lanes of a vector

template <class F> MHC_INLINE vec<F> load(const F* p) { vec<F> v; std::memcpy(&v, p, 32); return v; }
template <class F> MHC_INLINE void store(F* p, vec<F> v) { std::memcpy(p, &v, 32); }
template <class F> MHC_INLINE vec<F> all(F a) { return a - vec<F>{}; }  // a + 0 is not a for a = -0

template <class F> MHC_INLINE F sum(vec<F> v) {
  F total = 0;
  for (int l = 0; l < W<F>; ++l) total += v[l];
  return total;
}

// Inductor compiles with -ffp-contract=off: a multiply-add must be asked for.
#if defined(__FMA__)
MHC_INLINE floats fma(floats a, floats b, floats c) { return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
MHC_INLINE doubles fma(doubles a, doubles b, doubles c) { return (doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
MHC_INLINE floats fma(floats a, floats b, floats c) { return a * b + c; }
MHC_INLINE doubles fma(doubles a, doubles b, doubles c) { return a * b + c; }
#endif

MHC_INLINE floats power_of_two(ints k) { return (floats)((k + 127) << 23); }

// Cephes' expf: 1 ulp, NaN stays NaN, subnormal results are kept.
MHC_INLINE floats exponential(floats x) {
  x = x > 89.f ? all<float>(89.f) : x;
  x = x < -104.f ? all<float>(-104.f) : x;
  floats k = x * 1.44269504f;
  k = k + all<float>(12582912.f) - all<float>(12582912.f);  // 1.5 * 2^23: round to the nearest integer
  floats r = fma(k, all<float>(-0.693359375f), x);
  r = fma(k, all<float>(2.12194440e-4f), r);
  floats p = all<float>(1.9875691500e-4f);
  p = fma(p, r, all<float>(1.3981999507e-3f));
  p = fma(p, r, all<float>(8.3334519073e-3f));
  p = fma(p, r, all<float>(4.1665795894e-2f));
  p = fma(p, r, all<float>(1.6666665459e-1f));
  p = fma(p, r, all<float>(5.0000001201e-1f));
  p = fma(p, r * r, r + 1.f);
  ints whole = __builtin_convertvector(k, ints), half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);  // 2^k in two steps, it may be subnormal or inf
}
MHC_INLINE doubles exponential(doubles x) {
  for (int l = 0; l < W<double>; ++l) x[l] = std::exp(x[l]);
  return x;
}
template <class V> MHC_INLINE V logarithm(V x) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(x[0]); ++l) x[l] = std::log(x[l]);
  return x;
}

MHC_INLINE float value(float a) { return a; }
MHC_INLINE double value(double a) { return a; }
MHC_INLINE float value(bf16 a) { uint32_t w = uint32_t(a.bits) << 16; float f; std::memcpy(&f, &w, 4); return f; }
MHC_INLINE float value(f16 a) {
#if defined(__F16C__)
  return _cvtsh_ss(a.bits);
#else
  _Float16 h; std::memcpy(&h, &a.bits, 2); return float(h);
#endif
}
MHC_INLINE void put(float& to, double a) { to = float(a); }
MHC_INLINE void put(double& to, double a) { to = a; }
MHC_INLINE void put(bf16& to, float a) {
  uint32_t w; std::memcpy(&w, &a, 4);
  to.bits = a != a ? 0x7fc0 : uint16_t((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}
MHC_INLINE void put(f16& to, float a) {
#if defined(__F16C__)
  to.bits = _cvtss_sh(a, 0);
#else
  _Float16 h = _Float16(a); std::memcpy(&to.bits, &h, 2);
#endif
}

// get: W<F> stored elements as a vector of F; put: back, to the nearest.
template <class V, class T> MHC_INLINE void get(V& v, const T* p) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(v[0]); ++l) v[l] = value(p[l]);
}
MHC_INLINE void get(floats& v, const float* p) { v = load(p); }
MHC_INLINE void get(doubles& v, const double* p) { v = load(p); }
MHC_INLINE void get(floats& v, const bf16* p) {
  halves h; std::memcpy(&h, p, 16);
  v = (floats)(__builtin_convertvector(h, words) << 16);
}
template <class V, class T> MHC_INLINE void put(T* p, V v) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(v[0]); ++l) put(p[l], v[l]);
}
MHC_INLINE void put(float* p, floats v) { store(p, v); }
MHC_INLINE void put(double* p, doubles v) { store(p, v); }
MHC_INLINE void put(bf16* p, floats v) {
  words w = (words)v;
  w = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
  w = v != v ? words{} + 0x7fc0 : w;
  halves h = __builtin_convertvector(w, halves);
  std::memcpy(p, &h, 16);
}
#if defined(__F16C__)
MHC_INLINE void get(floats& v, const f16* p) { v = (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
MHC_INLINE void put(f16* p, floats v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 0)); }
#endif

struct Shape {  // of one stream: a token is a pair (outer, inner)
  int64_t outer, channels, inner;
  int64_t tokens() const { return outer * inner; }
  int64_t size() const { return outer * channels * inner; }
};

constexpr int AHEAD = 2;
constexpr int TILE = 16;  // tokens that are computed together

struct Tile {
  int64_t first, stride;  // stride between the channels of a token
  int count;
  int64_t at[TILE];  // where the first channel of each token lies

  Tile(const Shape& s, int64_t first, int64_t end) : first(first), stride(s.inner) {
    count = int(std::min<int64_t>(TILE, end - first));
    for (int t = 0; t < count; ++t) {
      int64_t token = first + t;
      at[t] = s.inner == 1 ? token * s.channels : token / s.inner * s.channels * s.inner + token % s.inner;
    }
  }
  // Calls body(tile, index of its first token in this one) in the order of memory: token by token where that is the
  // order, so that the hardware can read ahead.
  template <class Body> void in_memory_order(const Shape& s, const Body& body) const {
    const int step = stride == 1 ? 1 : TILE;
    for (int t = 0; t < count; t += step) body(Tile(s, first + t, first + std::min(count, t + step)), t);
  }
  bool neighbours(int t, int width) const { return t + width <= count && at[t + width - 1] - at[t] == width - 1; }
};

// The W x W block with rows r[0..W), transposed in place.
template <class V> MHC_INLINE void transpose(V (&r)[W<float>]) {
  static_assert(sizeof(r[0][0]) == 4, "");
  for (int step = 4; step; step >>= 1)
    for (int i = 0; i < 8; ++i)
      if (!(i & step)) {
        V a = r[i], b = r[i + step];
        ints low, high;
        for (int l = 0; l < 8; ++l) {
          low[l] = l & step ? l - step + 8 : l;
          high[l] = l & step ? l + 8 : l + step;
        }
        r[i] = __builtin_shuffle(a, b, low);
        r[i + step] = __builtin_shuffle(a, b, high);
      }
}
template <class V> MHC_INLINE void transpose(V (&r)[W<double>]) {
  V c[4];
  for (int i = 0; i < 4; ++i)
    for (int l = 0; l < 4; ++l) c[i][l] = r[l][i];
  for (int i = 0; i < 4; ++i) r[i] = c[i];
}

// Channels c0 .. c0 + width of the tile's tokens as rows[token][CHUNK] of F; zeros up to a whole vector.
template <int CHUNK, class F, class T>
MHC_INLINE void load_tile(F* rows, const T* from, const Tile& tile, int64_t c0, int width) {
  constexpr int w = W<F>;
  const int whole = width / w * w;
  for (int t = 0; t < tile.count;) {
    const T* p = from + tile.at[t] + c0 * tile.stride;
    F* row = rows + t * CHUNK;
    int c = 0, tokens = 1;
    if (tile.stride == 1)
      for (; c < whole; c += w) {
        if (c % (64 / int(sizeof(T))) == 0) __builtin_prefetch(p + c + AHEAD * CHUNK, 0, 2);  // a tile jumps from row to row, the hardware loses track
        vec<F> v;
        get(v, p + c);
        store(row + c, v);
      }
    else if (tile.neighbours(t, w)) {
      tokens = w;
      for (; c < whole; c += w) {
        vec<F> block[w];
        for (int l = 0; l < w; ++l) get(block[l], p + (c + l) * tile.stride);
        transpose(block);
        for (int l = 0; l < w; ++l) store(row + l * CHUNK + c, block[l]);
      }
    }
    for (int l = 0; l < tokens; ++l) {
      int rest = c;
      for (; rest < width; ++rest) row[l * CHUNK + rest] = F(value(from[tile.at[t + l] + (c0 + rest) * tile.stride]));
      for (; rest % w; ++rest) row[l * CHUNK + rest] = 0;
    }
    t += tokens;
  }
}

template <int CHUNK, class F, class T>
MHC_INLINE void store_tile(T* to, const F* rows, const Tile& tile, int64_t c0, int width) {
  constexpr int w = W<F>;
  const int whole = width / w * w;
  for (int t = 0; t < tile.count;) {
    T* p = to + tile.at[t] + c0 * tile.stride;
    const F* row = rows + t * CHUNK;
    int c = 0, tokens = 1;
    if (tile.stride == 1)
      for (; c < whole; c += w) put(p + c, load(row + c));
    else if (tile.neighbours(t, w)) {
      tokens = w;
      for (; c < whole; c += w) {
        vec<F> block[w];
        for (int l = 0; l < w; ++l) block[l] = load(row + l * CHUNK + c);
        transpose(block);
        for (int l = 0; l < w; ++l) put(p + (c + l) * tile.stride, block[l]);
      }
    }
    for (int l = 0; l < tokens; ++l)
      for (int rest = c; rest < width; ++rest) put(to[tile.at[t + l] + (c0 + rest) * tile.stride], row[l * CHUNK + rest]);
    t += tokens;
  }
}

// Large results come from fresh pages: fault them in 2 MiB at a time where the system allows.
template <class T> MHC_INLINE void expect_to_fill(T* p, int64_t elements) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t huge = uintptr_t(1) << 21, from = (uintptr_t(p) + huge - 1) & ~(huge - 1);
  const uintptr_t to = uintptr_t(p + elements) & ~(huge - 1);
  if (from < to) madvise((void*)from, to - from, MADV_HUGEPAGE);
#else
  (void)p, (void)elements;
#endif
}

}  // namespace mhc
