"""``harness clone`` copies what a kernel needs under new names, and keeps it only if it runs."""

from __future__ import annotations

import shlex
import sys
import zlib
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from harness import registry
from harness.__main__ import main
from harness.authoring import rewrite, symbols
from harness.authoring.clone import CannotClone, clone
from harness.authoring.files import InTheWay
from harness.authoring.proof import Claim, NotProven, answer_here, prove
from suites.meta.test_users_kernel import TRITON

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE: Final = partial(prove, answer=answer_here)  # no process of its own: that costs an import
LAUNCH: Final = "_scale_kernel[(triton"
# Ways to reach the old kernel from a copy, and what is said of each.
ESCAPES: Final = {
    "the old function, by its module": (
        LAUNCH,
        'sys.modules["declared_NAME"]._scale_kernel[(triton',
        "launched declared_NAME._scale_kernel, the symbol of scale.triton",
    ),
    "the old operator, by a name made at run time": (
        "return _scale(x, factor)",
        'return getattr(torch.ops, "NAME_ns").scale(x, factor)',
        "launched declared_NAME._scale_kernel, the symbol of scale.triton",
    ),
    "a name that only the old module has": (
        LAUNCH,
        'globals()["_scale_" + "kernel"][(triton',
        "scale.triton.v2 does not run: KeyError: '_scale_kernel'",
    ),
}


@pytest.fixture
def user(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file with a user's kernel and what it is held against, of a module name of its own."""
    name = f"mine_{zlib.crc32(request.node.name.encode())}"
    path = tmp_path / f"{name}.py"
    text = TRITON.replace("their::scale", f"{name}_ns::scale").replace(
        "import torch\n", "import sys\nimport torch\n", 1
    )
    path.write_text(text)
    with registry.scratch():
        yield path
    for module in [each for each in sys.modules if each.startswith(f"declared_{name}")]:
        del sys.modules[module]


def planted(path: Path, old: str, new: str) -> str:
    """The module's text with a fault in place."""
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new.replace("NAME", path.stem)))
    return path.read_text()


def test_a_copy_is_renamed_and_launches_its_own_symbol_alone(
    user: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user.parent)
    assert main(["clone", "scale.triton", "v2", f"--declare={user}"]) == 0
    out, new = capsys.readouterr().out, user.with_name(f"{user.stem}_v2.py")
    assert f"wrote  {new.name}" in out
    symbol = f"declared_{new.stem}._scale_kernel_v2"
    assert f"scale.triton.v2 launches {symbol} and nothing else" in out
    text = new.read_text()
    for name in ("_scale_kernel_v2[", "def _scale_v2(", "_scale_v2.register_fake", "_fake_scale"):
        assert name in text
    assert f'"{user.stem}_ns::scale_v2"' in text
    assert 'variant="v2"' in text
    for name in ("@op(", 'variant="dense"', "import sys"):
        assert name not in text
    (command,) = (line for line in out.splitlines() if line.startswith("check  python -m harness "))
    assert main(shlex.split(command)[4:]) == 0, capsys.readouterr()


@pytest.mark.parametrize(("old", "new", "words"), ESCAPES.values(), ids=ESCAPES)
def test_a_copy_that_still_runs_the_old_kernel_is_refused(
    user: Path, old: str, new: str, words: str
) -> None:
    before = planted(user, old, new)
    registry.load(str(user))
    with pytest.raises(NotProven) as raised:
        clone("scale.triton", "v2", (str(user),), prove=HERE)
    assert words.replace("NAME", user.stem) in str(raised.value)
    assert [path.name for path in user.parent.glob("*.py")] == [user.name]
    assert user.read_text() == before


@pytest.mark.parametrize("ends", ["os._exit(3)", "signal.raise_signal(signal.SIGINT)"])
def test_a_copy_that_ends_its_process_is_not_proven(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"import os, signal\n{ends}\n")
    claim = Claim((str(path),), old="scale.triton", launched=(), new="scale.triton.v2", modules=())
    with pytest.raises(NotProven, match=r"scale\.triton\.v2 ended the process in which"):
        prove(claim)


def test_the_next_version_replaces_the_suffix(user: Path) -> None:
    registry.load(str(user))
    second = clone("scale.triton", "v2", (str(user),), prove=HERE).paths[0]
    registry.load(str(second))
    made = clone("scale.triton.v2", "v3", (str(user), str(second)), prove=HERE)
    assert made.kernel == "scale.triton.v3"
    assert made.paths[0].name == f"{user.stem}_v3.py"
    assert "_v2" not in made.paths[0].read_text()


def test_a_variant_keeps_its_word(user: Path) -> None:
    registry.load(str(user))
    assert clone("scale.triton.dense", "v2", (str(user),), prove=HERE).kernel == (
        "scale.triton.dense_v2"
    )


def test_what_is_in_the_way_or_no_version_is_refused(user: Path) -> None:
    registry.load(str(user))
    with pytest.raises(CannotClone, match="version='V 2' is no word"):
        clone("scale.triton", "V 2", (str(user),), prove=HERE)
    with pytest.raises(CannotClone, match=r"scale\.triton\.dense is declared at"):
        clone("scale.triton", "dense", (str(user),), prove=HERE)
    there = user.with_name(f"{user.stem}_v2.py")
    there.write_text("precious")
    with pytest.raises(InTheWay, match="is there already"):
        clone("scale.triton", "v2", (str(user),), prove=HERE)
    assert there.read_text() == "precious"


SOURCE: Final = '''"""A kernel; _k stays in prose."""
import torch, os
from lib import (
    a,
    b,
)


def _k(x):  # _k here too
    return x


# of the helper
def helper(_k):
    return _k


def über(é): return _k(é) or "ns::k"


@op.register
def late():
    global _k
    del _k


def run(x, _k_=1):
    s, g = f"{_k(x)}", lambda _k: _k
    return über(x), [_k for _k in x], x._k, f(_k=_k), a, torch.ops.ns.k(x), s, "ns::k"
'''


def test_names_are_rewritten_where_they_are_the_modules() -> None:
    found = symbols.statements(SOURCE)
    kept = symbols.needed(found, frozenset({"run"}), frozenset())
    renames = rewrite.Renames({"_k": "_k_v2"}, {"ns::k": "ns::k_v2"}, {"lib": "lib_v2"}, "")
    made = rewrite.copied(SOURCE, found, kept, renames)
    assert (
        made
        == """import torch
from lib_v2 import a


def _k_v2(x):  # _k here too
    return x


def über(é): return _k_v2(é) or "ns::k_v2"


def run(x, _k_=1):
    s, g = f"{_k_v2(x)}", lambda _k: _k
    return über(x), [_k for _k in x], x._k, f(_k=_k_v2), a, torch.ops.ns.k_v2(x), s, "ns::k_v2"
"""
    )
