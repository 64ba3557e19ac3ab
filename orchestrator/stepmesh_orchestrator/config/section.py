"""The root of all parts of a configuration: camelCase keys, `null` for "as if absent", unknown keys kept so that they can be reported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from stepmesh_orchestrator.core.flow.paths import Path


class Section(BaseModel):
    """Keys may be written in camelCase or in snake_case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Every optional key also accepts an explicit null."""
        return {key: member for key, member in value.items() if member is not None} if isinstance(value, dict) else value

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """The keys as they are documented."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

    def unknown_keys(self, path: Path = ()) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """The place of each unknown key in here and below, with the keys that are known there."""
        for key in self.model_extra or {}:
            if not key.startswith("x-"):
                yield (*path, key), self.known_keys()
        for name, field in type(self).model_fields.items():
            yield from _unknown_below(getattr(self, name), (*path, field.alias or name))


def _unknown_below(value: Any, path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    if isinstance(value, Section):
        yield from value.unknown_keys(path)
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _unknown_below(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _unknown_below(member, (*path, index))
