"""Plans written by hand: what the report, the drawing and the command line are tested on."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

from mhc_compile.passes.plan.data import Plan, Readout, Rejection, Segment, Site
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.passes.plan.steps import Step, StepKind

_BLANK = {"str": "", "int": 0, "bool": False, "frozenset[str]": frozenset()}


def blank(kind: type) -> dict[str, Any]:
    """An empty value for every field, so that a field nobody here looks at need not be named."""
    return {field.name: _BLANK.get(str(field.type), ()) for field in fields(kind)}


def site(key: str, add: str, **changes: object) -> Site:
    known = dict(
        key=key, add=add, adds=(add,), skip=f"skip_of_{add}", base=f"skip_of_{add}", branches=(f"branch_of_{add}",),
        negated=(), kind="prenorm", shape=("s0", 197, 192), dtype="float32", channel_axis=2, base_axis=2, channels=192,
        branch_nodes=frozenset({f"branch_of_{add}", f"norm_of_{add}"}), branch_summary="layer_norm, linear x4, sdpa",
        weights=(f"{key}.weight",), location="/env/lib/python3.12/site-packages/timm/models/vision_transformer.py:169",
        parameters=18_459,
    )  # fmt: skip
    return Site(**{**blank(Site), **known, **changes})


def readout(after: Site, user: str, node: str = "", parameters: int = 0) -> Readout:
    """A readout of the site's add, or of the node given, which lies behind it."""
    known = dict(key=f"{after.key}.readout", node=node or after.add, users=(user,), parameters=parameters)
    return Readout(**{**blank(Readout), **known})


def segment(index: int, sites: list[Site], **changes: object) -> Segment:
    readouts = (readout(sites[-1], f"norm_{index}"),)
    known = dict(index=index, entry=f"entry_{index}", sites=tuple(s.key for s in sites), lifts=(), readouts=readouts)
    return Segment(**{**blank(Segment), **known, "linear": True, **changes})


def steps(chain: list[Site]) -> list[Step]:
    """A chain with nothing between its sites: one boundary between each two."""
    boundaries = [Step(StepKind.BOUNDARY, before.key, after.key) for before, after in pairwise(chain)]
    return [Step(StepKind.ENTRY, "", chain[0].key), *boundaries, Step(StepKind.LEAVE, chain[-1].key, "")]


def rejection(add: str, reason: Reason = Reason.BROADCAST, **changes: object) -> Rejection:
    known = dict(add=add, adds=(add,), reason=reason, detail="pos_embed is broadcast", shape=("s0", 197, 192))
    return Rejection(
        **{**blank(Rejection), **known, "module": "blocks.0", "location": "/nowhere/model.py:7", **changes}
    )


def plan(chains: list[list[Site]], rejected: tuple[Rejection, ...] = (), **changes: object) -> Plan:
    sites = tuple(s for chain in chains for s in chain)
    adds = sum(len(part.adds) for part in (*sites, *rejected))
    known = dict(
        n=4, connection="mhc", init="preserve", reduce="mean", sites=sites, rejected=rejected,
        segments=tuple(segment(i, chain) for i, chain in enumerate(chains)), float_adds=adds, nodes=412,
        steps=tuple(step for chain in chains for step in steps(chain)),
    )  # fmt: skip
    return Plan(**{**blank(Plan), **known, **changes})


def transformer(layers: int = 12) -> list[Site]:
    """Attention and MLP sites of a vision transformer."""
    chain = []
    for i in range(layers):
        mlp = {"branch_summary": "layer_norm, linear x2, gelu", "location": "/x/site-packages/timm/models/vit.py:170"}
        chain += [site(f"blocks.{i}.attn", f"add_{2 * i}"), site(f"blocks.{i}.mlp", f"add_{2 * i + 1}", **mlp)]
    return chain


def resnet() -> Plan:
    """Four stages, three cut by a projected shortcut, one of a single site."""
    stages = [(1, 64, 2), (2, 128, 3), (3, 256, 5), (4, 512, 1)]
    chains, rejected = [], []
    for stage, width, depth in stages:
        look = {"kind": "postact", "shape": ("s0", width, 3136 // 4**stage, 8), "channel_axis": 1, "base_axis": 1,
                "channels": width,
                "branch_summary": "conv2d x2, batch_norm x2, relu", "parameters": 24 * 4 * width + 27,
                "location": "/x/site-packages/torchvision/models/resnet.py:102"}  # fmt: skip
        chains.append([site(f"layer{stage}.{i + 1}", f"add_{stage}_{i}", **look) for i in range(depth)])
        rejected.append(rejection(f"add_{stage}_in", Reason.PROJECTED_SHORTCUT, module=f"layer{stage}.0",
                                  detail=f"layer{stage}_0_downsample_1", location=look["location"]))  # fmt: skip
    segments = tuple(
        segment(i, chain, linear=False, lifts=tuple(f"relu_{i}_{j}" for j in range(len(chain))))
        for i, chain in enumerate(chains)
    )
    return plan(chains, tuple(rejected), segments=segments)
