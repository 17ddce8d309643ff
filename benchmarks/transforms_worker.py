"""A process that times `transform` on models of the zoo, from the tree that its argument names.

Started by `benchmarks.transforms` through its path: an older tree does not have this file. It reads the name of a model
per line and answers with a line of JSON, behind a mark, for models print too.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

MARK = "@@"


def main(tree: str) -> None:
    """Answer every line of standard input."""
    _only(tree)
    import torch

    import mhc_compile

    if not Path(mhc_compile.__file__).is_relative_to(tree):
        raise SystemExit(f"mhc_compile is {mhc_compile.__file__}, not of {tree}")
    warnings.filterwarnings("ignore")
    logging.disable()
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            answer: dict[str, float | str] = {"seconds": _seconds(line.strip())}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        gc.collect()
        print(MARK + json.dumps(answer), flush=True)


def _only(tree: str) -> None:
    """Import the project from `tree`: not where it is installed from."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    sys.path[0] = tree
    os.chdir(tree)


def _seconds(target: str) -> float:
    """Processor time of one `transform` with the options that a user gets."""
    from mhc_compile import transform
    from tests.zoo.build import build

    model, args, kwargs = build(target)
    gc.collect()
    start = time.process_time()
    transform(model, n=4, example_inputs=args, example_kwargs=kwargs)
    return time.process_time() - start


if __name__ == "__main__":
    main(sys.argv[1])
