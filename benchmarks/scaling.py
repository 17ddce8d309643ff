"""`python -m benchmarks.scaling`: what hyper-connections would cost on many GPUs. A plan on paper.

Traffic per token and site is measured (`benchmarks.traffic`), one boundary is timed (docs/kernels.md); machines and
models are those of the tables below. Every formula is one function here or in
`mhc_compile/cost`, which estimates a given model; docs/scaling.md explains them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from mhc_compile.config import Config
from mhc_compile.cost.devices import GPUS as DEVICES
from mhc_compile.cost.traffic import (
    BOUNDARY_H100,
    PLAIN_ADD,
    boundary,
    kept_units,
    one_kernel_per_formula,
    restoring_units,
)
from mhc_compile.kernels.formulas.connections import parameter_count, parameter_shapes

N = 4
HALF, SINGLE = 2, 4  # bytes of bf16 and fp32
GPUS = (64, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Model:
    """Shapes of a language model. Every layer has two sites, attention and MLP."""

    name: str
    layers: int
    width: int
    active: float  # parameters that a token meets
    sequence: int
    batch: int  # sequences of one step

    @property
    def sites(self) -> int:
        """Residual connections."""
        return 2 * self.layers

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch * self.sequence


@dataclass(frozen=True)
class Machine:
    """One GPU and its share of the network. `reached` fractions are assumptions."""

    name: str = "H100 SXM"
    flops: float = DEVICES["h100"].flops["bfloat16"]
    flops_reached: float = 0.4
    bandwidth: float = DEVICES["h100"].bandwidth
    bandwidth_reached: float = 0.8
    network: float = 50e9


@dataclass(frozen=True)
class Spread:
    """GPUs that share a sequence: a tensor group, with sequence parallelism or without, and a context group."""

    tensor: int = 1
    sequence: bool = False
    context: int = 1

    @property
    def parts(self) -> int:
        """In how many parts streams are cut; without sequence parallelism a tensor group has the same tokens."""
        return self.context * (self.tensor if self.sequence else 1)


SPREADS = (Spread(), Spread(8), Spread(8, True), Spread(8, True, 4))


@dataclass(frozen=True)
class Budget:
    """Traffic of one site, in units of C elements per token; `constant` is divided by the tokens of a launch."""

    name: str
    forward: float
    backward: float
    constant: float = 0.0


MODELS = (
    Model("27B (mHC paper)", 30, 2560, 4.14e9, 4096, 1280),
    Model("671B (DeepSeek-V3)", 61, 7168, 37e9, 4096, 15360),
)
UNIQUE = boundary(N)
MEASURED = Budget("unique, measured", UNIQUE.forward, UNIQUE.backward, constant=14.25 * 256)
# 12 each way are phi, read by every block of 16 tokens; the rest of phi is its gradient, in 16 shares.
ISSUED = Budget("issued, all of it from memory", 14.0 + 12.0, 26.0 + 12.0, constant=24.75 * 256)
UNFUSED = Budget("one kernel per formula", one_kernel_per_formula(N).forward, one_kernel_per_formula(N).backward)
TIMED = Budget("as timed on an H100", BOUNDARY_H100.forward, BOUNDARY_H100.backward)


def compute_seconds(model: Model, machine: Machine) -> float:
    """Of one token: 6 FLOPs for each parameter that it meets."""
    return 6 * model.active / (machine.flops * machine.flops_reached)


def mixing_seconds(model: Model, machine: Machine, budget: Budget) -> float:
    """Of one token: the traffic of all sites beyond that of plain residual adds."""
    units = budget.forward + budget.backward + budget.constant / model.sequence - PLAIN_ADD.total
    return model.sites * model.width * HALF * units / (machine.bandwidth * machine.bandwidth_reached)


def border_seconds(model: Model, machine: Machine) -> float:
    """Of one token at one border between stages: n streams instead of one, there and back."""
    return 2 * (N - 1) * model.width * HALF / machine.network


def new_parameters(model: Model) -> int:
    """Phi [n C, n^2 + 2n], alpha [3] and bias [n^2 + 2n] of every site."""
    return model.sites * parameter_count(parameter_shapes("mhc", N, model.width))


def gradient_seconds(model: Model, machine: Machine, stages: int) -> float:
    """Of one step: a ring all-reduce of the new gradients of a stage, in fp32."""
    return 2 * new_parameters(model) / stages * SINGLE / machine.network


def group(model: Model, stages: int) -> int:
    """Sites that share kept streams under `recompute="auto"`; no group crosses a border."""
    return max(1, min(Config(n=N, recompute="auto").group_size(model.sites), model.sites // stages))


def restoring_seconds(model: Model, machine: Machine, size: int) -> float:
    """Of one token under recomputation: a site with d others before it in its group reads n + d, and writes n."""
    return model.sites * model.width * HALF * restoring_units(N, size) / (machine.bandwidth * machine.bandwidth_reached)


def kept_bytes(model: Model, streams_every: int) -> float:
    """For the backward, on the first of the stages: streams every so many sites, and each branch output.

    Under 1F1B the first of P stages holds P sequences of sites / P sites each, so P cancels.
    """
    return model.sequence * model.sites * model.width * HALF * kept_units(N, streams_every)


def spread_mixing(model: Model, machine: Machine, spread: Spread) -> float:
    """Of the compute time of a GPU: the model's own work is always divided, the mixing only as the streams are."""
    alone = mixing_seconds(model, machine, MEASURED) / compute_seconds(model, machine)
    return alone * spread.tensor * spread.context / spread.parts


def reduced_bytes(model: Model, stages: int, spread: Spread) -> int:
    """Sent into the one reduction of new gradients of a step, over the tensor group; FSDP does that of the context."""
    return SINGLE * new_parameters(model) // stages if spread.sequence and spread.tensor > 1 else 0


def stages_of(model: Model, gpus: int) -> int:
    """Pipeline stages: 16 for DeepSeek-V3 (its report, section 3.1); 8 for the smaller model, 4 on 64 GPUs."""
    if model.layers > 60:
        return 16
    return 4 if gpus == 64 else 8


def overheads(model: Model, machine: Machine, gpus: int) -> tuple[float, float, float]:
    """Per cent of a step: mixing, borders if nothing hides them, new gradients if nothing hides them."""
    stages = stages_of(model, gpus)
    stage = compute_seconds(model, machine) / stages
    step = model.tokens / (gpus / stages) * stage
    return (
        100 * mixing_seconds(model, machine, MEASURED) / compute_seconds(model, machine),
        100 * border_seconds(model, machine) / stage,
        100 * gradient_seconds(model, machine, stages) / step,
    )


def traffic_table(machine: Machine) -> Table:
    """Time of the mixing against that of the model, by what is counted."""
    table = Table(title=f"Mixing, per cent of the model's compute time ({machine.name})")
    for heading in ("traffic", *(m.name for m in MODELS)):
        table.add_column(heading, justify="left" if heading == "traffic" else "right")
    for budget in (MEASURED, ISSUED, TIMED, UNFUSED):
        shares = [100 * mixing_seconds(m, machine, budget) / compute_seconds(m, machine) for m in MODELS]
        table.add_row(budget.name, *(f"{share:.1f}" for share in shares))
    return table


def memory_table(machine: Machine) -> Table:
    """Kept for the backward on the first stage, and what keeping less costs."""
    table = Table(title="Kept for the backward by hyper-connections, GB on the first stage")
    for heading in ("model", "recompute=None", 'recompute="auto"', "group", "its time, % of compute"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model in MODELS:
        size = group(model, stages_of(model, 2048))
        kept = [kept_bytes(model, every) / 1e9 for every in (1, size)]
        share = 100 * restoring_seconds(model, machine, size) / compute_seconds(model, machine)
        table.add_row(model.name, *(f"{value:.1f}" for value in kept), str(size), f"{share:.1f}")
    return table


def scale_table(model: Model, machine: Machine) -> Table:
    """Overheads by number of GPUs."""
    table = Table(title=f"{model.name}: per cent of a step")
    for heading in ("GPUs", "stages", "replicas", "mixing", "borders, unhidden", "gradients, unhidden", "sum"):
        table.add_column(heading, justify="right")
    for gpus in GPUS:
        stages = stages_of(model, gpus)
        parts = overheads(model, machine, gpus)
        table.add_row(str(gpus), str(stages), str(gpus // stages), *(f"{p:.2f}" for p in parts), f"{sum(parts):.2f}")
    return table


def spread_table(model: Model, machine: Machine) -> Table:
    """What sharing a sequence does to each GPU."""
    table = Table(title=f"{model.name}: a sequence on several GPUs")
    stages = stages_of(model, 2048)
    for heading in ("tensor", "sequence", "context", "mixing, %", "kept, GB", "one reduction, MB"):
        table.add_column(heading, justify="right")
    for spread in SPREADS:
        row = (
            f"{100 * spread_mixing(model, machine, spread):.1f}",
            f"{kept_bytes(model, 1) / spread.parts / 1e9:.2f}",
            f"{reduced_bytes(model, stages, spread) / 1e6:.1f}",
        )
        table.add_row(str(spread.tensor), "yes" if spread.sequence else "no", str(spread.context), *row)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops-reached", type=float, default=Machine.flops_reached, help="default: %(default)s")
    parser.add_argument(
        "--bandwidth-reached", type=float, default=Machine.bandwidth_reached, help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    machine = Machine(flops_reached=options.flops_reached, bandwidth_reached=options.bandwidth_reached)
    console = Console(width=100)
    each = [make(model, machine) for make in (scale_table, spread_table) for model in MODELS]
    for table in (traffic_table(machine), memory_table(machine), *each):
        console.print(table)


if __name__ == "__main__":
    main()
