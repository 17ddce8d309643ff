"""torchtitan's checkpoints, read with this package's checks: also those of the model without hyper-connections."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch.distributed.checkpoint import state_dict_loader
from torchtitan.components import checkpointer

from mhc_compile import sharded
from mhc_compile.errors import InvalidOptionError
from mhc_compile.torchtitan.names import check_names
from mhc_compile.twin.header import is_plain
from mhc_compile.twin.hyper_connections import CHILD

_Original: Any = checkpointer.CheckpointManager


class CheckpointManager(_Original):  # type: ignore[misc]
    """As torchtitan's, and what it loads may be a checkpoint of the plain model: new parameters stay as they are.

    Of torchtitan's own format, what does not fit is one error of `mhc_compile.errors` on every process, and nothing is
    loaded.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(_Original.Config):  # type: ignore[misc]
        """That of torchtitan."""

    def __init__(self, config: Any, **others: Any) -> None:
        """See torchtitan.

        Raises:
            CheckpointMismatchError: the last checkpoint is to be for Hugging Face, and a site has no name there.
        """
        super().__init__(config, **others)
        if self.enable and self.last_save_in_hf:
            check_names(self.sd_adapter, self.states[checkpointer.MODEL].state_dict())

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """See torchtitan."""
        if not from_hf:
            sharded.load(state_dict, checkpoint_id)
            self.states[checkpointer.MODEL].load_state_dict(state_dict)
            return
        if self.sd_adapter is None:
            raise InvalidOptionError(
                "initial_load_in_hf: the specification of the model has no state_dict_adapter; load a checkpoint of "
                "torchtitan's, or give ModelSpec one"
            )
        wanted = self.sd_adapter.to_hf(state_dict)
        reader = self.sd_adapter.get_hf_storage_reader(checkpoint_id, from_quantized)
        if is_plain(reader.read_metadata().state_dict_metadata):
            wanted = {name: value for name, value in wanted.items() if not name.startswith(f"{CHILD}.")}
        state_dict_loader.load(wanted, storage_reader=reader)
        self.states[checkpointer.MODEL].load_state_dict(self.sd_adapter.from_hf(wanted))


def with_checks(config: Any) -> CheckpointManager.Config:
    """The configuration of torchtitan's own manager, for this one."""
    return CheckpointManager.Config(**{f.name: getattr(config, f.name) for f in fields(config)})
