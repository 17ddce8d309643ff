from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from mhc_compile.errors import FactoryError, UnknownTargetError
from mhc_compile.targets import resolve

SOURCE = """
import torch
from torch import nn

def plain(width=3):
    return nn.Linear(width, width)

def with_tensor():
    return nn.Linear(3, 3), torch.ones(2, 3)

def with_kwargs():
    return nn.Linear(3, 3), {"input": torch.ones(2, 3)}

def with_bad_inputs():
    return nn.Linear(3, 3), "input"

def no_module():
    return [1, 2]

def broken():
    raise ValueError("no such width")

def leaves():
    raise SystemExit(3)

def needs_values():
    assert torch.ones(1).item() == 1
    return nn.Linear(3, 3)

def legacy_tensor():
    model = nn.Linear(3, 3)
    model.extra = nn.Parameter(torch.Tensor(3))
    return model

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    @classmethod
    def make(cls):
        return cls()

ready = nn.Linear(3, 3)
number = 7
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("my_model", None)


@pytest.mark.parametrize("name", ["plain", "Net", "Net.make"])
def test_a_function_class_or_method_makes_the_model_on_the_meta_device(file, name):
    target = resolve(f"{file}:{name}")
    assert all(p.is_meta for p in target.model.parameters())
    assert not target.model.training and target.notes == ()


def test_without_meta_the_model_is_on_the_cpu(file):
    assert resolve(f"{file}:plain", meta=False).model.weight.device.type == "cpu"


def test_options_are_arguments_of_the_factory(file):
    assert resolve(f"{file}:plain", config={"width": 5}).model.in_features == 5


def test_a_module_instance_is_used_as_it_is(file):
    target = resolve(f"{file}:ready")
    assert target.model.weight.device.type == "cpu"


def test_example_inputs_of_the_factory_are_on_the_device_of_the_model(file):
    assert resolve(f"{file}:with_tensor").example_inputs[0].is_meta
    assert resolve(f"{file}:with_kwargs").example_kwargs["input"].is_meta


def test_a_parameter_made_beside_the_default_device_is_moved(file):
    assert all(p.is_meta for p in resolve(f"{file}:legacy_tensor").model.parameters())


def test_a_constructor_that_reads_values_falls_back_to_the_cpu_and_says_so(file):
    target = resolve(f"{file}:needs_values")
    assert target.model.weight.device.type == "cpu"
    assert "built on the CPU" in target.notes[0]


def test_a_module_of_the_python_path_is_found():
    assert isinstance(resolve("torch.nn:Identity").model, nn.Identity)


def test_neighbours_of_the_file_can_be_imported_and_the_path_is_restored(tmp_path):
    (tmp_path / "neighbour_of_model.py").write_text("width = 4")
    path = tmp_path / "uses_neighbour.py"
    path.write_text(
        "from neighbour_of_model import width\nfrom torch import nn\ndef make(): return nn.Linear(width, 4)"
    )
    before = list(sys.path)
    assert resolve(f"{path}:make").model.in_features == 4
    assert sys.path == before


def test_an_error_in_the_factory_shows_its_type_message_and_place(file):
    with pytest.raises(FactoryError, match=r"ValueError: no such width") as error:
        resolve(f"{file}:broken")
    line = SOURCE.splitlines().index('    raise ValueError("no such width")') + 1
    assert f"{file}:{line}" in str(error.value)


def test_a_wrong_option_is_shown_as_the_error_of_the_factory(file):
    with pytest.raises(FactoryError, match="unexpected keyword argument 'depth'"):
        resolve(f"{file}:plain", config={"depth": 5})


def test_a_factory_that_exits_does_not_end_the_process(file):
    with pytest.raises(FactoryError, match="SystemExit: 3"):
        resolve(f"{file}:leaves", meta=False)


@pytest.mark.parametrize(("name", "kind"), [("no_module", "list"), ("with_bad_inputs", "str"), ("number", "int")])
def test_rejects_what_is_no_module_and_names_its_type(file, name, kind):
    with pytest.raises(FactoryError, match=kind):
        resolve(f"{file}:{name}")


def test_rejects_an_unknown_factory_and_suggests_a_near_one(file):
    with pytest.raises(UnknownTargetError, match=r"'plian'.*plain"):
        resolve(f"{file}:plian")


def test_rejects_a_missing_file():
    with pytest.raises(UnknownTargetError, match=r"no file 'nowhere/model.py'"):
        resolve("nowhere/model.py:make")


def test_rejects_a_missing_module_and_suggests_a_scheme():
    with pytest.raises(UnknownTargetError, match=r"no Python module 'tim'.*timm:vit"):
        resolve("tim:vit")


@pytest.mark.parametrize(
    ("source", "what"),
    [("import not_there_at_all", "ModuleNotFoundError"), ("x = = 1", "SyntaxError"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_file_that_cannot_be_imported_shows_the_line(tmp_path, source, what):
    path = tmp_path / "broken_model.py"
    path.write_text(f"y = 1\n{source}\n")
    with pytest.raises(FactoryError, match=what) as error:
        resolve(f"{path}:make")
    assert f"{path}:2: {source}" in str(error.value)
    assert "broken_model" not in sys.modules


def test_a_module_whose_own_import_fails_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "package_with_gap.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FactoryError, match="importing package_with_gap raised ModuleNotFoundError"):
        resolve("package_with_gap:make")


def test_inputs_fit_the_device_of_a_factory_model(file):
    target = resolve(f"{file}:plain", inputs=["5x3:float32"])
    assert target.example_inputs[0].shape == torch.Size([5, 3]) and target.example_inputs[0].is_meta
