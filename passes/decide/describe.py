"""Words for the reader: what kind of residual a site is, and what its branch computes."""

from __future__ import annotations

from collections import Counter

from mhc_compile.passes.detect.residuals import Candidate
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.op_kinds import LINEAR, NORMS, Kind, canonical_name

_SHORT = {"scaled_dot_product_attention": "sdpa", "matmul": "matmul", "einsum": "einsum", "softmax": "softmax"}
_ACTIVATIONS = frozenset(
    {"relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardswish", "mish", "relu6", "softplus"}
)
_NORM_WORDS = {"rsqrt": "rms_norm", "native_layer_norm": "layer_norm"}


def branch_summary(graph: Ancestry, site: Candidate) -> str:
    """The branch in a few words, in the order of its ops: `layer_norm, linear x4, sdpa`."""
    words = [_word(graph, i) for i in sorted(site.branch_nodes)]
    counts = Counter(w for w in words if w)
    return ", ".join(w if times == 1 else f"{w} x{times}" for w, times in counts.items())


def _word(graph: Ancestry, i: int) -> str | None:
    name = canonical_name(graph.nodes[i])
    if name in NORMS:
        return _NORM_WORDS.get(name, name)
    if graph.weights[i] or name in _SHORT:
        return _SHORT.get(name, name)
    return name if name in _ACTIVATIONS or graph.kinds[i] is Kind.POOL else None


def kind_label(graph: Ancestry, site: Candidate) -> str:
    """`parallel`, `scaled`, `postnorm`, `postact` or `prenorm`; for the reader only, nothing depends on it."""
    if len(site.branches) > 1:
        return "parallel"
    if any(graph.kinds[i] is Kind.SCALE for i in site.skip.lifts) or _ends_scaled(graph, site.branches[0].node):
        return "scaled"
    names = {canonical_name(user) for user in graph.nodes[site.add].users}
    if len(names) == 1 and names & NORMS and not _starts_normed(graph, site):
        return "postnorm"
    return "postact" if names & _ACTIVATIONS else "prenorm"


def _starts_normed(graph: Ancestry, site: Candidate) -> bool:
    """Whether the branch normalises before its first weight: then a norm behind the add belongs to what follows."""
    for i in sorted(site.branch_nodes):
        if graph.weights[i]:
            return False
        if canonical_name(graph.nodes[i]) in NORMS:
            return True
    return False


def _ends_scaled(graph: Ancestry, i: int) -> bool:
    """Whether the branch ends in a multiplication, looked up through casts and views."""
    while graph.kinds[i] in LINEAR:
        if graph.kinds[i] is Kind.SCALE:
            return True
        if len(graph.inputs[i]) != 1:
            return False
        i = graph.inputs[i][0]
    return False
