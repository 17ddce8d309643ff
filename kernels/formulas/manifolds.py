"""The connections with gated read and write and a mixing matrix from a projection: what the fused steps compute."""

from __future__ import annotations

from dataclasses import dataclass

from mhc_compile.kernels.formulas.projections import PROJECTIONS, Projection


@dataclass(frozen=True)
class Manifold:
    """How coefficients follow from the logits of a token.

    Attributes:
        projection: a key of `PROJECTIONS`.
        magnitude: `post = magnitude * sigmoid(...) + eps`.
        eps: `pre = sigmoid(...) + eps`.
        single_pass: a site is read with the read weights of the site before.
        hyper: as hyper-connections have it: `bias + alpha tanh(z)`, where each stream has a norm of its own and columns
            of its own, and is neither gated nor projected (see `norms.py`).
    """

    projection: str
    magnitude: float = 2.0
    eps: float = 0.0
    single_pass: bool = False
    hyper: bool = False

    @property
    def row(self) -> Projection:
        """The projection itself."""
        return PROJECTIONS[self.projection]

    def logits(self, n: int) -> int:
        """How many logits the matrix takes."""
        return self.row.logits(n)

    def columns(self, n: int) -> int:
        """K, how many coefficients are projected per token: pre, post, the logits of the matrix."""
        return 2 * n + self.logits(n)

    def statistics(self, n: int) -> int:
        """S, how many numbers a token keeps of its norms: one, or scale and mean of each stream."""
        return 2 * n if self.hyper else 1

    def parts(self, n: int) -> tuple[int, ...]:
        """How many columns each entry of `alpha` scales: 3, or 2 where the matrix takes no logits."""
        logits = self.logits(n)
        return (n, n, logits) if logits else (n, n)
