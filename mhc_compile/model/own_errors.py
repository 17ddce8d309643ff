"""What the user's own code raises at a call comes out of a transformed model as it would of the plain one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mhc_compile.capture.trace_errors import describe_call
from mhc_compile.capture.undisturbed import state_kept
from mhc_compile.dynamo.attributes_kept import attributes_kept
from mhc_compile.programs.dispatch import FORWARD, Entry
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import original_forward, plain_calls
from mhc_compile.twin.module_tree import original_class
from mhc_compile.twin.parallel import is_parallel


def own_error(
    owner: Served, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> Exception:
    """What the code of a module raises on these inputs, where tracing it has ended in `error`; else `error` itself.

    The code is run to see, plain, for Dynamo keeps the text of an exception and not the object. Its state is put back.
    A distributed model is not: another process may not be here, and this one would wait for it.
    """
    if is_parallel(list(owner.modules())):
        return error
    module = owner.get_submodule(entry.path)
    code = original_forward(module) if entry.method == FORWARD else getattr(original_class(module), entry.method)
    with state_kept(owner), attributes_kept(owner), plain_calls():
        try:
            code(module, *args, **kwargs)
        except Exception as own:
            own.add_note(f"mhc_compile ran the plain code of {describe_call(module, args, kwargs)} to raise this")
            return own
    return error
