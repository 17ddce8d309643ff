"""The backend behind the rewrite: by name or as a function, with mode and options."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mhc_compile.dynamo.inner import InnerChoice
from mhc_compile.errors import InvalidOptionError


def graph() -> torch.fx.GraphModule:
    return torch.fx.symbolic_trace(lambda x: x + 1)


def test_names_are_looked_up() -> None:
    compiled = InnerChoice("eager").resolve()(graph(), [torch.ones(1)])
    assert torch.equal(compiled(torch.ones(1)), torch.full((1,), 2.0))


def test_a_function_gets_mode_and_options_where_there_are_any() -> None:
    seen: list[dict[str, Any]] = []

    def inner(gm: Any, example_inputs: Any, **keywords: Any) -> None:
        seen.append(keywords)

    for choice in (InnerChoice(inner), InnerChoice(inner, "default"), InnerChoice(inner, "x", {"a": 1})):
        choice.resolve()(None, [])
    assert seen == [{}, {}, {"mode": "x", "options": {"a": 1}}]


def test_inductor_takes_its_own_modes_and_options() -> None:
    wrapper = InnerChoice("inductor", None, {"max_autotune": True}).resolve()
    assert wrapper.config == {"max_autotune": True}


def test_what_torch_compile_was_given_wins() -> None:
    choice = InnerChoice("eager", "a", {"x": 1})
    assert choice.with_("b", None) == InnerChoice("eager", "b", {"x": 1})
    assert choice.with_(None, {"y": 2}) == InnerChoice("eager", "a", {"y": 2})


@pytest.mark.parametrize(("inner", "words"), [("mhc", "rewrite twice"), (3, "a name such as"), (None, "a name")])
def test_impossible_choices_are_refused(inner: Any, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        InnerChoice(inner)


def test_an_unknown_name_is_refused_with_what_there_is_like_it() -> None:
    with pytest.raises(InvalidOptionError, match="'inductr' is no backend"):
        InnerChoice("inductr").resolve()


@pytest.mark.parametrize("inner", ["eager", "aot_eager", "cudagraphs"])
@pytest.mark.parametrize("what", [{"mode": "reduce-overhead"}, {"options": {"a": 1}}])
def test_what_a_backend_would_ignore_is_refused(inner: str, what: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="has no use for"):
        InnerChoice(inner, **what).resolve()


def test_modes_and_options_unknown_to_inductor_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="Unrecognized mode=fast"):
        InnerChoice("inductor", "fast").resolve()
    with pytest.raises(InvalidOptionError, match=r"Unexpected optimization option a$"):
        InnerChoice("inductor", None, {"a": 1}).resolve()


def test_a_function_without_the_argument_is_no_place_for_a_mode() -> None:
    with pytest.raises(InvalidOptionError, match="has no use for mode='x'"):
        InnerChoice(lambda gm, example_inputs: gm, "x").resolve()
    assert InnerChoice("eager", "default").resolve()(graph(), [torch.ones(1)])


def test_by_name_they_are_refused_too() -> None:
    for options in ({"mode": "x"}, {"inner_options": {"a": 1}}):
        with pytest.raises(InvalidOptionError, match="has no use for"):
            torch.compile(torch.nn.Linear(2, 2), backend="mhc", options={"inner": "eager", **options})(torch.ones(2, 2))
