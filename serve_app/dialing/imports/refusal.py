"""Why a file is not imported at all. What is wrong with single rows is no refusal: it is reported with the row."""

from __future__ import annotations

from serve_app.errors import ParleyError


class ImportRefused(ParleyError):  # noqa: N818
    """The file cannot be imported. `field`: what of the request is to blame; `remedy`: what would help."""

    def __init__(self, code: str, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message}; {remedy}")
        self.code = code
        self.field = field
        self.message = message
        self.remedy = remedy
