"""One class per warning: what a user should look at, though the call went on. All of them are in `errors`, too."""

from __future__ import annotations

__all__ = [
    "AlarmWarning",
    "DetachedModuleWarning",
    "EarlyOptimizerWarning",
    "FallbackWarning",
    "HookNotRunWarning",
    "HookSeesStreamsWarning",
    "LooseWeightsWarning",
    "MissingSitesWarning",
    "NotPreservingWarning",
    "NothingToTransformWarning",
    "PatternWarning",
    "PlainBranchWarning",
    "RecompilationWarning",
    "RecompileLimitWarning",
    "SavedApartWarning",
    "StreamsCutWarning",
    "UncompiledCodeWarning",
    "UntestedVersionWarning",
    "UntrainedParametersWarning",
    "UnusedParametersWarning",
]


class NothingToTransformWarning(UserWarning):
    """Like `NothingToTransformError`, under `strict=False`: the model was returned unchanged."""


class NotPreservingWarning(UserWarning):
    """Like `NotPreservingError`, where it was not asked for strictly."""


class EarlyOptimizerWarning(UserWarning):
    """An optimizer was built before the new parameters existed, so it does not train them."""


class UntrainedParametersWarning(UserWarning):
    """Hyper-connections get gradients and their layers are trained, but no optimizer steps them."""


class RecompileLimitWarning(UserWarning):
    """Dynamo is about to give up on a function, which then runs without hyper-connections."""


class RecompilationWarning(UserWarning):
    """A call of a transformed model is compiled anew each time, which takes longer than the call."""


class UncompiledCodeWarning(UserWarning):
    """A part of the model runs with Dynamo switched off, and so without hyper-connections."""


class UnusedParametersWarning(UserWarning):
    """Values were loaded for hyper-connections that no graph of the model has asked for."""


class PatternWarning(UserWarning):
    """Like `PatternError`, where further graphs of the model may still be compiled."""


class HookNotRunWarning(UserWarning):
    """A hook is registered on a submodule that the code of a transformed model does not call."""


class HookSeesStreamsWarning(UserWarning):
    """A hook is registered on a submodule over whose borders streams are handed on."""


class LooseWeightsWarning(UserWarning):
    """A compiled function is given weights that belong to no model, so they stay without hyper-connections."""


class DetachedModuleWarning(UserWarning):
    """A module that was taken out of a transformed model runs without hyper-connections."""


class PlainBranchWarning(UserWarning):
    """The branch of a residual connection is called past the model: a sum around it is a plain one."""


class SavedApartWarning(UserWarning):
    """Only an adapter was saved, and the hyper-connections of its model in a file of their own beside it."""


class StreamsCutWarning(UserWarning):
    """A part of a segment is called by itself: its streams are reduced and expanded at its border."""


class FallbackWarning(UserWarning):
    """A call that is no one graph runs in several, between which streams are reduced and expanded."""


class MissingSitesWarning(UserWarning):
    """A kind of call reaches fewer residual connections than the plan of the model has."""


class AlarmWarning(UserWarning):
    """A training that is recorded shows something to look at: a gain, a collapse, a value that is not finite."""


class UntestedVersionWarning(UserWarning):
    """A library is installed in a version that this package was not tested with."""
