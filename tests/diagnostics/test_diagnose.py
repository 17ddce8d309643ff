"""`diagnose`: every connection as its formulas have it, what is not finite, what moved, and a model left as it was."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import mhc_compile
from mhc_compile.errors import NothingObservedError, NotTransformedError
from mhc_compile.kernels.operators import streams
from tests.diagnostics.hand import EXPLODING, KNOWN, gpt, set_mixing, tower
from tests.diagnostics.known import KEYS, assert_known, with_known_mixing
from tests.ranks import run_ranks
from tests.tables import also
from tests.test_fsdp import shard
from tests.toy_models import WIDTH, Tower

CONNECTIONS = ("mhc", "hc", "mhc-single-pass", "identity", "residual")


def test_hand_made_matrices_are_seen_exactly():
    model, x = with_known_mixing()
    assert_known(mhc_compile.diagnose(model, x))


@pytest.mark.parametrize("how", ["around", *also("in place", "block by block")])
def test_a_compiled_model_is_looked_at_uncompiled(how):
    model, x = with_known_mixing()
    called = model
    if how == "around":
        called = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        for block in model.blocks:
            block.compile(backend="eager")
    before = called(x)
    assert_known(mhc_compile.diagnose(called, x))
    torch.testing.assert_close(called(x), before, rtol=0, atol=0)


def test_a_model_behind_the_backend_is_looked_at_and_left_as_it_was():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    model = Tower(5).double()
    backend = mhc_compile.backend(connection="hc-static", inner="eager", exclude=["blocks.4"])
    backend.attach(model, (x,))
    set_mixing(model, {key: R for key, (R, *_) in zip(KEYS, KNOWN.values(), strict=True)})
    compiled = torch.compile(model, backend=backend)
    before, names = compiled(x), set(model.state_dict())
    for called in (compiled, model):
        assert_known(mhc_compile.diagnose(called, x))
    assert set(model.state_dict()) == names and "forward" not in vars(model)
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=0)


def drawn(model):
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("connection", [*CONNECTIONS, *also("mhc-lite", "kronecker", "circulant", "hc-static")])
def test_every_connection_is_seen_as_the_formulas_have_it(connection, monkeypatch):
    model, ids = gpt(connection)
    drawn(model)
    found = mhc_compile.diagnose(model, ids)
    assert [s.key for s in found.sites] == [s.key for s in model.mhc_plan.sites]
    assert [s.trouble for s in found.sites] == [""] * 4 and found.n == (1 if connection == "residual" else 4)
    x = model.token(ids) + model.position.weight[: ids.shape[1]]
    first = found.sites[0]
    params = list(model.hyper_connections[first.key].parameters()) if connection != "residual" else []
    n = found.n
    pre, post, R = streams.entry_coefficients(x, params, connection=connection, n=n, axis=2)
    assert first.pre_mean == pytest.approx(pre.expand(n, 2, 8, 1).mean((1, 2, 3)).tolist(), abs=1e-6)
    assert first.post_mean == pytest.approx(post.expand(n, 2, 8, 1).mean((1, 2, 3)).tolist(), abs=1e-6)
    expected = R.expand(n, n, 2, 8, 1).mean((2, 3, 4))
    torch.testing.assert_close(torch.tensor(first.mixing), expected, rtol=0, atol=1e-6)
    if connection not in ("hc", "hc-static", "residual"):
        assert all(s.gain_forward == pytest.approx(1, abs=1e-4) for s in found.sites)
    assert json.loads(found.to_json())["sites"][0]["key"] == first.key


def test_streams_differ_behind_the_first_site_only():
    model, ids = gpt("mhc")
    first, second, *_ = mhc_compile.diagnose(model, ids).sites
    assert first.spread == 0 and first.similarity == pytest.approx(1)
    assert second.spread > 1e-3 and second.similarity < 1
    assert sum(second.read_share) == pytest.approx(1)


def test_single_pass_is_read_with_the_weights_of_the_site_before():
    model, ids = gpt("mhc-single-pass", init="random", reduce="mean")
    drawn(model)
    found = mhc_compile.diagnose(model, ids)
    second = found.sites[1]
    own = mhc_compile.diagnose(gpt_like(model, ids), ids).sites[1]
    assert own.pre_mean == pytest.approx(second.pre_mean)  # same streams, same parameters
    assert second.read_share != pytest.approx(own.read_share, abs=1e-3)


def gpt_like(model, ids):
    """`mhc` over the same parameters, read at the entry as single-pass is."""
    other, _ = gpt("mhc")
    state = {
        **model.state_dict(),
        "hyper_connections._extra_state": other.state_dict()["hyper_connections._extra_state"],
    }
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("where", ["branch", *also("parameters", "streams")])
def test_the_first_site_that_is_not_finite_is_named(where):
    model, x = tower(connection="mhc")
    with torch.no_grad():
        if where == "branch":
            model.blocks[2].down.bias[3] = float("inf")
        elif where == "parameters":
            model.hyper_connections["blocks.2"].bias[0] = float("nan")
        else:
            x = x.clone()
            x[0, 0, 0] = float("nan")
    found = mhc_compile.diagnose(model, x)
    site = "blocks.0" if where == "streams" else "blocks.2"
    assert next(s for s in found.sites if s.trouble).key == site
    assert found.site(site).trouble == where
    assert found.alarms[0].kind == "non-finite" and found.alarms[0].site == site


def test_parameters_that_moved_are_counted_and_those_that_did_not_are_exactly_still():
    model, ids = gpt("mhc")
    still = mhc_compile.diagnose(model, ids)
    assert all(p.distance == 0 for s in still.sites for p in s.parameters) and still.segments[0].moved == 0
    with torch.no_grad():
        model.hyper_connections["blocks.0.mlp"].alpha.add_(3e-3)
    found = mhc_compile.diagnose(model, ids)
    distances = {p.name: p.distance for p in found.site("blocks.0.mlp").parameters}
    assert distances == pytest.approx({"phi": 0, "alpha": 3e-3, "bias": 0}, abs=1e-8)
    assert found.segments[0].moved == 1


def test_a_random_start_is_not_known():
    model, ids = gpt("mhc", init="random")
    assert [p.distance for p in mhc_compile.diagnose(model, ids).sites[0].parameters] == [None, 0, 0]


def draws(*_):
    """As dropout does."""
    torch.rand(1)


def test_the_model_is_left_as_it_was():
    model, ids = gpt("mhc")
    programs, state = list(model._mhc.programs), copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    model.blocks[0].register_forward_hook(draws)
    mhc_compile.diagnose(model, ids)
    assert model._mhc.programs == programs and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model(ids).requires_grad


def test_fewer_tokens_are_a_part_of_all():
    model, ids = gpt("mhc")
    found = mhc_compile.diagnose(model, ids, tokens=5)
    assert [(s.tokens, s.all_tokens) for s in found.sites] == [(5, 16)] * 4


@pytest.mark.exhaustive  # `model/test_kinds_of_calls.py` traces such calls
def test_a_kind_of_call_that_is_new_is_traced_and_looked_at():
    model, ids = gpt("mhc")
    model.eval()
    assert len(mhc_compile.diagnose(model, ids).sites) == 4


def test_status_is_one_line_per_segment_at_rest_and_in_a_call():
    model, x = tower()
    set_mixing(model, dict.fromkeys(KEYS, EXPLODING))
    assert mhc_compile.status(model) == (
        "segment 0: 4 sites, composite gain 5.06 forward, 5.06 backward, at rest, 4 of 12 parameters moved"
    )
    assert "streams differ by" in mhc_compile.status(model, x)


def test_a_plain_model_is_refused():
    with pytest.raises(NotTransformedError, match="Tower has no hyper-connections"):
        mhc_compile.diagnose(Tower(), torch.randn(2, 3, WIDTH))


def test_a_model_without_values_is_refused():
    model, x = tower()
    with pytest.raises(NothingObservedError, match="meta device"):
        mhc_compile.diagnose(model.to("meta"), x)


def sharded(rank, folder):
    for connection in ("hc-static", "mhc"):
        model, x = with_known_mixing() if connection == "hc-static" else tower(connection="mhc")
        if connection == "mhc":
            drawn(model)
        single = mhc_compile.diagnose(copy.deepcopy(model), x[rank : rank + 1])
        shard(model)
        found = mhc_compile.diagnose(model, x[rank : rank + 1])
        if connection == "hc-static":
            assert_known(found)
        for mine, alone in zip(found.sites, single.sites, strict=True):
            assert mine.composite_forward == pytest.approx(alone.composite_forward, abs=1e-9)
            assert mine.read_share == pytest.approx(alone.read_share, abs=1e-9)
            assert [p.distance for p in mine.parameters] == pytest.approx([p.distance for p in alone.parameters])
        assert "at rest" in mhc_compile.status(model)
        with torch.no_grad():
            model.blocks[2].down.bias.to_local().fill_(float("nan"))
        assert mhc_compile.diagnose(model, x[rank : rank + 1]).alarms[0].site == "blocks.2"


@pytest.mark.slow
def test_two_sharded_processes_see_what_one_does(tmp_path):
    run_ranks(sharded, tmp_path)
