// leave of packed.py and its backward.

namespace mhc {

// The weights of leave as [j][t]: scale times the column sums of R, then of post. M == 1: the sum of R.
template <class S> struct LeaveWeights {
  using F = typename S::F;
  F at[S::m + 1][TILE];

  LeaveWeights(const typename S::Mix* mix, const Tile& tile, F scale) {
    WriteCoefficients<S> w;
    w.read(mix, tile);
    for (int j = 0; j <= S::m; ++j)
      for (int t = 0; t < TILE; ++t) {
        at[j][t] = 0;
        for (int i = 0; i < S::n; ++i) at[j][t] += w.at[i][j][t];
        at[j][t] *= scale;
      }
  }
};

template <class S> void leave(
    const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix, typename S::O* out, Shape s,
    int64_t parts, typename S::F scale) {
  using F = typename S::F;
  constexpr int M = S::m;
  const int64_t padded = Sizes<S>::padded(s);
  expect_to_fill(out, s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    Input<S, typename S::X, M> streams(X, s, padded);
    Input<S, typename S::Y, 1> branch(y, s, padded);
    Output<S, typename S::O, 1> result(out, s, padded);
    for (; first < end; first += TILE) {
      const Tile tile(s, first, end);
      const LeaveWeights<S> w(mix, tile, scale);
      const auto x = streams.rows(tile);
      const auto b = branch.rows(tile);
      const auto to = result.rows(tile);
      for (int t = 0; t < tile.count; ++t)
        for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
          vec<F> in, total = {};
          MHC_UNROLL
          for (int j = 0; j <= M; ++j) {
            if (j < M) get(in, x.at(j, t) + c, count);
            else get(in, b.at(0, t) + c, count);
            total = fma(in, all<F>(w.at[j][t]), total);
          }
          result.write(to.at(0, t) + c, total, count);
        });
      result.finish(tile);
    }
  });
}

template <class S> struct LeaveBackward {
  using F = typename S::F;
  static constexpr int N = S::n, M = S::m;
  Input<S, typename S::O, 1> g;
  Input<S, typename S::X, M> X;
  Input<S, typename S::Y, 1> y;
  const typename S::Mix* mix;
  Output<S, typename S::X, M> gX;
  Output<S, typename S::Y, 1> gy;
  typename S::Mix* gmix;
  Shape s;
  F scale;

  void step(const Tile& tile) {
    const LeaveWeights<S> w(mix, tile, scale);
    const auto incoming = g.rows(tile);
    const auto x = X.rows(tile);
    const auto branch = y.rows(tile);
    const auto to = gX.rows(tile);
    const auto to_branch = gy.rows(tile);
    for (int t = 0; t < tile.count; ++t) {
      vec<F> dots[M + 1] = {};
      for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
        vec<F> h, in;
        get(h, incoming.at(0, t) + c, count);
        MHC_UNROLL
        for (int j = 0; j <= M; ++j) {
          if (j < M) get(in, x.at(j, t) + c, count);
          else get(in, branch.at(0, t) + c, count);
          dots[j] = fma(h, in, dots[j]);
          if (j < M) gX.write(to.at(j, t) + c, h * w.at[j][t], count);
          else gy.write(to_branch.at(0, t) + c, h * w.at[j][t], count);
        }
      });
      store_gmix(gmix + (tile.first + t) * (N + N * N), dots);
    }
    gX.finish(tile);
    gy.finish(tile);
  }

  void store_gmix(typename S::Mix* row, const vec<F> (&dots)[M + 1]) {  // every stream of X' has the same gradient
    MHC_UNROLL
    for (int i = 0; i < N; ++i) {
      put(row[i], scale * sum<F>(dots[M]));
      MHC_UNROLL
      for (int j = 0; j < N; ++j) put(row[N + i * N + j], scale * sum<F>(dots[M == 1 ? 0 : j]));
    }
  }
};

template <class S> void leave_backward(
    const typename S::O* g, const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix,
    typename S::X* gX, typename S::Y* gy, typename S::Mix* gmix, Shape s, int64_t parts, typename S::F scale) {
  const int64_t padded = Sizes<S>::padded(s);
  expect_to_fill(gX, S::m * s.size());
  expect_to_fill(gy, s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    LeaveBackward<S> work{{g, s, padded}, {X, s, padded}, {y, s, padded}, mix, {gX, s, padded}, {gy, s, padded},
                          gmix, s, scale};
    for (; first < end; first += TILE) work.step(Tile(s, first, end));
  });
}

}  // namespace mhc
