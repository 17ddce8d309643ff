"""torchtitan's language models with hyper-connections, for its own trainer.

    torchrun ... -m torchtitan.train --module mhc_compile.torchtitan --config llama3_debugmodel_mhc

or, in a registry of your own, `mhc_compile.torchtitan.configured(llama3_8b(), n=4)`. Knows nothing of how a rewritten
graph computes on distributed tensors.
"""

from mhc_compile.errors import MissingPackageError

try:
    import torchtitan.protocols.model_spec  # noqa: F401
except ImportError as error:
    raise MissingPackageError(f"{error}: write pip install torchtitan==0.3.0") from error

from mhc_compile.torchtitan.checkpoints import CheckpointManager
from mhc_compile.torchtitan.config_registry import (
    configured,
    deepseek_v3_debugmodel_mhc,
    llama3_debugmodel_mhc,
    qwen3_debugmodel_mhc,
)
from mhc_compile.torchtitan.spec import with_hyper_connections

__all__ = [
    "CheckpointManager",
    "configured",
    "deepseek_v3_debugmodel_mhc",
    "llama3_debugmodel_mhc",
    "qwen3_debugmodel_mhc",
    "with_hyper_connections",
]
