"""Faults in what is said about streams."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_MIXING = "tests/diagnostics/test_mixing.py"
_DIAGNOSE = "tests/diagnostics/test_diagnose.py"

DIAGNOSTICS = (
    Mutant(
        "rows and columns are swapped",
        "diagnostics",
        "return R.abs().sum(-1).amax(-1)",
        "return R.abs().sum(-2).amax(-1)",
        (_MIXING,),
    ),
    Mutant(
        "signs cancel in a gain",
        "diagnostics",
        "return R.abs().sum(-2).amax(-1)",
        "return R.sum(-2).abs().amax(-1)",
        (_MIXING,),
    ),
    Mutant(
        "a product has the order of the text",
        "diagnostics",
        "site.R @ _carried(known, site, site.R)",
        "_carried(known, site, site.R) @ site.R",
        (_MIXING,),
    ),
    Mutant(
        "products go on across tokens that have moved",
        "diagnostics",
        "return not moves_tokens and before == here",
        "return before == here",
        (_MIXING,),
    ),
    Mutant(
        "a plan does not say that tokens move",
        "detect",
        "    chain.moved |= {candidate.add} if any(graph.kinds[i] in ELSEWHERE for i in path) else set()\n",
        "",
        ("tests/passes/decide/test_single_pass.py::test_a_plan_says_in_front_of_which_sites_tokens_change_places",),
    ),
    Mutant(
        "static coefficients are kept as views of parameters",
        "diagnostics",
        "(value.squeeze(-1).clone() for value in found)",
        "(value.squeeze(-1) for value in found)",
        (f"{_DIAGNOSE}::test_two_sharded_processes_see_what_one_does",),
    ),
    Mutant(
        "a compiled model is called as it was compiled",
        "diagnostics",
        'stack.enter_context(torch.compiler.set_stance("force_eager"))',
        "pass",
        (f"{_DIAGNOSE}::test_a_compiled_model_is_looked_at_uncompiled",),
    ),
    Mutant(
        "the last site that is not finite is named",
        "diagnostics",
        "    for site in sites:\n        gradients =",
        "    for site in reversed(sites):\n        gradients =",
        ("tests/diagnostics/test_alarms.py",),
    ),
    Mutant(
        "equal streams of an untrained segment are a collapse",
        "diagnostics",
        "if s.before and s.segment in trained and",
        "if s.before and",
        ("tests/diagnostics/test_alarms.py",),
    ),
    Mutant(
        "the code that was observed stays in the model",
        "diagnostics",
        "        entry.programs[:] = [*programs, *entry.programs[len(observed) :]]\n",
        "",
        (f"{_DIAGNOSE}::test_the_model_is_left_as_it_was",),
    ),
    Mutant(
        "buffers and random numbers are not put back",
        "diagnostics",
        "state_kept(model), torch.no_grad()",
        "torch.no_grad()",
        (f"{_DIAGNOSE}::test_the_model_is_left_as_it_was",),
    ),
)
