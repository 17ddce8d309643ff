"""How many streams there may be."""

from __future__ import annotations

MAX_STREAMS = 8
MAX_STREAMS_LITE = 4  # mhc-lite enumerates n! permutations
