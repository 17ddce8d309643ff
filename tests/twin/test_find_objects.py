"""Objects are found by their class, derived classes included."""

from __future__ import annotations

import weakref

from mhc_compile.twin.find_objects import alive


class Base:
    pass


class Derived(Base):
    pass


class DerivedTwice(Derived):
    pass


def test_objects_of_derived_classes_are_found_and_proxies_are_not() -> None:
    objects = [Base(), Derived(), DerivedTwice()]
    proxy = weakref.proxy(objects[0])
    assert {id(found) for found in alive(Base)} == set(map(id, objects))
    assert [type(found) for found in alive(DerivedTwice)] == [DerivedTwice]
    del proxy


class Unhashable(type):
    def __eq__(cls, other):
        return cls is other


def test_classes_that_cannot_be_hashed_do_not_matter() -> None:
    other = Unhashable("Other", (), {})()
    one = Derived()
    assert alive(Base) == [one]
    del other


def test_an_object_that_is_gone_is_not_found() -> None:
    one = Derived()
    assert alive(Derived) == [one]
    del one
    assert not alive(Derived)
