"""From what was observed to the figures of each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mhc_compile.diagnostics.collector import Seen
from mhc_compile.diagnostics.data import Parameter, SiteFigures
from mhc_compile.diagnostics.mixing import (
    Chain,
    backward_products,
    column_gain,
    forward_products,
    mixing_figures,
    row_gain,
)
from mhc_compile.passes.plan.data import Plan, Site

_TINY = torch.finfo(torch.float64).tiny


def site_figures(
    seen: Mapping[str, Seen], plans: Sequence[Plan], parameters: Mapping[str, tuple[Parameter, ...]]
) -> list[SiteFigures]:
    """The figures of all sites that were observed, in the order in which they ran.

    Args:
        seen: by site key.
        plans: those that may know a site; the first that does decides.
        parameters: by site key.
    """
    known = {s.key: (segment.index, s) for plan in reversed(plans) for segment in plan.segments
             for s in map(plan.site, segment.sites)}  # fmt: skip
    kept = {key: site for key, site in seen.items() if key in known}
    R = {key: matrix.permute(2, 0, 1) for key, matrix in _gathered({k: s.R for k, s in kept.items()}).items()}
    chain = {key: Chain(R[key], _before(known[key][1], kept), _moves(known[key][1], kept)) for key in kept}
    depth = _depth_figures(chain)
    found: dict[str, SiteFigures] = {}
    for keys in _alike(R):
        mixing = mixing_figures(torch.stack([R[key] for key in keys]))
        values = _Values.of([kept[key] for key in keys])
        for i, key in enumerate(keys):
            found[key] = SiteFigures(
                key=key,
                segment=known[key][0],
                before=chain[key].before,
                aligned=not chain[key].moves_tokens,
                tokens=len(R[key]),
                all_tokens=kept[key].all_tokens,
                mixing=tuple(map(_tuple, R[key].mean(0))),
                trouble=trouble_of(kept[key]),
                parameters=parameters.get(key, ()),
                **depth[key],
                **mixing.at(i),
                **values.at(i),
            )
    return [found[key] for key in kept]


def _depth_figures(chain: Mapping[str, Chain]) -> dict[str, dict[str, Any]]:
    """The composite gains of each site; of several ends that can be reached from it, to the one with the largest."""
    onward, back = forward_products(chain), backward_products(chain)
    found = {}
    for key, site in chain.items():
        forward = row_gain(onward[key])
        ends = torch.stack([column_gain(product).expand(len(site.R)) for product in back[key]])
        backward = ends[ends.mean(1).argmax()]  # one that is NaN counts as the largest
        found[key] = {
            "composite_forward": forward.mean().item(),
            "composite_backward": backward.mean().item(),
            "composite_forward_peak": forward.amax().item(),
            "composite_backward_peak": backward.amax().item(),
        }
    return found


def trouble_of(seen: Seen) -> str:
    """What is not finite at a site, the earliest first; "" if all is."""
    return next((what for what, finite in seen.finite.items() if not bool(finite)), "")


def _before(site: Site, kept: Mapping[str, Seen]) -> str:
    return site.before if site.before in kept else ""


def _moves(site: Site, kept: Mapping[str, Seen]) -> bool:
    before = kept.get(site.before)
    return before is not None and (site.moves_tokens or before.all_tokens != kept[site.key].all_tokens)


@dataclass(frozen=True)
class _Values:
    """What is said of streams and gates at S sites: the fields of `Seen` with S in front, fp64."""

    pre: Tensor
    post: Tensor
    read: Tensor
    gram: Tensor
    apart: Tensor
    centre: Tensor

    @classmethod
    def of(cls, sites: Sequence[Seen]) -> _Values:
        stacked = (torch.stack([getattr(site, f.name) for site in sites]) for f in fields(cls))
        return cls(*(value.to("cpu", torch.float64) for value in stacked))

    def at(self, i: int) -> dict[str, Any]:
        pre, post, gram = self.pre[i], self.post[i], self.gram[i]
        return {
            "pre_mean": _tuple(pre.mean(1)),
            "pre_std": _tuple(pre.std(1, correction=0)),
            "post_mean": _tuple(post.mean(1)),
            "post_std": _tuple(post.std(1, correction=0)),
            "spread": (self.apart[i].mean() / self.centre[i].mean().clamp_min(_TINY)).sqrt().item(),
            **stream_figures(self.read[i], gram),
        }


def stream_figures(read: Tensor, gram: Tensor) -> dict[str, Any]:
    """How large the streams of a site are, how alike, and what of them is read, fp64.

    Args:
        read: read weights `[n, T]`.
        gram: `[n, n, T]`, mean over channels of products of two streams.
    """
    n = gram.shape[0]
    norms = gram.diagonal().t().clamp_min(0).sqrt()  # [n, T]
    parts = read.abs() * norms
    cosine = gram / (norms[:, None] * norms[None]).clamp_min(_TINY)
    pairs = ~torch.eye(n, dtype=torch.bool)
    return {
        "read_share": _tuple((parts / parts.sum(0).clamp_min(_TINY)).mean(1)),
        "stream_rms": _tuple(norms.square().mean(1).sqrt()),
        "similarity": cosine[pairs].mean().item() if n > 1 else 1.0,
    }


def _gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same on the CPU in fp64, those of one shape moved together."""
    moved: dict[str, Tensor] = {}
    for keys in _alike(tensors):
        both = torch.stack([tensors[key] for key in keys]).to("cpu", torch.float64)
        moved.update(zip(keys, both.unbind(0), strict=True))
    return {key: moved[key] for key in tensors}


def _alike(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    groups: dict[tuple[int, ...], list[str]] = {}
    for key, tensor in tensors.items():
        groups.setdefault(tuple(tensor.shape), []).append(key)
    return list(groups.values())


def _tuple(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
