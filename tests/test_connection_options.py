"""Connections with options, and one that does not keep the function of every model: said before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mhc_compile
from mhc_compile.config import Config
from mhc_compile.errors import CheckpointMismatchError, InvalidOptionError, NotPreservingWarning
from tests.moved import move
from tests.tables import also

C = 16
X = torch.randn(3, 4, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Three branches, each behind a norm."""

    def __init__(self, norm: type[nn.Module] = nn.RMSNorm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(C, eps=1e-6, dtype=torch.float64) for _ in range(3))
        self.f = nn.ModuleList(nn.Linear(C, C, dtype=torch.float64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for norm, f in zip(self.norms, self.f, strict=True):
            x = x + torch.tanh(f(norm(x)))
        return x


def converted(model: nn.Module, connection: str, **options: object) -> nn.Module:
    options = {"example_inputs": (X,), "modes": ("eval",), "connection": connection, **options}
    return mhc_compile.transform(model.eval(), **options)


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_gated_keeps_the_function_where_branches_begin_with_a_norm_and_says_where_not(norm):
    model = Net(norm)
    made = converted(model, "gated:rank=4")
    torch.testing.assert_close(made(X), model(X), rtol=0, atol=1e-5)
    assert (made(X) - model(X)).abs().max() > 0, "an eps lies between"
    assert any("only where every branch begins with a norm of its channels" in note for note in made.mhc_plan.notes)
    other = Net(lambda *args, **options: nn.Identity())
    assert (converted(other, "gated:rank=4")(X) - other(X)).abs().max() > 1e-2
    with pytest.warns(NotPreservingWarning, match="gated"):
        mhc_compile.revert(made)
    assert not converted(model, "mhc").mhc_plan.notes


@pytest.mark.parametrize("n", [2, 4])
def test_every_parameter_of_gated_learns_within_two_steps(n):
    made = converted(Net(), "gated:rank=4", n=n)
    parameters = dict(made.hyper_connections.named_parameters())
    assert {name.rpartition(".")[2] for name in parameters} == {"norm", "down", "up", "inject"}
    optimizer, alive = torch.optim.SGD(parameters.values(), lr=0.1), set()
    target = torch.randn_like(X)
    for _ in range(2):
        optimizer.zero_grad()
        (made(X) - target).square().mean().backward()
        alive |= {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert alive == set(parameters)


def test_streams_of_gated_do_not_stay_equal():
    """Unequal read weights break a symmetry that no gradient would."""
    made = converted(Net(), "gated:rank=4")
    (made(X) * torch.randn_like(X)).sum().backward()
    gradient = made.hyper_connections["f.1"].inject.grad
    assert (gradient - gradient[:, :1]).abs().max() > 1e-6


def test_options_have_one_spelling_and_a_checkpoint_says_them():
    assert Config(connection="identity:eps=0.0,magnitude=2").connection == "identity"
    assert Config(connection="identity:eps=1e-6,magnitude=1.5").connection == "identity:magnitude=1.5,eps=1e-06"
    assert Config(connection="gated:rank=4", n=1).effective_connection == "residual"
    made, other = converted(Net(), "identity:eps=1e-6"), converted(Net(), "identity")
    assert made.mhc_plan.connection == "identity:eps=1e-06"
    with pytest.raises(CheckpointMismatchError, match="identity:eps=1e-06"):
        other.load_state_dict(made.state_dict())
    move(made)
    converted(Net(), "identity:eps=1e-6").load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    ("connection", "match"),
    [
        ("identiti", "'identiti' is not known: write one of 'residual', 'hc'"),
        ("identity:speed=1", "'speed' is no option of it, its options are magnitude, eps"),
        ("identity:eps", "eps is '': write a number, as in eps=0.0"),
        ("gated:rank=1.5", "rank is '1.5': write a whole number, as in rank=32"),
        ("gated:rank=0", "write a rank of at least 1"),
        ("identity:eps=0.5", "an eps from 0 to 0.05"),
        ("identity:magnitude=inf", "magnitude is 'inf': write a number"),
        ("identity:eps=0,eps=1e-6", "says eps twice"),
        ("identity:magnitude=1.1,eps=0.05", r"magnitude must be above 1\.15"),
        ("mhc:eps=0", "it takes no options"),
        ("identity:magnitude=1.0", r"magnitude must be above 1.2.*or init='random'"),
        (4, "connection=4 is no text"),
    ],
)
def test_wrong_options_are_named(connection, match):
    with pytest.raises(InvalidOptionError, match=match):
        Config(connection=connection)


def test_a_magnitude_that_cannot_write_one_trains_from_scratch():
    made = converted(Net(), "identity:magnitude=1.0", init="random")
    bias = made.hyper_connections["f.1"].bias
    assert torch.equal(bias[4:], torch.zeros(4, dtype=bias.dtype))


@pytest.mark.slow
@pytest.mark.parametrize("connection", ["gated:rank=4", *also("identity:eps=1e-3")])
def test_a_compiled_model_knows_the_options_without_a_warning(connection, recwarn):
    made = move(converted(Net(), connection, n=2, reduce="learned"))
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), made(X))
    assert not [str(w.message) for w in recwarn if "lru_cache" in str(w.message)]


def test_options_count_where_a_site_runs_in_plain_pytorch():
    """Its tokens change their order, so that it is not fused."""

    class Moved(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = x + torch.tanh(self.f[0](x))
            x = x.transpose(1, 2) + torch.tanh(self.f[1](x)).transpose(1, 2)
            return x + torch.tanh(self.f[2](x))

    deep = X.unsqueeze(2).expand(3, 4, 5, C).contiguous()
    model = Moved()
    made = converted(model, "identity:magnitude=1.5,eps=0.01", example_inputs=(deep,))
    assert "MOVED_AXES" in {step.reason.name for step in made.mhc_plan.steps if step.reason}
    torch.testing.assert_close(made(deep), model(deep), rtol=0, atol=1e-10)
    with torch.no_grad():
        eager = move(made)(deep)
        compiled = torch.compile(made, backend="aot_eager", fullgraph=True)(deep)
    torch.testing.assert_close(compiled, eager)
