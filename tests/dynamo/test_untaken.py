"""Loaded values and globs that no site takes are refused or warned of, in one graph and in several."""

from __future__ import annotations

import warnings
from typing import ClassVar

import pytest
import torch

import mhc_compile
from mhc_compile.errors import (
    OtherParametersError,
    PatternError,
    PatternWarning,
    UnusedParametersWarning,
)
from tests.dynamo.breaking import Loop, made
from tests.dynamo.towers import TRAIN, eager, in_advance, inputs, randomise, tower


def fail_on_ours() -> None:
    """PyTorch has warnings of its own behind a graph break."""
    for category in (UnusedParametersWarning, PatternWarning):
        warnings.simplefilter("error", category)


class TestUntaken:
    """Loaded values and globs that no site takes."""

    STRANGE: ClassVar = {"hyper_connections.blocks__9.phi": torch.zeros(3)}

    def state(self) -> dict[str, torch.Tensor]:
        return {**in_advance().state_dict(), **self.STRANGE}

    def test_behind_attach_values_are_refused_before_anything_is_loaded(self) -> None:
        model = tower()
        backend = eager()
        backend.attach(model, (inputs(),), modes=TRAIN)
        randomise(model)
        before = {name: value.clone() for name, value in backend.state_dict().items()}
        with pytest.raises(
            OtherParametersError, match=r"1 value that no site takes \(hyper_connections\.blocks__9\.phi"
        ):
            backend.load_state_dict(self.state())
        assert all(torch.equal(value, before[name]) for name, value in backend.state_dict().items())

    def test_attach_refuses_those_loaded_before_it(self) -> None:
        model = tower()
        backend = eager()
        backend.load_state_dict(self.state())
        with pytest.raises(OtherParametersError, match="blocks__9"):
            backend.attach(model, (inputs(),), modes=TRAIN)
        assert "hyper_connections" not in model._modules

    def test_the_first_call_of_one_graph_warns(self) -> None:
        backend = eager()
        backend.load_state_dict(self.state())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            torch.compile(tower(), backend=backend)(inputs())

    def test_so_does_the_second_call_of_several_and_the_state_dict(self) -> None:
        model = made(Loop)
        backend = eager()
        compiled = torch.compile(model, backend=backend)
        backend.load_state_dict(self.state())
        with warnings.catch_warnings():
            fail_on_ours()
            compiled(inputs())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            compiled(inputs())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            backend.state_dict()

    def test_what_all_sites_take_is_no_reason_to_warn(self) -> None:
        for kind in (tower, lambda: made(Loop)):
            torch.compiler.reset()
            model, x = kind(), inputs()
            backend = eager(include=["blocks.*"])
            backend.load_state_dict({n: v for n, v in self.state().items() if n not in self.STRANGE})
            compiled = torch.compile(model, backend=backend)
            with warnings.catch_warnings():
                fail_on_ours()
                compiled(x)
                compiled(x)
                backend.state_dict()

    def test_globs_that_match_nothing_are_warned_of_with_the_words_of_transform(self) -> None:
        with pytest.raises(PatternError) as refused:
            mhc_compile.transform(tower(), example_inputs=(inputs(),), exclude=["zz*"])
        with pytest.raises(PatternError) as attached:
            eager(exclude=["zz*"]).attach(tower(), (inputs(),), modes=TRAIN)
        assert str(attached.value) == str(refused.value)
        with pytest.warns(PatternWarning) as seen:
            torch.compile(tower(), backend=eager(exclude=["zz*"]))(inputs())
        assert str(refused.value) in str(seen[0].message)

    def test_behind_breaks_they_are_once_the_first_call_is_over(self) -> None:
        compiled = torch.compile(made(Loop), backend=eager(exclude=["zz*"]))
        compiled(inputs())
        with pytest.warns(PatternWarning, match="zz"):
            compiled(inputs())

    def test_a_wrong_shape_stays_an_error_until_it_is_put_right(self) -> None:
        backend = eager()
        good = in_advance().state_dict()
        backend.load_state_dict({**good, "hyper_connections.blocks__0.alpha": torch.ones(7)})
        compiled = torch.compile(tower(), backend=backend)
        for _ in range(2):
            with pytest.raises(OtherParametersError, match=r"shape \[7\]"):
                compiled(inputs())
        backend.load_state_dict(good)
        compiled(inputs())
