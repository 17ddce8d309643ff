from __future__ import annotations

import torch

from mhc_compile.diagnostics.figures import stream_figures


def test_a_stream_is_read_by_its_size_and_its_weight():
    read = torch.tensor([[0.5], [-0.25]]).double()
    gram = torch.tensor([[[4.0], [-8.0]], [[-8.0], [16.0]]]).double()  # sizes 2 and 4, opposite
    found = stream_figures(read, gram)
    assert found == {"read_share": (0.5, 0.5), "stream_rms": (2.0, 4.0), "similarity": -1.0}
