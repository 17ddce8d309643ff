"""Which operators take numbers from a generator: their order among themselves decides what each of them gets."""

from __future__ import annotations

import re

from torch import fx

from mhc_compile.passes.graph.op_kinds import canonical_name

_DRAWING = re.compile(
    r"\w*dropout\w*|rand|randn|randint|randperm|rand_like|randn_like|randint_like|bernoulli_?|multinomial|poisson|binomial"
    r"|normal_?|log_normal_?|uniform_?|random_?|exponential_?|cauchy_?|geometric_?|gumbel_softmax|rrelu_?|rrelu_with_noise"
)
_ATTENTION = "scaled_dot_product_attention"
_RATE = 4  # position of its probability


def takes_numbers(node: fx.Node) -> bool:
    """Whether an operator may draw random numbers: not where the trace says that it is in evaluation."""
    name = canonical_name(node)
    if name == _ATTENTION:
        rate = node.kwargs.get("dropout_p", node.args[_RATE] if len(node.args) > _RATE else 0.0)
        return bool(rate != 0.0)
    if not _DRAWING.fullmatch(name):
        return False
    training = node.kwargs.get("training", node.kwargs.get("train", node.args[2] if len(node.args) > 2 else None))
    return "dropout" not in name or training is not False
