"""The CUDA C++ sources of this package as what `harness.nvrtc` compiles; headers come along."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.nvrtc import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "cuda"


def source(file: str, kernel: str, defines: Mapping[str, int | str] | None = None) -> Source:
    """The ``kernel`` of a ``.cu`` file, whose tiling and end ``defines`` are."""
    texts = _texts()
    return Source(
        name=file,
        text=texts[file],
        kernel=kernel,
        headers={name: text for name, text in texts.items() if name.endswith(".cuh")},
        defines={name: str(value) for name, value in (defines or {}).items()},
    )


@cache
def _texts() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.cu*"))}
