"""One class per user error: what happened, where, and what to write instead.

Every class derives from `MhcError`: what this package raises on purpose. The command line prints it, and exits with 2.
"""

from __future__ import annotations

from mhc_compile.user_warnings import AlarmWarning as AlarmWarning
from mhc_compile.user_warnings import DetachedModuleWarning as DetachedModuleWarning
from mhc_compile.user_warnings import EarlyOptimizerWarning as EarlyOptimizerWarning
from mhc_compile.user_warnings import FallbackWarning as FallbackWarning
from mhc_compile.user_warnings import HookNotRunWarning as HookNotRunWarning
from mhc_compile.user_warnings import HookSeesStreamsWarning as HookSeesStreamsWarning
from mhc_compile.user_warnings import LooseWeightsWarning as LooseWeightsWarning
from mhc_compile.user_warnings import MissingSitesWarning as MissingSitesWarning
from mhc_compile.user_warnings import NothingToTransformWarning as NothingToTransformWarning
from mhc_compile.user_warnings import NotPreservingWarning as NotPreservingWarning
from mhc_compile.user_warnings import PatternWarning as PatternWarning
from mhc_compile.user_warnings import PlainBranchWarning as PlainBranchWarning
from mhc_compile.user_warnings import RecompilationWarning as RecompilationWarning
from mhc_compile.user_warnings import RecompileLimitWarning as RecompileLimitWarning
from mhc_compile.user_warnings import SavedApartWarning as SavedApartWarning
from mhc_compile.user_warnings import StreamsCutWarning as StreamsCutWarning
from mhc_compile.user_warnings import UncompiledCodeWarning as UncompiledCodeWarning
from mhc_compile.user_warnings import UntestedVersionWarning as UntestedVersionWarning
from mhc_compile.user_warnings import UntrainedParametersWarning as UntrainedParametersWarning
from mhc_compile.user_warnings import UnusedParametersWarning as UnusedParametersWarning


class MhcError(Exception):
    """Base class of every error a user of mhc_compile can cause."""


class InvalidOptionError(MhcError, ValueError):
    """An option has a value outside its domain (`n=0`, `connection="foo"`, ...)."""


class NotAModuleError(MhcError, TypeError):
    """The object given is not a `torch.nn.Module`, or not a `torch.fx.GraphModule` where one is needed."""


class CaptureError(MhcError):
    """The model could not be traced into one graph."""


class GraphBreakError(CaptureError):
    """Dynamo stopped at a construct it cannot trace; the message names the construct and its location."""


class NoGraphError(CaptureError):
    """Neither front end makes a graph of a call: whatever is done, it runs plain."""


class PlainBranchError(MhcError):
    """Like `PlainBranchWarning`, under `strict=True`."""


class WrappedModelError(CaptureError):
    """The model is inside DistributedDataParallel or DataParallel, which must come after the transformation."""


class MissingInputsError(CaptureError):
    """No example inputs were given, none are declared by the model, and it cannot be traced without."""


class InputMismatchError(CaptureError):
    """The example inputs do not fit the model's `forward`."""


class MixedDeviceError(MhcError):
    """The parameters of the model (or its inputs) lie on more than one device."""


class NoFloatError(MhcError):
    """The model computes on integers only: there is no floating point tensor to route."""


class NothingToTransformError(MhcError):
    """No residual add was found (or none is left after `include`, `exclude` and `min_sites`)."""


class PatternError(MhcError):
    """An `include` or `exclude` pattern matches no site."""


class AlreadyTransformedError(MhcError):
    """The model already holds hyper-connections made by this package."""


class ReservedNameError(MhcError):
    """The model has a child or attribute of its own under the name that its hyper-connections need."""


class NotTransformedError(MhcError):
    """The model was not made by `mhc_compile.transform`, so there is nothing to revert."""


class SecondModelError(MhcError):
    """One backend object was used for two models, whose parameters would be mixed up."""


class NoParametersYetError(MhcError):
    """The parameters of a backend were asked for before its first graph existed."""


class OtherParametersError(MhcError):
    """The hyper-connections of a model, or values loaded for them, are others than this call needs."""


class KeywordNameError(MhcError):
    """A parameter or buffer has a name that generated code cannot spell, such as `heads.in.weight`."""


class TorchScriptError(MhcError):
    """A transformed model was given to `torch.jit`, or to an exporter that goes through it."""


class SymbolicTraceError(MhcError):
    """A transformed model was given to `torch.fx.symbolic_trace`, alone or inside of another one."""


class DeferredForwardError(MhcError):
    """The forward of a model is a coroutine or a generator, which computes only after it was called."""


class LazyParametersError(MhcError):
    """A model has parameters that get their shapes at its first call."""


class OwnChildrenError(MhcError):
    """A compiled model goes over its own children, of which the hyper-connections are one."""


class DDPOptimizerError(MhcError):
    """DDPOptimizer cut the graph into buckets before the backend saw it."""


class LateParametersError(MhcError):
    """New parameters would appear after DistributedDataParallel has listed those it synchronises."""


class CheckpointMismatchError(MhcError):
    """A checkpoint has hyper-connections of another kind or number than the model that is to take it."""


class NewerCheckpointError(MhcError):
    """A checkpoint was written in a format that only later versions of this package know."""


class UnreadableCheckpointError(MhcError):
    """A checkpoint is truncated, incomplete, or no checkpoint at all."""


class MissingCheckpointError(MhcError):
    """There is no checkpoint at the place that was named."""


class UnsafeCheckpointError(MhcError):
    """A checkpoint asks for code to be run; it was not."""


class UnloadableEntryError(MhcError, TypeError):
    """Something that is to be saved is neither tensor nor plain data, so the checkpoint could not be loaded."""


class NothingObservedError(MhcError):
    """A call ran none of the hyper-connections of a model, or they have no values, so there are no figures."""


class NotPreservingError(MhcError):
    """The hyper-connections have been trained, so the plain model computes something else."""


class PipelineError(MhcError):
    """A model cannot be cut into the stages that were asked for; each cause has a class of its own."""


class UnknownCutError(PipelineError):
    """A model is to be cut in front of a module that does not exist, or that computes nothing in the traced call."""


class CutOrderError(PipelineError):
    """The modules to cut in front of run in another order, or one stage would have nothing to compute."""


class BranchCutError(PipelineError):
    """A cut lies between the read and the write of a residual connection."""


class SharedParameterError(PipelineError):
    """Two stages of a pipeline use the same parameter, such as an embedding tied to the head."""


class SharedWriteError(PipelineError):
    """A stage of a pipeline changes a value in place that another stage uses."""


class UnsentValueError(PipelineError):
    """Something else than a tensor would have to be sent from one stage of a pipeline to the next."""


class StageOutputError(PipelineError):
    """A model returns something else than tensors, which the last stage of a pipeline may not."""


class StageCallError(PipelineError):
    """A stage of a pipeline is called in another way than it was traced for, and cannot be traced anew."""


class ParallelError(MhcError, ValueError):
    """The model is distributed over processes in a way that its hyper-connections do not work with."""


class UnsupportedTorchError(MhcError, ImportError):
    """A private PyTorch interface this package needs is missing from the installed version."""


class KernelInputError(MhcError, ValueError):
    """A tensor given to a fused step has a shape, dtype or device that does not fit the others."""


class PackageNeedsPythonError(MhcError):
    """A package of AOTInductor would call an operator of this package, which is Python; see docs/export.md."""


class UnknownTargetError(MhcError):
    """A command line target cannot be understood or does not exist."""


class MissingPackageError(MhcError, ImportError):
    """A target needs an optional package that is not installed."""


class FactoryError(MhcError):
    """The factory of a target raised or returned something that is not a module."""


class VerificationError(MhcError):
    """A transformed model computes something else than it should, or cannot be run to see."""
