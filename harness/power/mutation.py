"""Mutants by rule: each a small fault at one place of a source, named by content, applied exactly.

A mutant remembers the lines around it. Where they are no longer what they were, it is an error: a
fault that does not apply must never count as caught. ``python -m harness.power.mutation`` counts
those of the bundled kernels, and lists those of one with ``--list --kernel NAME``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from harness.power import cpp, rules_cuda, rules_cutedsl, rules_host, rules_kernel, syntax
from harness.power.syntax import FAMILIES, Edit, Rules, edits_by
from harness.power.targets import CUDA, CUTEDSL, PYTHON, language_of, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

RULES: Final[dict[str, tuple[Rules, ...]]] = {
    PYTHON: (edits_by(rules_kernel.RULES), edits_by(rules_host.RULES)),
    CUDA: (cpp.edits_by(rules_cuda.RULES),),
    CUTEDSL: (edits_by(rules_cutedsl.RULES),),
}
# By language, what raises SyntaxError for a source, an edit of it, and the text that is no source.
_CHECKS: Final[dict[str, Callable[[str, Edit, str], object]]] = {
    PYTHON: syntax.check,
    CUDA: lambda source, _, changed: cpp.check(source, changed),
    CUTEDSL: syntax.check,
}
_HELD_OUT: Final = 3  # one mutant of so many stays unseen while inputs and oracles are tuned
_DIGITS: Final = 8  # of a digest; among a thousand mutants two agree once in ten thousand sources


class AnchorGone(ValueError):
    """A mutant that does not fit the source it is applied to; the message says where and why."""


class BrokenRule(ValueError):
    """A rule that makes text which is no source; the message names it."""


@dataclass(frozen=True)
class Mutation:
    """One fault: ``source[start:end]`` is ``before`` and becomes ``after``.

    ``line`` counts from 1. ``context`` is what stands on the lines that the fault touches.
    """

    kernel: str
    module: str
    family: str
    rule: str
    line: int
    start: int
    end: int
    before: str
    after: str
    context: str
    digest: str

    @property
    def id(self) -> str:
        """A short name that survives edits elsewhere in the source."""
        return f"{self.kernel}/{self.rule}@{self.digest}"

    @property
    def held_out(self) -> bool:
        """Whether the mutant is of the third that nothing is tuned on."""
        return int(self.digest, 16) % _HELD_OUT == 0

    def apply(self, source: str) -> str:
        """The faulty source; raises AnchorGone if this is not the source it was made for."""
        found = source[self.start : self.end]
        first, last = _lines(source, self.start, self.end)
        if found != self.before or source[first:last] != self.context:
            self._refuse(f"{source[first:last]!r} stands there, not {self.context!r}")
        changed = source[: self.start] + self.after + source[self.end :]
        if changed == source:
            self._refuse(f"its replacement {self.after!r} changes nothing")
        return changed

    def _refuse(self, why: str) -> None:
        msg = f"mutant {self.id} of {self.module}, line {self.line}: {why}; make the mutants anew"
        raise AnchorGone(msg)


def mutations(kernel: str, module: str, source: str) -> list[Mutation]:
    """Every mutant of a module's source, in the order of the rules; no two make the same source.

    ``module`` is a module's name, or the path of a file, which chooses the language. Raises
    ValueError for one without rules, BrokenRule for a rule that makes text which does not parse.
    """
    return list(_mutations(kernel, module, source, RULES[language_of(module)]))


@lru_cache(maxsize=64)  # a campaign, its report and its tests ask for the same few texts again
def _mutations(
    kernel: str, module: str, source: str, known: tuple[Rules, ...]
) -> tuple[Mutation, ...]:
    check = _CHECKS[language_of(module)]
    found, seen, results = list[Mutation](), Counter[str](), {source}
    for edit in chain.from_iterable(rules(source) for rules in known):
        mutation = _mutation(kernel, module, source, edit, seen)
        if (changed := source[: edit.start] + edit.after + source[edit.end :]) in results:
            continue
        results.add(changed)
        _require_source(mutation, check, source, edit, changed)
        found.append(mutation)
    return tuple(found)


def written(
    kernel: str, module: str, source: str, *, family: str, rule: str, anchor: str, after: str
) -> Mutation:
    """A mutant by hand: ``anchor``, which stands in the source once, becomes ``after``.

    Raises AnchorGone if it stands there never or more than once.
    """
    if (count := source.count(anchor)) != 1:
        msg = f"mutant {rule!r} of {module}: its anchor {anchor!r} occurs {count} times, not once"
        raise AnchorGone(msg)
    start = source.index(anchor)
    edit = Edit(family, rule, start, start + len(anchor), after)
    return _mutation(kernel, module, source, edit, Counter())


def sample(mutants: Iterable[Mutation], count: int) -> list[Mutation]:
    """At most ``count`` mutants that spread evenly over kernels x families, then over rules.

    The choice depends on their content alone, and a smaller sample is the start of a larger one.
    Raises ValueError for a negative ``count``.
    """
    if count < 0:
        msg = f"count={count!r} is negative; give the number of mutants, or 0 for none"
        raise ValueError(msg)
    cells = _grouped(mutants, lambda each: f"{each.kernel} {each.family}")
    spread = [_in_turn(_grouped(cell, lambda each: each.rule)) for cell in cells]
    return _in_turn(spread)[:count]


def _grouped(mutants: Iterable[Mutation], key: Callable[[Mutation], str]) -> list[list[Mutation]]:
    """Mutants of one key together, by digest; groups by a hash of their key."""
    groups: dict[str, list[Mutation]] = {}
    for each in sorted(mutants, key=lambda each: (each.digest, each.id)):
        groups.setdefault(key(each), []).append(each)
    return [groups[name] for name in sorted(groups, key=_digest)]


def _in_turn(groups: Iterable[list[Mutation]]) -> list[Mutation]:
    rounds = zip_longest(*groups)
    return [each for each in chain.from_iterable(rounds) if each is not None]


def _mutation(kernel: str, module: str, source: str, edit: Edit, seen: Counter[str]) -> Mutation:
    first, last = _lines(source, edit.start, edit.end)
    before, context = source[edit.start : edit.end], source[first:last]
    column = str(edit.start - first)
    parts = (module, edit.rule, context, column, before, edit.after)
    content = "\0".join(parts)
    ordinal = seen[content]  # of equal lines, such as two loads in two branches
    seen[content] += 1
    return Mutation(
        kernel=kernel,
        module=module,
        family=edit.family,
        rule=edit.rule,
        line=source.count("\n", 0, edit.start) + 1,
        start=edit.start,
        end=edit.end,
        before=before,
        after=edit.after,
        context=context,
        digest=_digest(f"{content}\0{ordinal}"),
    )


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]


def _lines(source: str, start: int, end: int) -> tuple[int, int]:
    """Offsets of the whole lines that a span touches."""
    last = source.find("\n", end)
    return source.rfind("\n", 0, start) + 1, len(source) if last < 0 else last


def _require_source(
    mutation: Mutation,
    check: Callable[[str, Edit, str], object],
    source: str,
    edit: Edit,
    changed: str,
) -> None:
    try:
        check(source, edit, changed)
    except SyntaxError as error:
        msg = (
            f"rule={mutation.rule!r} makes {mutation.after!r} of {mutation.before!r} in "
            f"{mutation.module}, line {mutation.line}, which does not parse: {error}; mend the rule"
        )
        raise BrokenRule(msg) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many mutants there are by kernel and family, or each of them."""
    parser = argparse.ArgumentParser(prog="harness.power.mutation", description=main.__doc__)
    parser.add_argument("--package", default="kernels", help="the package whose kernels to mutate")
    parser.add_argument("--list", action="store_true", help="print every mutant on a line")
    parser.add_argument("--kernel", metavar="NAME", help="those of this kernel alone")
    options = parser.parse_args(arguments)
    places = targets(options.package)
    if options.kernel and options.kernel not in (known := sorted({t.kernel for t in places})):
        parser.error(f"kernel={options.kernel!r} is unknown; known: {', '.join(known)}")
    found = [
        each
        for target in places
        if options.kernel in {None, target.kernel}
        for each in mutations(target.kernel, target.module, target.source())
    ]
    lines = _listed(found) if options.list else _table(found)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _listed(mutants: Iterable[Mutation]) -> Iterator[str]:
    for each in mutants:
        yield f"{each.id} {each.family} {each.module}:{each.line} {each.before!r} -> {each.after!r}"


def _table(mutants: Sequence[Mutation]) -> Iterator[str]:
    counts = Counter((each.kernel, each.family) for each in mutants)
    kernels = sorted({each.kernel for each in mutants})
    width = max(map(len, kernels), default=0)
    yield " ".join((" " * width, *FAMILIES, "all", "held out"))
    for kernel in kernels:
        own = [each for each in mutants if each.kernel == kernel]
        cells = [f"{counts[kernel, family]:{len(family)}}" for family in FAMILIES]
        held_out = sum(each.held_out for each in own)
        yield " ".join((f"{kernel:{width}}", *cells, f"{len(own):3}", f"{held_out:8}"))
    yield f"{len(mutants)} mutants by {len({each.rule for each in mutants})} rules"


if __name__ == "__main__":
    sys.exit(main())
