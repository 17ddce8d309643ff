"""torchtitan's trainer on the CPU: without its monitor of GPU memory, and with data that needs no download.

    python -m tests.titan.trainer FOLDER STEPS [qwen3 | deepseek_v3] [--parallelism.tensor_parallel_degree 2 ...]

under `torchrun`, or with its environment variables set. Writes the loss of each step to `FOLDER/losses-RANK.json`, and
is killed behind step STEPS of 20; checkpoints are written at steps 10 and 20.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

SEED, BATCH, LENGTH = 0, 8, 64


def without_gpu() -> None:
    """Let torchtitan take the CPU for its device; before anything else of it is imported."""
    import torchtitan.tools.utils as device

    names = {
        "get_device_name": lambda _: "cpu",
        "get_device_properties": lambda _: types.SimpleNamespace(total_memory=1 << 30),
        "memory_stats": lambda _: {},
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: None,
        "set_device": lambda _: None,
        "current_device": lambda: 0,
    }
    module = types.SimpleNamespace(**{**vars(torch.cpu), **names})
    device.device_type, device.device_module = "cpu", module
    device.get_local_device = lambda: torch.device("cpu")


def components():
    """A data loader and a tokenizer of torchtitan's kinds."""
    from torchtitan.components.dataloader import BaseDataLoader
    from torchtitan.components.tokenizer import BaseTokenizer

    class Counting(BaseDataLoader):
        """Sequences that count up by a step of their own; batch number and rank decide which."""

        @dataclass(kw_only=True, slots=True)
        class Config(BaseDataLoader.Config):
            pass

        def __init__(self, config, *, dp_world_size, dp_rank, local_batch_size, seq_len, **_) -> None:
            self.rank, self.world, self.size, self.length = dp_rank, dp_world_size, local_batch_size, seq_len
            self.number = 0

        def __iter__(self) -> Iterator:
            while True:
                first = (self.number * self.world + self.rank) * self.size
                self.number += 1
                row = torch.arange(first, first + self.size)[:, None]
                tokens = (row * 7 + torch.arange(self.length + 1) * (1 + row % 5)) % 97
                positions = torch.arange(self.length).expand(self.size, -1).contiguous()
                yield {"input": tokens[:, :-1].contiguous(), "positions": positions}, tokens[:, 1:].contiguous()

        def state_dict(self):
            return {"number": self.number}

        def load_state_dict(self, state) -> None:
            self.number = state["number"]

    class None_(BaseTokenizer):
        @dataclass(kw_only=True, slots=True)
        class Config(BaseTokenizer.Config):
            pass

        def __init__(self, config, **_) -> None:
            super().__init__()

        def encode(self, *args, **kwargs):
            return []

        def decode(self, *args, **kwargs):
            return ""

        def get_vocab_size(self):
            return 2048

    return Counting, None_


def main() -> None:
    folder, steps, *more = sys.argv[1:]
    without_gpu()
    torch.set_num_threads(1)
    from torchtitan.config import ConfigManager
    from torchtitan.tools.logging import init_logger

    init_logger()
    family, *more = more if more and not more[0].startswith("--") else ("llama3", *more)
    arguments = ["--module", "mhc_compile.torchtitan", "--config", f"{family}_debugmodel_mhc"]
    config = ConfigManager().parse_args([*arguments, *more])
    loader, tokenizer = components()
    config.dataloader, config.tokenizer = loader.Config(), tokenizer.Config()
    config.dump_folder = folder
    degrees = config.parallelism
    others = degrees.tensor_parallel_degree * degrees.pipeline_parallel_degree * degrees.context_parallel_degree
    config.training.local_batch_size, config.training.seq_len = BATCH, LENGTH
    config.training.local_batch_size //= int(os.environ["WORLD_SIZE"]) // others
    config.debug.seed = SEED
    config.optimizer.implementation = "for-loop"
    config.checkpoint.enable, config.checkpoint.interval = True, 10
    config.training.steps, config.training.mixed_precision_param = 20, "float32"
    trainer = config.build()
    if config.checkpoint.create_seed_checkpoint:
        trainer.checkpointer.save(curr_step=0, last_step=True)
        trainer.close()
        return
    for module in (m for part in trainer.model_parts for m in part.modules()):
        if hasattr(module, "set_force_sum_reduction_for_comms"):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    losses: dict[int, float] = {}
    log = trainer.metrics_processor.log

    def note(step, loss, *args, **kwargs):
        losses[step] = loss
        Path(folder, f"losses-{os.environ['RANK']}.json").write_text(json.dumps(losses))
        if step == int(steps) < 20:
            torch.distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
        log(step, loss, *args, **kwargs)

    trainer.metrics_processor.log = note
    trainer.train()
    trainer.close()


if __name__ == "__main__":
    main()
