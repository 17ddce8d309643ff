"""Streams of the model's own: recognised, told apart from towers that only look at each other."""

from mhc_compile.passes.plan.reasons import Reason
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


def test_what_one_branch_hands_to_a_later_one_past_the_stream_is_no_site():
    def body(m, x):
        values = m.f0(x)
        x = x + m.f1(values * x)
        later = values + m.f2(x)  # as the values of the first attention are mixed into all others
        return x + m.f3(later * x)

    plan = plan_of(Net(body, **mlps(4)).double(), tokens(2, 6, 8))
    assert len(plan.sites) == 2
    assert [r.reason for r in plan.rejected] == [Reason.NESTED]
    assert "starts inside the branch" in plan.rejected[0].detail


def test_a_stream_that_starts_inside_a_branch_keeps_its_sites():
    def body(m, x):
        pairs = m.f0(x)
        for f, g in ((m.f1, m.f2), (m.f3, m.f4), (m.f5, m.f6)):
            x = x + f(x * pairs)
            pairs = pairs + g(x * pairs)
        return x * pairs

    plan = plan_of(Net(body, **mlps(7)).double(), tokens(2, 6, 8))
    assert len(plan.sites) == 6 and not plan.rejected
