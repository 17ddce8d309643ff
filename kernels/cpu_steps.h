// The fused steps of packed.py on the CPU, each in one scan over the tokens, a tile of tokens at a time.
// A struct S says what a source is compiled for: n streams of which m are stored, and the element types.
// `parts` threads take equal shares of the tiles; sums over tokens are kept per part and added up in order.

namespace mhc {

template <class S> struct Sizes {
  using F = typename S::F;
  static constexpr int N = S::n, M = S::m, K = N * N + 2 * N;
  static constexpr int KV = (K + 7) / 8 * 8 / W<F>;  // vectors that hold a row of K, padded
  static constexpr int KP = KV * W<F>;
  static constexpr int CHUNK = N > 4 ? 32 : 64;  // channels that are computed together
  static constexpr int GROUP = 24 / KV > 8 ? 8 : 24 / KV > 3 ? 24 / KV / 4 * 4 : 2;  // rows of KV accumulators
  using Rows = F[TILE][CHUNK];
  static int64_t chunks(const Shape& s) { return (s.channels + CHUNK - 1) / CHUNK; }
};

// Calls body(part, first token, end) for every part, in parallel where OpenMP is compiled in.
template <class Body> MHC_INLINE void for_parts(const Shape& s, int64_t parts, const Body& body) {
  const int64_t T = s.tokens(), tiles = (T + TILE - 1) / TILE;
#pragma omp parallel for num_threads(int(parts)) schedule(static, 1) if (parts > 1)
  for (int64_t p = 0; p < parts; ++p)
    body(p, std::min(T, tiles * p / parts * TILE), std::min(T, tiles * (p + 1) / parts * TILE));
}

template <class S, int STREAMS, class Body> MHC_INLINE void for_chunks(const Shape& s, const Body& body) {
  for (int64_t c = 0; c < s.channels; c += Sizes<S>::CHUNK)
    body(c, int(std::min<int64_t>(Sizes<S>::CHUNK, s.channels - c)));
}

// phi [n * C, K] as chunks of [STREAMS][CHUNK][KP], or transposed of [KP][STREAMS][CHUNK], zeros where there is no
// channel or column. For streams that are equal (STREAMS == 1) the blocks are added up.
template <class S, int STREAMS, bool TRANSPOSED>
void pack_phi(const typename S::Phi* phi, typename S::F* packed, const Shape& s) {
  using Z = Sizes<S>;
  using F = typename S::F;
  for (int64_t chunk = 0; chunk < Z::chunks(s); ++chunk)
    MHC_UNROLL
    for (int i = 0; i < STREAMS; ++i)
      for (int c = 0; c < Z::CHUNK; ++c)
        for (int k = 0; k < Z::KP; ++k) {
          const int64_t channel = chunk * Z::CHUNK + c;
          F total = 0;
          if (channel < s.channels && k < Z::K)
            for (int block = i; block < Z::N; block += STREAMS)
              total += F(value(phi[(block * s.channels + channel) * Z::K + k]));
          packed[TRANSPOSED ? ((chunk * Z::KP + k) * STREAMS + i) * Z::CHUNK + c
                            : ((chunk * STREAMS + i) * Z::CHUNK + c) * Z::KP + k] = total;
        }
}

// The coefficients of a write as [i * (M + 1) + j][t]: R, then post in the last column. M == 1: the row sums of R.
template <class S> struct WriteCoefficients {
  using F = typename S::F;
  static constexpr int N = S::n, M = S::m;
  F at[N][M + 1][TILE] = {};

  void read(const typename S::Mix* mix, const Tile& tile) {
    for (int t = 0; t < tile.count; ++t) {
      const auto* row = mix + (tile.first + t) * (N + N * N);
      MHC_UNROLL
      for (int i = 0; i < N; ++i) {
        at[i][M][t] = F(value(row[i]));
        MHC_UNROLL
        for (int j = 0; j < M; ++j) at[i][j][t] = 0;
        MHC_UNROLL
        for (int j = 0; j < N; ++j) at[i][M == 1 ? 0 : j][t] += F(value(row[N + i * N + j]));
      }
    }
  }
};

// X' from rows [M + 1] of X and y, rounded as it is stored.
template <class S> MHC_INLINE void write_rows(
    typename Sizes<S>::Rows* out, const typename Sizes<S>::Rows* in, const WriteCoefficients<S>& w, int count) {
  using F = typename S::F;
  constexpr int N = S::n, M = S::m;
  for (int t = 0; t < count; ++t)
    for (int c = 0; c < Sizes<S>::CHUNK; c += W<F>) {
      vec<F> x[M + 1];
      MHC_UNROLL
      for (int j = 0; j <= M; ++j) x[j] = load(&in[j][t][c]);
      MHC_UNROLL
      for (int i = 0; i < N; ++i) {
        vec<F> total = x[M] * w.at[i][M][t];
        MHC_UNROLL
        for (int j = 0; j < M; ++j) total = fma(x[j], all<F>(w.at[i][j][t]), total);
        if (sizeof(typename S::O) != sizeof(F)) {
          typename S::O stored[W<F>];
          put(stored, total);
          get(total, stored);
        }
        store(&out[i][t][c], total);
      }
    }
}

// acc[r][k] += sum over l < length of left[r * left_row + l * left_step] * right[l * KP + k], k < KP, r < R.
template <class S, int R> MHC_INLINE void outer_product(
    typename S::F* acc, const typename S::F* left, int left_row, int left_step, const typename S::F* right, int length) {
  using F = typename S::F;
  constexpr int KV = Sizes<S>::KV, KP = Sizes<S>::KP;
  vec<F> total[R][KV];
  MHC_UNROLL
  for (int r = 0; r < R; ++r)
    MHC_UNROLL
    for (int k = 0; k < KV; ++k) total[r][k] = load(acc + r * KP + k * W<F>);
  for (int l = 0; l < length; ++l) {
    vec<F> b[KV];
    MHC_UNROLL
    for (int k = 0; k < KV; ++k) b[k] = load(right + l * KP + k * W<F>);
    MHC_UNROLL
    for (int r = 0; r < R; ++r) {
      const vec<F> a = all<F>(left[r * left_row + l * left_step]);
      MHC_UNROLL
      for (int k = 0; k < KV; ++k) total[r][k] = fma(a, b[k], total[r][k]);
    }
  }
  MHC_UNROLL
  for (int r = 0; r < R; ++r)
    MHC_UNROLL
    for (int k = 0; k < KV; ++k) store(acc + r * KP + k * W<F>, total[r][k]);
}

template <class S> struct Projection {  // sums of a tile over the channels
  using F = typename S::F;
  using Z = Sizes<S>;
  F q[TILE][Z::KP] = {};
  vec<F> squares[TILE] = {};

  void add(const typename Z::Rows& v, const F* phi, int width, int count) {
    for (int t = 0; t < count; ++t)
      for (int c = 0; c < width; c += W<F>) { vec<F> a = load(&v[t][c]); squares[t] = fma(a, a, squares[t]); }
    for (int t = 0; t < count; t += Z::GROUP)
      outer_product<S, Z::GROUP>(q[t], v[t], Z::CHUNK, 1, phi, width);
  }
};

// gate, write, boundary: what is not computed has a null pointer.
template <class S, bool WRITES, bool GATES> struct Forward {
  using F = typename S::F;
  using Z = Sizes<S>;
  static constexpr int N = S::n, M = S::m, K = Z::K, STREAMS = WRITES ? N : M;
  const typename S::X* X; const typename S::Y* y; const typename S::Mix* mix;
  const F* phi; const typename S::Alpha* alpha; const typename S::Bias* bias;
  typename S::O* following; typename S::O* u; F* mix_out; F* stat;
  Shape s;
  alignas(64) typename Z::Rows x[M + 1] = {}, v[N] = {};

  void run(int64_t first, int64_t end) {
    for (; first < end; first += TILE) step(Tile(s, first, end));
  }

  void step(const Tile& tile) {
    if (WRITES) tile.in_memory_order(s, [&](const Tile& part, int) { write(part); });
    if (!GATES) return;
    Projection<S> sums;
    for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
      const int width = load_streams(tile, c);
      for (int i = 0; i < STREAMS; ++i)
        sums.add(v[i], phi + (c / Z::CHUNK * STREAMS + i) * Z::CHUNK * Z::KP, width, tile.count);
    }
    gate(tile, sums);
  }

  void write(const Tile& tile) {
    WriteCoefficients<S> w;
    w.read(mix, tile);
    for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
      const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
      for (int j = 0; j < M; ++j) load_tile<Z::CHUNK>(&x[j][0][0], X + j * s.size(), tile, c, width);
      load_tile<Z::CHUNK>(&x[M][0][0], y, tile, c, width);
      write_rows<S>(v, x, w, tile.count);
      for (int i = 0; i < N; ++i) store_tile<Z::CHUNK>(following + i * s.size(), &v[i][0][0], tile, c, width);
    }
  }

  // The streams that are projected and read, into v; those that were just written lie in the L2 cache.
  int load_streams(const Tile& tile, int64_t c) {
    const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
    for (int i = 0; i < STREAMS; ++i) {
      if (WRITES) load_tile<Z::CHUNK>(&v[i][0][0], following + i * s.size(), tile, c, width);
      else load_tile<Z::CHUNK>(&v[i][0][0], X + i * s.size(), tile, c, width);
    }
    return width;
  }

  void gate(const Tile& tile, const Projection<S>& sums) {
    Logits<F, N> logits(alpha, bias);
    F coefficients[K][TILE];
    for (int t = 0; t < tile.count; ++t) {
      F* row = stat + (tile.first + t) * (K + 1);
      row[K] = 1 / std::sqrt(sum<F>(sums.squares[t]) / F(STREAMS * s.channels) + F(MHC_RMS_EPS));
      for (int k = 0; k < K; ++k) logits.z[k][t] = row[k] = sums.q[t][k] * row[K];
    }
    logits.forward(coefficients);
    for (int t = 0; t < tile.count; ++t)
      for (int k = N; k < K; ++k) mix_out[(tile.first + t) * (K - N) + k - N] = coefficients[k][t];
    MHC_UNROLL
    for (int i = STREAMS; i < N; ++i)  // streams that are equal are read with the sum of pre
      for (int t = 0; t < TILE; ++t) coefficients[0][t] += coefficients[i][t];
    for (int64_t c = 0; c < s.channels; c += Z::CHUNK) read(tile, coefficients, c);
  }

  void read(const Tile& tile, const F (&pre)[K][TILE], int64_t c) {
    const int width = load_streams(tile, c);
    for (int t = 0; t < tile.count; ++t)
      for (int k = 0; k < width; k += W<F>) {
        vec<F> total = load(&v[0][t][k]) * pre[0][t];
        MHC_UNROLL
        for (int i = 1; i < STREAMS; ++i) total = fma(load(&v[i][t][k]), all<F>(pre[i][t]), total);
        store(&x[0][t][k], total);
      }
    store_tile<Z::CHUNK>(u, &x[0][0][0], tile, c, width);
  }
};

// The backwards of gate, write and boundary: what is not computed has a null pointer.
template <class S, bool WRITES, bool GATES> struct Backward {
  using F = typename S::F;
  using Z = Sizes<S>;
  static constexpr int N = S::n, M = S::m, K = Z::K, STREAMS = WRITES ? N : M;
  const typename S::O* g; const typename S::O* gu; const typename S::Gmix* gmix_next;
  const typename S::X* X; const typename S::Y* y; const typename S::Mix* mix;
  const F* phi; const typename S::Alpha* alpha; const typename S::Bias* bias; const F* stat;
  typename S::X* gX; typename S::Y* gy; typename S::Mix* gmix;
  F* gphi; double* gsums;  // of this part: gphi in packed chunks, then alpha's 3 and bias's K sums
  Shape s;
  alignas(64) typename Z::Rows x[M + 1] = {}, v[N] = {}, gv[N] = {}, read = {};
  // of the tile: gradients of the write coefficients, and of the next gate what the streams' gradient takes
  vec<F> dots[TILE][N][M + 1];
  F gq[TILE][Z::KP] = {}, pre[N][TILE] = {}, shrink[TILE] = {};
  WriteCoefficients<S> w;

  void run(int64_t first, int64_t end) {
    for (; first < end; first += TILE) step(Tile(s, first, end));
  }

  void load_inputs(const Tile& tile, int64_t c, int width) {
    MHC_UNROLL
    for (int j = 0; j < M; ++j) load_tile<Z::CHUNK>(&x[j][0][0], X + j * s.size(), tile, c, width);
    if (WRITES) load_tile<Z::CHUNK>(&x[M][0][0], y, tile, c, width);
    if (GATES) load_tile<Z::CHUNK>(&read[0][0], gu, tile, c, width);
  }

  void step(const Tile& tile) {
    if (WRITES) w.read(mix, tile);
    if (GATES) gate(tile);
    std::memset((void*)dots, 0, sizeof dots);
    for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
      const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
      if (WRITES)
        MHC_UNROLL
        for (int i = 0; i < N; ++i) load_tile<Z::CHUNK>(&gv[i][0][0], g + i * s.size(), tile, c, width);
      load_inputs(tile, c, width);
      if (GATES) {
        if (WRITES) write_rows<S>(v, x, w, tile.count);
        MHC_UNROLL
        for (int i = 0; i < STREAMS; ++i) through_gate(tile, i, WRITES ? v[i] : x[i], c / Z::CHUNK * STREAMS + i, c);
      }
      if (WRITES) through_write(tile, c, width);
      else
        MHC_UNROLL
        for (int i = 0; i < M; ++i) store_tile<Z::CHUNK>(gX + i * s.size(), &gv[i][0][0], tile, c, width);
    }
    if (WRITES) store_gmix(tile);
  }

  // Gradients of the logits of the tile, from gu . X', which is a mixture of gu . X and gu . y.
  void gate(const Tile& tile) {
    vec<F> products[TILE][M + 1] = {};
    tile.in_memory_order(s, [&](const Tile& part, int from) {
      for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
        const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
        load_inputs(part, c, width);
        for (int t = 0; t < part.count; ++t)
          for (int k = 0; k < width; k += W<F>)
            MHC_UNROLL
            for (int j = 0; j < M + WRITES; ++j)
              products[from + t][j] = fma(load(&read[t][k]), load(&x[j][t][k]), products[from + t][j]);
      }
    });
    Logits<F, N> logits(alpha, bias);
    F glogits[K][TILE] = {};
    for (int t = 0; t < tile.count; ++t) {
      for (int k = 0; k < K; ++k) logits.z[k][t] = stat[(tile.first + t) * (K + 1) + k];
      for (int k = N; k < K; ++k) glogits[k][t] = F(value(gmix_next[(tile.first + t) * (K - N) + k - N]));
      MHC_UNROLL
      for (int i = 0; i < N; ++i) {
        if (WRITES)
          MHC_UNROLL
          for (int j = 0; j <= M; ++j) glogits[i][t] += w.at[i][j][t] * sum<F>(products[t][j]);
        else glogits[i][t] = sum<F>(products[t][M == 1 ? 0 : i]);
      }
    }
    logits.backward(glogits, pre);
    MHC_UNROLL
    for (int i = STREAMS; i < N; ++i)
      for (int t = 0; t < TILE; ++t) pre[0][t] += pre[i][t];
    for (int t = 0; t < tile.count; ++t) {
      const F inverse = stat[(tile.first + t) * (K + 1) + K];
      F along = 0;
      for (int k = 0; k < K; ++k) {
        const F gz = glogits[k][t] * logits.alpha[k];
        gq[t][k] = gz * inverse;
        along += gz * logits.z[k][t];
        gsums[Logits<F, N>::part(k)] += double(glogits[k][t]) * logits.z[k][t];
        gsums[3 + k] += glogits[k][t];
      }
      shrink[t] = inverse * inverse * along / F(STREAMS * s.channels);
    }
  }

  // gv = g + pre gu - shrink v + gq phi^T, and gphi += v^T gq, for stream i of a chunk.
  void through_gate(const Tile& tile, int i, const typename Z::Rows& rows, int64_t block, int64_t c) {
    constexpr int T = 4, V = 2;
    const F* columns = phi + (c / Z::CHUNK * Z::KP * STREAMS + i) * Z::CHUNK;
    for (int t = 0; t < tile.count; t += T)
      for (int k = 0; k < Z::CHUNK; k += V * W<F>) {
        vec<F> total[T][V];
        MHC_UNROLL
        for (int a = 0; a < T; ++a)
          MHC_UNROLL
          for (int b = 0; b < V; ++b) {
            const int l = k + b * W<F>;
            vec<F> start = WRITES ? load(&gv[i][t + a][l]) : vec<F>{};
            start = fma(load(&read[t + a][l]), all<F>(pre[i][t + a]), start);
            total[a][b] = fma(load(&rows[t + a][l]), all<F>(-shrink[t + a]), start);
          }
        for (int q = 0; q < K; ++q) {
          vec<F> column[V];
          MHC_UNROLL
          for (int b = 0; b < V; ++b) column[b] = load(columns + q * STREAMS * Z::CHUNK + k + b * W<F>);
          MHC_UNROLL
          for (int a = 0; a < T; ++a)
            MHC_UNROLL
            for (int b = 0; b < V; ++b) total[a][b] = fma(all<F>(gq[t + a][q]), column[b], total[a][b]);
        }
        MHC_UNROLL
        for (int a = 0; a < T; ++a)
          MHC_UNROLL
          for (int b = 0; b < V; ++b) store(&gv[i][t + a][k + b * W<F>], total[a][b]);
      }
    F* sums = gphi + block * Z::CHUNK * Z::KP;
    for (int k = 0; k < Z::CHUNK; k += Z::GROUP)
      outer_product<S, Z::GROUP>(sums + k * Z::KP, &rows[0][k], 1, Z::CHUNK, gq[0], tile.count);
  }

  // gX = R^T gv, gy = post . gv and the products of gv with X and y.
  void through_write(const Tile& tile, int64_t c, int width) {
    for (int t = 0; t < tile.count; ++t) {
      MHC_UNROLL
      for (int i = 0; i < N; ++i)
        for (int k = 0; k < width; k += W<F>)
          MHC_UNROLL
          for (int j = 0; j <= M; ++j)
            dots[t][i][j] = fma(load(&gv[i][t][k]), load(&x[j][t][k]), dots[t][i][j]);
      for (int k = 0; k < width; k += W<F>)
        MHC_UNROLL
        for (int j = 0; j <= M; ++j) {
          vec<F> total = load(&gv[0][t][k]) * w.at[0][j][t];
          MHC_UNROLL
          for (int i = 1; i < N; ++i) total = fma(load(&gv[i][t][k]), all<F>(w.at[i][j][t]), total);
          store(&x[j][t][k], total);
        }
    }
    MHC_UNROLL
    for (int j = 0; j < M; ++j) store_tile<Z::CHUNK>(gX + j * s.size(), &x[j][0][0], tile, c, width);
    store_tile<Z::CHUNK>(gy, &x[M][0][0], tile, c, width);
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

// The sums of all parts in order, as the gradients of phi, alpha and bias.
template <class S, int STREAMS> void reduce_parameters(
    const typename S::F* gphi_parts, const double* gsums_parts, typename S::Phi* gphi, typename S::Alpha* galpha,
    typename S::Bias* gbias, const Shape& s, int64_t parts) {
  using Z = Sizes<S>;
  using F = typename S::F;
  const int64_t part = Z::chunks(s) * STREAMS * Z::CHUNK * Z::KP;
  for (int i = 0; i < S::n; ++i)
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t at = ((c / Z::CHUNK * STREAMS + (STREAMS == 1 ? 0 : i)) * Z::CHUNK + c % Z::CHUNK) * Z::KP;
      for (int k = 0; k < Z::K; ++k) {
        F total = 0;
        for (int64_t p = 0; p < parts; ++p) total += gphi_parts[p * part + at + k];
        put(gphi[(i * s.channels + c) * Z::K + k], total);
      }
    }
  for (int k = 0; k < 3 + Z::K; ++k) {
    double total = 0;
    for (int64_t p = 0; p < parts; ++p) total += gsums_parts[p * (3 + Z::K) + k];
    if (k < 3) put(galpha[k], F(total));
    else put(gbias[k - 3], F(total));
  }
}

template <class S, bool WRITES, bool GATES> void forward(
    const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix, const typename S::Phi* phi,
    const typename S::Alpha* alpha, const typename S::Bias* bias, typename S::O* following, typename S::O* u,
    typename S::F* mix_out, typename S::F* stat, typename S::F* phi_packed, Shape s, int64_t parts) {
  using Step = Forward<S, WRITES, GATES>;
  if (GATES) pack_phi<S, Step::STREAMS, false>(phi, phi_packed, s);
  if (WRITES) expect_to_fill(following, S::n * s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    Step step{X, y, mix, phi_packed, alpha, bias, following, u, mix_out, stat, s};
    step.run(first, end);
  });
}

template <class S, bool WRITES, bool GATES> void backward(
    const typename S::O* g, const typename S::O* gu, const typename S::Gmix* gmix_next, const typename S::X* X,
    const typename S::Y* y, const typename S::Mix* mix, const typename S::Phi* phi, const typename S::Alpha* alpha,
    const typename S::Bias* bias, const typename S::F* stat, typename S::X* gX, typename S::Y* gy,
    typename S::Mix* gmix, typename S::Phi* gphi, typename S::Alpha* galpha, typename S::Bias* gbias,
    typename S::F* phi_packed, typename S::F* gphi_parts, double* gsums_parts, Shape s, int64_t parts) {
  using Step = Backward<S, WRITES, GATES>;
  using Z = Sizes<S>;
  const int64_t part = Z::chunks(s) * Step::STREAMS * Z::CHUNK * Z::KP;
  if (GATES) pack_phi<S, Step::STREAMS, true>(phi, phi_packed, s);
  expect_to_fill(gX, S::m * s.size());
  for_parts(s, parts, [&](int64_t p, int64_t first, int64_t end) {
    typename S::F* own = gphi_parts + p * part;
    double* sums = gsums_parts + p * (3 + Z::K);
    if (GATES) std::fill(own, own + part, typename S::F(0)), std::fill(sums, sums + 3 + Z::K, 0.0);
    Step step{g, gu, gmix_next, X, y, mix, phi_packed, alpha, bias, stat, gX, gy, gmix, own, sums, s};
    step.run(first, end);
  });
  if (GATES) reduce_parameters<S, Step::STREAMS>(gphi_parts, gsums_parts, gphi, galpha, gbias, s, parts);
}

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
  using Z = Sizes<S>;
  using F = typename S::F;
  constexpr int M = S::m;
  expect_to_fill(out, s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    alignas(64) typename Z::Rows x[M + 1] = {};
    for (; first < end; first += TILE) {
      const Tile tile(s, first, end);
      const LeaveWeights<S> w(mix, tile, scale);
      for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
        const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
        MHC_UNROLL
        for (int j = 0; j < M; ++j) load_tile<Z::CHUNK>(&x[j][0][0], X + j * s.size(), tile, c, width);
        load_tile<Z::CHUNK>(&x[M][0][0], y, tile, c, width);
        for (int t = 0; t < tile.count; ++t)
          for (int k = 0; k < width; k += W<F>) {
            vec<F> total = load(&x[M][t][k]) * w.at[M][t];
            MHC_UNROLL
            for (int j = 0; j < M; ++j) total = fma(load(&x[j][t][k]), all<F>(w.at[j][t]), total);
            store(&x[M][t][k], total);
          }
        store_tile<Z::CHUNK>(out, &x[M][0][0], tile, c, width);
      }
    }
  });
}

template <class S> void leave_backward(
    const typename S::O* g, const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix,
    typename S::X* gX, typename S::Y* gy, typename S::Mix* gmix, Shape s, int64_t parts, typename S::F scale) {
  using Z = Sizes<S>;
  using F = typename S::F;
  constexpr int N = S::n, M = S::m;
  expect_to_fill(gX, M * s.size());
  for_parts(s, parts, [&](int64_t, int64_t first, int64_t end) {
    alignas(64) typename Z::Rows x[M + 1] = {}, rows = {};
    for (; first < end; first += TILE) {
      const Tile tile(s, first, end);
      const LeaveWeights<S> w(mix, tile, scale);
      vec<F> dots[TILE][M + 1] = {};
      for (int64_t c = 0; c < s.channels; c += Z::CHUNK) {
        const int width = int(std::min<int64_t>(Z::CHUNK, s.channels - c));
        load_tile<Z::CHUNK>(&rows[0][0], g, tile, c, width);
        MHC_UNROLL
        for (int j = 0; j < M; ++j) load_tile<Z::CHUNK>(&x[j][0][0], X + j * s.size(), tile, c, width);
        load_tile<Z::CHUNK>(&x[M][0][0], y, tile, c, width);
        for (int t = 0; t < tile.count; ++t)
          for (int k = 0; k < width; k += W<F>)
            MHC_UNROLL
            for (int j = 0; j <= M; ++j) {
              const vec<F> incoming = load(&rows[t][k]);
              dots[t][j] = fma(incoming, load(&x[j][t][k]), dots[t][j]);
              store(&x[j][t][k], incoming * w.at[j][t]);
            }
        MHC_UNROLL
        for (int j = 0; j < M; ++j) store_tile<Z::CHUNK>(gX + j * s.size(), &x[j][0][0], tile, c, width);
        store_tile<Z::CHUNK>(gy, &x[M][0][0], tile, c, width);
      }
      for (int t = 0; t < tile.count; ++t) {  // every stream of X' has the same gradient
        auto* row = gmix + (tile.first + t) * (N + N * N);
        MHC_UNROLL
        for (int i = 0; i < N; ++i) {
          put(row[i], scale * sum<F>(dots[t][M]));
          MHC_UNROLL
          for (int j = 0; j < N; ++j) put(row[N + i * N + j], scale * sum<F>(dots[t][M == 1 ? 0 : j]));
        }
      }
    }
  });
}

}  // namespace mhc
