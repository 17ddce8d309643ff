"""A Hugging Face Llama through the backend: labels, masks, hidden states, caches, checkpointing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from tests.dynamo.towers import randomise
from tests.tables import also

transformers = pytest.importorskip("transformers")
LAYERS = 2
KEYS = [f"model.layers.{i}.{part}" for i in range(LAYERS) for part in ("self_attn", "mlp")]


def llama(layers: int = LAYERS) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config).eval()


def ids(batch: int = 2, length: int = 8) -> torch.Tensor:
    return torch.randint(1, 64, (batch, length))


def attached(model: nn.Module) -> mhc_compile.Backend:
    backend = mhc_compile.backend(inner="eager")
    backend.attach(model, example_kwargs={"input_ids": ids(), "use_cache": False}, modes=("eval",))
    return backend


def test_keyword_inputs_labels_masks_and_dataclass_outputs() -> None:
    model = llama()
    x, mask = ids(), torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    call: dict[str, Any] = {"input_ids": x, "attention_mask": mask, "labels": x, "output_hidden_states": True}
    wanted = model(**call)
    got = torch.compile(model, backend=mhc_compile.backend(inner="eager"))(**call)
    assert type(got) is type(wanted) and len(got.hidden_states) == LAYERS + 1
    assert torch.allclose(got.loss, wanted.loss, atol=1e-5)
    assert torch.allclose(got.logits, wanted.logits, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got.hidden_states, wanted.hidden_states, strict=True))
    assert list(model.hyper_connections) == KEYS


def test_batch_and_length_cost_one_recompile_each() -> None:
    model = llama(1)
    backend = mhc_compile.backend(inner="eager")
    compiled = torch.compile(model, backend=backend)
    for size in ((2, 8), (3, 8), (3, 9), (7, 20)):
        compiled(ids(*size), use_cache=False)
    assert 1 <= len(backend.records) <= 3


def test_methods_run_with_hyper_connections_once_the_backend_is_attached() -> None:
    """`torch.compile(model).generate()` calls the model that was not compiled: that is a door."""
    model, x, options = llama().double(), ids(), {"max_new_tokens": 4, "do_sample": False}
    plain = model.generate(x, **options)
    backend = attached(model)
    randomise(model)
    tokens = torch.compile(model, backend=backend).generate(x, **options)
    assert not backend.records and not torch.equal(tokens, plain)
    model.compile(backend=backend)
    assert torch.equal(tokens, model.generate(x, **options))
    assert torch.equal(tokens, model.generate(x, use_cache=False, **options))


@pytest.mark.slow
@pytest.mark.parametrize("cache", [{"cache_implementation": "static"}, *also({})])
def test_generate_with_a_cache_gives_the_tokens_it_gives_without(cache: dict[str, str]) -> None:
    model = llama(1).double()
    backend = attached(model)
    randomise(model)
    model.forward = torch.compile(model.forward, backend=backend)
    torch.manual_seed(1)
    start = ids(2, 5)
    without = model.generate(start, max_new_tokens=5, do_sample=False, use_cache=False)
    seen = len(backend.records)
    assert torch.equal(model.generate(start, max_new_tokens=5, do_sample=False, **cache), without)
    assert seen and len(backend.records) > seen, "it was not the backend that ran"
    assert list(model.hyper_connections) == KEYS[:2]
    assert without.shape == (2, 10)


@pytest.mark.parametrize("reentrant", [False, *also(True)])  # Dynamo traces both alike
def test_gradient_checkpointing(reentrant: bool) -> None:
    model, x = llama(1).train(), ids()
    twin = copy.deepcopy(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    models = (model, twin)
    compiled = [torch.compile(m, backend=mhc_compile.backend(inner="aot_eager")) for m in models]
    for call in compiled:
        call(x, use_cache=False)
    randomise(*models)
    for call in compiled:
        call(x, labels=x, use_cache=False).loss.backward()
    assert list(model.hyper_connections) == KEYS[:2]
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5), name
