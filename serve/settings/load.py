"""The whole configuration, and how it is read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from serve import strict_yaml
from serve.client import API_KEY_VARIABLE
from serve.errors import ConfigurationError
from serve.kubernetes import is_service_variable
from serve.settings.models import ModelSettings, embedded_model
from serve.settings.section import Section, without_nulls
from serve.settings.service import AuthSettings, IdempotencySettings, LimitSettings, LinkSettings, ServerSettings
from serve.settings.storage import StorageSettings

ENV_PREFIX = "RETOUCH_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
NO_KEYS = (CONFIG_VARIABLE, API_KEY_VARIABLE)
"""Variables with our prefix that set nothing of the configuration."""

_SECRET_KEYS = {"secret", "url", "options", "client_options"}
"""Whose values no message shows."""

Provenance = Literal["none", "parameters", "prompt"]
"""What answered files tell of their making: nothing, all but the prompt, or the prompt as well."""


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
    links: LinkSettings = LinkSettings()
    auth: AuthSettings = AuthSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    provenance: Provenance = "parameters"

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: object) -> object:
        return without_nulls(values, cls.model_fields.keys() - {"models"})

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
    path = file_of(path)
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


def file_of(path: Path | None) -> Path | None:
    """The file that `load` reads for that path; None: there is none, and everything has its default."""
    return path or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)


def variables_of(environment: Mapping[str, str]) -> list[str]:
    """The names of those that set something of the configuration, or try to."""
    return [
        name
        for name, value in environment.items()
        if name.upper().startswith(ENV_PREFIX) and name not in NO_KEYS and not is_service_variable(name, value)
    ]


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
    for name in variables_of(environment):
        key, *parts = name[len(ENV_PREFIX) :].lower().split("__")
        whole = f"{ENV_PREFIX}{key.upper()}"
        if key not in Settings.model_fields:
            known = ", ".join(f"{ENV_PREFIX}{key.upper()}" for key in Settings.model_fields)
            raise ConfigurationError(
                f"the variable {name} is unknown; known are {known}, and a section's keys after __"
            )
        if parts and not isinstance(Settings.model_fields[key].default, Section):
            takes = f"{whole} takes the whole {'list as JSON' if key == 'models' else 'value'}"
            raise ConfigurationError(f"the variable {name} names a part of {key}; {takes}")
        if len(parts) > 1:
            raise ConfigurationError(f"the variable {name} is unknown; after {whole}__ comes one key of the section")
        if not parts and key != "default_model" and environment[name].strip() == "null":
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
