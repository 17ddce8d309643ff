"""Streams of the model's own: recognised, told apart from towers that only look at each other."""

from mhc_compile.passes.plan import Reason
from tests.passes.graphs import plan_of
from tests.passes.layers import Net, mlps, tokens


def test_two_streams_written_from_one_another_are_left_alone():
    def body(m, x):
        a, b = m.f0(x), m.f1(x)
        a = a + m.f2(b)
        b = b + m.f3(a)
        a = a + m.f4(b)
        return a * b

    plan = plan_of(Net(body, **mlps(5)).double(), tokens(2, 6, 8))
    assert not plan.sites
    assert {r.reason for r in plan.rejected} <= {Reason.MULTI_STREAM, Reason.PROJECTED_SHORTCUT, Reason.NOT_ANCESTOR}
    assert Reason.MULTI_STREAM in {r.reason for r in plan.rejected}


def test_two_towers_that_read_each_other_and_themselves_are_sites_of_both():
    def body(m, x):
        a, b = m.f0(x), m.f1(x)
        for f, g in ((m.f2, m.f3), (m.f4, m.f5)):
            a = a + f(a * b)
            b = b + g(b * a)
        return a * b

    plan = plan_of(Net(body, **mlps(6)).double(), tokens(2, 6, 8))
    assert len(plan.sites) == 4
    assert not plan.rejected
