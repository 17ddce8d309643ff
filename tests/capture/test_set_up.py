from __future__ import annotations

import pickle

import pytest
import torch
from torch.testing import assert_close

import mhc_compile
from mhc_compile.capture.set_up import finish_set_up
from tests.moved import Net, move

transformers = pytest.importorskip("transformers")
IDS = torch.arange(10).view(2, 5)
SIZES = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


def llama() -> torch.nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **HEADS)).eval()


def test_models_of_no_library_need_nothing():
    assert not finish_set_up(Net())


@pytest.mark.filterwarnings("error::mhc_compile.errors.HookSeesStreamsWarning")
def test_hidden_states_may_be_asked_for_after_a_call_without_and_are_collected_at_every_call():
    t = move(mhc_compile.transform(llama(), example_kwargs={"input_ids": IDS, "use_cache": False}, modes=("eval",)))
    plain = t(input_ids=IDS, use_cache=False)
    assert plain.hidden_states is None
    for _ in range(2):
        found = t(input_ids=IDS, use_cache=False, output_hidden_states=True)
        assert len(found.hidden_states) == 3
        assert_close(found.logits, plain.logits)


def test_a_model_that_was_set_up_is_saved_whole_and_collects_the_same():
    model = llama()
    assert finish_set_up(model)
    loaded = pickle.loads(pickle.dumps(model))
    found, expected = (m(input_ids=IDS, output_hidden_states=True).hidden_states for m in (loaded, model))
    assert len(found) == 3
    assert_close(found, expected)


def test_hooks_that_a_call_before_has_installed_are_pickled_too():
    plain = llama()
    plain(input_ids=IDS, output_hidden_states=True)
    hyper = mhc_compile.transform(plain, example_kwargs={"input_ids": IDS, "use_cache": False}, modes=("eval",))
    loaded = pickle.loads(pickle.dumps(hyper))
    assert len(loaded(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states) == 3


def test_transform_leaves_no_model_that_cannot_be_saved_whole():
    plain = llama()
    hyper = move(mhc_compile.transform(plain, example_kwargs={"input_ids": IDS}, modes=("eval",)))
    for model in (plain, hyper, mhc_compile.revert(hyper)):
        loaded = pickle.loads(pickle.dumps(model))
        assert_close(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_what_was_set_up_before_is_not_set_up_again():
    model = llama()
    model(input_ids=IDS, output_hidden_states=True)
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    assert not finish_set_up(model)
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
