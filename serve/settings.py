"""Configuration: one YAML file and `RETOUCH_*` variables, resolved once at start. Nothing else reads the environment.

`load` answers a frozen `Settings` in which every value is decided, or raises `ConfigurationError` with one sentence
that names the key. A variable names a section, or a key of one after `__` (`RETOUCH_SERVER__PORT=8080`), and wins over
the file; `RETOUCH_MODELS` holds the whole list as JSON. A null stands for the default of its key.
"""

import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from serve import strict_yaml
from serve.client import API_KEY_VARIABLE
from serve.errors import ConfigurationError
from serve.kubernetes import is_service_variable

ENV_PREFIX = "RETOUCH_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
NO_KEYS = (CONFIG_VARIABLE, API_KEY_VARIABLE)
"""Variables with our prefix that set nothing of the configuration."""

_ROOT = Path(__file__).parent.parent
EMBEDDED_CHECKPOINT = _ROOT / "embedded_model" / "checkpoint"
"""Both packages are installed together, editable or not; finding it by import would take any folder of that name."""
MIB = 2**20

BackendName = Literal["torch", "onnxruntime", "openvino", "tensorrt", "triton", "simulated"]
Precision = Literal["float32", "float16", "bfloat16"]
Provenance = Literal["none", "parameters", "prompt"]
"""What answered files tell of their making: nothing, all but the prompt, or the prompt as well."""
BUCKET_LIFETIME_S = 7 * 24 * 3600
"""What S3 and Google Cloud Storage accept; Azure ends there where the server signs by its identity."""
_SECRET_KEYS = {"secret", "url", "options", "client_options"}
"""Whose values no message shows."""
_BUCKET_URL = re.compile(r"(s3|gs|az)://[^/?#@\s]+(/[^?#\s]*)?")
_BUCKET_KEYS = {"options", "client_options", "public_endpoint", "retry_s"}
_FOLDER_KEYS = {"folder", "secret", "max_bytes"}
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")
ModelId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$")]


def _without_nulls(values: object, known: Collection[str]) -> object:
    """The nulls of unknown keys stay, to be refused as such."""
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if value is not None or key not in known}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: object) -> object:
        return _without_nulls(values, cls.model_fields)


class ServerSettings(_Section):
    """Where the HTTP server listens. public_url: what links in answers start with; empty: the host the caller used.

    keep_alive_s: between two signs of life in a stream that has nothing to tell. cache_folder: keeps what was measured
    of the models from one start to the next.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    public_url: str = ""
    ingress_replicas: int = Field(default=1, ge=1)
    codec_replicas: int = Field(default=1, ge=1)
    codec_threads: int = Field(default=2, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    keep_alive_s: float = Field(default=15.0, gt=0)
    cache_folder: Path = Path(tempfile.gettempdir()) / "retouch-cache"


class LimitSettings(_Section):
    """What a request may ask for; beyond each bound the answer is an error that names it."""

    body_bytes: int = Field(default=64 * MIB, ge=1024)
    image_bytes: int = Field(default=4 * MIB, ge=1024)
    image_pixels: int = Field(default=40_000_000, ge=256)
    body_timeout_s: float = Field(default=60.0, gt=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    bodies_bytes: int = Field(default=512 * MIB, ge=1024)
    requests_in_flight: int = Field(default=256, ge=1)


class StorageSettings(_Section):
    """Where results that are answered by URL lie: in a folder that the server answers for, or in a bucket.

    lifetime_s: how long a link works at least. folder: of the embedded store. secret: signs its links; empty means one
    is drawn at the first start and kept in the folder. max_bytes: of all its files; results that would pass it are
    refused until others have expired.
    url: of a bucket, and the prefix of its objects; empty means the embedded store. options and client_options: as
    obstore names them, over what it finds in the environment. public_endpoint: where callers reach an S3 that has
    another address for the server. retry_s: how long a failed upload is made again before the answer is 503.
    """

    folder: Path = Path(tempfile.gettempdir()) / "retouch-files"
    secret: str = ""
    lifetime_s: float = Field(default=3600.0, gt=0)
    max_bytes: int = Field(default=2 * 1024 * MIB, ge=16 * MIB)
    url: str = ""
    options: dict[str, str | StrictBool] = {}
    client_options: dict[str, str | StrictBool] = {}
    public_endpoint: str = ""
    retry_s: float = Field(default=10.0, ge=0, le=60)

    @field_validator("url")
    @classmethod
    def _a_bucket_is_named(cls, url: str) -> str:
        if url and not _BUCKET_URL.fullmatch(url):
            shown = url.rpartition("@")[2]
            raise ValueError(f"{shown!r} is none of s3://bucket/prefix, gs://bucket/prefix and az://container/prefix")
        return url

    @field_validator("public_endpoint")
    @classmethod
    def _the_public_endpoint_is_an_address(cls, endpoint: str) -> str:
        if endpoint and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("an endpoint is https://host, or http://host where client_options allow it")
        return endpoint

    @model_validator(mode="after")
    def _keys_are_of_the_store_that_is_used(self) -> Self:
        foreign = _FOLDER_KEYS if self.url else _BUCKET_KEYS
        for key in sorted(self.model_fields_set & foreign):
            used = f"url names {self.url}" if self.url else "url names none"
            raise ValueError(f"{key} is of {'the embedded store' if self.url else 'a bucket'}, and {used}")
        if self.public_endpoint and not self.url.startswith("s3://"):
            raise ValueError("public_endpoint is for s3:// alone; other stores sign for one address")
        if self.url and self.lifetime_s > BUCKET_LIFETIME_S:
            raise ValueError(f"lifetime_s is {self.lifetime_s:g}; signed links of a bucket work for at most 7 days")
        return self


class AuthSettings(_Section):
    """Who may use the server. keys_file: of bearer keys, which `retouch keys` writes; None: everybody may.

    allow_anonymous: that everybody may also where the server listens on an address that others can reach.
    """

    keys_file: Path | None = None
    allow_anonymous: bool = False


class IdempotencySettings(_Section):
    """Answers of requests with an `Idempotency-Key`, for those who send them again. lifetime_s: how long they are kept.
    max_bytes: of all of them; beyond it the oldest go first, and whoever comes then gets the same picture drawn anew.
    """

    lifetime_s: float = Field(default=3600.0, gt=0)
    max_bytes: int = Field(default=256 * MIB, ge=1024)


class SimulatedSettings(_Section):
    """Of the backend `simulated`. timings: the name of a table that comes along, or the path of one. speed: divides
    all of its times. memory_bytes: of the device that it plays.
    """

    timings: str = "h200-512px"
    speed: float = Field(default=1.0, gt=0)
    memory_bytes: int = Field(default=141 * 10**9, ge=1)


class TritonSettings(_Section):
    """Of the backend `triton`: a Triton server that serves the model repository.

    address: host and port of its gRPC. timeout_s: that one call may take. shared_memory: tensors lie where both
    processes see them, which needs one machine, and from Triton 2.68 on the server's option --allow-client-shm=true.
    """

    address: str = "127.0.0.1:8001"
    timeout_s: float = Field(default=60.0, gt=0)
    shared_memory: bool = True


class ComponentSettings(_Section):
    """Where one component of a model runs; what is left out is as for the model."""

    backend: BackendName | None = None
    device: str | None = None
    precision: Precision | None = None
    threads: int | None = Field(default=None, ge=0)


class ModelSettings(_Section):
    """One model that is served.

    weights: a folder in diffusers' layout or a hub id. backend: what runs its components. model_repository: where
    `retouch build-engines` puts the compiled ones, for the backends `onnxruntime`, `openvino`, `tensorrt` and `triton`.
    components: by name, those that run elsewhere than the others. device: as torch names it. compile: the backend
    `torch` compiles what it runs, which takes up to a minute for each shape when it first comes. cuda_graphs: on CUDA
    devices, the backends `torch` and `tensorrt` launch what they run as graphs. max_batch: rows that one pass of the
    denoiser takes. batching: `steps`, where rows join and leave at each step; `requests`, where requests of equal
    parameters run through together; `none`, one request after the other. The last two are there to be measured
    against.
    max_queued_rows: rows that wait before the answer is 429. memory_share: of the device's memory, what the model and
    its work may fill. profile_s: seconds that a start may spend to measure the model, where it is not known from an
    earlier one. step_log: a file that gets a line of JSON for each step. num_gpus, num_cpus: of one replica, as Ray
    counts them. threads: of one replica's CPU kernels; 0: as many as its process may use CPUs, counted where it runs
    (`serve.cpus.usable_cpus`), and one where the backend is simulated. num_inference_steps, strength and
    guidance_scale replace the family's defaults.
    """

    id: ModelId
    aliases: tuple[ModelId, ...] = ()
    family: str
    weights: str
    backend: BackendName = "torch"
    model_repository: Path = _ROOT / "model_repository"
    components: dict[str, ComponentSettings] = {}
    simulated: SimulatedSettings = SimulatedSettings()
    triton: TritonSettings = TritonSettings()
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    cuda_graphs: bool = True
    max_batch: int = Field(default=1, ge=1, le=64)
    batching: Literal["steps", "requests", "none"] = "steps"
    max_queued_rows: int = Field(default=64, ge=1)
    memory_share: float = Field(default=0.9, gt=0, le=1)
    profile_s: float = Field(default=10.0, ge=0)
    step_log: Path | None = None
    cache_bytes: int = Field(default=256 * MIB, ge=0)
    replicas: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0.0, ge=0)
    num_cpus: float = Field(default=1.0, ge=0)
    threads: int = Field(default=0, ge=0)
    num_inference_steps: int | None = Field(default=None, ge=1, le=100)
    strength: float | None = Field(default=None, ge=0, le=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=20)

    @model_validator(mode="after")
    def _a_gpu_is_asked_for(self) -> Self:
        devices = [self.device, *(component.device or "" for component in self.components.values())]
        for device in devices:
            if device.startswith("cuda") and self.num_gpus == 0:
                raise ValueError(f"device {device} needs num_gpus above 0; Ray shows a replica no GPU without")
        return self

    @model_validator(mode="after")
    def _what_is_compiled_runs_on_torch(self) -> Self:
        backends = {self.backend, *(component.backend for component in self.components.values())}
        if self.compile and "torch" not in backends:
            raise ValueError(f"compile is of the backend torch alone; backend is {self.backend}")
        return self


def embedded_model() -> ModelSettings:
    """The small model that comes with the project and needs no GPU."""
    weights = str(EMBEDDED_CHECKPOINT)
    return ModelSettings(
        id="retouch-tiny", family="pixel_edit", weights=weights, backend="openvino", precision="bfloat16"
    )


class Settings(BaseSettings):
    """The whole configuration. default_model: the id that serves a request without `model`; empty means the first.

    provenance: what the files of answers tell of their making.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    default_model: str = ""
    models: tuple[ModelSettings, ...] = Field(default_factory=lambda: (embedded_model(),))
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    storage: StorageSettings = StorageSettings()
    auth: AuthSettings = AuthSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    provenance: Provenance = "parameters"

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: object) -> object:
        return _without_nulls(values, cls.model_fields.keys() - {"models"})

    @field_validator("models", mode="before")
    @classmethod
    def _a_model_is_listed(cls, models: object) -> object:
        """Whoever writes `models:` with nothing below it means to list some, not the embedded one."""
        if models is None or models in ([], ()):
            raise ValueError("the list is empty; add a model, or leave the key out to serve the embedded one")
        return models

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [name for model in self.models for name in (model.id, *model.aliases)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"{doubled[0]!r} names two models")
        if self.default_model and self.default_model not in names:
            raise ValueError(f"default_model {self.default_model!r} is none of {', '.join(names)}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    def model(self, name: str) -> ModelSettings | None:
        """The model of that id or alias; an empty name is the default model."""
        wanted = name or self.default_model or self.models[0].id
        return next((model for model in self.models if wanted in (model.id, *model.aliases)), None)


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of the YAML file at `path`, then `overrides`, then the environment.

    Without a path the file is what RETOUCH_CONFIG names; without that as well, everything has its default.
    Raises ConfigurationError: the file cannot be read, or a key is unknown or its value refused.
    """
    _refuse_unknown_variables(os.environ)
    path = path or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)
    values = _read(path) if path else {}
    for section, changes in (overrides or {}).items():
        values[section] = _merged(values.get(section, {}), changes)
    _refuse_unknown_keys(values, path)
    try:
        return Settings(**values)
    except SettingsError as error:
        raise ConfigurationError(f"a {ENV_PREFIX}* variable is not JSON: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(_sentence(error, path)) from None


def _merged(current: object, changes: object) -> object:
    """A section with changes; one that is no mapping stays, so that its fault is told and not covered."""
    if current is None or not isinstance(changes, Mapping):
        return changes
    return {**current, **changes} if isinstance(current, Mapping) else current


def _read(path: Path) -> dict[str, Any]:
    try:
        values = strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration {path} is no good YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"configuration {path} must be a mapping of keys, not {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _refuse_unknown_keys(values: Mapping[str, Any], path: Path | None) -> None:
    """Here, since pydantic-settings takes some keys (`_env_prefix`) for options of its own."""
    unknown = next((key for key in values if key not in Settings.model_fields), None)
    if unknown is not None:
        raise ConfigurationError(f"unknown configuration key {unknown}{_origin((unknown,), path)}")


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """pydantic-settings passes over variables that match no field, so that a typo would change nothing in silence."""
    for name, value in environment.items():
        if not name.upper().startswith(ENV_PREFIX) or name in NO_KEYS or is_service_variable(name, value):
            continue
        key, *parts = name[len(ENV_PREFIX) :].lower().split("__")
        whole = f"{ENV_PREFIX}{key.upper()}"
        if key not in Settings.model_fields:
            known = ", ".join(f"{ENV_PREFIX}{key.upper()}" for key in Settings.model_fields)
            raise ConfigurationError(
                f"the variable {name} is unknown; known are {known}, and a section's keys after __"
            )
        if parts and not isinstance(Settings.model_fields[key].default, _Section):
            takes = f"{whole} takes the whole {'list as JSON' if key == 'models' else 'value'}"
            raise ConfigurationError(f"the variable {name} names a part of {key}; {takes}")
        if len(parts) > 1:
            raise ConfigurationError(f"the variable {name} is unknown; after {whole}__ comes one key of the section")
        if not parts and key != "default_model" and value.strip() == "null":
            raise ConfigurationError(f"the variable {name} is null; leave it out, or set it to JSON")


def _sentence(error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = _origin(first["loc"], path)
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"the configuration{where} contradicts itself: {said}"
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown configuration key {key}{where}"
    if first["type"] == "missing":
        return f"configuration key {key} is missing{where}"
    tellable = not isinstance(first["input"], dict | Settings) and not _SECRET_KEYS & set(first["loc"])
    shown = f" (found {first['input']!r})" if tellable else ""
    return f"configuration key {key}{where}: {said}{shown}"


def _origin(place: tuple[int | str, ...], path: Path | None) -> str:
    """Where the value at fault comes from: the variable that names its key or a level above it, else the file."""
    levels = [ENV_PREFIX + "__".join(map(str, place[:depth])).upper() for depth in range(1, len(place) + 1)]
    variable = next((name for name in os.environ if name.upper() in levels), None)
    if variable:
        return f" in the variable {variable}"
    return f" in {path}" if path else ""
