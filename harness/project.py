"""What a project says of itself: targets and variants, from its folder's pyproject.toml."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUNDLED: Final = ("references", "kernels", "suites.module.subjects", "suites.e2e.subject")


class InvalidSettings(ValueError):
    """A pyproject.toml that cannot be read, or whose settings are of another kind; says which."""


def targets(
    folder: Path, given: Sequence[str] = (), *, usual: Sequence[str] = BUNDLED
) -> tuple[str, ...]:
    """What to load in ``folder``: what pytest loads there and what is ``given``, else the usual.

    Raises InvalidSettings.
    """
    return (*declared_in(read(folder)), *given) or tuple(usual)


def read(folder: Path) -> Mapping[str, object]:
    """The table ``tool`` of a folder's pyproject.toml, empty without. Raises InvalidSettings."""
    path = folder / "pyproject.toml"
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        msg = f"{path} is no TOML: {error}; repair that line"
        raise InvalidSettings(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path} is not in UTF-8, as TOML has to be: {error}; save it so"
        raise InvalidSettings(msg) from error
    return tool if isinstance(tool, dict) else {}


def declared_in(tool: Mapping[str, object]) -> tuple[str, ...]:
    """What ``parity_declare`` names, from either of the tables that pytest reads.

    Raises InvalidSettings.
    """
    pytest = _table("tool.pytest", tool.get("pytest", {}))
    options = _table("tool.pytest.ini_options", pytest.get("ini_options", {}))
    found = pytest.get("parity_declare") or options.get("parity_declare", [])
    return _names("parity_declare", found)


def variants_in(tool: Mapping[str, object]) -> tuple[str, ...]:
    """What ``variants`` of ``tool.kernel-parity`` names. Raises InvalidSettings."""
    ours = _table("tool.kernel-parity", tool.get("kernel-parity", {}))
    return _names("variants", ours.get("variants", []))


def _names(setting: str, found: object) -> tuple[str, ...]:
    names = found.split() if isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        msg = f"pyproject.toml: {setting}={found!r} is no list of names; write ['my_kernels']"
        raise InvalidSettings(msg)
    return tuple(names)


def _table(name: str, found: object) -> Mapping[str, object]:
    if not isinstance(found, dict):
        msg = f"pyproject.toml: {name}={found!r} is no table; write its settings below [{name}]"
        raise InvalidSettings(msg)
    return found
