"""A backend that is absent, broken or of another version is reported by use, each time alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import backends
from harness.backends import BACKENDS, Backend, BackendMissing, load_error, require

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
    """Backends of our own: an absent one, and one for each source."""
    monkeypatch.setattr(backends, "_errors", {})
    monkeypatch.setitem(BACKENDS, "absent", ABSENT)
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in SOURCES.items():
        (tmp_path / f"parity_backend_{name}.py").write_text(source, encoding="utf-8")
        made = Backend(f"parity_backend_{name}", f"parity-{name}", (1, 0), (2, 0))
        monkeypatch.setitem(BACKENDS, name, made)


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
