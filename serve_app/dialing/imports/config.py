"""What an import may be, and which header means what: `configs/imports.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from serve_app.paths import configs_dir

Target = Literal[
    "number",
    "first_name",
    "last_name",
    "full_name",
    "email",
    "priority",
    "high_value",
    "tags",
    "time_zone",
    "region",
    "country",
    "consent",
    "consent_at",
    "consent_source",
    "scrubbed_at",
]
TARGETS: tuple[Target, ...] = get_args(Target)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportLimits(_Part):
    """Bytes unless the name says otherwise."""

    file_bytes: int = Field(ge=1)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    row_bytes: int = Field(ge=1)
    custom_field_bytes: int = Field(ge=1)
    chunk_rows: int = Field(ge=1)
    preview_rows: int = Field(ge=1)
    workbook_bytes: int = Field(ge=1)
    workbook_ratio: float = Field(gt=1)
    workbook_memory_bytes: int = Field(ge=1)


class ImportConfig(_Part):
    limits: ImportLimits
    headers: Mapping[Target, tuple[str, ...]]
    regions: Mapping[Annotated[str, Field(pattern=r"^[A-Z]{2}-[A-Z0-9]{1,3}$")], str]


@cache
def import_config() -> ImportConfig:
    """Read and validated once. Raises pydantic.ValidationError, which names the field."""
    document = yaml.safe_load((configs_dir() / "imports.yaml").read_text(encoding="utf-8"))
    return ImportConfig.model_validate(document)
