// Vectors of 32 or 64 bytes, storage types, and tiles of tokens: what the fused steps on the CPU are written in.
// Plain C++17 with the vector extensions of GCC and Clang, no other header of this project or of PyTorch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define MHC_ALWAYS __attribute__((always_inline))  // for lambdas and members
#define MHC_INLINE static inline MHC_ALWAYS
#define MHC_UNROLL _Pragma("GCC unroll 16")  // constant bounds: what the loop indexes shall live in registers
#define MHC_UNROLL_ALL _Pragma("GCC unroll 32")

namespace mhc {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#else
constexpr int BYTES = 32, REGISTERS = 16;
#endif
typedef float floats __attribute__((vector_size(BYTES)));
typedef double doubles __attribute__((vector_size(BYTES)));
typedef int32_t ints __attribute__((vector_size(BYTES)));
typedef uint32_t words __attribute__((vector_size(BYTES)));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2)));

template <class F> struct lanes;
template <> struct lanes<float> { using type = floats; };
template <> struct lanes<double> { using type = doubles; };
template <class F> using vec = typename lanes<F>::type;
template <class F> constexpr int W = BYTES / sizeof(F);  // lanes of a vector

typedef float floats_half __attribute__((vector_size(BYTES / 2)));
typedef double doubles_half __attribute__((vector_size(BYTES / 2)));
template <class F> struct half_lanes;
template <> struct half_lanes<float> { using type = floats_half; };
template <> struct half_lanes<double> { using type = doubles_half; };
template <class F> using half = typename half_lanes<F>::type;

template <class F> MHC_INLINE vec<F> load(const F* p) { vec<F> v; std::memcpy(&v, p, BYTES); return v; }
template <class F> MHC_INLINE void store(F* p, vec<F> v) { std::memcpy(p, &v, BYTES); }
template <class F> MHC_INLINE half<F> load_half(const F* p) { half<F> v; std::memcpy(&v, p, BYTES / 2); return v; }
template <class F> MHC_INLINE void store_half(F* p, half<F> v) { std::memcpy(p, &v, BYTES / 2); }
template <class F> MHC_INLINE vec<F> all(F a) { return a - vec<F>{}; }  // a + 0 is not a for a = -0

template <class F> MHC_INLINE F sum(vec<F> v) {
  F lane[W<F>];
  std::memcpy(lane, &v, BYTES);
  for (int step = W<F> / 2; step; step >>= 1)
    for (int l = 0; l < step; ++l) lane[l] += lane[l + step];
  return lane[0];
}

template <class V, int COUNT> MHC_INLINE V total(const V (&vs)[COUNT]) {
  V all = vs[0];
  MHC_UNROLL
  for (int i = 1; i < COUNT; ++i) all += vs[i];
  return all;
}

// Inductor compiles with -ffp-contract=off: a multiply-add must be asked for.
#if defined(__AVX512F__)
MHC_INLINE floats fma(floats a, floats b, floats c) { return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
MHC_INLINE doubles fma(doubles a, doubles b, doubles c) { return (doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__FMA__)
MHC_INLINE floats fma(floats a, floats b, floats c) { return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
MHC_INLINE doubles fma(doubles a, doubles b, doubles c) { return (doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
MHC_INLINE floats fma(floats a, floats b, floats c) { return a * b + c; }
MHC_INLINE doubles fma(doubles a, doubles b, doubles c) { return a * b + c; }
#endif

// a * b + c in the lower half of a.
#if defined(__AVX512F__)
MHC_INLINE floats_half fma(floats a, floats_half b, floats_half c) { return (floats_half)_mm256_fmadd_ps(_mm512_castps512_ps256((__m512)a), (__m256)b, (__m256)c); }
MHC_INLINE doubles_half fma(doubles a, doubles_half b, doubles_half c) { return (doubles_half)_mm256_fmadd_pd(_mm512_castpd512_pd256((__m512d)a), (__m256d)b, (__m256d)c); }
#elif defined(__FMA__)
MHC_INLINE floats_half fma(floats a, floats_half b, floats_half c) { return (floats_half)_mm_fmadd_ps(_mm256_castps256_ps128((__m256)a), (__m128)b, (__m128)c); }
MHC_INLINE doubles_half fma(doubles a, doubles_half b, doubles_half c) { return (doubles_half)_mm_fmadd_pd(_mm256_castpd256_pd128((__m256d)a), (__m128d)b, (__m128d)c); }
#else
MHC_INLINE floats_half fma(floats a, floats_half b, floats_half c) { floats_half x; std::memcpy(&x, &a, sizeof x); return x * b + c; }
MHC_INLINE doubles_half fma(doubles a, doubles_half b, doubles_half c) { doubles_half x; std::memcpy(&x, &a, sizeof x); return x * b + c; }
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
  halves h; std::memcpy(&h, p, sizeof h);
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
  std::memcpy(p, &h, sizeof h);
}
#if defined(__AVX512F__)
MHC_INLINE void get(floats& v, const f16* p) { v = (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
MHC_INLINE void put(f16* p, floats v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0)); }
#elif defined(__F16C__)
MHC_INLINE void get(floats& v, const f16* p) { v = (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
MHC_INLINE void put(f16* p, floats v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 0)); }
#endif

// Blocks of `step` lanes: every second one of a and b change places.
#if defined(__clang__)
template <class F> MHC_INLINE void exchange(vec<F>& a, vec<F>& b, int step) {
  const vec<F> x = a, y = b;
  for (int l = 0; l < W<F>; ++l) a[l] = l & step ? y[l - step] : x[l], b[l] = l & step ? y[l] : x[l + step];
}
#else
template <class F> struct lane_numbers { using type = ints; };
template <> struct lane_numbers<double> { typedef int64_t type __attribute__((vector_size(BYTES))); };
template <class F> MHC_INLINE void exchange(vec<F>& a, vec<F>& b, int step) {
  typename lane_numbers<F>::type low, high;
  for (int l = 0; l < W<F>; ++l) low[l] = l & step ? l - step + W<F> : l, high[l] = l & step ? l + W<F> : l + step;
  const vec<F> x = a;
  a = __builtin_shuffle(x, b, low);
  b = __builtin_shuffle(x, b, high);
}
#endif

// The W x W block with rows r[0..W), transposed in place.
template <class F> MHC_INLINE void transpose(vec<F> (&r)[W<F>]) {
  for (int step = W<F> / 2; step; step >>= 1)
    for (int i = 0; i < W<F>; ++i)
      if (!(i & step)) exchange<F>(r[i], r[i + step], step);
}

// The first `count` elements at p, then zeros; and back. `Whole` is a vector that is full.
struct Whole {};
struct Part { int count; };
template <class V, class T> MHC_INLINE void get(V& v, const T* p, Whole) { get(v, p); }
template <class V, class T> MHC_INLINE void get(V& v, const T* p, Part part) {
  T lane[sizeof(V) / sizeof(v[0])] = {};
  std::memcpy(lane, p, part.count * sizeof(T));
  get(v, lane);
}
template <class V, class T> MHC_INLINE void put(T* p, V v, Whole) { put(p, v); }
template <class V, class T> MHC_INLINE void put(T* p, V v, Part part) {
  T lane[sizeof(V) / sizeof(v[0])];
  put(lane, v);
  std::memcpy(p, lane, part.count * sizeof(T));
}

// A full vector past the caches, to an address that `streamable` accepts: it will not be read again soon.
template <class T> MHC_INLINE bool streamable(const T* p) { return uintptr_t(p) % (W<float> * sizeof(T)) == 0; }
template <class V, class T> MHC_INLINE void stream(T* p, V v) { put(p, v); }
#if defined(__AVX512F__)
MHC_INLINE void stream(float* p, floats v) { _mm512_stream_ps(p, (__m512)v); }
MHC_INLINE void stream(bf16* p, floats v) { halves h; put((bf16*)&h, v); _mm256_stream_si256((__m256i*)p, (__m256i)h); }
MHC_INLINE void stream(f16* p, floats v) { _mm256_stream_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0)); }
#elif defined(__AVX__)
MHC_INLINE void stream(float* p, floats v) { _mm256_stream_ps(p, (__m256)v); }
#endif
MHC_INLINE void finish_streaming() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

}  // namespace mhc
