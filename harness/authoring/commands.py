"""The authoring commands of ``python -m harness``: their options, and what each is handed."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.project import BUNDLED, targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - has no other name


def add_to(commands: Commands) -> None:
    """Add ``new``, ``clone`` and ``check``; each sets ``run``, which returns the exit status."""
    _add_new(commands)
    _add_clone(commands)
    _add_check(commands)


def _add_clone(commands: Commands) -> None:
    clone = commands.add_parser(
        "clone", help="the next version of a kernel, renamed, and proven to launch its own symbols"
    )
    clone.add_argument("kernel", metavar="KERNEL", help="its name, as `list` shows it")
    clone.add_argument("version", metavar="VERSION", help="a word for the new one, e.g. v2")
    _add_declare(clone)
    clone.set_defaults(run=_clone)


def _add_new(commands: Commands) -> None:
    new = commands.add_parser(
        "new", help="a reference, a kernel and their entry in the contract, which pass as they are"
    )
    new.add_argument("op", metavar="OP", help="the name of the new op, a Python identifier")
    new.add_argument(
        "--package",
        default="",
        metavar="DIR",
        help="your package's folder, made if need be (default: this checkout's own packages)",
    )
    new.add_argument(
        "--claim",
        default=">=sm80",
        metavar="ARCH",
        help="the archs it claims (default %(default)s)",
    )
    _add_declare(new)
    new.set_defaults(run=_new)


def _add_check(commands: Commands) -> None:
    from harness.authoring.spot_check import CASES, SHARE

    check = commands.add_parser(
        "check",
        help="one kernel at given sizes, in seconds: --AXIS N for each axis of its op",
        epilog="Every axis and parameter of the op is an option too: --m 128 --n 256 --eps 1e-5. "
        "Exit status: 0 all cases passed, 1 one failed, 2 nothing could be checked.",
        allow_abbrev=False,
    )
    add = check.add_argument
    add("kernel", metavar="KERNEL", help="its name, as `list` shows it")
    add("--dtype", action="append", default=[], metavar="NAME", help="only this (default: all)")
    add("--config", action="append", default=[], metavar="NAME", help="only this (default: all)")
    add("--values", action="append", default=[], metavar="NAME", help="only this value family")
    add("--arch", default="", help="cpu, or one of this machine (default: its GPU, else cpu)")
    add(
        "--cases",
        type=_positive,
        default=CASES,
        metavar="N",
        help=f"of each dtype; of each named config one in {SHARE} of that (default %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="another set of values (default 0)")
    _add_declare(check)
    check.set_defaults(run=_check, takes_sizes=True)


def _add_declare(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--declare",
        action="append",
        default=[],
        metavar="TARGET",
        help="package, module or .py file that declares, beside those of ./pyproject.toml",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"{text!r} is not a whole number of at least 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _new(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness import registry
    from harness.authoring import scaffold

    root = Path.cwd()
    # An op of somebody's own may have the name of a bundled one.
    usual = () if options.package else BUNDLED
    registry.load_all(targets(root, options.declare, usual=usual))
    made = scaffold.make(options.op, root, package=options.package, claim=options.claim)
    for path in made.paths:
        _say(f"wrote  {path.relative_to(root)}")
    for words in made.advice:
        _say(f"to do  {words}")
    _say(f"check  python -m harness check {made.kernel} --m 128 --n 256")
    # As a module: the script pytest does not find packages of the folder that it is run in.
    _say(f"all    python -m pytest --pyargs suites --kernel {made.kernel} -m 'cpu or compile'")
    return 0


def _clone(options: argparse.Namespace, _: Sequence[str]) -> int:
    from harness import registry
    from harness.authoring.clone import clone

    root = Path.cwd()
    loaded = targets(root, options.declare)
    registry.load_all(loaded)
    made = clone(options.kernel, options.version, loaded)
    for path in made.paths:
        _say(f"wrote  {_from(root, path)}")
    symbols = ", ".join(map(str, made.proven.symbols))
    _say(f"proven in {made.proven.calls} calls: {made.kernel} launches {symbols} and nothing else")
    for words in made.advice:
        _say(f"to do  {words}")
    declare = [*options.declare, *([made.target] if made.target else [])]
    targets_told = [f"--declare={_from(root, target)}" for target in declare]
    _say(f"check  python -m harness check {shlex.join([made.kernel, *targets_told])}")
    return 0


def _check(options: argparse.Namespace, rest: Sequence[str]) -> int:
    from harness import registry
    from harness.authoring import spot_check

    request = spot_check.Request(
        kernel=options.kernel,
        words=spot_check.words_of(rest),
        dtypes=tuple(options.dtype),
        configs=tuple(options.config),
        families=tuple(options.values),
        arch=options.arch,
        cases=options.cases,
        seed=options.seed,
        declare=tuple(options.declare),
    )
    registry.load_all(targets(Path.cwd(), options.declare))
    return spot_check.run(request, _say)


def _from(root: Path, path: Path | str) -> Path | str:
    """A path as it is told in ``root``; another target, which is no path there, as it is."""
    return Path(path).relative_to(root) if Path(path).is_relative_to(root) else path


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
