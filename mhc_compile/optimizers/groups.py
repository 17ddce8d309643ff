"""Groups of parameters for optimizers: which take weight decay, which are matrices, which a recipe has missed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.errors import InvalidOptionError, NotAModuleError
from mhc_compile.optimizers.recipe import completed
from mhc_compile.passes.plan.keys import module_of
from mhc_compile.twin.hyper_connections import new_parameters, spared

Groups = list[dict[str, Any]]


def parameter_groups(
    model: nn.Module, weight_decay: float = 0.1, *, matrices: bool = False, groups: Iterable[Any] | None = None
) -> Groups:
    """Groups for any `torch.optim` optimizer: with and without weight decay.

    Decay pulls parameters towards zero, which is harmless for matrices and wrong for norms and biases. Of the
    hyper-connections only maps such as `phi` decay: the static part of a connection rests at the identity, not at
    zero.

    Args:
        model: transformed, compiled with `backend`, or neither. Without `groups`, every trainable
            parameter lands in exactly one group, tied ones once.
        weight_decay: of the groups that decay.
        matrices: put a group in front that optimizers such as `torch.optim.Muon` take: maps of hyper-connections
            and the weights `[out, in]` of residual branches. Embeddings, heads and convolutions are not among them.
            (In a model without hyper-connections they are all `[out, in]` but embeddings and output embeddings.)
        groups: what a recipe has chosen: groups as an optimizer takes them, iterables of parameters such as
            `model.blocks.parameters()`, or one such iterable. They stay as they are, and the hyper-connections they
            have missed follow in groups of their own, with the options (learning rate and others) that parameters of
            the same block and kind (matrix or vector) have, else those of the same kind elsewhere, else none. What
            else they leave out stays left out.

    Returns:
        `[{"params": ..., "weight_decay": weight_decay}, {"params": ..., "weight_decay": 0.0}]`, under `matrices` three
        of them, and with `groups` those and what is added.

    Raises:
        InvalidOptionError: `weight_decay` is negative or no number, `groups` holds something else, or no parameter of
            this model.
        NotAModuleError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise NotAModuleError(f"got a {type(model).__name__}: write mhc_compile.parameter_groups(model)")
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, (int, float)) or weight_decay < 0:
        given = f"={weight_decay!r}" if isinstance(weight_decay, (int, float, str)) else f" is {type(weight_decay)}"
        raise InvalidOptionError(
            f"weight_decay{given}: write a number of at least 0, for example 0.1; parameters or groups that a recipe "
            "has chosen go into groups=..."
        )
    if groups is not None:
        if matrices:
            raise InvalidOptionError(
                "groups are taken as they are: write matrices=True without groups, or leave it out"
            )
        return completed(model, groups, float(weight_decay))
    first = _matrices(model) if matrices else set()
    spare = spared(model)
    split: tuple[list[nn.Parameter], ...] = ([], [], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            decaying = parameter.dim() >= 2 and id(parameter) not in spare
            split[0 if id(parameter) in first else 1 if decaying else 2].append(parameter)
    rates = (weight_decay, weight_decay, 0.0)
    made: Groups = [{"params": ps, "weight_decay": float(rate)} for ps, rate in zip(split, rates, strict=True)]
    return made if matrices else made[1:]


def _matrices(model: nn.Module) -> set[int]:
    """What is multiplied with the hidden state: maps of hyper-connections, and weights of the layers in branches."""
    branches: set[str] = set()
    for path, module in model.named_modules():
        child = connections_of(module)
        names = [] if child is None else [name for weights in child.weights.values() for name in weights]
        branches |= {f"{path}.{module_of(name)}.".lstrip(".") for name in names if module_of(name)}
        branches |= {f"{path}.{name}".lstrip(".") for name in names}
    embeddings = _embeddings(model)
    hidden = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2
        and id(parameter) not in embeddings
        and (not branches or name.startswith(tuple(branches)))
    }
    own = {id(parameter) for parameter, _ in new_parameters(model)}
    return hidden - own | {id(parameter) for parameter, decaying in new_parameters(model) if decaying}


def _embeddings(model: nn.Module) -> set[int]:
    """Tables, and what is tied to them or turns hidden states into tokens."""
    modules = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    output = getattr(model, "get_output_embeddings", lambda: None)()
    tables = [*modules, output] if isinstance(output, nn.Module) else modules
    return {id(parameter) for module in tables for parameter in module.parameters()}
