// Numbers with their change along one direction: what a function of them changes by comes out beside its value. For
// second derivatives, where the functions of projections.h and coefficients.h run on these instead of vectors.
#include <limits>

namespace mhc {

template <class V> struct Dual { V at, by; };
template <class V> using Lane = decltype(V{}[0] + V{}[0]);  // vectors take no ints but literals

template <class V> MHC_INLINE Dual<V> operator+(Dual<V> a, Dual<V> b) { return {a.at + b.at, a.by + b.by}; }
template <class V> MHC_INLINE Dual<V> operator-(Dual<V> a, Dual<V> b) { return {a.at - b.at, a.by - b.by}; }
template <class V> MHC_INLINE Dual<V> operator*(Dual<V> a, Dual<V> b) { return {a.at * b.at, a.by * b.at + a.at * b.by}; }
template <class V> MHC_INLINE Dual<V> operator/(Dual<V> a, Dual<V> b) {
  const V inverse = 1 / b.at, quotient = a.at * inverse;
  return {quotient, (a.by - quotient * b.by) * inverse};
}
template <class V> MHC_INLINE Dual<V> operator-(Dual<V> a) { return {-a.at, -a.by}; }
template <class V> MHC_INLINE Dual<V> operator+(int c, Dual<V> a) { return {Lane<V>(c) + a.at, a.by}; }
template <class V> MHC_INLINE Dual<V> operator-(int c, Dual<V> a) { return {Lane<V>(c) - a.at, -a.by}; }
template <class V> MHC_INLINE Dual<V> operator/(int c, Dual<V> a) { return Dual<V>{Lane<V>(c) + V{}, V{}} / a; }
template <class V, class B> MHC_INLINE Dual<V>& operator+=(Dual<V>& a, B b) { return a = a + b; }
template <class V, class B> MHC_INLINE Dual<V>& operator*=(Dual<V>& a, B b) { return a = a * b; }
template <class V, class B> MHC_INLINE Dual<V>& operator/=(Dual<V>& a, B b) { return a = a / b; }

template <class V> MHC_INLINE V largest(V a, V b) { return a > b ? a : b; }
template <class V> MHC_INLINE Dual<V> largest(Dual<V> a, Dual<V> b) {
  return {a.at > b.at ? a.at : b.at, a.at > b.at ? a.by : b.by};
}

// `kept` where a > b, else 0.
template <class V> MHC_INLINE V where_above(V a, V b, V kept) { return a > b ? kept : V{}; }
template <class V> MHC_INLINE Dual<V> where_above(Dual<V> a, Dual<V> b, Dual<V> kept) {
  return {where_above(a.at, b.at, kept.at), where_above(a.at, b.at, kept.by)};
}

template <class V> MHC_INLINE Dual<V> exponential(Dual<V> x) {
  const V e = exponential(x.at);
  return {e, e * x.by};
}
template <class V> MHC_INLINE Dual<V> logarithm(Dual<V> x) { return {logarithm(x.at), x.by / x.at}; }

// The smallest normal number, in every lane.
template <class V> struct Smallest {
  static V get() { return V{} + std::numeric_limits<Lane<V>>::min(); }
};
template <class V> struct Smallest<Dual<V>> {
  static Dual<V> get() { return {Smallest<V>::get(), V{}}; }
};

}  // namespace mhc
