"""What lies beside the weights in a folder of `save_pretrained`: which hyper-connections a model was given, and where.

The weights alone do not say which model they belong to. With this record the transformed model is made again without
example inputs and without a trace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mhc_compile.config import Config
from mhc_compile.errors import NewerCheckpointError, UnreadableCheckpointError
from mhc_compile.files.atomic import write_atomically
from mhc_compile.passes.plan.data import SCHEMA_VERSION, Plan
from mhc_compile.twin.owned import Owner

RECORD = "hyper_connections.json"
"""Name of the file."""
FORMAT = 1

LOCK = "transformers_weights"
"""The entry of `config.json` that names the file with the weights, if it is no file of the usual name."""


@dataclass(frozen=True)
class Record:
    """How a model was transformed.

    Attributes:
        model: name of the class of the model that was transformed.
        config: the options.
        plans: of all modes that were traced.
    """

    model: str
    config: Config
    plans: tuple[Plan, ...]

    @classmethod
    def of(cls, owner: Owner) -> Record:
        """The record of a transformed model."""
        return cls(owner._mhc.original.__name__, owner._mhc.config, owner._mhc.plans)

    def write(self, folder: Path) -> None:
        """Write it into a folder, whole or not at all."""
        plans = [plan.to_dict() for plan in self.plans]
        text = json.dumps({"format": FORMAT, "model": self.model, "options": asdict(self.config), "plans": plans})
        write_atomically(folder / RECORD, lambda beside: beside.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, file: Path) -> Record:
        """The record in a file.

        Raises:
            NewerCheckpointError: it was written by a later version of this package.
            UnreadableCheckpointError: it is truncated or no record.
        """
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            _check_versions(file, data)
            return cls._from_dict(data)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UnreadableCheckpointError(
                f"{file} is truncated or does not say which hyper-connections these are "
                f"({type(error).__name__}: {error}): write the folder again with model.save_pretrained(folder)"
            ) from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Record:
        from mhc_compile.passes.plan.from_json import plan_from_dict  # late

        plans = tuple(map(plan_from_dict, data["plans"]))
        if not plans:
            raise ValueError("no plan")
        return cls(data["model"], Config(**data["options"]), plans)


def _check_versions(file: Path, data: Mapping[str, Any]) -> None:
    newest = max([SCHEMA_VERSION, *(plan["schema_version"] for plan in data["plans"])])
    if data["format"] > FORMAT or newest > SCHEMA_VERSION:
        raise NewerCheckpointError(
            f"{file} was written by a later version of mhc_compile: install the version that wrote it, or a later one"
        )
