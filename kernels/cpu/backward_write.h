// The backward of a write, for the channels of one chunk.

namespace mhc {

// gX = R^T gv, gy = post . gv and the products of gv with X and y, for `width` channels from c0, where gv begins.
template <class S, bool WRITES, bool GATES>
template <class RV, class RX, class RY>
void Backward<S, WRITES, GATES>::through_write(
    const Tile& tile, int64_t c0, int64_t width, const RV& gv, const RX& x, const RY& branch) {
  const auto to = gX.rows(tile);
  const auto to_branch = gy.rows(tile);
  for (int t = 0; t < tile.count; ++t) {
    const auto h_row = gv.row(t);
    const auto in_row = x.row(t);
    const auto* const branch_row = branch.at(0, t);
    const auto out_row = to.row(t);
    auto* const branch_out = to_branch.at(0, t);
    vec<F> sums[N][M + 1];
    MHC_UNROLL
    for (int i = 0; i < N; ++i)
      MHC_UNROLL
      for (int j = 0; j <= M; ++j) sums[i][j] = dots[t][i][j];
    for_vectors<F>(c0, c0 + width, [&](int64_t c, auto count) MHC_ALWAYS {
      vec<F> h[N];
      MHC_UNROLL
      for (int i = 0; i < N; ++i) get(h[i], h_row.at(i) + (c - c0), count);
      MHC_UNROLL
      for (int j = 0; j <= M; ++j) {
        vec<F> in, back = h[0] * w.at[0][j][t];
        if (j < M) get(in, in_row.at(j) + c, count);
        else get(in, branch_row + c, count);
        MHC_UNROLL
        for (int i = 0; i < N; ++i) sums[i][j] = fma(h[i], in, sums[i][j]);
        MHC_UNROLL
        for (int i = 1; i < N; ++i) back = fma(h[i], all<F>(w.at[i][j][t]), back);
        if (j < M) gX.write(out_row.at(j) + c, back, count);
        else gy.write(branch_out + c, back, count);
      }
    });
    MHC_UNROLL
    for (int i = 0; i < N; ++i)
      MHC_UNROLL
      for (int j = 0; j <= M; ++j) dots[t][i][j] = sums[i][j];
  }
}

}  // namespace mhc
