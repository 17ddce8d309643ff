// The products with phi, in blocks that keep their sums in registers, and phi in the orders they read.
// A struct S says what a source is compiled for: n streams of which m are stored, element types, channels last or not.

namespace mhc {

template <class S> struct Sizes {
  using F = typename S::F;
  static constexpr int N = S::n, M = S::m, K = 2 * N + S::template Matrix<vec<F>>::LOGITS;
  static constexpr int KV = (K + W<F> - 1) / W<F>, KP = KV * W<F>;  // a row of K, padded to vectors
  static constexpr int KQ = (K + 7) / 8 * 8;                       // the same as rows of the transposed phi
  static constexpr int CHUNK = N > 4 ? 128 : 256;                  // channels that are computed together
  static constexpr int ROW = CHUNK + 64 / sizeof(F);
  using Chunk = F[TILE][ROW];
  static int64_t chunks(const Shape& s) { return (s.channels + CHUNK - 1) / CHUNK; }
  static int64_t padded(const Shape& s) { return chunks(s) * CHUNK; }
};

// Which entry of phi stands where: chunks of [streams][CHUNK][KP], or transposed of [streams][KQ][CHUNK].
template <class S, bool TRANSPOSED> MHC_INLINE int64_t packed_at(int streams, int i, int64_t channel, int k) {
  using Z = Sizes<S>;
  const int64_t block = channel / Z::CHUNK * streams + i, c = channel % Z::CHUNK;
  return TRANSPOSED ? (block * Z::KQ + k) * Z::CHUNK + c : (block * Z::CHUNK + c) * Z::KP + k;
}

// phi [n * C, K], zeros where there is no channel or column. For streams that are equal the blocks are added up.
template <class S, int STREAMS, bool TRANSPOSED>
void pack_phi(const typename S::Phi* phi, typename S::F* packed, const Shape& s) {
  using Z = Sizes<S>;
  using F = typename S::F;
  std::fill(packed, packed + Z::padded(s) * STREAMS * (TRANSPOSED ? Z::KQ : Z::KP), F(0));
  for (int i = 0; i < Z::N; ++i)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int k = 0; k < Z::K; ++k)
        packed[packed_at<S, TRANSPOSED>(STREAMS, i % STREAMS, c, k)] += F(value(phi[(i * s.channels + c) * Z::K + k]));
}

// q[t] += sum over c of rows[t][c] * phi[c], for all tokens of a tile: R tokens and all of K at a time. Where the last
// vector of K is at most half full, half a vector is computed.
template <class S> struct Projection {
  using F = typename S::F;
  using Z = Sizes<S>;
  static constexpr int REST = Z::K % W<F>, HALF = REST && REST <= W<F> / 2, FULL = Z::KV - HALF;
  static constexpr int FIT = (REGISTERS - 6) / Z::KV, R = FIT >= 8 ? 8 : FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
  // Whether a row of phi as it is given is whole vectors, or ends in half of one.
  static constexpr bool WHOLE = std::is_same<F, typename S::Phi>::value && (!REST || 2 * REST == W<F>);
  F q[TILE][Z::KP] = {};

  void add(const F* rows, int64_t token, const F* phi, int width, Ahead& ahead) {
    for (int t = 0; t < TILE; t += R) add_tokens<R, Z::KP>(q[t], rows + t * token, token, phi, width, ahead);
  }

  // The same for few tokens, with phi as it is given: to pack it takes longer than to read it for each of them.
  void add_given(const F* rows, int64_t token, const F* phi, int width, int count, Ahead& ahead) {
    for (int t = 0; t < count; ++t) add_tokens<1, Z::K>(q[t], rows + t * token, token, phi, width, ahead);
  }

  template <int R, int ROW>
  static void add_tokens(F* sums, const F* rows, int64_t token, const F* phi, int width, Ahead& ahead) {
    vec<F> total[R][FULL + 1];
    half<F> rest[R];
    Place place = ahead.place;
    MHC_UNROLL
    for (int r = 0; r < R; ++r) {
      MHC_UNROLL
      for (int k = 0; k < FULL; ++k) total[r][k] = load(sums + r * Z::KP + k * W<F>);
      if (HALF) rest[r] = load_half(sums + r * Z::KP + FULL * W<F>);
    }
    for (int c = 0; c < width; ++c) {
      vec<F> row[FULL + 1];
      half<F> last;
      MHC_UNROLL
      for (int k = 0; k < FULL; ++k) row[k] = load(phi + c * ROW + k * W<F>);
      if (HALF) last = load_half(phi + c * ROW + FULL * W<F>);
      MHC_UNROLL
      for (int r = 0; r < R; ++r) {
        const vec<F> a = all<F>(rows[r * token + c]);
        MHC_UNROLL
        for (int k = 0; k < FULL; ++k) total[r][k] = fma(a, row[k], total[r][k]);
        if (HALF) rest[r] = fma(a, last, rest[r]);
      }
      ahead.next(place);
    }
    ahead.place = place;
    MHC_UNROLL
    for (int r = 0; r < R; ++r) {
      MHC_UNROLL
      for (int k = 0; k < FULL; ++k) store(sums + r * Z::KP + k * W<F>, total[r][k]);
      if (HALF) store_half(sums + r * Z::KP + FULL * W<F>, rest[r]);
    }
  }
};

// rows[t] += sum over k of gq[t][k] * phi[k], with phi as [KQ][CHUNK], for the first `width` channels.
template <class S> MHC_INLINE void add_transposed(
    typename Sizes<S>::Chunk& rows, const typename S::F (&gq)[TILE][Sizes<S>::KQ], const typename S::F* phi,
    int64_t width, Ahead& ahead) {
  using F = typename S::F;
  using Z = Sizes<S>;
  constexpr int R = REGISTERS / 4, V = 2;
  Place place = ahead.place;
  for (int64_t c = 0; c < width; c += V * W<F>)
    for (int t = 0; t < TILE; t += R) {
      vec<F> total[R][V];
      MHC_UNROLL
      for (int r = 0; r < R; ++r)
        MHC_UNROLL
        for (int b = 0; b < V; ++b) total[r][b] = load(&rows[t + r][c + b * W<F>]);
      for (int k = 0; k < Z::K; ++k) {
        vec<F> row[V];
        MHC_UNROLL
        for (int b = 0; b < V; ++b) row[b] = load(phi + k * Z::CHUNK + c + b * W<F>);
        MHC_UNROLL
        for (int r = 0; r < R; ++r) {
          const vec<F> a = all<F>(gq[t + r][k]);
          MHC_UNROLL
          for (int b = 0; b < V; ++b) total[r][b] = fma(a, row[b], total[r][b]);
        }
        ahead.next(place);
      }
      MHC_UNROLL
      for (int r = 0; r < R; ++r)
        MHC_UNROLL
        for (int b = 0; b < V; ++b) store(&rows[t + r][c + b * W<F>], total[r][b]);
    }
  ahead.place = place;
}

// sums[k] += sum over t of gq[t][k] * rows[t], with sums as [KQ][CHUNK], for the first `width` channels.
template <class S> MHC_INLINE void add_outer(
    typename S::F* sums, const typename S::F (&gq)[TILE][Sizes<S>::KQ], const typename Sizes<S>::Chunk& rows,
    int64_t width, Ahead& ahead) {
  using F = typename S::F;
  using Z = Sizes<S>;
  constexpr int R = 8, V = REGISTERS / 16;
  Place place = ahead.place;
  for (int64_t c = 0; c < width; c += V * W<F>)
    for (int k = 0; k < Z::KQ; k += R) {
      vec<F> total[R][V];
      MHC_UNROLL
      for (int r = 0; r < R; ++r)
        MHC_UNROLL
        for (int b = 0; b < V; ++b) total[r][b] = load(sums + (k + r) * Z::CHUNK + c + b * W<F>);
      for (int t = 0; t < TILE; ++t) {
        vec<F> row[V];
        MHC_UNROLL
        for (int b = 0; b < V; ++b) row[b] = load(&rows[t][c + b * W<F>]);
        MHC_UNROLL
        for (int r = 0; r < R; ++r) {
          const vec<F> a = all<F>(gq[t][k + r]);
          MHC_UNROLL
          for (int b = 0; b < V; ++b) total[r][b] = fma(a, row[b], total[r][b]);
        }
        ahead.next(place);
        if (!S::single) ahead.next(place);  // there each line is asked for once, and slower
      }
      MHC_UNROLL
      for (int r = 0; r < R; ++r)
        MHC_UNROLL
        for (int b = 0; b < V; ++b) store(sums + (k + r) * Z::CHUNK + c + b * W<F>, total[r][b]);
    }
  ahead.place = place;
}

// Tokens that do not exist (past tile.count) have rows of zeros, so sums over all TILE rows are those of the tile.

// The coefficients of a write as [i][j][t]: R, then post in the last column. M == 1: the row sums of R.
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

  // One vector of stream i behind the write, rounded as it is stored, from vectors of X and y.
  MHC_ALWAYS vec<F> apply(int i, int t, const vec<F> (&x)[M + 1]) const {
    vec<F> total = x[M] * at[i][M][t];
    MHC_UNROLL
    for (int j = 0; j < M; ++j) total = fma(x[j], all<F>(at[i][j][t]), total);
    if (sizeof(typename S::O) != sizeof(F)) {
      typename S::O stored[W<F>];
      put(stored, total);
      get(total, stored);
    }
    return total;
  }
};

// The read weights of a site as [i][t]; zero for tokens that do not exist.
template <class S> struct ReadWeights {
  typename S::F at[S::n][TILE] = {};

  void read(const typename S::Pre* pre, const Tile& tile) {
    for (int i = 0; i < S::n; ++i)
      for (int t = 0; t < TILE; ++t)
        at[i][t] = t < tile.count ? typename S::F(value(pre[(tile.first + t) * S::n + i])) : typename S::F(0);
  }
};

}  // namespace mhc
