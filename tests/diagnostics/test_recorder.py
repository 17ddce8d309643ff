from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch

import mhc_compile
from mhc_compile.diagnostics.alarms import Bounds
from mhc_compile.errors import AlarmWarning, InvalidOptionError, NotTransformedError
from tests.diagnostics.hand import EXPLODING, set_mixing, tower
from tests.toy_models import WIDTH, Tower


def train(model, x, recorder, steps, called=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        with recorder.step():
            optimizer.zero_grad()
            loss = (model if called is None else called)(x).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    return losses


def test_every_third_step_is_recorded_and_nothing_else_changes():
    model, x = tower(connection="mhc")
    alone = copy.deepcopy(model)
    records = []
    recorder = mhc_compile.Recorder(model, every=3, to=records.append)
    losses = train(model, x, recorder, 7)
    assert [r.step for r in records] == [0, 3, 6] and recorder.steps == 7
    assert recorder.last is records[-1]
    assert [s.key for s in records[0].diagnosis.sites] == [f"blocks.{i}" for i in range(4)]
    assert losses == train(alone, x, mhc_compile.Recorder(alone, every=100), 7)
    moved = [r.diagnosis.segments[0].moved for r in records]
    assert moved[0] > 0 and all(p.gradient is not None for p in records[0].diagnosis.sites[1].parameters)


def test_the_forward_of_the_training_is_looked_at():
    model, x = tower()
    set_mixing(model, {"blocks.1": EXPLODING})
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, x, mhc_compile.Recorder(model, every=1, to=records.append), 1)
    assert len(calls) == 1
    assert records[0].diagnosis.site("blocks.1").gain_forward == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_batch_of_a_step_counts_and_a_checkpointed_one_only_once(accumulated):
    model, x = tower()
    records = []
    recorder = mhc_compile.Recorder(model, every=1, to=records.append)
    with recorder.step():
        for i in range(accumulated):
            model(x * (1 + 9 * i)).sum().backward()
    alone = mhc_compile.diagnose(model, x)
    sizes = [s.stream_rms for s in records[0].diagnosis.sites]
    assert sizes == [pytest.approx(s.stream_rms) for s in alone.sites]


def test_a_compiled_model_is_recorded():
    model, x = tower()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    set_mixing(model, {"blocks.1": EXPLODING})
    records = []
    train(model, x, mhc_compile.Recorder(compiled, every=2, to=records.append), 3, called=compiled)
    assert [r.step for r in records] == [0, 2]
    assert records[0].diagnosis.site("blocks.1").gain_forward == pytest.approx(1.5, abs=1e-6)


def test_a_model_behind_the_backend_is_looked_at_with_inputs_of_its_own():
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    model = Tower(2).double()
    backend = mhc_compile.backend(connection="hc-static", inner="eager")
    backend.attach(model, (x,))
    compiled = torch.compile(model, backend=backend)
    records = []
    train(model, x, mhc_compile.Recorder(compiled, every=2, to=records.append, inputs=(x,)), 3, called=compiled)
    assert [len(r.diagnosis.sites) for r in records] == [2, 2]
    with pytest.warns(AlarmWarning, match=r"Recorder\(model, inputs=\(x,\)\)"):
        train(model, x, mhc_compile.Recorder(compiled, every=1), 2, called=compiled)


def test_a_step_without_a_call_says_so_once():
    model, _ = tower()
    recorder = mhc_compile.Recorder(model, every=1)
    with pytest.warns(AlarmWarning, match="nothing was seen") as caught:
        for _ in range(3):
            with recorder.step():
                pass
    assert len(caught) == 1 and recorder.last is None


def test_an_alarm_names_the_site_once():
    model, x = tower()
    set_mixing(model, {"blocks.1": 20 * EXPLODING})
    recorder = mhc_compile.Recorder(model, every=1, bounds=Bounds(gain=4.0))
    with pytest.warns(AlarmWarning, match="composite gain forward is 30 at blocks.1") as caught:
        for _ in range(2):
            with recorder.step():
                model(x)
    assert len([w for w in caught if "forward" in str(w.message)]) == 1


def test_a_collapse_is_told_when_the_next_record_has_it_too():
    """Equal streams may be a start: parameters of the first step have moved, its forward was before that."""
    model, x = tower(2)
    recorder = mhc_compile.Recorder(model, every=1)
    with torch.no_grad():
        model.hyper_connections["blocks.0"].static_pre.add_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with recorder.step():
            model(x)
    assert [a.kind for a in recorder.last.diagnosis.alarms] == ["collapse", "dead"]
    with pytest.warns(AlarmWarning, match="collapse: the streams in front of blocks.1"), recorder.step():
        model(x)


def test_an_error_in_a_step_leaves_the_model_as_it_was():
    model, x = tower()
    programs = list(model._mhc.programs)
    recorder = mhc_compile.Recorder(model, every=1)
    with pytest.raises(ZeroDivisionError), recorder.step():
        model(x)
        raise ZeroDivisionError
    assert model._mhc.programs == programs and recorder.steps == 0


def test_records_are_json_lines_and_a_restart_goes_on(tmp_path):
    model, x = tower()
    path = tmp_path / "runs" / "first.jsonl"
    train(model, x, mhc_compile.Recorder(model, every=2, to=path), 3)
    train(model, x, mhc_compile.Recorder(model, every=2, to=path, start=3), 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert lines[0]["sites"][0]["key"] == "blocks.0" and lines[0]["segments"][0]["composite_forward"] == 1


def test_wrong_arguments_are_refused():
    model, _ = tower()
    with pytest.raises(InvalidOptionError, match="every=0"):
        mhc_compile.Recorder(model, every=0)
    with pytest.raises(InvalidOptionError, match="SummaryWriter"):
        mhc_compile.Recorder(model, to=3)
    with pytest.raises(NotTransformedError):
        mhc_compile.Recorder(Tower())
    with pytest.raises(InvalidOptionError, match="gain=0"):
        Bounds(gain=0)
