from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn

from mhc_compile.capture.trace import capture
from mhc_compile.config import Config
from mhc_compile.passes.history import GAP, PASSES, History, Line, PassRecord, around, snapshot
from mhc_compile.passes.order import make_plan, rewrite_graph
from tests.toy_models import WIDTH, Checkpointed, Tower


def watched(model: nn.Module, **options: object) -> tuple[fx.GraphModule, History]:
    gm = capture(model, (torch.randn(4, 5, WIDTH),)).gm
    history, config = History(), Config(**options)  # type: ignore[arg-type]
    rewrite_graph(gm, make_plan(gm, config, watch=history), config, history)
    return gm, history


def test_every_pass_is_recorded_in_order() -> None:
    gm, history = watched(Tower())
    assert [record.name for record in history.records] == list(PASSES)
    for before, after in zip(history.records, history.records[1:], strict=False):
        assert before.after == after.before
    assert history.records[-1].after == snapshot(gm)


def test_no_work_is_done_between_the_passes() -> None:
    """A record begins where the last one ended: what happened in between would be added to it."""
    gm, config = capture(Tower(), (torch.randn(4, 5, WIDTH),)).gm, Config()
    seen: list[object] = []

    @contextmanager
    def watch(name: str, graph: fx.GraphModule) -> Iterator[None]:
        if seen:
            assert snapshot(graph) == seen[-1], f"in front of {name}"
        yield
        seen.append(snapshot(graph))

    rewrite_graph(gm, make_plan(gm, config, watch=watch), config, watch)
    assert len(seen) == len(PASSES) and seen[0] != seen[-1]


def test_a_watched_rewrite_is_the_rewrite() -> None:
    gm = capture(Tower(), (torch.randn(4, 5, WIDTH),)).gm
    plain = rewrite_graph(gm, make_plan(gm, Config()), Config())
    assert snapshot(plain) == snapshot(watched(Tower())[0])


def test_the_plan_touches_nothing_and_the_rewrite_replaces_the_adds() -> None:
    _, history = watched(Tower())
    by_name = {record.name: record for record in history.records}
    assert by_name["plan"].touched == 0 and by_name["recompute"].touched == 0
    assert by_name["rewrite"].removed == 3 and by_name["rewrite"].added > 3 and by_name["rewrite"].seconds > 0
    assert by_name["fuse"].removed > 0


def test_checkpointed_blocks_come_in_and_go_out() -> None:
    _, history = watched(Checkpointed())
    by_name = {record.name: record for record in history.records}
    assert by_name["inline"].touched > 0 and by_name["outline"].touched > 0


def test_counts_are_those_of_two_graphs() -> None:
    before = {"a": Line("a = f(x)"), "b": Line("b = g(a)"), "c": Line("c = h(b)")}
    after = {"a": Line("a = f(x)"), "c": Line("c = h(d)"), "d": Line("d = k(a)")}
    record = PassRecord("rewrite", 0.1, before, after)
    assert (record.added, record.removed, record.changed, record.touched) == (1, 1, 1, 3)


def test_lines_around_a_site_leave_gaps_and_show_where_streams_come_from() -> None:
    graph = {
        "x": Line("x = input"),
        "w": Line(""),
        "source": Line("source = boundary(X)", "other"),
        "far": Line("far = f(x)"),
        "h__0_read": Line("h__0_read = getitem(source, 1)", "", ("source",)),
        "y": Line("y = mlp(h__0_read)"),
    }
    assert around(graph, "h.0", {"y"}) == (
        "source = boundary(X)", GAP, "h__0_read = getitem(source, 1)", "y = mlp(h__0_read)"
    )  # fmt: skip


def test_parameters_are_named_where_they_are_used() -> None:
    gm = capture(Tower(), (torch.randn(4, 5, WIDTH),)).gm
    lines = [line.text for line in snapshot(gm).values() if "layer_norm" in line.text]
    assert lines and all("self.blocks." in line for line in lines)
