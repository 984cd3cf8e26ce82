"""A column IN many values, with all of them as one parameter.

With a parameter for each, every number of values would be another statement: for SQLAlchemy to put together, and for
the driver to prepare and to keep, thousands of them tens of megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, any_, bindparam, func, literal, select
from sqlalchemy.orm import InstrumentedAttribute


def among(dialect: str, column: InstrumentedAttribute[str], values: Collection[str]) -> ColumnElement[bool]:
    """`column IN values`. A text: the name of a parameter that will be given as `one_value`."""
    kind: Any = Text() if dialect == "sqlite" else ARRAY(Text())
    one = bindparam(values, type_=kind) if isinstance(values, str) else literal(one_value(dialect, values), kind)
    if dialect == "sqlite":
        return column.in_(select(func.json_each(one).table_valued("value").c.value))
    return column == any_(one)


def one_value(dialect: str, values: Collection[str]) -> Any:
    """The values as the one parameter of `among`."""
    return json.dumps(list(values)) if dialect == "sqlite" else list(values)
