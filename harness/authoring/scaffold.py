"""``new``: a reference and a kernel of an op that pass every layer as they are, and their contract.

What is written computes something true, a scaled sum of rows, so that the first run is green and
whatever turns it red afterwards is the next edit.
"""

from __future__ import annotations

import ast
import importlib.resources
import keyword
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from harness import arch as arches
from harness import registry
from harness.authoring import files, symbols
from harness.authoring.settings import with_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CHECKOUT: Final = (Path("references", "__init__.py"), Path("kernels", "contract.py"))
_FIRST: Final = (
    "import torch\nimport triton\nimport triton.language as tl\nfrom torch import Tensor"
)
_TYPES: Final = "from dataclasses import dataclass\nfrom typing import Final"
_OURS: Final = "from harness import device, kernel"


class WrongName(ValueError):
    """A name of an op or a package that cannot be one; says why and what can."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of an op go, and what is left to each project's own ways."""

    reference: Path
    kernel: Path
    packages: Mapping[Path, str]  # __init__.py that must be there, and what they say
    targets: tuple[str, ...]  # what pytest has to load
    namespace: str
    imports: str
    check: str
    public_check: str


@dataclass(frozen=True)
class Made:
    """What was written, and what is left to do by hand."""

    paths: tuple[Path, ...]
    kernel: str
    advice: tuple[str, ...]


def make(op: str, root: Path, *, package: str = "", claim: str = ">=sm80") -> Made:
    """Write a new op into the project at ``root``, into ``package`` (a folder) if given.

    All or nothing. Raises WrongName for a name or folder that is taken or none, InTheWay for a file
    that is there, InvalidClaim for an arch, InvalidSettings for a pyproject.toml, OSError.
    """
    arches.claimed(claim)
    _check_word(op)
    layout = _own(op, root, package) if package else _bundled(op, root)
    texts = _texts(op, layout, claim)
    _check_free(op, texts.values())
    pyproject = root / "pyproject.toml"
    settings = with_settings(pyproject, f"{op}.triton", layout.targets)
    wanted = {path: text for path, text in layout.packages.items() if not path.exists()}
    made = files.create({**wanted, **texts})
    try:
        if settings.text is not None:
            files.replace(pyproject, settings.text)
    except BaseException:
        files.remove(made)
        raise
    written = [path for path in made if path.is_file()]
    if settings.text is not None:
        written.append(pyproject)
    return Made(tuple(written), f"{op}.triton", settings.advice)


def _texts(op: str, layout: Layout, claim: str) -> dict[Path, str]:
    fields = {
        "op": op,
        "Title": op.replace("_", " ").strip().capitalize(),
        "arch": claim,
        "namespace": layout.namespace,
        "imports": layout.imports,
        "check": _template(layout.check).template.rstrip(),
        "public_check": layout.public_check,
    }
    return {
        layout.reference: _template("reference").substitute(fields),
        layout.kernel: _template("kernel").substitute(fields),
    }


def _template(name: str) -> Template:
    folder = importlib.resources.files("harness.authoring") / "templates"
    return Template((folder / f"{name}.py.in").read_text(encoding="utf-8"))


def _check_word(op: str) -> None:
    """Raise WrongName for what is no name of a public function."""
    if not op.isidentifier() or keyword.iskeyword(op) or op.startswith("_") or not op.isascii():
        msg = f"op={op!r} is no name of a function; use letters, digits and _, e.g. 'scaled_sum'"
        raise WrongName(msg)


def _check_free(op: str, texts: Iterable[str]) -> None:
    """Raise WrongName for what something else is called, in the modules made for it or declared."""
    pieces = [each for text in texts for each in _clashes(op, text)]
    if pieces:
        msg = (
            f"op={op!r} needs the name {pieces[0]!r}, which the module made for it calls "
            f"something else; choose another"
        )
        raise WrongName(msg)
    if taken := [each.place for each in registry.ops() if each.name == op]:
        msg = (
            f"op={op!r} is declared at {taken[0]}; choose another name, or make "
            f"the next version of a kernel of it with `clone`"
        )
        raise WrongName(msg)


def _clashes(op: str, text: str) -> list[str]:
    """Names that a module would have for two things: a parameter or import, or two definitions."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    bound = Counter(name for each in symbols.statements(text) for name in each.binds)
    return [*([op] if op in used else []), *(name for name, times in bound.items() if times > 1)]


def _bundled(op: str, root: Path) -> Layout:
    """In a checkout like the one that this belongs to."""
    if not all((root / path).is_file() for path in _CHECKOUT):
        msg = (
            f"{root} has no package to add to; give --package DIR, the folder of your package, "
            f"which is made if need be"
        )
        raise ValueError(msg)
    folder = root / "kernels" / op
    return Layout(
        reference=root / "references" / f"{op}.py",
        kernel=folder / "triton.py",
        packages={folder / "__init__.py": f'"""The op {op}, one backend a module."""\n'},
        targets=("references", "kernels"),
        namespace="kernel_parity",
        imports=f"{_TYPES}\n\n{_FIRST}\n\n{_OURS}\nfrom kernels import contract",
        check="check_bundled",
        public_check="contract.require_tensors(x=x)",
    )


def _own(op: str, root: Path, package: str) -> Layout:
    """In somebody's own package: nothing but ``harness`` is imported."""
    folder = _folder(root, package)
    parts = _parts(folder, root)
    if wrong := [part for part in parts if not part.isidentifier() or keyword.iskeyword(part)]:
        msg = (
            f"package={package!r}: {wrong[0]!r} is no name of a package; use letters, digits and "
            f"_, and / between folders, e.g. 'my_kernels'"
        )
        raise WrongName(msg)
    name = ".".join(parts)
    references, kernels = folder / "references", folder / "kernels"
    return Layout(
        reference=references / f"{op}.py",
        kernel=kernels / f"{op}.py",
        packages={
            folder / "__init__.py": '"""Kernels and what they are held against."""\n',
            references / "__init__.py": '"""Dense references, one op a module."""\n',
            kernels / "__init__.py": '"""Kernels; importing this imports no kernel language."""\n',
        },
        targets=(f"{name}.references", f"{name}.kernels"),
        namespace=name.replace(".", "_"),
        imports=f"import math\n{_TYPES}\n\n{_FIRST}\n\n{_OURS}",
        check="check_own",
        public_check="_require_tensor(x)",
    )


def _folder(root: Path, package: str) -> Path:
    """The folder of a package below ``root``; raises WrongName for any other."""
    folder = Path(os.path.normpath(root / package))
    if root not in folder.parents:
        msg = (
            f"package={package!r} is {folder}, which is no folder below {root}; name one below "
            f"it, e.g. 'my_kernels', or run this in the folder that holds your package"
        )
        raise WrongName(msg)
    return folder


def _parts(folder: Path, root: Path) -> list[str]:
    """The import name of a package: folders above it count as long as they are packages."""
    parts = [folder.name]
    above = folder.parent
    while above != root and (above / "__init__.py").is_file():
        parts.insert(0, above.name)
        above = above.parent
    return parts
