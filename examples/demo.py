"""`make demo`: what the compiler sees in timm's vit_tiny, then the transformed model at work."""

from __future__ import annotations

from collections.abc import Sequence

from examples import inspect_model, upcycle_vit


def main(arguments: Sequence[str] = ()) -> None:
    """Inspect, then upcycle; `arguments` are those of `upcycle_vit`."""
    inspect_model.main(["timm:vit_tiny_patch16_224"])
    print()
    upcycle_vit.main(arguments)


if __name__ == "__main__":
    main()
