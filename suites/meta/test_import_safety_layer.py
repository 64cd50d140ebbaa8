"""A package that is not safe to import without its backend is found, and its fault is named."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from harness import registry
from harness.import_safety import SCENARIOS, Answer, ask, problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.declare import Kernel

LAZY = """
import importlib

from harness import backends

__all__ = ["double"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(name)
    backends.require("triton")
    return importlib.import_module(f"{__name__}.in_triton").double
"""
EAGER = """
from NAME.in_triton import double

__all__ = ["double"]
"""
IN_TRITON = """
import triton

from harness import kernel


@triton.jit
def _double(x):
    pass


@kernel("double", backend="triton", arch=">=sm80")
def double(x):
    return x + x
"""


@dataclass(frozen=True)
class Package:
    """A package with a lazy top, a module that needs Triton, and what is found wrong with it."""

    top: str = LAZY
    module: str = IN_TRITON
    finds: Mapping[str, str] = field(default_factory=dict)


PACKAGES = {
    "lazy": Package(),
    "reached by its module": Package(top=""),
    "eager": Package(
        top=EAGER,
        finds={
            "absent": "its package does not import: ModuleNotFoundError: No module named 'triton'",
            "broken": "its package does not import: ImportError: triton: undefined symbol",
            "old": "its package does not import: AttributeError: module 'triton' has no attribute",
        },
    ),
    "eager, and prepared for an absent backend only": Package(
        top=f"try:\n    import triton\nexcept ModuleNotFoundError:\n    triton = None\n{LAZY}",
        finds={
            "broken": "its package does not import: ImportError: triton: undefined symbol",
            "old": "importing its package imports triton",
        },
    ),
    "lazy, and does not ask for a version": Package(
        top=LAZY.replace('    backends.require("triton")\n', ""),
        finds={"old": "raises no ImportError but AttributeError: module 'triton' has no attribute"},
    ),
    "hides which backend is missing": Package(
        top="",
        module=IN_TRITON.replace(
            "import triton\n",
            "try:\n    import triton\nexcept ImportError:\n"
            "    raise ImportError('no GPU support') from None\n",
        ),
        finds=dict.fromkeys(
            ("absent", "broken"), "the error does not name 'triton': ImportError: no GPU support"
        ),
    ),
    "turns a missing backend into a name error": Package(
        top="",
        module=IN_TRITON.replace(
            "import triton\n", "try:\n    import triton\nexcept ImportError:\n    pass\n"
        ),
        finds=dict.fromkeys(
            ("absent", "broken"),
            "raises no ImportError but NameError: name 'triton' is not defined",
        ),
    ),
    "forgets its error": Package(
        top=LAZY.replace("    backends", "    globals()[name] = None\n    backends"),
        finds=dict.fromkeys(SCENARIOS, "a second use fails differently: not at all"),
    ),
}


@pytest.fixture
def imported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: Package,
) -> Iterator[Kernel]:
    """The kernel of a package on the path, imported here, where Triton is as it should be."""
    name = f"parity_scratch_{list(PACKAGES.values()).index(package)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(package.top.replace("NAME", name))
    (tmp_path / name / "in_triton.py").write_text(package.module)
    monkeypatch.syspath_prepend(tmp_path)
    with registry.scratch():
        registry.load(name)
        yield registry.kernel("double.triton")
    for module in (name, f"{name}.in_triton"):
        sys.modules.pop(module)


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_every_scenario_finds_what_is_wrong(imported: Kernel, package: Package) -> None:
    with ThreadPoolExecutor() as pool:
        answers = pool.map(partial(ask, imported), SCENARIOS)
        found = {
            s: problems(imported, s, answer) for s, answer in zip(SCENARIOS, answers, strict=True)
        }
    assert {scenario for scenario, words in found.items() if words} == set(package.finds)
    for scenario, said in package.finds.items():
        assert any(words.startswith(said) for words in found[scenario]), found[scenario]


@pytest.mark.parametrize("package", [PACKAGES["lazy"]])
def test_a_context_made_by_an_import_is_found(imported: Kernel) -> None:
    harmless = Answer(
        package_error="",
        heavy=(),
        cuda_context=False,
        first_error="",
        second_error="",
        names_backend=False,
        is_import_error=False,
        lazy=True,
    )
    assert problems(imported, "absent", harmless) == []
    harmful = replace(harmless, cuda_context=True)
    assert problems(imported, "absent", harmful) == ["importing it makes a CUDA context"]
