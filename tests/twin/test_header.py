from __future__ import annotations

import json

import pytest
import torch

from mhc_compile.config import Config
from mhc_compile.errors import CheckpointMismatchError, NewerCheckpointError, UnreadableCheckpointError
from mhc_compile.twin.header import FORMAT, KEY, SIZE, Header, check_state, is_plain


def written(**fields):
    return torch.tensor(list(json.dumps(fields).encode().ljust(SIZE)), dtype=torch.uint8)


def test_it_survives_the_way_through_a_tensor_of_fixed_size():
    for config in (Config(), Config(n=2, connection="hc-static", reduce="learned"), Config(n=1)):
        tensor = Header.of(config).to_tensor()
        assert tensor.shape == (SIZE,) and tensor.dtype == torch.uint8
        assert Header.from_tensor(tensor) == Header.of(config)


def test_it_says_what_was_really_made():
    assert Header.of(Config(n=4, connection="residual")).n == 1
    assert Header.of(Config(n=1, connection="mhc")).connection == "residual"


def test_each_tensor_is_a_new_one():
    header = Header.of(Config())
    header.to_tensor().zero_()
    assert Header.from_tensor(header.to_tensor()) == header


@pytest.mark.parametrize(
    "other", [Config(n=2), Config(connection="identity"), Config(reduce="learned"), Config(connection="residual")]
)
def test_another_connection_n_or_readout_is_an_error_that_names_both(other):
    wanted, found = Header.of(Config()), Header.of(other)
    with pytest.raises(CheckpointMismatchError) as caught:
        found.check(wanted)
    assert str(wanted) in str(caught.value) and str(found) in str(caught.value)
    assert "mhc_compile.transform(model" in str(caught.value)


def test_options_that_change_no_meaning_do_not_matter():
    Header.of(Config(init="random", exclude=["*.mlp"])).check(Header.of(Config()))
    Header.of(Config(n=1, reduce="sum")).check(Header.of(Config(connection="residual")))


def test_an_older_format_is_read():
    Header.from_tensor(written(format=FORMAT - 1, connection="mhc", n=4, reduce="mean")).check(Header.of(Config()))


def test_a_newer_format_is_refused_whatever_else_it_says():
    with pytest.raises(NewerCheckpointError, match=rf"format {FORMAT + 1}.*up to {FORMAT}: install"):
        Header.from_tensor(written(format=FORMAT + 1, streams={"attention": 8}))


NO_HEADERS = [
    torch.zeros(SIZE, dtype=torch.uint8),
    torch.randn(3),
    written(connection="mhc"),
    written(format="x"),
    {"format": 1},
    None,
]


@pytest.mark.parametrize("content", NO_HEADERS)
def test_something_else_is_unreadable(content):
    with pytest.raises(UnreadableCheckpointError, match=r"model.state_dict"):
        Header.from_tensor(content)


def test_a_state_dict_is_checked_under_its_prefix():
    state = {f"module.{KEY}": Header.of(Config(n=2)).to_tensor()}
    check_state(state, Header.of(Config()))
    with pytest.raises(CheckpointMismatchError):
        check_state(state, Header.of(Config()), "module.")


def test_a_plain_state_dict_is_told_by_its_names():
    assert is_plain(["blocks.0.weight", "hyper_connections_of_mine.weight"])
    assert not is_plain(["blocks.0.weight", "hyper_connections.blocks__0.phi"])
    assert is_plain(["module.weight", "hyper_connections.x.phi"], "module.")
    assert not is_plain(["other.weight"], "module."), "nothing of the model is in it"
    assert not is_plain(["module.hyper_connections.x.phi"], "module.")
