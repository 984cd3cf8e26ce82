"""How the rows of an import are read: from what was settled when it was created, and the limits."""

from __future__ import annotations

from serve_app.dialing.imports.config import ImportConfig
from serve_app.dialing.imports.rows import Layout
from serve_app.store.campaign_rows import ImportRow


def layout_of(row: ImportRow, config: ImportConfig) -> Layout:
    """How the rows of an import are read, from what was settled when it was created."""
    return make_layout(
        names=row.mapping["names"],
        fields=row.mapping["fields"],
        custom=[(int(index), str(key)) for index, key in row.mapping["custom"]],
        region=row.options["region"],
        to_call=row.kind == "leads",
        source=row.filename,
        now=row.created_at.isoformat(),
        scrubbed_at=row.options["scrubbed_at"],
        config=config,
    )


def make_layout(
    *,
    names: list[str],
    fields: dict[str, int],
    custom: list[tuple[int, str]],
    region: str | None,
    to_call: bool,
    source: str,
    now: str,
    scrubbed_at: str | None = None,
    config: ImportConfig,
) -> Layout:
    regions: dict[str, str] = {}
    for code, name in config.regions.items():
        regions |= {code: code, code[3:]: code, name.upper(): code}
    return Layout(
        columns=names,
        fields=fields,
        custom=custom,
        region=region,
        to_call=to_call,
        row_bytes=config.limits.row_bytes,
        custom_field_bytes=config.limits.custom_field_bytes,
        regions=regions,
        source=source,
        now=now,
        scrubbed_at=scrubbed_at,
    )
