"""What to write differently, read off a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.reasons import Reason

_MAX_LISTED = 3  # keys written out in one recommendation

_ADVICE = {
    Reason.PROJECTED_SHORTCUT: (
        "a shortcut with a weight of its own is a stage boundary, where the identity path ends: streams are reduced in "
        "front of it and expanded behind it. There is nothing to change."
    ),
    Reason.UNKNOWN_CHANNELS: (
        "the channel size must be a number that a weight or a norm of the branch shows: pass inputs that fix it, "
        "example_inputs=(...) (--input 2x3x224x224:float32)."
    ),
    Reason.INPUT_INDEPENDENT: (
        "values that no input reaches (position embeddings added in every layer) carry no stream; the residual chain "
        "runs through the other operand. There is nothing to change."
    ),
    Reason.NESTED: (
        'one level of nested residuals is converted: nested="inner" or nested="outer" (--nested inner) converts '
        "the other."
    ),
    Reason.MUTATED: "a tensor changed in place is read elsewhere: write x = x + y instead of x += y to convert it.",
    Reason.HIGHER_ORDER: (
        "streams do not enter the bodies of torch.cond, while_loop, scan and the like: to convert a residual add, "
        "write it around the call, as in x + torch.cond(condition, f, g, (x,))."
    ),
    Reason.INJECTED: (
        "an early value or a bias that is added in every block is no residual around all of them: what is added to the "
        "stream is added to every one. There is nothing to change."
    ),
    Reason.MULTI_STREAM: "the model keeps residual streams of its own here: convert a variant without them.",
}

_NOTHING_TO_ADD_UP = (
    "Nothing that was traced has a float add of rank 2 or more, so there is no residual connection: check that the "
    "target builds the model you mean."
)
_NOTHING_FOUND = (
    "No add has an operand (the skip) from which the others are computed through a learnable weight: check the reasons "
    "above (--all lists every add, inspect --why NODE explains one), and that the target builds the whole model, "
    "not its head."
)
_LEFT_OUT = "Every residual add was left out by include, exclude or min_sites: widen them to convert some."


def recommend(*plans: Plan) -> tuple[str, ...]:
    """Sentences of advice, the most important first; empty if there is nothing to improve.

    Args:
        plans: of all graphs of one model, for what one graph lacks another may have.
    """
    return tuple([*_on_streams(plans), *_on_emptiness(plans), *_on_short_segments(plans), *_on_rejections(plans)])


def advice_on(reason: Reason) -> str:
    """What to do about adds that are left alone for this reason; "" if nothing need be said."""
    return _ADVICE.get(reason, "")


def _has_one_stream(plans: Sequence[Plan]) -> bool:
    return any((plan.n == 1 and not plan.over_sources) or plan.connection == "residual" for plan in plans)


def _on_streams(plans: Sequence[Plan]) -> Iterator[str]:
    if any(plan.sites for plan in plans) and _has_one_stream(plans):
        yield "One stream is the plain residual connection, so nothing would be learned: write n=4 (--n 4)."


def _on_emptiness(plans: Sequence[Plan]) -> Iterator[str]:
    if any(plan.sites for plan in plans):
        return
    reasons = {r.reason for plan in plans for r in plan.rejected}
    if not any(plan.float_adds for plan in plans):
        yield _NOTHING_TO_ADD_UP
    elif reasons & {Reason.EXCLUDED, Reason.MIN_SITES}:
        yield _LEFT_OUT
    elif reasons != {Reason.HIGHER_ORDER}:  # which has an advice of its own
        yield _NOTHING_FOUND


def _on_short_segments(plans: Sequence[Plan]) -> Iterator[str]:
    """At a single site all streams are still equal and the readout cancels R, so only pre and post act."""
    chains = {segment.sites: None for plan in plans for segment in plan.segments}  # a graph may be met twice
    keys = [sites[0] for sites in chains if len(sites) == 1]
    if not keys or _has_one_stream(plans):
        return
    one = len(keys) == 1
    head = "1 segment of a single site gains" if one else f"{len(keys)} segments of a single site gain"
    if len(keys) < len(chains):
        cure = f"min_sites=2 (--min-sites 2) leaves {'it' if one else 'them'} out"
        listed = f", and so does exclude={keys}" if len(keys) <= _MAX_LISTED else ""
        yield f"{head} two gates and no mixing: {cure}{listed}."
    else:
        yield f"{head} two gates and no mixing, and no chain is longer: expect little from more streams."


def _on_rejections(plans: Sequence[Plan]) -> Iterator[str]:
    counts = Counter(r.reason for plan in plans for r in plan.rejected)
    for reason, advice in _ADVICE.items():
        if counts[reason]:
            yield f"{reason.name} ({counts[reason]}): {advice}"
