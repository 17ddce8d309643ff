"""Transformed models whose parameters accelerate keeps elsewhere between calls."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from accelerate.hooks import remove_hook_from_submodules
from torch import nn

import mhc_compile
from examples.hf_llama import tiny_llama
from mhc_compile.errors import NotPreservingWarning
from tests.copies import copied
from tests.tables import also

CPU = torch.device("cpu")
WIDTH = 8
X = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)
        self.register_buffer("scale", torch.full((WIDTH,), 0.5))

    def forward(self, x):
        return x + self.scale * self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Its head is read, not called."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.blocks(self.stem(x)) @ self.head.weight.T


def moved(model, **options):
    hyper = mhc_compile.transform(model.eval(), **{"n": 2, "example_inputs": (X,), "modes": ("eval",), **options})
    with torch.no_grad():
        for parameter in hyper.hyper_connections.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return hyper


@copied
def made():
    torch.manual_seed(0)
    return moved(Net())


@pytest.fixture
def net():
    return made()


def to_cpu(model, folder):
    accelerate.cpu_offload(model, execution_device=CPU)


def to_cpu_with_buffers(model, folder):
    accelerate.cpu_offload(model, execution_device=CPU, offload_buffers=True)


def to_cpu_by_block(model, folder):
    accelerate.cpu_offload(model, execution_device=CPU, preload_module_classes=["Block"])


def to_disk(model, folder):
    accelerate.disk_offload(model, folder, execution_device=CPU)


def by_a_map(model, folder):
    devices = {"stem": "cpu", "blocks.0": "disk", "blocks.1": "cpu", "head": "disk", "hyper_connections": "disk"}
    accelerate.dispatch_model(model, devices, main_device="cpu", offload_dir=folder)


@pytest.mark.parametrize("offload", [to_cpu, to_cpu_with_buffers, to_cpu_by_block, to_disk, by_a_map])
def test_calls_are_those_of_before_without_another_trace(offload, net, tmp_path):
    want = net(X).detach()
    offload(net, tmp_path)
    assert any(parameter.is_meta for parameter in net.blocks.parameters())
    assert not any(parameter.is_meta for parameter in net.hyper_connections.parameters())
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(net(X), want)
    assert len(net._mhc.programs) == 1
    assert net.blocks[0].up.weight.is_meta or offload is by_a_map


@pytest.mark.parametrize("offload", [to_cpu_with_buffers, to_cpu_by_block, to_disk])
def test_a_call_of_a_new_kind_is_traced_and_right(offload, net, tmp_path):
    want = net(X).detach()
    net._mhc.entry("").programs.clear()
    offload(net, tmp_path)
    with torch.no_grad():
        assert torch.equal(net(X), want)
        torch.testing.assert_close(net(X[:, 0]), want[:, 0])
    assert len(net._mhc.programs) == 2 and not net._mhc.entry("").kinds


def test_a_module_that_is_called_alone_runs_with_its_connections(net):
    inside = net.stem(X).detach()
    want = net.blocks[0](inside).detach()
    accelerate.cpu_offload(net, execution_device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(net.blocks[0](inside), want)


def test_a_copy_and_a_model_after_its_hooks_are_gone(net):
    want = net(X).detach()
    twin = copy.deepcopy(net)
    accelerate.cpu_offload(twin, execution_device=CPU)
    with torch.no_grad():
        assert torch.equal(twin(X), want) and torch.equal(net(X), want)
        remove_hook_from_submodules(twin)
        assert torch.equal(twin(X), want) and not any(p.is_meta for p in twin.parameters())
        assert len(twin._mhc.programs) == 1
        accelerate.cpu_offload(twin, execution_device=CPU)
        assert torch.equal(twin(X), want)


def test_the_plain_model_behind_it_is_offloaded_too(net):
    want = Net()
    want.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("hyper")})
    accelerate.cpu_offload(net, execution_device=CPU)
    with pytest.warns(NotPreservingWarning), torch.no_grad():
        net(X)  # from here on the head, which nobody calls, stays loaded
        assert torch.equal(mhc_compile.revert(net)(X), want(X))
    assert net.blocks[0].up.weight.is_meta


@pytest.mark.parametrize("buffers", [False, *also(True)])  # buffers are moved in the tests of the small net too
@torch.no_grad()  # with gradients it is traced for both modes
def test_a_language_model_generates_the_same(buffers):
    ids = torch.arange(12).reshape(2, 6)
    hyper = moved(tiny_llama(layers=1), example_inputs=None, example_kwargs={"input_ids": ids})
    want, text = hyper(ids).logits.detach(), {"max_new_tokens": 2, "do_sample": False}
    tokens = hyper.generate(ids, **text)
    accelerate.cpu_offload(hyper, execution_device=CPU, offload_buffers=buffers)
    with torch.no_grad():
        torch.testing.assert_close(hyper(ids).logits, want)
    assert torch.equal(hyper.generate(ids, **text), tokens)


@torch.no_grad()
def test_a_folder_is_loaded_with_a_map_of_devices(tmp_path):
    ids = torch.arange(12).reshape(2, 6)
    hyper = moved(tiny_llama(layers=1), example_inputs=None, example_kwargs={"input_ids": ids})
    hyper.save_pretrained(tmp_path / "saved")
    devices = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.norm": "cpu"}
    devices |= {"model.rotary_emb": "cpu", "lm_head": "disk", "hyper_connections": "disk"}
    again = mhc_compile.from_pretrained(tmp_path / "saved", device_map=devices, offload_folder=tmp_path / "disk")
    assert again.lm_head.weight.is_meta
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, hyper(ids).logits)
