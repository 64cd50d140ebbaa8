"""Whether a new kernel's launches are its own: asked in a fresh process, nothing is executed."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.declare import Kernel
    from harness.launches import Launch


class NotProven(ValueError):
    """A launch of a new kernel was the old one's, or nobody's; the message says which."""


@dataclass(frozen=True)
class Symbol:
    """What was launched: the module and name, and of machine code the file that it is made of."""

    module: str
    name: str
    file: str = ""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" + (f" of {self.file}" if self.file else "")


@dataclass(frozen=True)
class Claim:
    """What is to be proven: every launch of ``new`` comes from ``modules``, none is of ``old``.

    ``files`` are the texts of machine code that ``new`` has of its own, by the name of the old.
    """

    targets: tuple[str, ...]
    old: str
    launched: tuple[Symbol, ...]  # by the old
    new: str
    modules: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Proof:
    """The symbols that were seen, over how many calls."""

    symbols: tuple[Symbol, ...]
    calls: int


def prove(claim: Claim, *, answer: Callable[[Claim], Proof | str] | None = None) -> Proof:
    """Check the claim in a fresh process, or by what is to ``answer``; raises NotProven."""
    found = (answer or _apart)(claim)
    if isinstance(found, str):
        raise NotProven(found)
    return found


def _apart(claim: Claim) -> Proof | str:
    context = multiprocessing.get_context("spawn")
    # An interrupt of the terminal reaches that process too, and is to end it without a word.
    quiet = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=quiet) as pool:
        try:
            return pool.submit(answer_here, claim).result()
        except BrokenProcessPool:
            return (
                f"{claim.new} ended the process in which its launches were to be seen, by a crash "
                f"or for want of memory; run what it calls in a process of your own to see why"
            )


def answer_here(claim: Claim) -> Proof | str:
    """The answer of this process; an error in words, since its class may not reach the parent."""
    try:
        return _proven(claim)
    except NotProven as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - becomes the refusal
        return f"{claim.new} does not run: {type(error).__name__}: {error}"


def _proven(claim: Claim) -> Proof:
    from harness import registry

    registry.load_all(claim.targets)
    new = seen(registry.kernel(claim.new))
    files = dict(claim.files)
    for symbol in new.symbols:
        if symbol in claim.launched:
            raise NotProven(_of_the_old(claim, symbol))
        if symbol.module not in claim.modules:
            msg = f"{claim.new} launched {symbol}, which is in none of {', '.join(claim.modules)}"
            raise NotProven(msg)
        if symbol.file in files:
            raise NotProven(_of_the_old(claim, symbol))
    return new


def _of_the_old(claim: Claim, symbol: Symbol) -> str:
    return (
        f"{claim.new} launched {symbol}, the symbol of {claim.old}: the copy still reaches the old "
        f"kernel, perhaps by a name that is made at run time; copy it by hand, and its launches"
    )


def seen(kernel: Kernel) -> Proof:
    """The symbols of every launch, with any arch pretended that the kernel claims."""
    symbols: dict[Symbol, None] = {}
    calls = 0
    for arch in kernel.archs:
        for launches in _calls(kernel, arch):
            calls += 1
            symbols.update(dict.fromkeys(map(_symbol, launches)))
    return Proof(tuple(symbols), calls)


def _calls(kernel: Kernel, arch: str) -> Iterator[list[Launch]]:
    from harness import registry
    from harness.compilation import launches_of, representative

    op = registry.op(kernel.op)
    for case in representative(op, kernel, arch):
        yield launches_of(op, kernel, case, arch)


def _symbol(launch: Launch) -> Symbol:
    """A launch's symbol; the module is where the function is found, not what it says of itself."""
    home = sys.modules.get(launch.module)
    if launch.backend == "triton" and home is not None and not _holds(home, launch.function):
        return Symbol(f"{launch.module} (not the function of that name there)", launch.name)
    source = None if launch.backend == "triton" else getattr(launch.function, "source", None)
    return Symbol(launch.module, launch.name, getattr(source, "name", ""))


def _holds(module: object, function: object) -> bool:
    """Whether a module's name leads to the function, through decorators such as autotune."""
    for value in list(vars(module).values()):
        inner = value
        for _ in range(4):
            if inner is function:
                return True
            inner = getattr(inner, "fn", None)
    return False
