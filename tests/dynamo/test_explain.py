"""`explain`: which graphs, which breaks, which sites, which adds are left alone; in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.cli import main
from mhc_compile.errors import CaptureError, NotAModuleError
from tests.dynamo.breaking import HALVES, LOOP, Halves, Loop, made
from tests.dynamo.towers import inputs, tower
from tests.toy_models import WIDTH, Block


def test_one_graph_is_the_plan_of_the_dry_run() -> None:
    model, x = tower(), inputs()
    found = mhc_compile.explain(model, x)
    plan = mhc_compile.plan(model, example_inputs=(x,))
    assert len(found.graphs) == 1 and found.breaks == ()
    assert [s.key for s in found.sites] == [s.key for s in plan.sites]
    assert [(r.add, r.reason) for r in found.rejected] == [(r.add, r.reason) for r in plan.rejected]


def test_the_model_is_left_as_it_was() -> None:
    model = tower()
    names = list(model.state_dict())
    mhc_compile.explain(model, inputs())
    assert list(model.state_dict()) == names and not hasattr(model, "hyper_connections")


class Remembering(nn.Module):
    """Counts its calls in a buffer, and keeps its inputs in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(x.detach())
        return self.block(x)


def test_buffers_generators_and_attributes_are_put_back() -> None:
    model, x = Remembering().double(), inputs()
    before = torch.get_rng_state()
    mhc_compile.explain(model, x)
    assert model.calls == 0 and torch.equal(torch.get_rng_state(), before)
    assert not model.seen


def test_a_break_is_named_with_file_and_line() -> None:
    found = mhc_compile.explain(made(Halves), inputs())
    assert [s.key for s in found.sites] == HALVES
    assert len(found.graphs) == 2
    (only,) = found.breaks
    line = int(only.location.rpartition(":")[2])
    source = Path(__file__).with_name("breaking.py").read_text().splitlines()
    assert "graph_break()" in source[line - 1] and only.count == 1
    assert "graph_break" in only.reason
    assert f"break at {only.location} (x1)" in str(found)


def test_a_break_in_a_loop_is_found_although_no_graph_ends_there() -> None:
    found = mhc_compile.explain(made(Loop), inputs())
    assert [s.key for s in found.sites] == LOOP
    assert all(record.origin.partial for record in found.graphs)
    assert "breaking.py:" in found.breaks[0].location


class OwnLoop(nn.Module):
    """Adds and a break in one loop of the model's own: Dynamo makes no graph at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
            if x.sum().item() > 1e9:
                x = x * 2
        return x


def test_a_break_that_leaves_no_graph_is_named() -> None:
    found = mhc_compile.explain(OwnLoop().double(), inputs())
    assert found.graphs == ()
    (only,) = found.breaks
    line = int(only.location.rpartition(":")[2])
    assert ".item()" in Path(__file__).read_text().splitlines()[line - 1]
    assert "data-dependent" in only.reason


def test_a_value_on_the_meta_device_asks_for_memory() -> None:
    with pytest.raises(CaptureError, match="--no-meta"):
        mhc_compile.explain(OwnLoop().double().to("meta"), inputs().to("meta"))


def test_only_the_mode_of_the_model_is_run() -> None:
    assert len(mhc_compile.explain(made(Halves).eval(), inputs()).graphs) == 1


def test_options_are_those_of_the_backend() -> None:
    backend = mhc_compile.backend(n=2, exclude=["blocks.0"])
    found = backend.explain(tower(), inputs())
    assert [s.key for s in found.sites] == ["blocks.1", "blocks.2"]
    assert found.plans[0].n == 2


@pytest.mark.parametrize("stance", ["force_eager", "eager_on_recompile", "fail_on_recompile", "eager_then_compile"])
def test_a_stance_hides_nothing(stance: str) -> None:
    model, x = tower(), inputs()
    wanted = [site.key for site in mhc_compile.explain(model, x).sites]
    with torch.compiler.set_stance(stance):
        found = mhc_compile.explain(model, x)
        mhc_compile.backend(inner="eager").attach(model, (x,))
    assert [site.key for site in found.sites] == wanted == list(model.hyper_connections) and not found.breaks


def test_json_holds_graphs_and_breaks() -> None:
    found = json.loads(mhc_compile.explain(made(Halves), inputs()).to_json())
    assert [len(graph["plan"]["sites"]) for graph in found["graphs"]] == [3, 3]
    assert [b["count"] for b in found["breaks"]] == [1]


def test_a_class_is_refused() -> None:
    with pytest.raises(NotAModuleError, match="an instance"):
        mhc_compile.explain(nn.Linear, torch.ones(1))


MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 8)
    def forward(self, x):
        return x + self.f(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), Block()
    def forward(self, x):
        x = self.a(x)
        torch._dynamo.graph_break()
        return self.b(x)

def make():
    return Net()

def plain():
    return nn.Linear(8, 8)
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return str(path)


def test_the_command_line_prints_the_same(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{target}:make", "--input", "2x3x8"]) == 0
    printed = capsys.readouterr().out
    assert "2 graphs, 1 graph break, 2 sites" in printed
    assert f"{target}:18" in printed
    assert "graph 0" in printed and "graph 1" in printed
    assert "new parameters  795" in printed


def test_recommendations_are_about_all_graphs_together(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{target}:make", "--input", "2x3x8"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Recommendations") == 1
    assert "2 segments of a single site gain" in printed.partition("Recommendations")[2]


def test_the_command_line_prints_json(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{target}:make", "--input", "2x3x8", "--json", "--n", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [graph["plan"]["n"] for graph in found["graphs"]] == [2, 2]


def test_without_a_site_the_command_line_fails(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{target}:plain", "--input", "2x3x8"]) == 2
    assert "in any graph" in capsys.readouterr().err


def test_missing_inputs_are_asked_for_as_the_command_line_takes_them(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", f"{target}:make"]) == 2
    error = capsys.readouterr().err
    assert "--input 2x3x224x224:float32" in error and "forward takes (x)" in error
    assert "mhc_compile.transform" not in error


def test_inputs_that_do_not_fit_are_a_users_error(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{target}:make", "--input", "2x3x5"]) == 2
    assert "raises" in capsys.readouterr().err


def test_attach_refuses_a_model_of_which_there_is_no_graph() -> None:
    for strict in (False, True):
        with pytest.raises(CaptureError, match="no graph"):
            mhc_compile.backend(strict=strict).attach(OwnLoop().double(), (inputs(),))


def test_fullgraph_refuses_it_at_the_first_call() -> None:
    """This backend is never called, so only PyTorch can."""
    compiled = torch.compile(OwnLoop().double(), backend=mhc_compile.backend(inner="eager"), fullgraph=True)
    with pytest.raises((torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError), match="ata-dependent"):
        compiled(inputs())
