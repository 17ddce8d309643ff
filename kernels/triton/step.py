"""One fused step on a GPU: its sizes and tiles, and the launches that steps are put together from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.formulas.lookup import manifold_of
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.schedules.schedule import Launch, Size, Spec
from mhc_compile.kernels.triton import forward, parameters
from mhc_compile.kernels.triton.tiles import Inputs, Tiles, configurations, widest

SHARES = 16  # of the tokens, in the gradient of phi: enough programs for a GPU, few enough partial sums
SUM_BLOCK = 1024


@dataclass(frozen=True)
class Step:
    """Inputs, sizes and tiles of one step; `m` is 1 where one stream stands for all, `dtype` that of X + y."""

    n: int
    m: int
    C: int
    outer: Size
    inner: Size
    last: bool
    dtype: torch.dtype
    widest: int
    tiles: Tiles
    inputs: Inputs
    axis: int
    manifold: Manifold

    @classmethod
    def of(cls, name: str, inputs: Inputs, n: int, axis: int, tiles: Tiles | None, connection: str = "mhc") -> Step:
        """The step `name` of `packed.py` on these inputs; `tiles` are the first of `tiles.py` by default."""
        X = inputs["X"]
        m, *shape = X.shape
        dtype = torch.promote_types(X.dtype, inputs["y"].dtype) if "y" in inputs else X.dtype
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        last = axis == len(shape) - 1
        manifold = manifold_of(connection)
        tiles = tiles or configurations(name, inputs, n, axis, hyper=manifold.hyper)[0]
        return cls(n, m, shape[axis], outer, inner, last, dtype, widest(inputs), tiles, inputs, axis, manifold)

    @property
    def tokens(self) -> Size:
        """T, a symbol where the size is open."""
        return self.outer * self.inner

    @property
    def K(self) -> int:
        """How many columns of phi a token is projected on."""
        return self.manifold.columns(self.n)

    @property
    def statistics(self) -> int:
        """How many numbers a token keeps of its norms."""
        return self.manifold.statistics(self.n)

    @property
    def eps(self) -> float:
        """Of the norms."""
        return reference.LAYER_NORM_EPS if self.manifold.hyper else reference.RMS_EPS

    @property
    def channels(self) -> int:
        """Channels of a tile: no more than there are, at least what a matrix product takes."""
        return max(16, min(self.tiles.channels, _power_of_two(self.C)))

    @property
    def vector(self) -> int:
        """Channels that one thread loads at once, and so may sum without asking others."""
        return 16 // self.widest if self.last else self.channels

    @property
    def precision(self) -> str:
        """Of the products with phi: TF32 holds every bf16 number, fp32 streams take three of its products."""
        if torch.version.hip:
            return "ieee"  # AMD's matrix cores multiply fp32 as it is
        return "tf32x3" if self.widest == 4 else "tf32"

    @property
    def gated(self) -> dict[str, Any]:
        """Constants of the kernels that compute coefficients."""
        return {**self.projecting, **self.matrices, **self.read_constants}

    @property
    def projecting(self) -> dict[str, Any]:
        """Constants of the products with phi."""
        return {**self.widths, "KP": max(16, _power_of_two(self.K)), "PRECISION": self.precision}

    @property
    def matrices(self) -> dict[str, Any]:
        """Constants of post and of the matrices."""
        sinkhorn = {"NP": _power_of_two(self.n), "ITERATIONS": reference.SINKHORN_ITERATIONS}
        return {**self.widths, **sinkhorn, "MATRIX": self.manifold.projection, "MAGNITUDE": self.manifold.magnitude}

    @property
    def read_constants(self) -> dict[str, Any]:
        """Constants of the read weights."""
        return {**self.widths, "LEAST": self.manifold.eps}

    @property
    def widths(self) -> dict[str, int]:
        """Columns of `stat`: the normed projection, and what is kept of the norms."""
        return {"K": self.K, "STATS": self.statistics}

    def tiled_for(self, kernel: str) -> Step:
        """The same step for a kernel with tiles of its own."""
        return replace(self, tiles=configurations(kernel, self.inputs, self.n, self.axis)[0])

    def table(self, columns: int) -> Spec:
        """An fp32 buffer with one row per token."""
        return Spec((self.tokens, columns), torch.float32)

    def scratch(self, streams: int) -> dict[str, Spec]:
        """What the kernels of a backward hand to one another."""
        partial = Spec((SHARES, streams * self.C, self.K), torch.float32)
        return {
            "glogits": self.table(self.K),
            "partial": partial,
            "logit_sums": Spec((SHARES, 2, self.K), torch.float32),
        }

    def scan(self, kernel: Any, names: Iterable[str], constants: Mapping[str, Any], **more: Any) -> Launch:
        """A program per block of tokens, which walks over the channels."""
        return self._launch(kernel, names, {**constants, **more}, (self._blocks,))

    def pointwise(self, kernel: Any, names: Iterable[str] | Mapping[str, str], **constants: Any) -> Launch:
        """A program per block of tokens and channels."""
        return self._launch(kernel, names, constants, (self._blocks, _ceil_div(self.C, self.channels)))

    def read(self, streams: str, m: int) -> Launch:
        """What a gate reads from m streams, once their coefficients are known."""
        tensors = {"V": streams, **{name: name for name in ("alpha", "bias", "stat", "u")}}
        step = replace(self, m=m).tiled_for("read")
        return step.pointwise(forward.read_kernel, tensors, **self.read_constants)

    def logits(self, kernel: Any, names: tuple[str, ...]) -> Launch:
        """The gradients of the logits of all tokens."""
        step = self.tiled_for("logits")
        return step.scan(kernel, (*names, "glogits"), {**step.matrices, "VEC": step.vector})

    def parameters(self, products: Any, names: tuple[str, ...], streams: int) -> tuple[Launch, Launch]:
        """Partial sums of the gradients of phi, alpha and bias, and their sum."""
        KP = self.projecting["KP"]
        step = self.tiled_for("products")
        grid = (_ceil_div(self.C, step.channels), SHARES)
        names = (*names, "glogits", "partial", "logit_sums")
        partial = step._launch(products, names, {**self.projecting, "SHARES": SHARES}, grid)
        gradients = ("partial", "logit_sums", "grad_phi", "grad_alpha", "grad_bias")
        sizes = {"n": self.n, "s": streams, "C": self.C, "K": self.K, "KP": KP, "SHARES": SHARES, "BLOCK": SUM_BLOCK}
        blocks = _ceil_div(self.n * self.C * self.K, SUM_BLOCK)
        total = Launch(parameters.add_shares_kernel, {p: p for p in gradients}, {}, sizes, (blocks,), {"num_warps": 4})
        return partial, total

    @property
    def _blocks(self) -> Size:
        BT = self.tiles.tokens
        return _ceil_div(self.tokens, BT) if self.last else self.outer * _ceil_div(self.inner, BT)

    def _launch(
        self,
        kernel: Any,
        names: Iterable[str] | Mapping[str, str],
        constants: Mapping[str, Any],
        grid: tuple[Size, ...],
    ) -> Launch:
        """`names` of tensors; or what each parameter of the kernel is called elsewhere."""
        tensors = dict(names) if isinstance(names, Mapping) else {p: p for p in names}
        tile = {"BT": self.tiles.tokens, "BC": self.channels, "LAST": self.last}
        constants = {"n": self.n, "m": self.m, "C": self.C, **tile, **constants}
        sizes = {"T": self.tokens, "inner": self.inner}
        options = {"num_warps": self.tiles.warps, "num_stages": self.tiles.stages}
        return Launch(kernel, tensors, sizes, constants, grid, options)


def _ceil_div(size: Size, block: int) -> Size:
    return (size + block - 1) // block


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
