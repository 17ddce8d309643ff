// Coefficients of a site and their backward, one token per lane: Sinkhorn, in the order of sinkhorn.py, and the gates.
// MHC_SINKHORN_ITERATIONS, MHC_RMS_EPS and MHC_LAYER_NORM_EPS are defined by whoever builds the source.

namespace mhc {

template <class V, int N> struct Sinkhorn {
  static constexpr int LOGITS = N * N, HALF_STEPS = 2 * (MHC_SINKHORN_ITERATIONS - 1);
  V columns[N][N], start[N][N], M[N][N], totals[HALF_STEPS + 1][N];

  explicit Sinkhorn(const V* flat) {
    V logits[N][N], log_columns[N][N];
    for (int k = 0; k < N * N; ++k) logits[k / N][k % N] = flat[k];
    for (int j = 0; j < N; ++j) {  // log_softmax over the rows i of column j
      V top = logits[0][j], total = {};
      for (int i = 1; i < N; ++i) top = largest(logits[i][j], top);
      for (int i = 0; i < N; ++i) columns[i][j] = exponential(logits[i][j] - top);
      for (int i = 0; i < N; ++i) total += columns[i][j];
      V log_total = logarithm(total);
      for (int i = 0; i < N; ++i) log_columns[i][j] = (logits[i][j] - top) - log_total, columns[i][j] /= total;
    }
    for (int i = 0; i < N; ++i) {  // softmax over the columns j of row i
      V top = log_columns[i][0], total = {};
      for (int j = 1; j < N; ++j) top = largest(log_columns[i][j], top);
      for (int j = 0; j < N; ++j) M[i][j] = exponential(log_columns[i][j] - top);
      for (int j = 0; j < N; ++j) total += M[i][j];
      for (int j = 0; j < N; ++j) start[i][j] = M[i][j] /= total;
    }
    int s = 0;
    for (; s < HALF_STEPS - 2; s += 2) divide<0, false>(totals[s]), divide<1, false>(totals[s + 1]);
    divide<0, false>(totals[s]), divide<1, true>(totals[s + 1]);
  }

  static V tiny() { return Smallest<V>::get(); }

  template <int axis> MHC_INLINE V& entry(V (&m)[N][N], int line, int k) { return axis ? m[line][k] : m[k][line]; }

  // Columns (axis 0) or rows (1) over their sums; those of columns may underflow. The last rows are divided one by one, to
  // the nearest: they sum to 1 within rounding, which decides ties where results are rounded to bf16.
  template <int axis, bool nearest> inline __attribute__((always_inline)) void divide(V (&total)[N]) {
    for (int line = 0; line < N; ++line) {
      V t = {};
      for (int k = 0; k < N; ++k) t += entry<axis>(M, line, k);
      if (axis == 0) t = largest(tiny(), t);
      total[line] = t;
      const V inverse = 1 / t;
      for (int k = 0; k < N; ++k)
        if (nearest) entry<axis>(M, line, k) /= t;
        else entry<axis>(M, line, k) *= inverse;
    }
  }

  // g becomes the gradient before the step; M goes back to what it was. A column that underflowed has no gradient.
  template <int axis> inline __attribute__((always_inline)) void undo(V (&g)[N][N], const V (&total)[N]) {
    for (int line = 0; line < N; ++line) {
      V dot = {}, inverse = 1 / total[line];
      for (int k = 0; k < N; ++k) dot += entry<axis>(g, line, k) * entry<axis>(M, line, k);
      for (int k = 0; k < N; ++k) {
        V moved = (entry<axis>(g, line, k) - dot) * inverse;
        entry<axis>(g, line, k) = where_above(total[line], tiny(), moved);
        entry<axis>(M, line, k) *= total[line];
      }
    }
  }

  // The gradient of M, which is used up with M, as that of the logits.
  void backward(V (&g)[N][N], V* out) {
    for (int s = HALF_STEPS - 2; s >= 0; s -= 2) undo<1>(g, totals[s + 1]), undo<0>(g, totals[s]);
    for (int i = 0; i < N; ++i) {
      V dot = {};
      for (int j = 0; j < N; ++j) dot += g[i][j] * start[i][j];
      for (int j = 0; j < N; ++j) g[i][j] = start[i][j] * (g[i][j] - dot);
    }
    for (int j = 0; j < N; ++j) {
      V total = {};
      for (int i = 0; i < N; ++i) total += g[i][j];
      for (int i = 0; i < N; ++i) out[i * N + j] = g[i][j] - columns[i][j] * total;
    }
  }
};

// Per token t of a tile, [coefficient][t]: K = pre, post, logits of the matrix. S says how they become coefficients.
// Where S::hyper, what alpha scales is the tanh of z, and nothing is gated (norms.py). Column k belongs to stream k mod n.
template <class S> struct Logits {
  using F = typename S::F;
  using Matrix = typename S::template Matrix<vec<F>>;
  static constexpr int N = S::n, L = Matrix::LOGITS, K = 2 * N + L, ALPHAS = L ? 3 : 2;
  static constexpr int COEFFICIENTS = 2 * N + N * N;  // pre, post, R row-major
  static constexpr int ROW = K + (S::hyper ? 2 * N : 1);  // of `stat`: z, then what is kept of the norms
  alignas(64) F z[K][TILE] = {};
  F alpha[K], bias[K];

  template <class A, class B> Logits(const A* a, const B* b) {
    const F scales[3] = {F(value(a[0])), F(value(a[1])), L ? F(value(a[L ? 2 : 0])) : F(0)};
    for (int k = 0; k < K; ++k) alpha[k] = scales[part(k)], bias[k] = F(value(b[k]));
  }
  static MHC_ALWAYS constexpr int part(int k) { return k < N ? 0 : k < 2 * N ? 1 : 2; }
  static constexpr F height(int k) { return k < N ? F(1) : F(S::magnitude); }
  static vec<F> respond(vec<F> z) { return S::hyper ? 1 - 2 / (exponential(z + z) + 1) : z; }
  vec<F> at(int k, int t) const { return respond(load(&z[k][t])) * alpha[k] + bias[k]; }

  // coefficients[k][t] from z.
  void forward(F (&out)[COEFFICIENTS][TILE]) const {
    for (int t = 0; t < TILE; t += W<F>) {
      for (int k = 0; k < 2 * N; ++k)
        store(&out[k][t], S::hyper ? at(k, t) : sigmoid(at(k, t)) * height(k) + F(S::eps));
      vec<F> logits[L + 1];
      for (int k = 0; k < L; ++k) logits[k] = at(2 * N + k, t);
      Matrix result(logits);
      for (int k = 0; k < N * N; ++k) store(&out[2 * N + k][t], result.M[k / N][k % N]);
    }
  }

  // The gradients g[k][t] of the coefficients as those of the logits, out[k][t]; pre[i][t] is computed on the way.
  void backward(const F (&g)[COEFFICIENTS][TILE], F (&out)[K][TILE], F (&pre)[N][TILE]) const {
    for (int t = 0; t < TILE; t += W<F>) {
      for (int k = 0; k < 2 * N; ++k) {
        const vec<F> logit = at(k, t), s = sigmoid(logit), slope = s * (1 - s) * height(k);
        if (k < N) store(&pre[k][t], S::hyper ? logit : s + F(S::eps));
        store(&out[k][t], S::hyper ? load(&g[k][t]) : load(&g[k][t]) * slope);
      }
      vec<F> logits[L + 1], G[N][N], back[L + 1];
      for (int k = 0; k < L; ++k) logits[k] = at(2 * N + k, t);
      for (int k = 0; k < N * N; ++k) G[k / N][k % N] = load(&g[2 * N + k][t]);
      Matrix(logits).backward(G, back);
      for (int k = 0; k < L; ++k) store(&out[2 * N + k][t], back[k]);
    }
  }
};

}  // namespace mhc
