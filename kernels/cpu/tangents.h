// Gates and matrix of each token, and their backward, with what both change by along a direction: see `tangents` in
// coefficients.py. The direction changes logits and the gradient of pre, that of post and R stays.

namespace mhc {

template <class S> struct Tangents {
  using F = typename S::F;
  using V = vec<F>;
  using D = Dual<V>;
  using Matrix = typename S::template Matrix<D>;
  static constexpr int N = S::n, L = Matrix::LOGITS, K = 2 * N + L, WIDE = N + N * N;
  const F *logits, *along, *gpre, *gpre_along, *gmix;  // rows of a token: K, K, N, N, WIDE
  F *pre, *pre_along, *mix_along, *back, *back_along;  // N, N, WIDE, K, K

  static V column(const F* rows, int width, int k, int64_t first, int count) {
    F lane[W<F>] = {};
    for (int l = 0; l < count; ++l) lane[l] = rows[(first + l) * width + k];
    return load(lane);
  }
  static void put_column(F* rows, int width, int k, int64_t first, int count, V v) {
    F lane[W<F>];
    store(lane, v);
    for (int l = 0; l < count; ++l) rows[(first + l) * width + k] = lane[l];
  }

  void step(int64_t t, int count) const {
    const auto at = [&](const F* rows, int width, int k) { return column(rows, width, k, t, count); };
    D z[K + 1], G[N][N], moved[L + 1];
    for (int k = 0; k < K; ++k) z[k] = {at(logits, K, k), at(along, K, k)};
    for (int k = 0; k < 2 * N; ++k) {
      const F height = k < N ? F(1) : F(S::magnitude);
      const D s = S::hyper ? z[k] : sigmoid(z[k]), slope = S::hyper ? D{1 - V{}, V{}} : s * (1 - s);
      const D g = k < N ? D{at(gpre, N, k), at(gpre_along, N, k)} : D{at(gmix, WIDE, k - N), V{}};
      const D moved_gate = g * slope;
      put_column(back, K, k, t, count, moved_gate.at * height);
      put_column(back_along, K, k, t, count, moved_gate.by * height);
      if (k < N) put_column(pre, N, k, t, count, s.at + F(S::eps)), put_column(pre_along, N, k, t, count, s.by);
      else put_column(mix_along, WIDE, k - N, t, count, s.by * height);
    }
    Matrix result(z + 2 * N);
    for (int k = 0; k < N * N; ++k) {
      put_column(mix_along, WIDE, N + k, t, count, result.M[k / N][k % N].by);
      G[k / N][k % N] = {at(gmix, WIDE, N + k), V{}};
    }
    result.backward(G, moved);
    for (int k = 0; k < L; ++k) {
      put_column(back, K, 2 * N + k, t, count, moved[k].at);
      put_column(back_along, K, 2 * N + k, t, count, moved[k].by);
    }
  }
};

template <class S> void tangents(const Tangents<S>& work, int64_t tokens, int64_t parts) {
  using F = typename S::F;
  for_parts(Shape{tokens, 1, 1}, parts, [&](int64_t, int64_t first, int64_t end) {
    for (; first < end; first += W<F>) work.step(first, int(std::min<int64_t>(W<F>, end - first)));
  });
}

}  // namespace mhc
