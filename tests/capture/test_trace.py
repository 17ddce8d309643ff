from __future__ import annotations

import operator
import random
import warnings

import pytest
import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.side_effects import describe_effects
from mhc_compile.capture.trace import capture
from mhc_compile.errors import CaptureError, GraphBreakError, InputMismatchError, NoFloatError
from tests.toy_models import WIDTH, Answer, Block, Branching, Checkpointed, Integers, Normalised, Tokens, Tower


def attributes(gm):
    return {n.target for n in gm.graph.nodes if n.op == "get_attr"}


def x(*shape):
    return torch.randn(*shape)


def test_parameters_keep_their_names():
    model = Tower()
    used = attributes(capture(model, (x(2, 3, WIDTH),)).gm)
    assert {"blocks.0.up.weight", "stem.weight", "scale"} <= used
    assert used <= dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()


def test_model_inputs_and_random_state_are_left_as_they_were():
    model, given = Normalised(), x(4, WIDTH)
    model.bn.eval()
    attributes_before = [set(vars(m)) for m in model.modules()]
    flags = [m.training for m in model.modules()]
    values = {k: v.clone() for k, v in model.state_dict().items()}
    seeds = torch.get_rng_state(), random.getstate()
    capture(model, (given,))
    assert [set(vars(m)) for m in model.modules()] == attributes_before
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seeds[0]) and random.getstate() == seeds[1]
    assert all(p.grad is None for p in model.parameters())
    assert not hasattr(given, "_dynamo_weak_dynamic_indices")


@pytest.mark.parametrize(
    ("model", "given", "dynamic"),
    [
        (Tower(), x(2, 3, WIDTH), [True, True, False]),
        (Tower(), x(1, 3, WIDTH), [False, True, False]),
        (Tower(), x(4, WIDTH), [True, False]),
        (Tokens(), torch.ones(2, 3, dtype=torch.int64), [True, True]),
    ],
)
def test_batch_and_sequence_sizes_are_open_unless_one(model, given, dynamic):
    leaf = capture(model, (given,)).input_spec.leaves[0]
    assert [isinstance(size, str) for size in leaf.shape] == dynamic


def test_dynamic_false_fixes_every_size():
    spec = capture(Tower(), (x(2, 3, WIDTH),), dynamic=False).input_spec
    assert spec.leaves[0].shape == (2, 3, WIDTH) and spec.sizes == ()


def test_open_sizes_that_fail_become_constants_with_a_note(monkeypatch):
    real = compat.dynamo_graph_capture

    def refuses_open_sizes(model):
        def run(*args):
            if hasattr(args[0], "_dynamo_weak_dynamic_indices"):
                raise RuntimeError("no open sizes here")
            return real(model)(*args)

        return run

    monkeypatch.setattr(compat, "dynamo_graph_capture", refuses_open_sizes)
    captured = capture(Tower(), (x(2, 3, WIDTH),))
    assert captured.input_spec.leaves[0].shape == (2, 3, WIDTH)
    assert "all sizes are constants" in captured.notes[0]


def test_meta_model_with_meta_inputs():
    with torch.device("meta"):
        model, given = Tower(), torch.empty(2, 3, WIDTH)
    assert "blocks.2.down.weight" in attributes(capture(model, (given,)).gm)


def test_traces_the_mode_the_model_is_in():
    def training_flag(model):
        nodes = capture(model, (x(4, WIDTH),)).gm.graph.nodes
        return next(n for n in nodes if n.target is nn.functional.batch_norm).args[5]

    model = Normalised()
    assert training_flag(model) is True and training_flag(model.eval()) is False


def test_gradient_mode_is_recorded_only_where_the_graph_switches_it():
    ids = torch.ones(2, 3, dtype=torch.int64)
    assert capture(Tower(), (x(2, WIDTH),)).grad_mode is None
    assert capture(Tokens(), (ids,)).grad_mode is True
    with torch.no_grad():
        assert capture(Tokens(), (ids,)).grad_mode is False


def test_hooks_of_the_model_are_not_traced_and_stay():
    model = Tower()
    model.register_forward_hook(lambda module, args, out: out * 100)
    model.blocks[0].register_forward_hook(lambda module, args, out: out * 3)
    gm = capture(model, (x(2, WIDTH),)).gm
    factors = [a for n in gm.graph.nodes for a in n.args if isinstance(a, int) and not isinstance(a, bool)]
    assert 3 in factors and 100 not in factors
    assert len(model._forward_hooks) == 1


def test_autocast_is_not_baked_in():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gm = capture(Tower(), (x(2, WIDTH),)).gm
    dtypes = {n.meta["example_value"].dtype for n in gm.graph.nodes if n.op == "call_function"}
    assert dtypes == {torch.float32}


def test_checkpointed_region_stays_one_node():
    captured = capture(Checkpointed(), (x(2, WIDTH),))
    assert any("checkpoint" in str(n.target) for n in captured.gm.graph.nodes)


class Deprecated:
    """As libraries say that a class will go: whoever makes one is told, each time."""

    def __init__(self, sample):
        warnings.warn("Deprecated will go", FutureWarning, stacklevel=2)
        self.sample = sample


def test_a_warning_of_the_model_is_no_graph_break():
    class Warns(Block):
        def forward(self, x):
            return Deprecated(super().forward(x)).sample

    assert any(n.target is operator.add for n in capture(Warns(), (x(2, 3, WIDTH),)).gm.graph.nodes)


def test_graph_break_names_construct_and_line():
    with pytest.raises(
        GraphBreakError, match=r"(?s)Branching.*toy_models.py:\d+ in forward.*Data-dependent.*Change that line"
    ):
        capture(Branching(), (x(2, WIDTH),))


def test_shape_error_of_the_model_is_shown(capfd):
    with pytest.raises(InputMismatchError, match=r"float32\[2, 5\].*toy_models.py:\d+.*same reduction dim"):
        capture(Tower(), (x(2, 5),))
    assert "Traceback" not in capfd.readouterr().err


def test_exception_of_the_model_is_shown():
    class Picky(Block):
        def forward(self, x):
            if x.shape[-1] == WIDTH:
                raise ValueError("odd widths only")
            return super().forward(x)

    with pytest.raises(InputMismatchError, match="odd widths only"):
        capture(Picky(), (x(2, WIDTH),))


def test_integer_model_has_nothing_to_route():
    with pytest.raises(NoFloatError, match="integers only"):
        capture(Integers(), (torch.arange(4),))


def test_unknown_output_class_is_told_how_to_register():
    class Answering(Block):
        def forward(self, x):
            return Answer(super().forward(x))

    with pytest.raises(CaptureError, match="register_dataclass"):
        capture(Answering(), (x(2, WIDTH),))


def test_capture_is_repeatable():
    model, given = Tower(), x(2, 3, WIDTH)
    first, second = capture(model, (given,)), capture(model, (given,))
    assert [n.name for n in first.gm.graph.nodes] == [n.name for n in second.gm.graph.nodes]


class Counting(Block):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(WIDTH))
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        self.average.lerp_(x.mean(0), 0.1)
        return super().forward(x)


def test_what_a_call_changes_in_python_is_told_and_writes_into_buffers_are_none_of_it():
    captured = capture(nn.Sequential(Counting()), (x(2, WIDTH),))
    assert captured.effects == ("._modules['0']",)
    assert capture(Tower(), (x(2, WIDTH),)).effects == ()
    assert any(n.target == "lerp_" for n in captured.gm.graph.nodes)


def test_buffers_that_are_replaced_are_told():
    class Replacing(Counting):
        def forward(self, x):
            self.average = self.average * 0.9
            return Block.forward(self, x)

    captured = capture(nn.Sequential(Replacing()), (x(2, WIDTH),))
    assert describe_effects(captured.effects) == "0"
