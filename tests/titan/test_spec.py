"""A specification with hyper-connections: what it builds, counts, converts, and what optimizers are told."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("torchtitan")

import mhc_compile
from mhc_compile import torchtitan as titan
from mhc_compile._torch_compat import tree_flatten
from mhc_compile.errors import AlreadyTransformedError, CheckpointMismatchError, ParallelError
from mhc_compile.torchtitan import with_hyper_connections
from mhc_compile.torchtitan.names import site_names
from mhc_compile.twin.hyper_connections import new_parameters
from tests.toy_models import Block

TOKENS = torch.arange(32).reshape(2, 16)
POSITIONS = torch.arange(16).expand(2, -1).contiguous()


def configured(family="llama3", layers=2):
    config = getattr(titan, f"{family}_debugmodel_mhc")()
    del config.model_spec.model.layers[layers:]
    return config


def built(spec):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = spec.model.build()
    model.verify_module_protocol()
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_weights(buffer_device=None)
    return model


def plain_of(spec):
    """The model without hyper-connections, and its configuration."""
    kind = type(spec.model).__mro__[1]
    config = kind(**{field.name: getattr(spec.model, field.name) for field in fields(kind)})
    return config.build(), config


@pytest.fixture(scope="module")
def llama():
    config = configured()
    return config, built(config.model_spec)


def moved(model):
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_what_is_built_on_the_meta_device_computes_what_the_plain_model_does(llama):
    config, model = llama
    plain, _ = plain_of(config.model_spec)
    plain.init_states()
    own = plain.state_dict()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in own})
    found, expected = model(TOKENS, positions=POSITIONS), plain(TOKENS, positions=POSITIONS)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert len(model.hyper_connections) == 4


@pytest.mark.parametrize("method", ["init_states", "init_weights"])
def test_every_way_to_initialise_reaches_the_new_parameters(method):
    model = configured().model_spec.model.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        getattr(model, method)(buffer_device=None)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_parameters_and_operations_are_counted_with_the_new_ones(llama):
    config, model = llama
    plain, own = plain_of(config.model_spec)
    (size, operations), (before, cheaper) = (
        c.get_nparams_and_flops(m, 128) for c, m in ((config.model_spec.model, model), (own, plain))
    )
    new = sum(parameter.numel() for parameter, _ in new_parameters(model))
    assert size - before == new > 0
    assert operations - cheaper == 6 * new + 4 * 6 * 4 * 6 * 256  # four sites, n (n + 2) for each of 256 channels


def test_optimizers_let_those_weights_decay_that_parameter_groups_names(llama):
    config, model = llama
    first, every = config.optimizer.param_groups
    spared = {name for name, _ in model.named_parameters() if re.search(first.pattern, name)}
    _, still = mhc_compile.parameter_groups(model)
    ids = {id(parameter) for parameter in still["params"]}
    new = {name for name, p in model.named_parameters() if "hyper_connections" in name and id(p) in ids}
    assert spared == new and new
    assert first.optimizer_kwargs == {**every.optimizer_kwargs, "weight_decay": 0.0}


def test_transformers_takes_the_converted_names_with_the_new_parameters(llama):
    transformers = pytest.importorskip("transformers")
    config, model = llama
    spec, layer = config.model_spec, config.model_spec.model.layers[0]
    adapter = spec.state_dict_adapter(spec.model, None)
    state = adapter.to_hf(moved(model).state_dict())
    options = transformers.LlamaConfig(
        vocab_size=2048, hidden_size=256, num_hidden_layers=2, num_attention_heads=layer.attention.n_heads,
        intermediate_size=layer.feed_forward.w1.out_features, rms_norm_eps=layer.attention_norm.eps,
        rope_theta=layer.attention.rope.theta, tie_word_embeddings=False,
    )  # fmt: skip
    there = mhc_compile.transform(transformers.LlamaForCausalLM(options).eval(), n=4, example_inputs=(TOKENS,))
    there.load_state_dict(state, strict=True)
    back = adapter.from_hf(state)
    assert back.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(back[name], value), name
    torch.testing.assert_close(there(TOKENS).logits, model(TOKENS, positions=POSITIONS), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "deepseek_v3"])
def test_sites_of_others_have_names_there_too(family):
    spec = configured(family).model_spec
    model = spec.model.build()
    names = site_names(spec.state_dict_adapter(spec.model, None))
    assert set(model.hyper_connections.identifiers.values()) <= set(names)
    feed_forward = "moe" if family == "deepseek_v3" else "feed_forward"
    assert names["layers__1__attention"] == "model__layers__1__self_attn"
    assert names[f"layers__1__{feed_forward}"] == "model__layers__1__mlp"


def test_new_parameters_have_a_file_where_those_of_the_plain_model_have(llama):
    config, model = llama
    adapter = config.model_spec.state_dict_adapter(config.model_spec.model, None)
    plain = [name for name in adapter.to_hf(model.state_dict()) if "hyper_connections" not in name]
    adapter.fqn_to_index_mapping = {name: 1 + i % 2 for i, name in enumerate(plain)}
    state = adapter.to_hf(model.state_dict())
    assert adapter.fqn_to_index_mapping.keys() == state.keys()
    assert set(adapter.fqn_to_index_mapping.values()) == {1, 2}


def test_a_site_without_a_name_there_is_refused(llama):
    spec = llama[0].model_spec
    adapter = spec.state_dict_adapter(spec.model, None)
    with pytest.raises(CheckpointMismatchError, match="without a name in the other format"):
        adapter.to_hf({"hyper_connections.layers__0__attention__wo.phi": torch.ones(1)})


def test_a_configuration_of_a_registry_of_your_own():
    from torchtitan.models.llama3.config_registry import llama3_8b

    config = titan.configured(llama3_8b(), n=2, connection="mhc-lite")
    assert config.model_spec.flavor == "8B-mhc" and config.model_spec.model.streams == 2
    kinds = {type(layer.attention.inner_attention).__qualname__ for layer in config.model_spec.model.layers}
    assert kinds == {"ScaledDotProductAttention.Config"}
    assert type(config.loss).__qualname__ == "CrossEntropyLoss.Config"


@pytest.mark.parametrize("connection", ["mhc", "hc", "gated", "dense:rank=4"])
def test_weights_of_every_connection_decay_as_parameter_groups_says(connection):
    from mhc_compile.torchtitan.config_registry import _UNDECAYED

    model = nn.Sequential(Block(8), Block(8))
    model = mhc_compile.transform(model, n=2, connection=connection, example_inputs=(torch.randn(2, 3, 8),))
    still = {id(p) for p, decaying in new_parameters(model) if not decaying}
    names = {name: id(p) in still for name, p in model.named_parameters() if "hyper_connections" in name}
    assert names and {name: bool(re.search(_UNDECAYED, name)) for name in names} == names


def test_another_backend_is_refused(llama):
    config, model = llama
    config.parallelism.spmd_backend = "spmd_types"
    try:
        with pytest.raises(ParallelError, match=r"write --parallelism\.spmd_backend partial_dtensor"):
            config.model_spec.parallelize_fn(model, parallelism=config.parallelism)
    finally:
        config.parallelism.spmd_backend = "partial_dtensor"


@pytest.mark.parametrize("size", [1, 2])
def test_experts_on_several_processes_take_batches_of_any_size(size):
    from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel

    config = deepseek_v3_debugmodel()
    del config.model_spec.model.layers[2:]
    config.model_spec = replace(config.model_spec, parallelize_fn=lambda model, **_: model)
    spec = titan.configured(config).model_spec
    dims = SimpleNamespace(tp_enabled=False, cp_enabled=False, ep_enabled=True)
    training = SimpleNamespace(local_batch_size=size)
    model = moved(built(spec))
    spec.parallelize_fn(model, parallelism=config.parallelism, parallel_dims=dims, training=training)
    flat, tree = tree_flatten(((TOKENS[:size],), {"positions": POSITIONS[:size]}))
    specs = [program.input_spec for program in model._mhc.entry("").programs]
    assert any(spec.matches(flat, tree) for spec in specs) and len(specs) == (2 if size == 1 else 1)


def test_a_configuration_gets_hyper_connections_once(llama):
    with pytest.raises(AlreadyTransformedError, match="n=4"):
        with_hyper_connections(llama[0].model_spec)


def test_converters_of_layers_leave_new_parameters_alone():
    from torchtitan.models.common.linear import Linear

    class Rounded(Linear):
        @dataclass(kw_only=True, slots=True)
        class Config(Linear.Config):
            pass

        def forward(self, x):
            return nn.functional.linear(x, self.weight.bfloat16().float())

    config = configured(layers=1)
    converted = config.model_spec.model
    for _, linear, parent, name in list(converted.traverse(Linear.Config)):  # as Float8LinearConverter does
        if parent is not None and not isinstance(parent, list):
            values = {field.name: getattr(linear, field.name) for field in fields(linear)}
            setattr(parent, name, Rounded.Config(**values))
    model = built(config.model_spec)
    assert sum(isinstance(module, Rounded) for module in model.modules()) > 4
    assert not any(isinstance(module, nn.Linear) for module in model.hyper_connections.modules())
    model(TOKENS, positions=POSITIONS).square().mean().backward()
    assert all(type(p) is nn.Parameter and p.dtype == torch.float32 for p, _ in new_parameters(model))
    assert all(p.grad.abs().sum() > 0 for name, p in model.hyper_connections.named_parameters() if "phi" in name)
