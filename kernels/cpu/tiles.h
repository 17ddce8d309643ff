// Tiles of tokens, and tensors as rows: compute code sees one row of channels per token, wherever they lie.
#include <type_traits>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mhc {

struct Shape {  // of one stream: a token is a pair (outer, inner)
  int64_t outer, channels, inner;
  int64_t tokens() const { return outer * inner; }
  int64_t size() const { return outer * channels * inner; }
};

constexpr int TILE = 16;  // tokens that are computed together

struct Tile {
  int64_t first, stride;  // stride between the channels of a token
  int count;
  int64_t at[TILE];  // where the first channel of each token lies

  Tile(const Shape& s, int64_t first, int64_t end) : first(first), stride(s.inner) {
    count = int(std::min<int64_t>(TILE, end - first));
    for (int t = 0; t < count; ++t) {
      const int64_t token = first + t;
      at[t] = s.inner == 1 ? token * s.channels : token / s.inner * s.channels * s.inner + token % s.inner;
    }
  }
  bool neighbours(int t, int width) const { return t + width <= count && at[t + width - 1] - at[t] == width - 1; }
};

// Calls body(part, first token, end) for every part, in parallel where OpenMP is compiled in.
template <class Body> MHC_INLINE void for_parts(const Shape& s, int64_t parts, const Body& body) {
  const int64_t T = s.tokens(), tiles = (T + TILE - 1) / TILE;
#pragma omp parallel for num_threads(int(parts)) schedule(static, 1) if (parts > 1)
  for (int64_t p = 0; p < parts; ++p)
    body(p, std::min(T, tiles * p / parts * TILE), std::min(T, tiles * (p + 1) / parts * TILE));
}

// Calls body(c, Whole or Part) for each vector of the channels from `c` to `end`.
template <class F, class Body> MHC_INLINE void for_vectors(int64_t c, int64_t end, const Body& body) {
  for (; c + W<F> <= end; c += W<F>) body(c, Whole{});
  if (c < end) body(c, Part{int(end - c)});
}

// One row of `channels` per token, a stream after the other; of one token, as locals that stay in registers.
template <class T> struct Row {
  T* first;
  int64_t stream;  // distance
  T* at(int i) const { return first + i * stream; }
};
template <class T> struct Rows {
  T* first;
  int64_t token, stream;  // distances
  T* at(int i, int t) const { return first + i * stream + t * token; }
  Row<T> row(int t) const { return {first + t * token, stream}; }
};

// Memory for rows of F, zeros at first; `padded` channels of a row are whole chunks.
template <class F> struct Held {
  int64_t padded, tokens;
  std::vector<F> memory;
  Held(int streams, int64_t channels, int64_t tokens = TILE)
      : padded(channels ? channels + 64 / sizeof(F) : 0), tokens(tokens), memory(streams * tokens * padded + 64 / sizeof(F)) {}
  Rows<F> rows() {
    F* aligned = (F*)((uintptr_t(memory.data()) + 63) / 64 * 64);
    return {aligned, padded, tokens * padded};
  }
};

// Blocks of W tokens x W channels where tokens are neighbours in memory, else element by element.
template <class F, class T> void gather(const Rows<F>& rows, int i, const T* from, const Tile& tile, int64_t channels) {
  constexpr int w = W<F>;
  for (int t = 0; t < tile.count;) {
    const int tokens = tile.neighbours(t, w) ? w : 1;
    int64_t c = 0;
    if (tokens == w)
      for (; c + w <= channels; c += w) {
        vec<F> block[w];
        for (int l = 0; l < w; ++l) get(block[l], from + tile.at[t] + (c + l) * tile.stride);
        transpose<F>(block);
        for (int l = 0; l < w; ++l) store(rows.at(i, t + l) + c, block[l]);
      }
    for (; c < channels; ++c)
      for (int l = 0; l < tokens; ++l) rows.at(i, t + l)[c] = F(value(from[tile.at[t + l] + c * tile.stride]));
    t += tokens;
  }
}

template <class F, class T> void scatter(const Rows<F>& rows, int i, T* to, const Tile& tile, int64_t channels) {
  constexpr int w = W<F>;
  for (int t = 0; t < tile.count;) {
    const int tokens = tile.neighbours(t, w) ? w : 1;
    int64_t c = 0;
    if (tokens == w)
      for (; c + w <= channels; c += w) {
        vec<F> block[w];
        for (int l = 0; l < w; ++l) block[l] = load(rows.at(i, t + l) + c);
        transpose<F>(block);
        for (int l = 0; l < w; ++l) put(to + tile.at[t] + (c + l) * tile.stride, block[l]);
      }
    for (; c < channels; ++c)
      for (int l = 0; l < tokens; ++l) put(to[tile.at[t + l] + c * tile.stride], rows.at(i, t + l)[c]);
    t += tokens;
  }
}

// What is read soon, asked for line by line between arithmetic, so that memory and multipliers work together. A loop keeps
// its place in a `Place`, in registers: `Ahead` itself would go through memory at each line.
struct Place { const char* line; const char* end; };
struct Ahead {
  struct Rows { const char* first; int64_t token, bytes; int tokens; };  // distances in bytes
  Rows rows[2 * (8 + 1) + 2 * (8 + 1)];  // two tiles, each with X, g, y and gu
  int count = 0, at = 0, token = 0;
  Place place = {nullptr, nullptr};

  template <class T> void add(const T* first, int64_t token, int tokens, int64_t channels) {
    rows[count++] = {(const char*)first, token * int64_t(sizeof(T)), channels * int64_t(sizeof(T)), tokens};
  }
  MHC_ALWAYS void next(Place& p) {
    if (__builtin_expect(p.line >= p.end, 0)) {
      if (at == count) return;
      p = row();
    }
    __builtin_prefetch(p.line, 0, 2);
    p.line += 64;
  }
  __attribute__((noinline)) Place row() {
    const Rows& r = rows[at];
    const char* first = r.first + token * r.token;
    if (++token == r.tokens) token = 0, ++at;
    return {first, first + r.bytes};
  }
};

// A tensor of STREAMS streams that is read: its own memory where channels come last, else a copy of the tile.
template <class S, class T, int STREAMS> struct Input {
  using F = typename S::F;
  using E = std::conditional_t<S::last, T, F>;
  const T* from;
  Shape s;
  Held<F> held;

  Input(const T* from, const Shape& s, int64_t padded) : from(from), s(s), held(STREAMS, S::last || !from ? 0 : padded) {}
  Rows<const E> rows(const Tile& tile) {
    if constexpr (S::last) return {from + tile.at[0], s.channels, s.size()};
    else {
      const Rows<F> copy = held.rows();
      for (int i = 0; i < STREAMS; ++i) gather(copy, i, from + i * s.size(), tile, s.channels);
      return {copy.first, copy.token, copy.stream};
    }
  }
  // Ask for `channels` channels from c, as far as they exist. A tile that is gathered has no rows to ask for.
  void expect(Ahead& ahead, const Tile& tile, int64_t c, int64_t channels) const {
    if (!S::last || !tile.count || c >= s.channels) return;
    channels = std::min(channels, s.channels - c);
    for (int i = 0; i < STREAMS; ++i) ahead.add(from + tile.at[0] + i * s.size() + c, s.channels, tile.count, channels);
  }
};

// A tensor of STREAMS streams that is written, `finish` behind each tile. Large ones go past the caches.
template <class S, class T, int STREAMS> struct Output {
  using F = typename S::F;
  using E = std::conditional_t<S::last, T, F>;
  static constexpr int64_t LARGE = 16 << 20;  // bytes: more than a core's share of the caches
  T* to;
  Shape s;
  Held<F> held;
  bool streams;

  Output(T* to, const Shape& s, int64_t padded) : to(to), s(s), held(STREAMS, S::last || !to ? 0 : padded) {
    const int64_t row = s.channels * int64_t(sizeof(T)), bytes = STREAMS * s.size() * int64_t(sizeof(T));
    streams = S::last && bytes >= LARGE && streamable(to) && row % 64 == 0;
  }
  Rows<E> rows(const Tile& tile) {
    if constexpr (S::last) return {to + tile.at[0], s.channels, s.size()};
    else return held.rows();
  }
  template <class Count> MHC_ALWAYS void write(E* p, vec<F> v, Count count) const {
    if constexpr (S::last && std::is_same<Count, Whole>::value)
      if (streams) return stream(p, v);
    put(p, v, count);
  }
  void finish(const Tile& tile) {
    if constexpr (!S::last)
      for (int i = 0; i < STREAMS; ++i) scatter(held.rows(), i, to + i * s.size(), tile, s.channels);
  }
  ~Output() { if (streams) finish_streaming(); }
};

// Large results come from fresh pages: fault them in 2 MiB at a time where the system allows.
template <class T> MHC_INLINE void expect_to_fill(T* p, int64_t elements) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t huge = uintptr_t(1) << 21, from = (uintptr_t(p) + huge - 1) & ~(huge - 1);
  const uintptr_t to = uintptr_t(p + elements) & ~(huge - 1);
  if (from < to) madvise((void*)from, to - from, MADV_HUGEPAGE);
#else
  (void)p, (void)elements;
#endif
}

}  // namespace mhc
