// gate, write and boundary of packed.py: one scan over the tokens, a tile at a time. Where S::single, the read weights of
// a boundary are known before its streams are, which are read as they are written, and a gate reads nothing.
// `parts` threads take equal shares of the tiles.

namespace mhc {

constexpr int FEW = 4;  // tokens, such as those of one step of decoding

// What the norms of a token are made of, added up in vectors: the squares of all streams, or the sum of each and, once
// its mean is known, the squares of how far it is from that; a mean far from zero would cancel in plain squares.
template <class S, int STREAMS> struct Moments {
  using F = typename S::F;
  static constexpr int N = S::n, NORMS = S::hyper ? STREAMS : 1;
  vec<F> squares[NORMS] = {}, sums[NORMS] = {};

  // Those of single streams, STREAMS of them wherever this runs.
  template <int COUNT> void take(const vec<F> (&square)[COUNT], const vec<F> (&sum)[COUNT]) {
    if (!S::hyper) squares[0] = total(square);
    for (int i = 0; S::hyper && i < NORMS; ++i) sums[i] = sum[i % COUNT];
  }

  void centre(int i, const F* stream, int64_t channels) {
    const F mean = sum<F>(sums[i]) / F(channels);
    vec<F> square = {};
    int64_t c = 0;
    for (; c + W<F> <= channels; c += W<F>) {
      const vec<F> v = load(stream + c) - mean;
      square = fma(v, v, square);
    }
    for (; c < channels; ++c) square[0] += (stream[c] - mean) * (stream[c] - mean);
    squares[i] = square;
  }

  // 1 / rms; or 1 / std of each of n streams, then the mean of each.
  void keep(F* to, int64_t channels) const {
    if (!S::hyper) to[0] = 1 / std::sqrt(sum<F>(squares[0]) / F(STREAMS * channels) + F(MHC_RMS_EPS));
    for (int i = 0; S::hyper && i < N; ++i) {
      to[i] = 1 / std::sqrt(sum<F>(squares[i % NORMS]) / F(channels) + F(MHC_LAYER_NORM_EPS));
      to[N + i] = sum<F>(sums[i % NORMS]) / F(channels);
    }
  }
};

// What is not computed has a null pointer.
template <class S, bool WRITES, bool GATES> struct Forward {
  using F = typename S::F;
  using Z = Sizes<S>;
  static constexpr int N = S::n, M = S::m, K = Z::K, STREAMS = WRITES ? N : M;
  static constexpr int COEFFICIENTS = Logits<S>::COEFFICIENTS;
  static constexpr bool CHUNKED = WRITES && GATES && S::single;
  Input<S, typename S::X, M> X;
  Input<S, typename S::Y, 1> y;
  const typename S::Mix* mix;
  const typename S::Pre* pre;
  const F* phi; const typename S::Alpha* alpha; const typename S::Bias* bias;
  Output<S, typename S::O, N> following;
  Output<S, typename S::O, 1> u;
  F* pre_out; F* mix_out; F* stat;
  Shape s;
  bool given;    // phi is read as it is given, not packed
  Held<F> held;  // the streams that are projected and read: those that were just written, else a copy of X

  void run(int64_t first, int64_t end) {
    for (; first < end; first += TILE) {
      const Tile tile(s, first, end), next(s, std::min(first + TILE, end), end);
      Moments<S, STREAMS> moments[TILE];
      if (CHUNKED) boundary(tile, next, moments);
      else if (WRITES) write(tile, moments);
      else copy(tile, moments);
      if (GATES && !CHUNKED) gate(tile, next, moments);
    }
  }

  // Nothing has to wait for the coefficients: chunk by chunk, what is written is read and projected while it is near.
  void boundary(const Tile& tile, const Tile& next, Moments<S, STREAMS> (&moments)[TILE]) {
    Projection<S> sums;
    WriteCoefficients<S> w;
    w.read(mix, tile);
    ReadWeights<S> weights;
    weights.read(pre, tile);
    const auto from = X.rows(tile);
    const auto branch = y.rows(tile);
    const auto to = following.rows(tile);
    const auto read_to = u.rows(tile);
    const auto kept = held.rows();
    for (int64_t c0 = 0; c0 < s.channels; c0 += Z::CHUNK) {
      const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c0));
      for (int t = 0; t < tile.count; ++t) {
        vec<F> square = moments[t].squares[0];
        for_vectors<F>(c0, c0 + width, [&](int64_t c, auto count) MHC_ALWAYS {
          vec<F> x[M + 1], sum = {}, part = {};
          MHC_UNROLL
          for (int j = 0; j < M; ++j) get(x[j], from.at(j, t) + c, count);
          get(x[M], branch.at(0, t) + c, count);
          MHC_UNROLL
          for (int i = 0; i < N; ++i) {
            const vec<F> v = w.apply(i, t, x);
            following.write(to.at(i, t) + c, v, count);
            store(kept.at(i, t) + (c - c0), v);
            part = fma(v, v, part);
            sum = fma(v, all<F>(weights.at[i][t]), sum);
          }
          u.write(read_to.at(0, t) + c, sum, count);
          square += part;
        });
        moments[t].squares[0] = square;
      }
      Ahead ahead;
      const bool last = c0 + Z::CHUNK >= s.channels;
      X.expect(ahead, last ? next : tile, last ? 0 : c0 + Z::CHUNK, Z::CHUNK);
      y.expect(ahead, last ? next : tile, last ? 0 : c0 + Z::CHUNK, Z::CHUNK);
      for (int i = 0; i < N; ++i) project(sums, kept.at(i, 0), kept.token, i, c0, width, tile.count, ahead);
    }
    following.finish(tile);
    u.finish(tile);
    F coefficients[COEFFICIENTS][TILE];
    coefficients_of(tile, sums, moments, coefficients);
  }

  void project(Projection<S>& sums, const F* from, int64_t token, int i, int64_t c, int width, int count, Ahead& ahead) {
    if (given) sums.add_given(from, token, phi + (i * s.channels + c) * K, width, count, ahead);
    else sums.add(from, token, phi + packed_at<S, false>(STREAMS, i, c, 0), width, ahead);
  }

  // Token by token, in the order of memory where channels are last, so that the hardware can read ahead.
  void write(const Tile& tile, Moments<S, STREAMS> (&moments)[TILE]) {
    WriteCoefficients<S> w;
    w.read(mix, tile);
    const auto from = X.rows(tile);
    const auto branch = y.rows(tile);
    const auto to = following.rows(tile);
    const auto kept = held.rows();
    for (int t = 0; t < tile.count; ++t) {
      vec<F> square[N] = {}, sum[N] = {};
      for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
        vec<F> x[M + 1];
        MHC_UNROLL
        for (int j = 0; j < M; ++j) get(x[j], from.at(j, t) + c, count);
        get(x[M], branch.at(0, t) + c, count);
        MHC_UNROLL
        for (int i = 0; i < N; ++i) {
          const vec<F> v = w.apply(i, t, x);
          following.write(to.at(i, t) + c, v, count);
          if (GATES) {
            store(kept.at(i, t) + c, v);
            if (S::hyper) sum[i] += v;
            else square[i] = fma(v, v, square[i]);
          }
        }
      });
      moments[t].take(square, sum);
    }
    following.finish(tile);
  }

  void copy(const Tile& tile, Moments<S, STREAMS> (&moments)[TILE]) {
    const auto from = X.rows(tile);
    const auto kept = held.rows();
    for (int t = 0; t < tile.count; ++t) {
      vec<F> square[M] = {}, sum[M] = {};
      for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
        MHC_UNROLL
        for (int i = 0; i < M; ++i) {
          vec<F> v;
          get(v, from.at(i, t) + c, count);
          store(kept.at(i, t) + c, v);
          if (S::hyper) sum[i] += v;
          else square[i] = fma(v, v, square[i]);
        }
      });
      moments[t].take(square, sum);
    }
  }

  void gate(const Tile& tile, const Tile& next, Moments<S, STREAMS> (&moments)[TILE]) {
    Projection<S> sums;
    const auto rows = held.rows();
    for (int t = 0; S::hyper && t < tile.count; ++t)
      for (int i = 0; i < STREAMS; ++i) moments[t].centre(i, rows.at(i, t), s.channels);
    Ahead ahead;
    X.expect(ahead, next, 0, s.channels);
    if (WRITES) y.expect(ahead, next, 0, s.channels);
    for (int64_t c = 0; c < s.channels; c += Z::CHUNK)
      for (int i = 0; i < STREAMS; ++i) {
        const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
        project(sums, rows.at(i, 0) + c, rows.token, i, c, width, tile.count, ahead);
      }
    F coefficients[COEFFICIENTS][TILE];
    coefficients_of(tile, sums, moments, coefficients);
    if (S::single) return;
    MHC_UNROLL
    for (int i = STREAMS; i < N; ++i)  // streams that are equal are read with the sum of pre
      for (int t = 0; t < TILE; ++t) coefficients[0][t] += coefficients[i][t];
    read(tile, coefficients);
  }

  void coefficients_of(const Tile& tile, const Projection<S>& sums, const Moments<S, STREAMS> (&moments)[TILE],
                       F (&out)[COEFFICIENTS][TILE]) {
    Logits<S> logits(alpha, bias);
    for (int t = 0; t < tile.count; ++t) {
      F* row = stat + (tile.first + t) * Logits<S>::ROW;
      moments[t].keep(row + K, s.channels);
      for (int k = 0; k < K; ++k) logits.z[k][t] = row[k] = sums.q[t][k] * row[K + k % Moments<S, STREAMS>::NORMS];
    }
    logits.forward(out);
    for (int t = 0; t < tile.count; ++t) {
      for (int k = N; k < COEFFICIENTS; ++k) mix_out[(tile.first + t) * (COEFFICIENTS - N) + k - N] = out[k][t];
      for (int k = 0; S::single && k < N; ++k) pre_out[(tile.first + t) * N + k] = out[k][t];
    }
  }

  void read(const Tile& tile, const F (&pre)[COEFFICIENTS][TILE]) {
    const auto rows = held.rows();
    const auto to = u.rows(tile);
    for (int t = 0; t < tile.count; ++t)
      for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
        vec<F> total = load(rows.at(0, t) + c) * pre[0][t];
        MHC_UNROLL
        for (int i = 1; i < STREAMS; ++i) total = fma(load(rows.at(i, t) + c), all<F>(pre[i][t]), total);
        u.write(to.at(0, t) + c, total, count);
      });
    u.finish(tile);
  }
};

template <class S, bool WRITES, bool GATES> void forward(
    const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix, const typename S::Pre* pre,
    const typename S::Phi* phi, const typename S::Alpha* alpha, const typename S::Bias* bias, typename S::O* following,
    typename S::O* u, typename S::F* pre_out, typename S::F* mix_out, typename S::F* stat, typename S::F* phi_packed,
    Shape s, int64_t parts) {
  using Step = Forward<S, WRITES, GATES>;
  using F = typename S::F;
  const int64_t padded = Sizes<S>::padded(s);
  const bool given = Step::STREAMS == S::n && Projection<S>::WHOLE && s.tokens() <= FEW;
  if (GATES && !given) pack_phi<S, Step::STREAMS, false>(phi, phi_packed, s);
  if (WRITES) expect_to_fill(following, S::n * s.size());
  if (u) expect_to_fill(u, s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    Step step{{X, s, padded}, {y, s, padded}, mix, pre, given ? (const F*)phi : phi_packed, alpha, bias,
              {following, s, padded}, {u, s, padded}, pre_out, mix_out, stat, s, given,
              {GATES ? Step::STREAMS : 0, Step::CHUNKED ? Sizes<S>::CHUNK : padded, given ? s.tokens() : TILE}};
    step.run(first, end);
  });
}

}  // namespace mhc
