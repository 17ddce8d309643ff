"""Tensor and sequence parallelism put round the modules of a model: processes compute what one does."""

from __future__ import annotations

import copy

import pytest

from mhc_compile.errors import ParallelError
from tests.parallel_checks import (
    after,
    before,
    behind_a_backend,
    hooks_on_a_block,
    on_the_mesh,
    reductions,
    saved_streams,
    sharded_channels,
    single_pass,
    uneven_sequence,
    with_fsdp,
)
from tests.parallel_forwards import experts_elsewhere, forward_that_talks
from tests.parallel_models import IDS, new, plain, transformed, transformed_from
from tests.ranks import run_ranks

EXHAUSTIVE = pytest.mark.exhaustive


def test_new_parameters_are_marked_for_megatron_as_norms_are():
    model = plain()
    assert not any(hasattr(p, "sequence_parallel") for p in new(transformed_from(model)))
    model.norm.weight.sequence_parallel = True
    assert all(p.sequence_parallel for p in new(transformed_from(model)))


def test_a_stage_that_an_engine_cuts_out_is_refused():
    part = copy.deepcopy(transformed())
    del part.layers[1]
    part.norm = part.head = None
    with pytest.raises(ParallelError, match="as in a stage"):
        part(IDS)


def in_turn(rank, folder, checks):
    for check, *arguments in checks:
        check(rank, folder, *arguments)


FEW = [
    (after, {"sequence": True}),  # plain local tensors, gradients that have to be added up
    (before, {"sequence": True, "local": False}),  # DTensors
    (forward_that_talks,),
    (experts_elsewhere,),
    (single_pass, {"sequence": True}),
    (sharded_channels,),
    (uneven_sequence,),
    (hooks_on_a_block,),
]

MORE = [
    (after, {}),
    (after, {"local": False}),
    (after, {"sequence": True, "local": False}),
    (before, {}),
    (before, {"sequence": True}),
    (on_the_mesh,),
    (reductions,),
    (saved_streams,),
    (behind_a_backend,),
    (single_pass, {"sequence": True, "local": False}),
    (single_pass, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize("checks", [pytest.param(FEW, id="few"), pytest.param(MORE, id="more", marks=EXHAUSTIVE)])
def test_two_processes_compute_what_one_does(checks, tmp_path):
    run_ranks(in_turn, tmp_path, checks)


@EXHAUSTIVE
def test_four_processes_with_tensor_parallelism_inside_of_fsdp(tmp_path):
    run_ranks(in_turn, tmp_path, [(with_fsdp, ""), (with_fsdp, "checkpointed")], size=4)
