"""What every section of the configuration has in common."""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, model_validator

MIB = 2**20


def without_nulls(values: object, known: Collection[str]) -> object:
    """The nulls of unknown keys stay, to be refused as such."""
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if value is not None or key not in known}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: object) -> object:
        return without_nulls(values, cls.model_fields)
