"""How many faults in the texts of the DSL's NVFP4 GEMM its interpreted check sees, with no GPU.

``python -m suites.numeric.interpreted_mutants --count 48`` plants as many faults as that, each in a
child of its own, compiles them for sm80 and sm90 and interprets their PTX as `test_nvfp4_cutedsl`
does. It says of that check what it kills; a device sees more, and less: it has neither poison nor
bounds.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import registry
from harness.artifact import CompileFailed
from harness.power import machine_code, plant
from harness.power.isolation import Ending, Limits, run
from harness.power.mutation import mutations, sample
from harness.power.targets import CUTEDSL, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.power.isolation import Finished
    from harness.power.mutation import Mutation

KERNEL: Final = "nvfp4_gemm.cutedsl"
ARCHES: Final = ("sm80", "sm90")  # a path each
LIMITS: Final = Limits(step_seconds=300.0, memory=6 * 2**30)
# What the interpreter raises for PTX that it does not know, which says nothing of a mutant.
LIMITATIONS: Final = (NotImplementedError, KeyError, TypeError)


class Status(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    SAME_CODE = "the same machine code"
    NOT_COMPILED = "not compiled"
    NOT_INTERPRETED = "not interpreted"
    BROKEN = "broken"


@dataclass(frozen=True)
class Outcome:
    """What a child found, and by which case."""

    status: Status
    words: str = ""


@dataclass(frozen=True)
class Row:
    """A mutant and what became of it."""

    mutation: Mutation
    outcome: Outcome
    seconds: float


def mutants(count: int | None = None, text: str = "") -> tuple[dict[str, str], list[Mutation]]:
    """The kernel's texts by name, and all their mutants or a sample that content alone decides.

    ``text`` is what the name of a text ends in whose mutants are meant.
    """
    own = [t for t in targets("kernels") if (t.kernel, t.language) == (KERNEL, CUTEDSL)]
    texts = {each.module: each.source() for each in own}
    meant = {module: source for module, source in texts.items() if module.endswith(text)}
    found = [m for module, source in meant.items() for m in mutations(KERNEL, module, source)]
    return texts, found if count is None else sample(found, count)


def rows(
    texts: Mapping[str, str], chosen: Iterable[Mutation], *, jobs: int, folder: Path
) -> Iterator[Row]:
    """What becomes of mutants, in the order in which they end."""
    work = partial(_work, texts, folder)
    for finished in run(chosen, work, jobs=jobs, limits=LIMITS, folder=folder):
        yield Row(finished.task, _outcome(finished), finished.seconds)


def _work(
    texts: Mapping[str, str],
    folder: Path,
    mutation: Mutation,
    slot: int,
    send: Callable[[object], None],
) -> None:
    text = texts[mutation.module]
    changed = mutation.apply(text)
    plant.serve_file(mutation.module, changed, folder / f"planted-{slot}")
    registry.load_all(("references", "kernels"))
    try:
        fault = machine_code.Fault(text, changed)
        if not any(machine_code.differs(KERNEL, arch, fault) for arch in ARCHES):
            send(Outcome(Status.SAME_CODE))
            return
        send(_checked(send))
    except CompileFailed as error:
        send(Outcome(Status.NOT_COMPILED, str(error)))


def _checked(send: Callable[[object], None]) -> Outcome:
    """What the check makes of the kernel that is imported here."""
    from suites.numeric import test_nvfp4_cutedsl as asked

    for config, arch, ragged in asked.CASES:
        name = f"{config} on {arch}{', ragged' if ragged else ''}"
        send(name)
        try:
            asked.test_the_code_computes_the_product(config, arch, ragged=ragged)
        except (RuntimeError, AssertionError) as error:
            known = not isinstance(error.__cause__, LIMITATIONS)
            status = Status.KILLED if known else Status.NOT_INTERPRETED
            return Outcome(status, f"{name}: {type(error).__name__}: {error}")
    return Outcome(Status.SURVIVED)


def _outcome(finished: Finished[Mutation]) -> Outcome:
    """A child that hung, or took all memory, is killed, if it had begun a case."""
    found = [each for each in finished.messages if isinstance(each, Outcome)]
    began = [each for each in finished.messages if isinstance(each, str)]
    if finished.ending in {Ending.HUNG, Ending.OUT_OF_MEMORY} and began:
        return Outcome(Status.KILLED, f"{began[-1]}: {finished.ending}")
    words = f"{finished.ending}: {finished.words}"
    return found[0] if found else Outcome(Status.BROKEN, words)


def summary(found: Sequence[Row]) -> str:
    """A Markdown table of families by what became of their mutants."""
    counts = Counter((row.mutation.family, row.outcome.status) for row in found)
    families = sorted({row.mutation.family for row in found})
    lines = [("mutants of", "made", *Status), ("-" * 10, *["---:"] * (1 + len(Status)))]
    for family in ("all", *families):
        chosen = families if family == "all" else [family]
        cells = [sum(counts[each, status] for each in chosen) for status in Status]
        lines.append((family, str(sum(cells)), *map(str, cells)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants; the table at the end counts them."""
    parser = argparse.ArgumentParser(prog="suites.numeric.interpreted_mutants", description=__doc__)
    parser.add_argument("--count", type=int, help="a sample of so many mutants (default: all)")
    parser.add_argument("--text", default="", help="only of the text whose name ends so")
    parser.add_argument("--mutant", help="the one of this id")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--out", type=Path, default=Path("build", "interpreted"))
    options = parser.parse_args(arguments)
    texts, chosen = mutants(None if options.mutant else options.count, options.text)
    chosen = [each for each in chosen if options.mutant in {None, each.id}]
    found: list[Row] = []
    for row in rows(texts, chosen, jobs=options.jobs, folder=options.out):
        found.append(row)
        each = row.mutation
        edit = f"{each.line}: {each.before!r} -> {each.after!r}"
        words = row.outcome.words.replace("\n", " ")[:160]
        _say(f"{len(found)}/{len(chosen)} {row.outcome.status}: {each.id} {edit} {words}")
    _say(summary(found))
    return int(any(row.outcome.status is Status.BROKEN for row in found))


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
