from __future__ import annotations

import pytest
import torch

from mhc_compile.diagnostics.mixing import (
    Chain,
    backward_products,
    column_gain,
    forward_products,
    mixing_figures,
    row_gain,
)
from tests.diagnostics.hand import EXPLODING, IDENTITY, KNOWN, PERMUTATION, UNEVEN, UNIFORM

EXACT = {"rtol": 0, "atol": 1e-12}


def tokens(*matrices):
    return torch.stack(matrices)


@pytest.mark.parametrize("name", KNOWN)
def test_known_matrices_have_their_figures(name):
    R, forward, backward, singular, identity, uniform, entropy = KNOWN[name]
    found = mixing_figures(tokens(R, R)[None])
    ones = torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(found.forward, forward * ones, **EXACT)
    torch.testing.assert_close(found.backward, backward * ones, **EXACT)
    torch.testing.assert_close(found.singular, torch.tensor(singular).double().expand(1, 2, 4), **EXACT)
    torch.testing.assert_close(found.identity, identity * ones, **EXACT)
    torch.testing.assert_close(found.uniform, uniform * ones, **EXACT)
    torch.testing.assert_close(found.entropy, entropy * ones, **EXACT)


def test_rows_are_the_forward_and_columns_the_backward_and_signs_do_not_cancel():
    assert row_gain(UNEVEN) == 4 and column_gain(UNEVEN) == 6


def test_what_is_not_finite_is_nan_for_its_token_alone():
    bad = IDENTITY.clone()
    bad[2, 1] = float("nan")
    found = mixing_figures(tokens(IDENTITY, bad)[None])
    for values in (found.forward, found.backward, found.singular.amax(-1), found.identity):
        assert values[0, 0].isfinite() and values[0, 1].isnan()


def test_one_stream_has_no_entropy():
    assert mixing_figures(torch.ones(1, 3, 1, 1, dtype=torch.float64)).entropy.tolist() == [[0.0, 0.0, 0.0]]


def chain(*matrices, **moved):
    keys = [f"s{i}" for i in range(len(matrices))]
    return {
        key: Chain(R if R.dim() == 3 else tokens(R, R), keys[i - 1] if i else "", moved.get(key, False))
        for i, (key, R) in enumerate(zip(keys, matrices, strict=True))
    }


def test_products_grow_from_the_entry_forward_and_from_the_end_backward():
    sites = chain(EXPLODING, EXPLODING, EXPLODING)
    onward, back = forward_products(sites), backward_products(sites)
    assert [row_gain(onward[k])[0].item() for k in sites] == [1.5, 2.25, 3.375]
    assert [column_gain(back[k][0])[0].item() for k in sites] == [3.375, 2.25, 1.5]


def test_the_order_of_a_product_is_that_of_the_network():
    onward = forward_products(chain(UNEVEN, PERMUTATION))
    torch.testing.assert_close(onward["s1"][0], PERMUTATION @ UNEVEN, **EXACT)
    back = backward_products(chain(UNEVEN, PERMUTATION))
    torch.testing.assert_close(back["s0"][0][0], PERMUTATION @ UNEVEN, **EXACT)


def test_each_token_has_a_product_of_its_own():
    sites = chain(tokens(IDENTITY, 2 * IDENTITY), tokens(2 * IDENTITY, IDENTITY))
    assert row_gain(forward_products(sites)["s1"]).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("how", ["moved", "others"])
def test_where_tokens_move_the_product_goes_on_with_the_mean(how):
    first = tokens(IDENTITY, 3 * IDENTITY)
    second = tokens(IDENTITY, 2 * IDENTITY) if how == "moved" else tokens(IDENTITY)
    sites = chain(first, second, s1=how == "moved")
    assert row_gain(forward_products(sites)["s1"]).tolist() == ([2.0, 4.0] if how == "moved" else [2.0])
    assert row_gain(backward_products(sites)["s0"][0]).tolist() == ([1.5, 4.5] if how == "moved" else [1.0, 3.0])


def test_towers_that_share_a_trunk_have_products_of_their_own():
    sites = chain(2 * IDENTITY, IDENTITY)
    sites["other"] = Chain(tokens(UNIFORM, UNIFORM) * 5, "s0")
    onward, back = forward_products(sites), backward_products(sites)
    assert row_gain(onward["s1"])[0] == 2 and row_gain(onward["other"])[0] == 10
    assert sorted(column_gain(p)[0].item() for p in back["s0"]) == [2.0, 10.0]
