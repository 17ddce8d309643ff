from __future__ import annotations

import pytest

from mhc_compile.errors import InvalidOptionError
from mhc_compile.targets.options import nest, parse_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8192", 8192),
        ("0.5", 0.5),
        ("1e-5", 1e-5),
        ("true", True),
        ("False", False),
        ("none", None),
        ("[1, 2]", [1, 2]),
        ("gelu", "gelu"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_reads_the_type_of_a_value(text, value):
    parsed = parse_options([f"key={text}"])["key"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("item", ["hidden_size", "=3", "a..b=3", "2x=3", "a b=3", ""])
def test_rejects_an_item_without_key_or_value_and_repeats_it(item):
    with pytest.raises(InvalidOptionError, match="key=value") as error:
        parse_options([item])
    assert repr(item) in str(error.value)


def test_dotted_keys_become_nested():
    assert nest({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.parametrize("options", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}])
def test_rejects_a_key_that_is_both_a_value_and_a_part(options):
    with pytest.raises(InvalidOptionError, match="set"):
        nest(options)
