"""Where the files that come with Parley are: in the source tree, or inside the installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """The folder `configs/` of the source tree, or its copy in the wheel."""
    source = _PACKAGE.parent / "configs"
    return source if source.is_dir() else _PACKAGE / "_configs"


def serve_config() -> Path:
    """`serve_config.yaml` of the source tree, or its copy in the wheel."""
    source = _PACKAGE.parent / "serve_config.yaml"
    return source if source.is_file() else _PACKAGE / "_configs" / "serve_config.yaml"
