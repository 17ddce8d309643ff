"""What a checkpoint says about its hyper-connections: format version, connection, streams, readout.

It is a tensor, so that it passes through `torch.save`, safetensors and `torch.distributed.checkpoint` alike, and always
of the same size, so that a sharded load finds room for it. In a state dict it is the extra state of the child
`hyper_connections`, where PyTorch's own tools expect what is neither parameter nor buffer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mhc_compile.config import Config
from mhc_compile.errors import CheckpointMismatchError, NewerCheckpointError, UnreadableCheckpointError
from mhc_compile.wording import names_text

FORMAT = 1
SIZE = 256
KEY = "hyper_connections._extra_state"
"""Name of the header in the state dict of a transformed model."""
_ADAPTED, _BESIDE = "modules_to_save", ("original_module", "_extra_state")
"""What PEFT calls the copies that it trains; what else there is where it has made them."""


@dataclass(frozen=True)
class Header:
    """What must agree for parameters to mean the same.

    Attributes:
        connection: the connection really made, `residual` where there is one stream.
        n: number of streams really made.
        reduce: how streams become one tensor.
        format: version of the names and shapes; a reader takes its own and older ones.
    """

    connection: str
    n: int
    reduce: str
    format: int = FORMAT

    @classmethod
    def of(cls, config: Config) -> Header:
        """The header of what is made with these options."""
        return cls(config.effective_connection, config.streams, config.reduce)

    @classmethod
    def from_tensor(cls, tensor: Any, name: str = KEY) -> Header:
        """Read a header, which is called `name` in its state dict.

        Raises:
            NewerCheckpointError: it was written by a later version of this package.
            UnreadableCheckpointError: it is no header.
        """
        try:
            fields = json.loads(bytes(tensor.to(device="cpu", dtype=torch.uint8).tolist()))
            version = int(fields["format"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnreadableCheckpointError(
                f"{name} does not say which hyper-connections these are ({error}): load a state dict that "
                "model.state_dict() of a transformed model returned, with all its entries"
            ) from error
        if version > FORMAT:
            raise NewerCheckpointError(
                f"{name} has format {version}, and this version of mhc_compile reads formats up to {FORMAT}: "
                "install the version that wrote it, or a later one"
            )
        known = {key: fields.get(key) for key in ("connection", "n", "reduce")}
        return cls(**known, format=version)

    def to_tensor(self) -> Tensor:
        """The header as UTF-8 JSON in a new tensor `[256]`, uint8, on the CPU."""
        text = json.dumps(asdict(self)).encode().ljust(SIZE)
        return torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def check(self, wanted: Header) -> None:
        """Compare with the header of the model that is to take the checkpoint.

        Raises:
            CheckpointMismatchError: its hyper-connections are others.
        """
        if not self.fits(wanted):
            raise CheckpointMismatchError(
                f"the checkpoint has {self}, the model has {wanted}: write mhc_compile.transform(model, n={self.n}, "
                f"connection={self.connection!r}, reduce={self.reduce!r}, ...), or load a checkpoint of that model"
            )

    def fits(self, other: Header) -> bool:
        """Whether parameters made under one mean the same under the other."""
        return self._made() == other._made()

    def _made(self) -> tuple[str, int, str]:
        """What decides: with one stream every readout is that stream."""
        return self.connection, self.n, self.reduce if self.n > 1 else ""

    def __str__(self) -> str:
        return f"connection={self.connection!r} with n={self.n} and reduce={self.reduce!r}"


def check_state(state: Mapping[str, Any], wanted: Header, prefix: str = "") -> None:
    """Check the header in a flat state dict whose names of the transformed model begin with `prefix`, if it has one.

    Raises:
        CheckpointMismatchError: it names other hyper-connections.
        NewerCheckpointError: its format is unknown here.
        UnreadableCheckpointError: it is no header.
    """
    name = prefix + KEY
    if name in state:
        Header.from_tensor(state[name], name).check(wanted)


def check_adapter(names: Iterable[str], prefix: str = "") -> None:
    """Refuse an adapter of PEFT that was trained at other sites: PEFT takes what fits, and says nothing of the rest.

    Args:
        names: of the state that is being loaded; PEFT has put its own word into those that it knows.
        prefix: what names of the transformed model begin with.

    Raises:
        CheckpointMismatchError: hyper-connections are left that the model does not have.
    """
    child = prefix + KEY.partition(".")[0] + "."
    sites = {name[len(child) :].partition(".")[0] for name in names if name.startswith(child)}
    if _ADAPTED in sites and (foreign := sorted(sites - {_ADAPTED, *_BESIDE})):
        raise CheckpointMismatchError(
            f"the adapter was trained with hyper-connections at {names_text(foreign)}, which this model does not have: "
            "load it into a model that was transformed as its base was, with the same include, exclude and nested"
        )


def is_plain(names: Iterable[str], prefix: str = "") -> bool:
    """Whether a state dict with these names has an original model under `prefix`: weights, but no hyper-connections."""
    child = prefix + KEY.partition(".")[0] + "."
    own = [name for name in names if name.startswith(prefix)]
    return bool(own) and not any(name.startswith(child) for name in own)
