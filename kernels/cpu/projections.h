// Matrices from logits, one token per lane, and their backward: the functions of projections.py.
// Each has LOGITS, M from the logits, and `backward`: the gradient of M as that of the logits.

namespace mhc {

template <class V> MHC_INLINE V sigmoid(V x) { return 1 / (1 + exponential(-x)); }

template <class V, int COUNT> struct Softmax {
  V weights[COUNT];

  explicit Softmax(const V* logits) {
    V top = logits[0], sum = {};
    for (int k = 1; k < COUNT; ++k) top = largest(logits[k], top);
    for (int k = 0; k < COUNT; ++k) sum += weights[k] = exponential(logits[k] - top);
    const V inverse = 1 / sum;
    for (int k = 0; k < COUNT; ++k) weights[k] *= inverse;
  }

  void backward(const V* g, V* out) const {
    V dot = {};
    for (int k = 0; k < COUNT; ++k) dot += weights[k] * g[k];
    for (int k = 0; k < COUNT; ++k) out[k] = weights[k] * (g[k] - dot);
  }
};

template <class V, int N> struct Unconstrained {
  static constexpr int LOGITS = N * N;
  V M[N][N];

  explicit Unconstrained(const V* logits) {
    for (int k = 0; k < N * N; ++k) M[k / N][k % N] = logits[k];
  }
  void backward(const V (&g)[N][N], V* out) const {
    for (int k = 0; k < N * N; ++k) out[k] = g[k / N][k % N];
  }
};

template <class V, int N> struct Identity {
  static constexpr int LOGITS = 0;
  V M[N][N] = {};

  explicit Identity(const V*) {
    for (int i = 0; i < N; ++i) M[i][i] = 1 - V{};
  }
  void backward(const V (&)[N][N], V*) const {}
};

// Row i of permutation k, in the order of itertools, has its 1 in column at(k, i).
template <int N> struct Orders {
  static constexpr int factorial(int k) { return k < 2 ? 1 : k * factorial(k - 1); }
  static constexpr int COUNT = factorial(N);
  int at[COUNT][N] = {};

  constexpr Orders() {
    for (int k = 0; k < COUNT; ++k)
      for (int i = 0, rest = k, used = 0; i < N; ++i) {
        int skip = rest / factorial(N - 1 - i), column = 0;
        rest %= factorial(N - 1 - i);
        for (;; ++column)
          if (!(used >> column & 1) && skip-- == 0) break;
        at[k][i] = column;
        used |= 1 << column;
      }
  }
};

template <class V, int N> struct Permutations {
  static constexpr Orders<N> orders = {};
  static constexpr int LOGITS = Orders<N>::COUNT;
  Softmax<V, LOGITS> mixture;
  V M[N][N] = {};

  explicit Permutations(const V* logits) : mixture(logits) {
    MHC_UNROLL_ALL
    for (int k = 0; k < LOGITS; ++k)
      MHC_UNROLL
      for (int i = 0; i < N; ++i) M[i][orders.at[k][i]] += mixture.weights[k];
  }
  void backward(const V (&g)[N][N], V* out) const {
    V along[LOGITS];
    MHC_UNROLL_ALL
    for (int k = 0; k < LOGITS; ++k) {
      along[k] = g[0][orders.at[k][0]];
      MHC_UNROLL
      for (int i = 1; i < N; ++i) along[k] += g[i][orders.at[k][i]];
    }
    mixture.backward(along, out);
  }
};

// M[i][j] is a product over the bits of i ^ j, one factor for each, the first for the highest bit.
template <class V, int N> struct Kronecker {
  static constexpr int factors(int n) { return n < 2 ? 0 : 1 + factors(n / 2); }
  static constexpr int FACTORS = factors(N), LOGITS = 2 * FACTORS;
  V weights[FACTORS][2], M[N][N];

  explicit Kronecker(const V* logits) {
    for (int f = 0; f < FACTORS; ++f) {
      weights[f][0] = sigmoid(logits[2 * f] - logits[2 * f + 1]);
      weights[f][1] = sigmoid(logits[2 * f + 1] - logits[2 * f]);
    }
    V products[N];
    for (int x = 0; x < N; ++x) products[x] = product(x, -1);
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < N; ++j) M[i][j] = products[i ^ j];
  }
  static constexpr int bit(int x, int f) { return x >> (FACTORS - 1 - f) & 1; }
  V product(int x, int without) const {
    V result = 1 - V{};
    for (int f = 0; f < FACTORS; ++f)
      if (f != without) result *= weights[f][bit(x, f)];
    return result;
  }
  void backward(const V (&g)[N][N], V* out) const {
    V sides[FACTORS][2] = {};
    for (int x = 0; x < N; ++x) {
      V along = g[0][x];
      for (int i = 1; i < N; ++i) along += g[i][i ^ x];
      for (int f = 0; f < FACTORS; ++f) sides[f][bit(x, f)] += along * product(x, f);
    }
    for (int f = 0; f < FACTORS; ++f) {
      out[2 * f] = weights[f][0] * weights[f][1] * (sides[f][0] - sides[f][1]);
      out[2 * f + 1] = -out[2 * f];
    }
  }
};

template <class V, int N> struct Circulant {
  static constexpr int LOGITS = N + 1;
  V gate;
  Softmax<V, N> shifts;
  V M[N][N];

  explicit Circulant(const V* logits) : gate(sigmoid(logits[0])), shifts(logits + 1) {
    const V kept = sigmoid(-logits[0]);
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < N; ++j) M[i][j] = gate * shifts.weights[(j - i + N) % N] + (i == j ? kept : V{});
  }
  void backward(const V (&g)[N][N], V* out) const {
    V along[N], opened = {}, scaled[N];
    for (int k = 0; k < N; ++k) {
      along[k] = g[0][k];
      for (int i = 1; i < N; ++i) along[k] += g[i][(i + k) % N];
      opened += shifts.weights[k] * along[k];
      scaled[k] = gate * along[k];
    }
    out[0] = gate * (1 - gate) * (opened - along[0]);  // along[0] is the trace
    shifts.backward(scaled, out + 1);
  }
};

}  // namespace mhc
