// restore of packed.py: up to four writes, one after the other in registers, rounded between as the forward stored them.

namespace mhc {

template <class S> struct Restore {
  using F = typename S::F;
  static constexpr int N = S::n, M = S::m, MOST = 4;
  struct Between : S { static constexpr int m = N; };  // the entry of a segment lies before the first write only
  using Branch = Input<S, typename S::Y, 1>;
  Input<S, typename S::X, M> X;
  Branch y[MOST];
  const typename S::Mix* mix[MOST];
  int64_t count;
  Output<S, typename S::O, N> restored;
  WriteCoefficients<S> first;
  WriteCoefficients<Between> later[MOST];

  void step(const Tile& tile) {
    first.read(mix[0], tile);
    for (int k = 1; k < count; ++k) later[k].read(mix[k], tile);
    decltype(y[0].rows(tile)) branches[MOST];
    for (int k = 0; k < count; ++k) branches[k] = y[k].rows(tile);
    const auto from = X.rows(tile);
    const auto to = restored.rows(tile);
    for (int t = 0; t < tile.count; ++t)
      for_vectors<F>(0, X.s.channels, [&](int64_t c, auto width) MHC_ALWAYS {
        vec<F> x[M + 1], v[N + 1], next[N];
        MHC_UNROLL
        for (int j = 0; j < M; ++j) get(x[j], from.at(j, t) + c, width);
        get(x[M], branches[0].at(0, t) + c, width);
        MHC_UNROLL
        for (int i = 0; i < N; ++i) v[i] = first.apply(i, t, x);
        for (int k = 1; k < count; ++k) {
          get(v[N], branches[k].at(0, t) + c, width);
          MHC_UNROLL
          for (int i = 0; i < N; ++i) next[i] = later[k].apply(i, t, v);
          MHC_UNROLL
          for (int i = 0; i < N; ++i) v[i] = next[i];
        }
        MHC_UNROLL
        for (int i = 0; i < N; ++i) restored.write(to.at(i, t) + c, v[i], width);
      });
    restored.finish(tile);
  }
};

template <class S> void restore(
    const typename S::X* X, const typename S::Y* y0, const typename S::Y* y1, const typename S::Y* y2,
    const typename S::Y* y3, const typename S::Mix* mix0, const typename S::Mix* mix1, const typename S::Mix* mix2,
    const typename S::Mix* mix3, typename S::O* restored, Shape s, int64_t parts, int64_t count) {
  const int64_t padded = Sizes<S>::padded(s);
  expect_to_fill(restored, S::n * s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    Restore<S> work{{X, s, padded}, {{y0, s, padded}, {y1, s, padded}, {y2, s, padded}, {y3, s, padded}},
                    {mix0, mix1, mix2, mix3}, count, {restored, s, padded}, {}, {}};
    for (; first < end; first += TILE) work.step(Tile(s, first, end));
  });
}

}  // namespace mhc
