"""Draw random residual networks of every shape found in real models, nested and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from tests.fuzz import branches, residuals, steps
from tests.fuzz.spec import Collect, Element, Exchange, Long, Network, Op, Recall, Res, UNet, count, settle

MAX_LENGTH = 5


def networks() -> st.SearchStrategy[Network]:
    """Settled networks: `spec.expected_sites` holds for each."""
    return st.booleans().flatmap(_of_layout).map(_settled)


RARE = ["identity", "hc", "mhc-lite", "kronecker", "circulant"]


def _of_layout(images: bool) -> st.SearchStrategy[Network]:
    return st.builds(
        Network,
        images=st.just(images),
        channels=st.sampled_from([4, 6, 8]),
        start=st.sampled_from(["stem", "stem", "input", "written"]),
        body=_chain(images),
        towers=st.just(()) | st.just(()) | st.tuples(_tower(images), _tower(images)),
        encoder=st.just(()) | st.just(()) | _tower(images),
        join=st.sampled_from(["cat", "sum", "both"]),
        head=st.booleans(),
        n=st.integers(1, 8),
        connection=st.sampled_from(["mhc"] * 4 + ["mhc-single-pass"] * 2 + RARE),
        reduce=st.sampled_from(["mean", "mean", "learned"]),
        seed=st.integers(0, 2**16),
        injects=st.booleans(),
    )


def _chain(images: bool) -> st.SearchStrategy[tuple[Element, ...]]:
    flat = _flat(images)
    inner = st.lists(flat, min_size=1, max_size=MAX_LENGTH).map(tuple)
    long = st.builds(Long, inner, head=st.booleans(), tail=st.booleans())
    levels = st.builds(UNet, st.lists(flat | long, min_size=1, max_size=3).map(tuple))
    towers = st.builds(Exchange, st.integers(2, 3))
    element = st.integers(0, 9).flatmap(lambda i: {0: long, 1: long, 2: levels, 3: towers}.get(i, flat))
    return st.lists(element, min_size=1, max_size=MAX_LENGTH).map(tuple)


def _tower(images: bool) -> st.SearchStrategy[tuple[Element, ...]]:
    """A chain with a residual in front: two towers of which one does nothing would be a long skip."""
    rest = st.lists(_flat(images), max_size=2).map(tuple)
    return st.builds(lambda first, others: (first, *others), _residual(images), rest)


def _flat(images: bool) -> st.SearchStrategy[Element]:
    op = st.builds(Op, st.sampled_from([*steps.PASS, *steps.MAYBE, *steps.END]), _branch(images)).map(_without_unused)
    memory = st.sampled_from([Collect(), Collect(), Recall()])
    return st.integers(0, 9).flatmap(lambda i: {6: memory, 7: op, 8: op, 9: op}.get(i, _residual(images)))


def _residual(images: bool) -> st.SearchStrategy[Element]:
    kinds = [*residuals.BOTH, *(residuals.IMAGES if images else residuals.TOKEN), residuals.WITH_POSITION]
    uses = st.sampled_from([1, 1, 1, 2])
    return st.builds(Res, st.sampled_from(kinds), _branch(images), uses).map(_without_unused)


def _branch(images: bool) -> st.SearchStrategy[str]:
    return st.sampled_from([*branches.BOTH, *(branches.IMAGES if images else branches.TOKEN)])


def _without_unused(element: Res | Op) -> Res | Op:
    return element if _uses_branch(element) else replace(element, branch="mlp")


def _allowed(net: Network) -> int:
    if net.connection == "kronecker":
        return 1 << (net.n.bit_length() - 1)
    return min(net.n, 4) if net.connection == "mhc-lite" else net.n


def _settled(net: Network) -> Network:
    """Decide what depends on the whole: who holds the stream, and options that exclude each other."""
    start_owned = net.start != "input"
    return replace(
        net,
        n=_allowed(net),
        injects=net.injects and _takes_injections(net.body),
        body=settle(net.body, start_owned, after=sum(map(count, (net.encoder, *net.towers)))),
        encoder=settle(net.encoder, True),
        towers=tuple(settle(t, False) for t in net.towers),
    )


def _takes_injections(body: Sequence[Element]) -> bool:
    """Whether every layer is a plain residual, and there are several: what comes back once is a long skip."""
    return len(body) > 2 and all(isinstance(e, Res) and e.kind in _ONTO_STREAMS for e in body)


_ONTO_STREAMS = frozenset({"plain", "pre_norm", "post_norm", "branch_first", "layer_scale", "lerp", "alpha"})


def _uses_branch(element: Res | Op) -> bool:
    """Whether the drawn branch is part of the network."""
    return element.kind not in residuals.OWN_BRANCH if isinstance(element, Res) else element.kind in steps.USES_BRANCH
