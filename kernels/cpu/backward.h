// The backwards of gate, write and boundary of packed.py. A token's logits need gu . X' over all channels before any
// gradient of a stream is known, so each tile is scanned twice; X' and the Sinkhorn iterates are computed again. Where
// S::single, gu . X' is the gradient of read weights that are an input, and each tile is scanned once.
// Sums over tokens are kept per part and added up in order.

namespace mhc {

// What is not computed has a null pointer.
template <class S, bool WRITES, bool GATES> struct Backward {
  using F = typename S::F;
  using Z = Sizes<S>;
  static constexpr int N = S::n, M = S::m, K = Z::K, STREAMS = WRITES ? N : M, INPUTS = M + WRITES;
  static constexpr int COEFFICIENTS = Logits<S>::COEFFICIENTS, NORMS = S::hyper ? STREAMS : 1;
  static constexpr bool READS = GATES && (WRITES || !S::single);
  Input<S, typename S::O, N> g;
  Input<S, typename S::O, 1> gu;
  const typename S::Gpre* gpre_next;
  const typename S::Gmix* gmix_next;
  Input<S, typename S::X, M> X;
  Input<S, typename S::Y, 1> y;
  const typename S::Mix* mix;
  const typename S::Pre* pre_given;
  const F* phi; const typename S::Alpha* alpha; const typename S::Bias* bias; const F* stat;
  Output<S, typename S::X, M> gX;
  Output<S, typename S::Y, 1> gy;
  typename S::Mix* gmix;
  typename S::Pre* gpre;
  F* gphi; double* gsums;  // of this part: gphi in packed chunks, then alpha's 3 and bias's K sums
  Shape s;
  // of a tile: the coefficients of the write and their gradients, and of the gate what the streams' gradient takes
  WriteCoefficients<S> w;
  vec<F> dots[TILE][N][M + 1], read_dots[S::single ? TILE : 1][N];
  F gq[TILE][Z::KQ], pre[N][TILE], shrink[NORMS][TILE], mean[NORMS][TILE];
  // of a chunk: the streams behind the write, and their gradients
  alignas(64) typename Z::Chunk v[N], gv[N];

  void run(int64_t first, int64_t end) {
    for (; first < end; first += TILE) {
      const Tile tile(s, first, end);
      if (tile.count < TILE) std::memset((void*)v, 0, sizeof v);
      if (WRITES) w.read(mix, tile);
      const auto x = X.rows(tile);
      const auto branch = WRITES ? y.rows(tile) : decltype(y.rows(tile)){};
      const auto incoming = WRITES ? g.rows(tile) : decltype(g.rows(tile)){};
      const auto read = READS ? gu.rows(tile) : decltype(gu.rows(tile)){};
      std::memset((void*)dots, 0, sizeof dots);
      if (S::single) std::memset((void*)read_dots, 0, sizeof read_dots);
      if (GATES) {
        gate(tile, x, branch, read);
        const Tile next(s, std::min(first + TILE, end), end);
        for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
          Ahead ahead;
          expect(ahead, tile, next, c);
          chunk(tile, c, x, branch, incoming, read, ahead);
        }
      } else through_write(tile, 0, s.channels, incoming, x, branch);
      gX.finish(tile);
      if (!WRITES) continue;
      gy.finish(tile);
      store_gmix(tile);
      if (S::single && GATES) store_gpre(tile);
    }
  }

  // What comes behind the chunk at c: the next chunk of this tile, and all that `gate` reads of the next tile.
  void expect(Ahead& ahead, const Tile& tile, const Tile& next, int64_t c) const {
    const int64_t following = c + Z::CHUNK;
    expect_inputs(ahead, tile, following);
    if (!S::single) expect_inputs(ahead, next, c);
    else if (following >= s.channels) expect_inputs(ahead, next, 0);
    if (!WRITES) return;
    if (following < s.channels) g.expect(ahead, tile, following, Z::CHUNK);
    else g.expect(ahead, next, 0, Z::CHUNK);
  }

  void expect_inputs(Ahead& ahead, const Tile& tile, int64_t c) const {
    X.expect(ahead, tile, c, Z::CHUNK);
    if (READS) gu.expect(ahead, tile, c, Z::CHUNK);
    if (WRITES) y.expect(ahead, tile, c, Z::CHUNK);
  }

  // Gradients of the logits of the tile.
  template <class RX, class RY, class RU>
  void gate(const Tile& tile, const RX& x, const RY& branch, const RU& read) {
    F gradients[COEFFICIENTS][TILE] = {}, glogits[K][TILE];
    if (S::single) given_gradient(gradients, tile);
    else read_gradients(gradients, tile, x, branch, read);
    Logits<S> logits(alpha, bias);
    for (int t = 0; t < tile.count; ++t) {
      for (int k = 0; k < K; ++k) logits.z[k][t] = stat[(tile.first + t) * Logits<S>::ROW + k];
      for (int k = N; k < COEFFICIENTS; ++k)
        gradients[k][t] = F(value(gmix_next[(tile.first + t) * (COEFFICIENTS - N) + k - N]));
    }
    logits.backward(gradients, glogits, pre);
    if (S::single && WRITES) load_read_weights(tile);
    MHC_UNROLL
    for (int i = STREAMS; i < N; ++i)
      for (int t = 0; t < TILE; ++t) pre[0][t] += pre[i][t];
    through_logits(tile, logits, glogits);
  }

  void given_gradient(F (&gradients)[COEFFICIENTS][TILE], const Tile& tile) {
    for (int t = 0; t < tile.count; ++t)
      for (int i = 0; i < N; ++i) gradients[i][t] = F(value(gpre_next[(tile.first + t) * N + i]));
  }

  // What is read behind the write was read with the weights of the site before.
  void load_read_weights(const Tile& tile) {
    ReadWeights<S> weights;
    weights.read(pre_given, tile);
    std::memcpy(pre, weights.at, sizeof pre);
  }

  // From gu . X', which is a mixture of gu . X and gu . y.
  template <class RX, class RY, class RU>
  void read_gradients(F (&gradients)[COEFFICIENTS][TILE], const Tile& tile, const RX& x, const RY& branch, const RU& read) {
    for (int t = 0; t < tile.count; ++t) {
      vec<F> products[M + 1] = {};
      for_vectors<F>(0, s.channels, [&](int64_t c, auto count) MHC_ALWAYS {
        vec<F> u, a;
        get(u, read.at(0, t) + c, count);
        MHC_UNROLL
        for (int j = 0; j < INPUTS; ++j) {
          if (j < M) get(a, x.at(j, t) + c, count);
          else get(a, branch.at(0, t) + c, count);
          products[j] = fma(u, a, products[j]);
        }
      });
      read_gradient(gradients, t, products);
    }
  }

  void read_gradient(F (&gradients)[COEFFICIENTS][TILE], int t, const vec<F> (&products)[M + 1]) {
    F along[M + 1];
    for (int j = 0; j < INPUTS; ++j) along[j] = sum<F>(products[j]);
    MHC_UNROLL
    for (int i = 0; i < N; ++i) {
      if (WRITES)
        MHC_UNROLL
        for (int j = 0; j <= M; ++j) gradients[i][t] += w.at[i][j][t] * along[j];
      else gradients[i][t] = along[M == 1 ? 0 : i];
    }
  }

  void through_logits(const Tile& tile, const Logits<S>& logits, const F (&glogits)[K][TILE]) {
    F responses[K][TILE];
    for (int k = 0; k < K; ++k)
      for (int t = 0; t < TILE; t += W<F>) store(&responses[k][t], logits.respond(load(&logits.z[k][t])));
    std::memset(gq, 0, sizeof gq);
    for (int t = 0; t < tile.count; ++t) {
      const F* inverse = stat + (tile.first + t) * Logits<S>::ROW + K;
      F along[NORMS] = {};
      for (int k = 0; k < K; ++k) {
        const F response = responses[k][t], slope = S::hyper ? 1 - response * response : 1;
        const F gz = glogits[k][t] * logits.alpha[k] * slope;
        gq[t][k] = gz * inverse[k % NORMS];
        along[k % NORMS] += gz * logits.z[k][t];
        gsums[Logits<S>::part(k)] += double(glogits[k][t]) * response;
        gsums[3 + k] += glogits[k][t];
      }
      for (int i = 0; i < NORMS; ++i) {
        shrink[i][t] = inverse[i] * inverse[i] * along[i] / F((S::hyper ? 1 : STREAMS) * s.channels);
        mean[i][t] = S::hyper ? inverse[N + i] : 0;
      }
    }
  }

  template <class RX, class RY, class RG, class RU>
  void chunk(const Tile& tile, int64_t c0, const RX& x, const RY& branch, const RG& incoming, const RU& read, Ahead& ahead) {
    const int64_t width = std::min<int64_t>(Z::CHUNK, s.channels - c0);
    for (int t = 0; t < tile.count; ++t) {
      const auto in_row = x.row(t);
      const auto* const branch_row = branch.at(0, t);
      const auto g_row = incoming.row(t);
      const auto* const u_row = read.at(0, t);
      vec<F> reads[N];
      MHC_UNROLL
      for (int i = 0; S::single && i < N; ++i) reads[i] = read_dots[t][i];
      for_vectors<F>(c0, c0 + width, [&](int64_t c, auto count) MHC_ALWAYS {
        vec<F> in[M + 1], u = {};
        MHC_UNROLL
        for (int j = 0; j < M; ++j) get(in[j], in_row.at(j) + c, count);
        if (WRITES) get(in[M], branch_row + c, count);
        if (READS) get(u, u_row + c, count);
        MHC_UNROLL
        for (int i = 0; i < STREAMS; ++i) {
          vec<F> h = {};
          if (WRITES) get(h, g_row.at(i) + c, count);
          const vec<F> stream = WRITES ? w.apply(i, t, in) : in[i];
          store(&v[i][t][c - c0], stream);
          if (READS) h = fma(u, all<F>(pre[i][t]), h);
          const vec<F> centred = S::hyper ? stream - mean[i % NORMS][t] : stream;
          store(&gv[i][t][c - c0], fma(centred, all<F>(-shrink[i % NORMS][t]), h));
          if (S::single && READS) reads[i] = fma(u, stream, reads[i]);
        }
      });
      MHC_UNROLL
      for (int i = 0; S::single && i < N; ++i) read_dots[t][i] = reads[i];
    }
    for (int i = 0; i < STREAMS; ++i) {
      add_transposed<S>(gv[i], gq, phi + packed_at<S, true>(STREAMS, i, c0, 0), width, ahead);
      add_outer<S>(gphi + packed_at<S, true>(STREAMS, i, c0, 0), gq, v[i], width, ahead);
    }
    if (WRITES) through_write(tile, c0, width, Rows<const F>{&gv[0][0][0], Z::ROW, TILE * Z::ROW}, x, branch);
    else store_gradient(tile, c0, width);
  }

  // gX = R^T gv, gy = post . gv and the products of gv with X and y, for `width` channels from c0, where gv begins. In backward_write.h.
  template <class RV, class RX, class RY>
  void through_write(const Tile& tile, int64_t c0, int64_t width, const RV& gv, const RX& x, const RY& branch);

  void store_gradient(const Tile& tile, int64_t c0, int64_t width) {
    const auto to = gX.rows(tile);
    for (int t = 0; t < tile.count; ++t)
      for_vectors<F>(0, width, [&](int64_t c, auto count) MHC_ALWAYS {
        for (int i = 0; i < M; ++i) gX.write(to.at(i, t) + c0 + c, load(&gv[i][t][c]), count);
      });
  }

  void store_gpre(const Tile& tile) {
    for (int t = 0; t < tile.count; ++t)
      for (int i = 0; i < N; ++i) put(gpre[(tile.first + t) * N + i], sum<F>(read_dots[S::single ? t : 0][i]));
  }

  void store_gmix(const Tile& tile) {
    for (int t = 0; t < tile.count; ++t) {
      auto* row = gmix + (tile.first + t) * (N + N * N);
      MHC_UNROLL
      for (int i = 0; i < N; ++i) {
        put(row[i], sum<F>(dots[t][i][M]));
        MHC_UNROLL
        for (int j = 0; j < N; ++j) put(row[N + i * N + j], sum<F>(dots[t][i][M == 1 ? 0 : j]));
      }
    }
  }
};

}  // namespace mhc
