"""Imported by the process that ranks are forks of (`ranks.py`): what Dynamo does at its first trace is done there."""

import torch

import mhc_compile
from tests.toy_models import WIDTH, Tower

mhc_compile.plan(Tower(1), example_inputs=(torch.zeros(1, 1, WIDTH),))
torch.compiler.reset()
