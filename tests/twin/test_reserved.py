"""Models that have something of their own under a name that is needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import MhcError, ReservedNameError
from mhc_compile.twin.reserved import check_free
from tests.test_bad_input import same, snapshot
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH)
GIVEN = {"example_inputs": (X,)}


class WithChild(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.hyper_connections = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.hyper_connections[0](x))


class WithParameter(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.hyper_connections = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.hyper_connections)


class WithBuffer(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hyper_connections", torch.ones(WIDTH))


class WithOption(Tower):
    """An attribute of the instance would hide the new child."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper_connections = None


class WithProperty(Tower):
    @property
    def hyper_connections(self) -> int:
        raise RuntimeError("asking for it costs something")


class WithMethod(Tower):
    def hyper_connections(self) -> int:
        return 4


class WithPlan(Tower):
    mhc_plan = "drawn by hand"


CASES = {
    WithChild: "has a child of its own called hyper_connections",
    WithParameter: "has a parameter of its own",
    WithBuffer: "has a buffer of its own",
    WithOption: "has an attribute of its own",
    WithProperty: "has a property of its own",
    WithMethod: "has a method of its own",
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("how", ["transform", "plan", "attach"])
def test_each_front_end_says_what_is_in_the_way_and_changes_nothing(kind: type[nn.Module], how: str) -> None:
    model = kind()
    before = snapshot(model)
    backend = mhc_compile.backend(n=2, inner="eager")
    calls = {"transform": mhc_compile.transform, "plan": mhc_compile.plan, "attach": backend.attach}
    with pytest.raises(ReservedNameError, match=CASES[kind]) as caught:
        calls[how](model, **GIVEN)
    assert isinstance(caught.value, MhcError)
    assert same(before, snapshot(model)) and not backend.records
    if how == "attach":
        backend.attach(Tower(), **GIVEN)  # the backend did not take the first model for its own


def test_a_plan_of_the_models_own_is_not_overwritten() -> None:
    with pytest.raises(ReservedNameError, match="called mhc_plan"):
        mhc_compile.transform(WithPlan(), **GIVEN)
    assert mhc_compile.backend(n=2, inner="eager").attach(WithPlan(), **GIVEN)  # which needs no such attribute


def test_a_compiled_call_of_such_a_model_raises_and_leaves_its_child() -> None:
    model = WithChild()
    own = model.hyper_connections
    model.compile(backend=mhc_compile.backend(n=2, inner="eager"))
    with pytest.raises(ReservedNameError, match="child of its own"):
        model(X)
    assert model.hyper_connections is own
    torch.compiler.reset()


def test_a_graph_module_with_such_a_child_is_refused() -> None:
    class Traceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hyper_connections, self.block = nn.Linear(WIDTH, WIDTH), Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(self.hyper_connections(x))

    gm = torch.fx.symbolic_trace(Traceable())
    with pytest.raises(ReservedNameError, match="child of its own"):
        mhc_compile.rewrite(gm, n=2, **GIVEN)


@pytest.mark.parametrize("kind", [WithChild, WithParameter, WithMethod], ids=lambda kind: kind.__name__)
def test_inside_a_module_that_holds_the_model_the_name_is_free(kind: type[nn.Module]) -> None:
    whole = nn.Sequential(kind())
    twin = mhc_compile.transform(whole, n=2, **GIVEN)
    torch.testing.assert_close(twin(X), whole(X), atol=1e-5, rtol=1e-5)
    assert set(whole.parameters()) <= set(twin.parameters()) and len(twin.hyper_connections) == 3


def test_hyper_connections_of_this_package_are_no_obstacle() -> None:
    model = Tower()
    mhc_compile.backend(n=2, inner="eager").attach(model, **GIVEN)
    check_free(model)
    check_free(mhc_compile.transform(Tower(), n=2, **GIVEN))
    check_free(torch.nn.Linear(2, 2))
