"""A backend that is absent, broken or of another version is reported by use, each time alike."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import backends
from harness.backends import (
    BACKENDS,
    Backend,
    BackendMissing,
    load_error,
    require,
    require_installed,
    version_of,
)

if TYPE_CHECKING:
    from pathlib import Path

ABSENT = Backend("parity_no_such_package", "no-such-package", (1, 0), (2, 0))
SOURCES = {
    "broken": "raise OSError('libdevice.so: cannot open')",
    "old": "__version__ = '0.9'",
    "new": "__version__ = '2.0'",
    "odd": "__version__ = 'dev'",
    "silent": "",
    "candidate": "__version__ = '1.4rc1'",
    "right": "__version__ = '1.4.2'",
}


@pytest.fixture(autouse=True)
def _known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of our own: an absent one, and two for each source, one of them deferred."""
    monkeypatch.setattr(backends, "_errors", {})
    monkeypatch.setattr(backends, "_usable", {})
    monkeypatch.setitem(BACKENDS, "absent", ABSENT)
    monkeypatch.setitem(BACKENDS, "deferred absent", replace(ABSENT, deferred=True))
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in SOURCES.items():
        (tmp_path / f"parity_backend_{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"parity_backend_{name}", raising=False)
        made = Backend(f"parity_backend_{name}", f"parity-{name}", (1, 0), (2, 0))
        monkeypatch.setitem(BACKENDS, name, made)
        monkeypatch.setitem(BACKENDS, f"deferred {name}", replace(made, deferred=True))
        if found := re.search("version__ = '(.*)'", source):
            folder = tmp_path / f"parity_{name}-{found[1]}.dist-info"
            folder.mkdir()
            words = f"Metadata-Version: 2.1\nName: parity-{name}\nVersion: {found[1]}\n"
            (folder / "METADATA").write_text(words, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", r"ModuleNotFoundError.*pip install 'no-such-package>=1\.0,<2\.0'"),
        ("broken", r"OSError: libdevice.*pip install 'parity-broken>=1\.0,<2\.0'"),
        ("old", r"has version 0\.9, outside what is known to work; pip install"),
        ("odd", r"has version dev, outside what is known to work; pip install"),
        ("silent", r"has version unknown, outside what is known to work; pip install"),
        ("new", r"has version 2\.0, outside what is known to work; pip install"),
    ],
)
def test_the_error_names_the_remedy_is_the_same_each_time_and_can_be_asked_for(
    name: str, says: str
) -> None:
    assert load_error(name) is None
    with pytest.raises(BackendMissing, match=says) as first:
        require(name)
    with pytest.raises(BackendMissing) as second:
        require(name)
    assert second.value is first.value
    assert load_error(name) is first.value
    assert load_error("right") is None


@pytest.mark.parametrize("name", ["right", "candidate"])
def test_a_backend_that_is_there_is_returned(name: str) -> None:
    assert require(name).__name__ == f"parity_backend_{name}"
    assert load_error(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", r"No module named 'parity_no_such_package'.*pip install 'no-such-package>="),
        ("old", r"has version 0\.9, outside what is known to work; pip install 'parity-old>=1\.0"),
        ("new", r"has version 2\.0, outside what is known to work; pip install"),
        ("silent", r"PackageNotFoundError.*parity-silent.*pip install"),
    ],
)
def test_a_deferred_backend_is_refused_without_its_import(name: str, says: str) -> None:
    errors = []
    for _ in range(2):
        with pytest.raises(BackendMissing, match=says) as raised:
            version_of(f"deferred {name}")
        errors.append(raised.value)
    assert errors[0] is errors[1] is load_error(f"deferred {name}")
    assert f"parity_backend_{name}" not in sys.modules


def test_a_deferred_backend_that_is_there_is_not_imported() -> None:
    assert version_of("deferred right") == "1.4.2"
    assert "parity_backend_right" not in sys.modules
    assert load_error("deferred right") is None


def test_a_deferred_backend_that_breaks_is_refused_from_its_import_on(tmp_path: Path) -> None:
    folder = tmp_path / "parity_broken-1.0.dist-info"
    folder.mkdir()
    words = "Metadata-Version: 2.1\nName: parity-broken\nVersion: 1.0\n"
    (folder / "METADATA").write_text(words, encoding="utf-8")
    require_installed("deferred broken")
    with pytest.raises(BackendMissing, match="OSError: libdevice") as first:
        require("deferred broken")
    with pytest.raises(BackendMissing) as second:
        require_installed("deferred broken")
    assert first.value is second.value
