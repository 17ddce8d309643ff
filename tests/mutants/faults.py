"""All faults. At least 38 of 40 have to be caught."""

from __future__ import annotations

from tests.mutants.faults_calls import CALLS
from tests.mutants.faults_cost import COST
from tests.mutants.faults_detect import DETECT
from tests.mutants.faults_diagnostics import DIAGNOSTICS
from tests.mutants.faults_kernels import KERNELS
from tests.mutants.faults_model import CAPTURE, DYNAMO, MODEL
from tests.mutants.faults_passes import FUSE, REWRITE
from tests.mutants.faults_state import CHECKPOINT, DISTRIBUTED
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *DETECT, *REWRITE, *FUSE, *KERNELS, *CAPTURE, *MODEL, *CALLS, *DYNAMO, *CHECKPOINT, *DISTRIBUTED,
    *COST, *DIAGNOSTICS,
)  # fmt: skip
