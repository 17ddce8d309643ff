from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import CaptureError, DeferredForwardError, NotPreservingWarning
from mhc_compile.model import retrace
from mhc_compile.programs import variants
from mhc_compile.twin.hyper_connections import HyperConnections
from tests.copies import copied
from tests.tables import also
from tests.toy_models import WIDTH, Block, Checkpointed, Forked, Normalised, Tokens, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


def transformed(model=None, x=X, modes=("train",)):
    return mhc_compile.transform(model, n=2, example_inputs=(x,), modes=modes) if model else tower()


@copied
def tower():
    return mhc_compile.transform(Tower(), n=2, example_inputs=(X,))


def programs(model):
    return len(model._mhc.programs)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def pair():
    model = Tower()
    return model, transformed(model, modes=("train", "eval"))


def test_class_and_attributes_are_those_of_the_model(pair):
    model, twin = pair
    assert isinstance(twin, Tower) and type(twin).__name__ == "Tower" and repr(twin).startswith("Tower(")
    assert (twin.family, twin.comment) == ("tower", "kept")
    assert inspect.signature(twin.forward) == inspect.signature(model.forward)


def test_parameters_and_buffers_are_shared_modules_are_not(pair):
    model, twin = pair
    assert twin.blocks[0].up.weight is model.blocks[0].up.weight and twin.scale is model.scale
    assert twin.blocks[0] is not model.blocks[0] and type(model.blocks[0]) is Block
    assert twin.head.weight is twin.stem.weight and twin.unused.weight is model.unused.weight


def test_original_is_untouched(pair):
    model, _ = pair
    fresh = Tower()
    assert type(model) is Tower and set(vars(model)) == set(vars(fresh))
    assert list(model.state_dict()) == list(fresh.state_dict())


def test_names_are_the_original_ones_and_hyper_connections(pair):
    model, twin = pair
    new = [k for k in twin.state_dict() if k not in model.state_dict()]
    assert set(model.state_dict()) <= set(twin.state_dict())
    assert new and all(k.startswith("hyper_connections.") for k in new)
    assert {k.partition(".")[0] for k, _ in twin.named_parameters()} >= {"hyper_connections", "blocks"}


def test_hyper_connections_are_a_mapping_by_site_key(pair):
    _, twin = pair
    connections = twin.hyper_connections
    keys = [s.key for s in twin.mhc_plan.sites]
    assert isinstance(connections, HyperConnections) and list(connections.keys()) == keys == list(connections)
    assert len(connections) == 3 and keys[0] in connections and "nothing" not in connections
    assert dict(connections.items())[keys[1]] is connections[keys[1]]
    assert connections[keys[0]].phi.shape[0] == 2 * WIDTH
    with pytest.raises(KeyError, match="nothing"):
        connections["nothing"]


def test_function_is_preserved_in_both_modes_and_other_sizes(pair):
    model, twin = pair
    before = programs(twin)
    for x in (X, torch.randn(5, 7, WIDTH)):
        for training in (True, False):
            model.train(training), twin.train(training)
            assert close(twin(x), model(x))
    assert programs(twin) == before == 2


def test_new_parameters_are_used():
    twin = transformed()
    before = twin(X)
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not close(twin(X), before)


def test_other_arguments_are_traced_when_they_come():
    twin = transformed()
    mask = torch.ones(2, 3, 1)
    mask[0] = 0
    plain = mhc_compile.revert(twin)
    assert close(twin(X, mask=mask), plain(X, mask=mask)) and programs(twin) == 3
    assert close(twin(X, gain=2.0), plain(X, gain=2.0)) and programs(twin) == 4
    assert close(twin(X[:1]), plain(X[:1])) and programs(twin) == 5
    twin(X, gain=2.0)
    assert programs(twin) == 5
    for gain in (1.0, 3.0):  # a number that changes is for Dynamo
        assert close(twin(X[:1], gain=gain), plain(X[:1], gain=gain)) and programs(twin) == 5


def test_labels_given_later_change_the_output_structure():
    ids = torch.randint(0, 11, (2, 3))
    model = Tokens()
    twin = transformed(model, ids)
    assert set(twin(ids)) == {"hidden"}
    out, expected = twin(ids, labels=torch.ones(2, 3)), model(ids, labels=torch.ones(2, 3))
    assert set(out) == set(expected) and close(out["loss"], expected["loss"])


def test_gradient_mode_never_leaks():
    ids = torch.randint(0, 11, (2, 3))
    twin = transformed(Tokens(), ids, modes=("eval",)).eval()
    before = programs(twin)
    with torch.no_grad():
        assert not twin(ids)["hidden"].requires_grad
        assert not torch.is_grad_enabled()
    assert twin(ids)["hidden"].requires_grad
    assert programs(twin) == before


def test_frozen_batch_norm_has_its_own_graph():
    x = torch.randn(4, WIDTH) * 3 + 1
    model = Normalised()
    twin = transformed(model, x)
    twin.train()
    twin.bn.eval()
    mean = twin.bn.running_mean.clone()
    assert close(twin(x), mhc_compile.revert(twin)(x))
    assert torch.equal(twin.bn.running_mean, mean)
    twin.bn.train()
    twin(x)
    assert not torch.equal(twin.bn.running_mean, mean)


def test_training_reaches_old_and_new_parameters():
    twin = transformed()
    twin(X).square().mean().backward()
    grads = {name for name, p in twin.named_parameters() if p.grad is not None}
    assert "blocks.1.up.weight" in grads and any(name.startswith("hyper_connections.") for name in grads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, *also(torch.float16)])
def test_cast_after_transform(dtype):
    twin = transformed().eval().to(dtype)
    plain = mhc_compile.revert(twin)
    out = twin(X.to(dtype))
    assert out.dtype == dtype
    assert torch.allclose(out.float(), plain(X.to(dtype)).float(), rtol=0.1, atol=0.1)


def test_a_dtype_that_the_model_asks_its_parameters_for_is_no_constant():
    class Casting(Block):
        def forward(self, x):
            return super().forward(x.to(self.up.weight.dtype))

    twin = mhc_compile.transform(Casting(), n=2, example_inputs=(X,), modes=("train",))
    assert twin(X).dtype == torch.float32 and programs(twin) == 1
    assert twin.double()(X).dtype == torch.float64 and programs(twin) == 2


def test_moved_to_meta():
    twin = transformed().to("meta")
    assert twin(X.to("meta")).device.type == "meta"


def test_replaced_parameter_is_seen():
    twin = transformed()
    twin.head.bias = nn.Parameter(torch.full((WIDTH,), 7.0))
    twin.blocks[0] = Block()
    assert close(twin(X), mhc_compile.revert(twin)(X)) and programs(twin) == 3


def test_deepcopy_is_independent():
    twin = transformed()
    other = copy.deepcopy(twin)
    assert type(other) is type(twin) and close(other(X), twin(X))
    with torch.no_grad():
        other.stem.bias.add_(1)
        next(iter(other.hyper_connections.parameters())).add_(1)
    assert not any(a is b for a, b in zip(other.parameters(), twin.parameters(), strict=True))
    assert not close(other(X), twin(X))


def test_deepcopy_does_not_share_constants():
    x = torch.randn(2, WIDTH)
    twin = transformed(Checkpointed(), x)
    other = copy.deepcopy(twin)
    other.shift.zero_()
    assert not close(other(x), twin(x))
    assert close(other(x), mhc_compile.revert(other)(x))


def test_pickle_restores_class_parameters_and_plan():
    twin = transformed()
    other = pickle.loads(pickle.dumps(twin))
    assert isinstance(other, Tower) and other.mhc_plan == twin.mhc_plan
    assert programs(other) == 0 and close(other(X), twin(X)) and programs(other) == 1


def test_the_class_makes_plain_models_with_the_arguments_of_the_original(pair):
    kind = type(pair[1])
    plain = kind(depth=2, width=WIDTH)
    assert type(plain) is Tower and len(plain.blocks) == 2 and plain(X).shape == X.shape
    assert inspect.signature(kind) == inspect.signature(Tower)


def test_a_slice_of_a_sequential_is_plain():
    twin = transformed(nn.Sequential(Block(), Block()))
    assert type(twin[:1]) is nn.Sequential and twin[:1](X).shape == X.shape


def test_torch_save_and_load():
    twin, file = transformed(), io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    assert close(torch.load(file, weights_only=False)(X), twin(X))


def test_state_dict_fits_a_fresh_transform():
    twin, other = transformed(), transformed()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    other.load_state_dict(twin.state_dict(), strict=True)
    assert torch.equal(other(X), twin(X))


def test_hooks_run_once():
    calls = []
    model = Tower()
    model.register_forward_hook(lambda *args: calls.append("hook"))
    twin = transformed(model)
    calls.clear()
    twin(X)
    assert calls == ["hook"]


def test_forward_set_on_the_instance_is_honoured():
    model = Tower()
    plain = model.forward
    model.forward = lambda x: plain(x) * 3
    twin = transformed(model)
    assert close(twin(X), Tower.forward(model, X) * 3)
    assert close(mhc_compile.revert(twin)(X), model(X))


def test_checkpointed_region_trains_like_the_original():
    x = torch.randn(2, WIDTH)
    model = Checkpointed()
    twin = transformed(model, x)
    model(x).sum().backward()
    expected = model.inner.weight.grad.clone()
    model.zero_grad()
    twin(x).sum().backward()
    assert close(twin.inner.weight.grad, expected)


def test_call_that_needs_unknown_sites_is_an_error_that_says_what_to_do():
    twin = transformed(Forked(), torch.randn(2, 4, WIDTH))
    with pytest.raises(CaptureError, match=r"long.*example_inputs"):
        twin(torch.randn(2, 6, WIDTH))


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def test_sizes_that_change_at_every_call_are_for_dynamo_in_the_end(monkeypatch):
    monkeypatch.setattr(retrace, "MAX_ALIKE", 2)
    monkeypatch.setattr(variants, "_changing", lambda *_: {})  # as where a trace with open sizes fails
    twin = transformed(Convolved(), torch.randn(2, 4, 50))
    for length in range(51, 55):
        x = torch.randn(2, 4, length)
        assert close(twin(x), mhc_compile.revert(twin)(x))
    assert programs(twin) <= 2


@pytest.mark.parametrize("backend", ["eager", *also("inductor")])  # of open sizes, `kernels/test_lowering.py` has some
def test_compiles_in_one_graph_with_an_open_batch(backend):
    torch._dynamo.reset()
    twin = transformed().eval()
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    for batch in (2, 3, 4, 6):
        x = torch.randn(batch, 3, WIDTH)
        assert close(compiled(x), twin(x))


def test_compiled_call_of_a_new_kind_says_to_run_it_once():
    torch._dynamo.reset()
    twin = transformed()
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="call the model once before compiling"):
        compiled(X, gain=2.0)
    twin(X, gain=2.0)
    assert close(compiled(X, gain=2.0), twin(X, gain=2.0))


def test_compiled_without_fullgraph_traces_the_new_kind_itself():
    torch._dynamo.reset()
    twin = transformed()
    assert close(torch.compile(twin, backend="eager")(X, gain=2.0), twin(X, gain=2.0))


def test_what_was_compiled_in_place_does_not_follow_its_copy():
    twin = transformed()
    twin.compile(backend="eager")
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.add_(torch.randn_like(parameter))
    with pytest.warns(NotPreservingWarning):
        plain = mhc_compile.revert(twin)
    assert plain._compiled_call_impl is None
    assert not close(plain(X), twin(X))


def test_a_class_derived_from_that_of_the_result_does_its_own_around_the_program():
    twin = transformed(Tower())
    before = twin(X)

    class Tripled(type(twin)):
        def forward(self, x):
            return 3 * super().forward(x)

    class Mixed:
        def forward(self, x):
            return 2 * super().forward(x)

    twin.__class__ = Tripled
    assert close(twin(X), 3 * before)
    twin.__class__ = type("Both", (Mixed, Tripled), {})
    assert close(twin(X), 6 * before)


def test_a_class_derived_from_that_of_a_block_is_traced():
    twin = transformed(Tower())

    class Zeroed(type(twin.blocks[0])):
        def forward(self, x):
            return 0 * super().forward(x)

    for block in twin.blocks:
        block.__class__ = Zeroed
    assert close(twin(X), twin.head(torch.zeros_like(X)))


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_forward_that_computes_only_later_is_refused(kind):
    source = f"{kind} forward(self, x):\n    {'return' if 'async' in kind else 'yield'} self.head(x)"
    namespace: dict = {}
    exec(source, namespace)
    with pytest.raises(DeferredForwardError, match="transform the module that it calls"):
        mhc_compile.transform(type("Later", (Tower,), namespace)(), example_inputs=(X,))
