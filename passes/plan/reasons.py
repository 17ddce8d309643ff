"""Why a float add is no residual site: every reason, under the file that gives it first.

A new one begins here. It belongs under the first file that can tell, in the order in which they run; what is turned
away early is never seen by those behind.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a float add is not a residual site. The value is the sentence shown to a user."""

    # passes/graph/subgraphs.py, sums.py: it is no sum of two tensors, by operator and shapes
    HIGHER_ORDER = "lies in the body of a higher-order operator, which streams do not enter"
    SCALAR = "adds a constant, not a tensor"
    BROADCAST = "the operands have different shapes: a bias, mask or embedding is broadcast"
    VECTOR = "adds vectors, in which a batch or the channels are missing"
    ALONG_AXIS = "adds up parts of its operands along an axis, not one operand to another"
    COMPLEX = "adds complex numbers, for which there are no streams"

    # passes/detect/skips.py: no operand is the skip of the other, by what is computed from what
    NOT_ANCESTOR = "no operand is computed from another: a merge of two paths, not a skip"
    NO_WEIGHT = "no learnable weight lies between the skip and the other operand"
    PROJECTED_SHORTCUT = "the shortcut goes through a weight of its own, so the identity path ends here"
    RESHAPED_SKIP = "the shortcut is changed by an operation that cannot be applied to each stream"

    # passes/detect/residuals.py: there is a skip, but streams cannot take its place
    SLICED = "the branch lies between the positions of the skip: an even convolution, whose surplus is cut off"
    NEGATED_SKIP = "the skip is subtracted, so it is no identity path"
    INPUT_INDEPENDENT = "the skip does not depend on the model's input: a sum of weights, or a position added again"
    MUTATED = "an operand is changed in place and the change is seen elsewhere"
    DEAD = "the result never reaches an output of the model"

    # passes/detect/channels.py: nothing says where the channels are
    UNKNOWN_CHANNELS = "no axis of fixed size is known to hold the channels"

    # passes/detect/look_alikes.py, towers.py: alone it would be a residual, among the others it is none
    INJECTED = "the same value is added in layer after layer: a bias, or an injection, which streams pass"
    COLLECTED = "adds up several states of one stream, as a readout of the last layers does, and no layer"
    MERGE = "takes one operand or the other by a mask, so it is no sum of both"
    MULTI_STREAM = "the model already keeps several residual streams here"

    # passes/detect/choice.py, passes/decide/planner.py: a residual, but others are converted instead
    NESTED = "lies inside (or around) a longer chain of residual sites, and one level is converted"
    EXCLUDED = "left out by include or exclude"
    MIN_SITES = "its segment has fewer sites than min_sites"

    # mhc_compile/dynamo/plans.py: streams do not enter what Dynamo gives a graph of its own
    CUSTOM_BACKWARD = "lies in a torch.autograd.Function, whose own backward knows nothing of streams"
