// The backward over all parts of the tokens, and the sums of their gradients in order.

namespace mhc {

// The sums of all parts in order, as the gradients of phi, alpha and bias.
template <class S, int STREAMS> void reduce_parameters(
    const typename S::F* gphi_parts, const double* gsums_parts, typename S::Phi* gphi, typename S::Alpha* galpha,
    typename S::Bias* gbias, const Shape& s, int64_t parts) {
  using Z = Sizes<S>;
  using F = typename S::F;
  const int64_t part = Z::padded(s) * STREAMS * Z::KQ;
  for (int i = 0; i < S::n; ++i)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int k = 0; k < Z::K; ++k) {
        const F* sums = gphi_parts + packed_at<S, true>(STREAMS, i % STREAMS, c, k);
        F total = 0;
        for (int64_t p = 0; p < parts; ++p) total += sums[p * part];
        put(gphi[(i * s.channels + c) * Z::K + k], total);
      }
  for (int k = 0; k < 3 + Z::K; ++k) {
    double total = 0;
    for (int64_t p = 0; p < parts; ++p) total += gsums_parts[p * (3 + Z::K) + k];
    if (k >= 3) put(gbias[k - 3], F(total));
    else if (k < Logits<S>::ALPHAS) put(galpha[k], F(total));
  }
}

template <class S, bool WRITES, bool GATES> void backward(
    const typename S::O* g, const typename S::O* gu, const typename S::Gpre* gpre_next,
    const typename S::Gmix* gmix_next, const typename S::X* X, const typename S::Y* y, const typename S::Mix* mix,
    const typename S::Pre* pre, const typename S::Phi* phi, const typename S::Alpha* alpha,
    const typename S::Bias* bias, const typename S::F* stat, typename S::X* gX, typename S::Y* gy,
    typename S::Mix* gmix, typename S::Pre* gpre, typename S::Phi* gphi, typename S::Alpha* galpha, typename S::Bias* gbias,
    typename S::F* phi_packed, typename S::F* gphi_parts, double* gsums_parts, Shape s, int64_t parts) {
  using Step = Backward<S, WRITES, GATES>;
  using Z = Sizes<S>;
  const int64_t padded = Z::padded(s), part = padded * Step::STREAMS * Z::KQ;
  if (GATES) pack_phi<S, Step::STREAMS, true>(phi, phi_packed, s);
  expect_to_fill(gX, S::m * s.size());
  if (WRITES) expect_to_fill(gy, s.size());
  for_parts(s, parts, [&](int64_t p, int64_t first, int64_t end) {
    typename S::F* own = gphi_parts + p * part;
    double* sums = gsums_parts + p * (3 + Z::K);
    if (GATES) std::fill(own, own + part, typename S::F(0)), std::fill(sums, sums + 3 + Z::K, 0.0);
    Step step{{g, s, padded}, {gu, s, padded}, gpre_next, gmix_next, {X, s, padded}, {y, s, padded}, mix, pre, phi_packed,
              alpha, bias, stat, {gX, s, padded}, {gy, s, padded}, gmix, gpre, own, sums, s};
    step.run(first, end);
  });
  if (GATES) reduce_parameters<S, Step::STREAMS>(gphi_parts, gsums_parts, gphi, galpha, gbias, s, parts);
}

}  // namespace mhc
