"""What the project in a folder declares: the targets that its pyproject.toml gives to pytest."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUNDLED: Final = ("references", "kernels", "suites.module.subjects", "suites.e2e.subject")


def targets(
    folder: Path, given: Sequence[str] = (), *, usual: Sequence[str] = BUNDLED
) -> tuple[str, ...]:
    """What to load in ``folder``: what pytest loads there and what is ``given``, else the usual.

    Raises ValueError for a pyproject.toml that is no TOML.
    """
    return (*declared_in(read(folder)), *given) or tuple(usual)


def read(folder: Path) -> Mapping[str, object]:
    """The table ``tool`` of the folder's pyproject.toml; empty without one."""
    path = folder / "pyproject.toml"
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        msg = f"{path} is no TOML: {error}; repair that line"
        raise ValueError(msg) from error
    return tool if isinstance(tool, dict) else {}


def declared_in(tool: Mapping[str, object]) -> tuple[str, ...]:
    """What ``parity_declare`` names, from either of the tables that pytest reads."""
    pytest = tool.get("pytest", {})
    if not isinstance(pytest, dict):
        return ()
    options = pytest.get("ini_options", {})
    found = pytest.get("parity_declare") or options.get("parity_declare", [])
    return tuple(found.split() if isinstance(found, str) else found)
