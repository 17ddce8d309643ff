"""One table that says what every operator means to the passes, for all dialects of FX.

A node is first given a canonical name (`torch.relu`, `F.relu`, `x.relu()`, `nn.ReLU` and `aten.relu.default` are all
`relu`), then the table gives its kind. An operator that is not listed is `OPAQUE`: it may be part of a branch, it is
never lifted onto streams, and only if its name says that it contracts a learnable matrix does it count as a weight.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from mhc_compile import _torch_compat as compat


class Kind(Enum):
    """What an operator does, as far as streams are concerned."""

    ADD = auto()  # x + y
    SUB = auto()  # x - y
    SCALE = auto()  # x * y, x / y: linear in x as long as y does not depend on it
    CAST = auto()  # change of dtype or device
    COPY = auto()  # same values: clone, contiguous, detach
    SHAPE = auto()  # every element kept, rearranged: view, permute, transpose
    DROPOUT = auto()  # identity in evaluation
    POINTWISE = auto()  # one element to one element, nonlinear
    REDUCE = auto()  # reduction that may keep its dimension (mean, sum, var)
    ALONG = auto()  # one value of each position from all along an axis: softmax, cumsum
    NORM_LAST = auto()  # normalisation over trailing axes
    FOLDED = auto()  # acts on every sample alone, needs the batch axis first: streams are folded into the batch
    SELECT = auto()  # part of a tensor or one of several: indexing, chunk, unbind
    ARRANGE = auto()  # puts tensors together or elements elsewhere: cat, expand, gather, embedding
    POOL = auto()  # a fixed average or maximum over neighbours
    METADATA = auto()  # depends on shape, dtype or device only
    OPAQUE = auto()


LINEAR = frozenset({Kind.SCALE, Kind.CAST, Kind.COPY, Kind.SHAPE, Kind.SELECT, Kind.DROPOUT})
"""Kinds that are linear in their stream operand (a shift by an independent tensor is affine and as good)."""

LIFTABLE = LINEAR | {Kind.POINTWISE, Kind.REDUCE, Kind.ALONG, Kind.NORM_LAST, Kind.FOLDED, Kind.ADD, Kind.SUB,
                     Kind.ARRANGE}  # fmt: skip
"""Kinds that can be applied to all streams at once; some need a rule for the operator (`passes/lift/rules.py`)."""

MOVING = frozenset({Kind.SHAPE, Kind.SELECT})
"""Kinds behind which tokens are elsewhere, or fewer."""
ELSEWHERE = MOVING | {Kind.ARRANGE}
"""Kinds behind which another token stands in the place of one, such as `roll`."""

_NAMES: dict[Kind, str] = {
    Kind.ADD: "add",
    Kind.SUB: "sub subtract",
    Kind.SCALE: "mul multiply div divide true_divide truediv neg negative layer_scale",
    Kind.CAST: "to type type_as float half bfloat16 double _to_copy prims_convert_element_type",
    Kind.COPY: "clone contiguous detach alias identity lift_fresh_copy requires_grad_ mhc_module_border",
    Kind.SHAPE: "view reshape _unsafe_view permute transpose t mT swapaxes swapdims flatten unflatten squeeze "
    "unsqueeze movedim moveaxis view_as reshape_as numpy_T matrix_H mH adjoint",
    Kind.DROPOUT: "dropout native_dropout alpha_dropout",
    Kind.POINTWISE: "relu relu6 leaky_relu elu celu selu gelu silu swish mish sigmoid tanh hardswish hard_swish "
    "hardsigmoid hardtanh softplus softsign logsigmoid prelu_scalar threshold exp log log1p sqrt rsqrt reciprocal "
    "square pow abs sin cos erf clamp clamp_min clamp_max clip maximum minimum sign nan_to_num masked_fill where "
    "round floor ceil trunc frac fmod remainder mod logit expm1 log2 log10 exp2 atan arctan sinh cosh asinh erfc "
    "floor_divide floordiv hardshrink softshrink tanhshrink log_sigmoid float_power lgamma",
    Kind.REDUCE: "mean sum var std amax amin norm linalg_vector_norm vector_norm logsumexp",
    Kind.ALONG: "softmax log_softmax cumsum normalize",
    Kind.NORM_LAST: "layer_norm rms_norm",
    Kind.FOLDED: "group_norm instance_norm dropout1d dropout2d dropout3d feature_dropout feature_alpha_dropout",
    Kind.SELECT: "getitem chunk split unbind select narrow slice index_select split_with_sizes tensor_split index",
    Kind.ARRANGE: "cat concat concatenate stack hstack vstack expand expand_as repeat repeat_interleave "
    "tile roll flip pad gather scatter scatter_add index_put index_copy index_add masked_scatter setitem embedding "
    "embedding_bag slice_scatter select_scatter broadcast_to tril triu ZeroPad2d Embedding",
    Kind.POOL: "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d AvgPool1d AvgPool2d AvgPool3d MaxPool1d MaxPool2d MaxPool3d "
    "AdaptiveAvgPool1d AdaptiveAvgPool2d",
    Kind.METADATA: "size sym_size shape dim ndim numel dtype device is_floating_point zeros_like ones_like empty_like "
    "full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor stride sym_stride "
    "sym_numel getattr",
}

_MAP = re.compile(
    r"(^|_)(linear|matmul|mm|bmm|mv|addmm|addmv|addbmm|baddbmm|einsum|tensordot|dot|inner|multi_dot|bilinear|lstm|gru|rnn"
    r"|attention|attention_forward)(_|$)|conv|autograd_function_apply|^wrap|kernel_wrapper"
    r"|^(cond|while_loop|scan|associative_scan|map_impl|invoke_subgraph)$"  # graphs of the model's own
)
_MIXES = re.compile(
    r"(^|_)(fft|fft2|fftn|rfft|rfft2|rfftn|ifft|irfft|irfft2|irfftn|matmul|bmm|einsum|roll|cumsum|dct|attention)(_|$)"
)


def is_map(name: str) -> bool:
    """Whether an operator of this name contracts an operand with another: of the unknown ones, nothing is assumed."""
    return bool(_MAP.search(name))


def mixes(name: str) -> bool:
    """Whether an operator of this name brings values of other positions together, with a weight or without."""
    return bool(_MIXES.search(name))


KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

MODULES: dict[str, str] = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "ELU": "elu", "CELU": "celu", "SELU": "selu",
    "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Sigmoid": "sigmoid", "Tanh": "tanh", "Hardswish": "hardswish",
    "Hardsigmoid": "hardsigmoid", "Hardtanh": "hardtanh", "Softplus": "softplus", "Softsign": "softsign",
    "Identity": "identity", "Dropout": "dropout", "AlphaDropout": "alpha_dropout", "Dropout2d": "dropout2d",
    "Dropout1d": "dropout1d", "Dropout3d": "dropout3d", "FeatureAlphaDropout": "feature_alpha_dropout",
    "LayerNorm": "layer_norm", "RMSNorm": "rms_norm",
    "GroupNorm": "group_norm", "Flatten": "flatten", "Unflatten": "unflatten",
}  # fmt: skip
"""Class names of leaf modules (`symbolic_trace` keeps those of torch.nn) and their canonical names."""

NORMS = frozenset({"layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "rsqrt", "normalize",
                   "native_layer_norm", "_native_batch_norm_legit_no_training",
                   "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"})  # fmt: skip
"""Canonical names of normalisations, for the channel axis and for the word in the report."""


def canonical_name(node: fx.Node) -> str:
    """The operator's name without dialect: `add` for `operator.iadd`, `x.add_(y)` and `aten.add_.Tensor` alike."""
    if node.op == "call_function":
        return _function_names(node.target)[1]
    name = _raw_name(node)
    return _canonical(name, node.target) if node.op == "call_method" else name


def is_inplace(node: fx.Node) -> bool:
    """Whether the node writes into its first operand."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace") is True or _inplace_argument(node):
        return True
    name = _raw_name(node)
    return name in _INPLACE_OPERATORS or name == "setitem" or _writes(name, node.target)


def _writes(name: str, target: Any) -> bool:
    """Whether a trailing underscore means a write: `x.add_(y)` does, `operator.and_` and `__radd__` do not."""
    if not name.endswith("_"):
        return False
    return not (name.endswith("__") or name == "requires_grad_" or getattr(target, "__module__", "") == "_operator")


def _canonical(name: str, target: Any) -> str:
    return name[:-1] if _writes(name, target) else _INPLACE_OPERATORS.get(name, name)


def kind_of(node: fx.Node) -> Kind:
    """The kind of a node; placeholders, attributes and everything unknown are `OPAQUE`."""
    if node.op not in ("call_function", "call_method", "call_module"):
        return Kind.OPAQUE
    name = canonical_name(node)
    if name == "view" and any(isinstance(a, torch.dtype) for a in (*node.args, *node.kwargs.values())):
        return Kind.OPAQUE  # reinterprets bytes
    if node.target is getattr and node.args[1] not in _METADATA_ATTRIBUTES:
        return Kind.OPAQUE
    if node.kwargs.get("rounding_mode") is not None:
        return Kind.POINTWISE  # a division that rounds is not linear
    return KINDS.get(name, Kind.OPAQUE)


def leaf_module(node: fx.Node) -> torch.nn.Module:
    """The module that a `call_module` node calls."""
    owner = node.graph.owning_module
    assert owner is not None and isinstance(node.target, str)
    return owner.get_submodule(node.target)


_INPLACE_OPERATORS = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow", "imod": "mod",
                      "ifloordiv": "floordiv", "iand": "and_", "ior": "or_", "ixor": "xor", "ilshift": "lshift",
                      "irshift": "rshift"}  # fmt: skip
_METADATA_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad"})
_KNOWN_ROOTS = ("torch", "_operator", "operator", "builtins", "math")


def _raw_name(node: fx.Node) -> str:
    if node.op == "call_function":
        return _function_names(node.target)[0]
    if node.op == "call_module":
        module = leaf_module(node)
        known = type(module).__module__.startswith("torch.nn")
        return MODULES.get(type(module).__name__, type(module).__name__) if known else type(module).__qualname__
    return str(node.target)


@lru_cache(maxsize=4096)
def _function_names(target: Any) -> tuple[str, str]:
    """Raw and canonical name; a graph calls few functions many times, and names are asked for by every pass."""
    name = _function_name(target)
    return name, _canonical(name, target)


def _function_name(target: Any) -> str:
    if isinstance(target, compat.OpOverload):
        name = target.overloadpacket.__name__
        return name if target.namespace in ("aten", "_operator") else f"{target.namespace}_{name}"
    name = getattr(target, "__name__", str(target))
    module = getattr(target, "__module__", None)
    # A user's own `add` (fx.wrap) must not be taken for torch's: builtins of torch have no module or one of ours.
    if module is not None and module.split(".")[0] not in _KNOWN_ROOTS:
        return f"{module}.{name}"
    return name


def _inplace_argument(node: fx.Node) -> bool:
    """Whether `inplace=True` was passed by position, as in `F.dropout(x, p, training, True)`."""
    if node.op != "call_function" or not any(argument is True for argument in node.args):
        return False
    position = {"dropout": 3, "relu": 1, "relu6": 1, "silu": 1, "mish": 1, "hardswish": 1, "hardsigmoid": 1,
                "leaky_relu": 2, "elu": 2, "celu": 2, "selu": 1, "hardtanh": 3}.get(_raw_name(node))  # fmt: skip
    return position is not None and node.args[position : position + 1] == (True,)
