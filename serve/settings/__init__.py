"""Configuration: one YAML file and `RETOUCH_*` variables, resolved once at start. Nothing else reads the environment.

`load` answers a frozen `Settings` in which every value is decided, or raises `ConfigurationError` with one sentence
that names the key. A variable names a section, or a key of one after `__` (`RETOUCH_SERVER__PORT=8080`), and wins over
the file; `RETOUCH_MODELS` holds the whole list as JSON. A null stands for the default of its key.
"""

from serve.settings.load import CONFIG_VARIABLE, ENV_PREFIX, Provenance, Settings, file_of, load, variables_of
from serve.settings.models import (
    EMBEDDED_CHECKPOINT,
    BackendName,
    ComponentSettings,
    ModelId,
    ModelSettings,
    Precision,
    ReplicaSettings,
    SimulatedSettings,
    TritonSettings,
    embedded_model,
)
from serve.settings.needs import gpus_wanted, object_store_bytes, refuse_missing_gpus, refuse_open_server
from serve.settings.section import MIB
from serve.settings.service import AuthSettings, IdempotencySettings, LimitSettings, LinkSettings, ServerSettings
from serve.settings.storage import BUCKET_LIFETIME_S, StorageSettings
from serve.settings.telemetry import sends_traces

__all__ = [
    "BUCKET_LIFETIME_S",
    "CONFIG_VARIABLE",
    "EMBEDDED_CHECKPOINT",
    "ENV_PREFIX",
    "MIB",
    "AuthSettings",
    "BackendName",
    "ComponentSettings",
    "IdempotencySettings",
    "LimitSettings",
    "LinkSettings",
    "ModelId",
    "ModelSettings",
    "Precision",
    "Provenance",
    "ReplicaSettings",
    "ServerSettings",
    "Settings",
    "SimulatedSettings",
    "StorageSettings",
    "TritonSettings",
    "embedded_model",
    "file_of",
    "gpus_wanted",
    "load",
    "object_store_bytes",
    "refuse_missing_gpus",
    "refuse_open_server",
    "sends_traces",
    "variables_of",
]
