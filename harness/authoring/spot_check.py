"""``check``: one kernel at given sizes, by the judge of the numeric layer, without pytest."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from harness.arch import CPU
from harness.case import DEFAULT, Case
from harness.cells import Cell, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.check import Check
    from harness.declare import Kernel, Op
    from harness.domain import Size
    from harness.judge import Judgement

USUAL: Final = 128  # of an axis that is not given: several tiles of most kernels, and quick
CASES: Final = 4  # of a dtype: what is caught at all is caught by three
SHARE: Final = 4  # cases of the kernel's own choice for one of each named configuration


class WrongRequest(ValueError):
    """A size, dtype or other word that the op does not have, or the machine no memory for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to check; empty fields ask for all that the kernel declares."""

    kernel: str
    words: Mapping[str, str] = field(default_factory=dict)  # axes and parameters, as typed
    dtypes: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    arch: str = ""
    cases: int = CASES
    seed: int = 0
    declare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """What came of the cases of one dtype and configuration."""

    dtype: str
    config: str
    cases: int
    unfair: int
    worst: float  # in units of the budget
    case: str  # the first that failed, else the worst
    problems: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        verdict = "FAILED" if self.problems else "passed"
        unfair = f", {self.unfair} beyond float32" if self.unfair else ""
        return (
            f"  {self.dtype:13} {self.config:12} {verdict}  {_counted(self.cases)}{unfair}, "
            f"worst {self.worst:.3g} of its budget, {self.seconds:.2f} s"
        )


def words_of(arguments: Sequence[str]) -> dict[str, str]:
    """``--m 128 --n=256`` as names and values; raises WrongRequest for anything else."""
    found: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, sign, value = argument.removeprefix("--").partition("=")
        value = value if sign else next(rest, "")
        if not argument.startswith("--") or not name or not value or value.startswith("--"):
            msg = f"{argument!r} is not of the form --NAME VALUE; sizes are --AXIS N, e.g. --m 128"
            raise WrongRequest(msg)
        found[name] = value
    return found


def run(request: Request, say: Callable[[str], None]) -> int:
    """Check and tell; 0 if all cases passed, 1 if one failed. What is asked for must be declared.

    Raises WrongRequest for what the op does not have, its domain refuses or memory does not hold,
    UnknownName for a kernel, UnsupportedArch or BackendMissing for what is not on this machine.
    """
    from harness import backends, registry

    start = time.perf_counter()
    kernel = registry.kernel(request.kernel)
    op, arch = registry.op(kernel.op), _arch(kernel, request.arch)
    sizes, params = _sizes(op, request.words), _params(op, request.words)
    dtypes = _chosen("dtype", request.dtypes, op.dtypes)
    configs = _chosen("config", request.configs, (DEFAULT, *kernel.configs))
    families = _families(op, request.families)
    backends.require_installed(kernel.backend)
    evidence = Cell(kernel.name, arch, Layer.NUMERIC).evidence
    say(f"{kernel.name} on {arch} ({evidence}), {_joined(sizes)}")
    groups = []
    plan = _Plan(op, kernel, sizes, params, families)
    for index, (dtype, config) in enumerate((d, c) for d in dtypes for c in configs):
        cases = _cases(plan, request, dtype, config, index)
        groups.append(_checked(request, kernel, arch, cases))
        _tell(groups[-1], request, arch, say)
    failed = sum(bool(group.problems) for group in groups)
    worst = max(groups, key=lambda group: group.worst)
    say(
        f"{'FAILED' if failed else 'passed'}: {_counted(sum(g.cases for g in groups))}, worst "
        f"{worst.worst:.3g} of its budget in {worst.case}, {time.perf_counter() - start:.1f} s"
    )
    return int(bool(failed))


def _counted(cases: int) -> str:
    return f"{cases} case{'s' if cases != 1 else ''}"


def _tell(group: Group, request: Request, arch: str, say: Callable[[str], None]) -> None:
    say(str(group))
    if not group.problems:
        return
    declare = [f"--declare={target}" for target in request.declare]
    words = shlex.join([*declare, "-m", arch, "--case", group.case])
    say(f"    case       {group.case}")
    say(f"    reproduce  python -m pytest --pyargs suites.numeric.test_numeric {words}")
    for problem in group.problems:
        say(f"    - {problem}")


def _arch(kernel: Kernel, given: str) -> str:
    """The arch to run on: the one given, else one of this machine's, else the CPU."""
    from harness import device
    from harness.arch import ARCHES

    known = (CPU, *ARCHES)
    if given and given not in known:
        msg = f"arch={given!r} is unknown; use one of {', '.join(known)}"
        raise WrongRequest(msg)
    claimed = (*((CPU,) if kernel.emulated else ()), *kernel.archs)
    if given and given not in claimed:
        why = "cannot be emulated" if given == CPU else f"claims {kernel.arch!r}"
        msg = f"arch={given!r}: {kernel.name} {why}; use one of {', '.join(claimed)}"
        raise WrongRequest(msg)
    here = [arch for arch in device.present_archs() if arch in kernel.archs]
    arch = given or (here or [CPU])[0]
    if arch == CPU and CPU not in claimed:
        msg = (
            f"{kernel.name} cannot be emulated, and this machine has no GPU that it claims "
            f"({kernel.arch}); run this where there is one"
        )
        raise WrongRequest(msg)
    device.first_device(arch)
    return arch


def _chosen(what: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if wrong := [word for word in given if word not in known]:
        msg = f"{what}={wrong[0]!r} is unknown here; use one of {', '.join(known)}"
        raise WrongRequest(msg)
    return tuple(given or known)


def _families(op: Op, given: Sequence[str]) -> tuple[str, ...]:
    from harness.values import families_of

    return _chosen("values", given, tuple(families_of(op)))


def _params(op: Op, words: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The labels of every parameter that cases take in turn."""
    given = {name: (words[name],) if name in words else () for name in op.params}
    return {name: _chosen(name, given[name], tuple(op.params[name])) for name in op.params}


def _sizes(op: Op, words: Mapping[str, str]) -> dict[str, int]:
    """The size of every axis: as given, else ``USUAL``, else small where that is illegal."""
    axes = op.domain.sizes
    if unknown := [name for name in words if name not in axes and name not in op.params]:
        known = " ".join(f"--{name}" for name in axes)
        parameters = f"; parameters: {' '.join(f'--{n}' for n in op.params)}" if op.params else ""
        msg = f"{op.name} has no axis {unknown[0]!r}; axes: {known}{parameters}"
        raise WrongRequest(msg)
    given = {axis: _integer(axis, words[axis]) for axis in axes if axis in words}
    usual, small = ({axis: _near(axes[axis], at) for axis in axes} for at in (USUAL, 1))
    for sizes in (usual | given, small | given):
        if not (reasons := op.domain.refusals(sizes)):
            return sizes
    remedies = [_remedy(axis, axes[axis], value) for axis, value in given.items()]
    remedy = "; ".join(filter(None, remedies)) or f"here {_joined(sizes)}: change one of them"
    msg = f"{op.name} refuses {' and '.join(reasons)}; {remedy}"
    raise WrongRequest(msg)


def _near(size: Size, value: int) -> int:
    """The largest legal size up to ``value``, or the smallest."""
    return max(size.smallest, min(size.max, value) // size.multiple_of * size.multiple_of)


def _remedy(axis: str, size: Size, value: int) -> str:
    if size.refusal(axis, value) is None:
        return ""
    below = _near(size, value)
    legal = [v for v in (below, below + size.multiple_of) if size.refusal(axis, v) is None]
    nearest = sorted(legal, key=lambda v: abs(v - value))[: 2 if below < value < size.max else 1]
    return f"give --{axis} {' or '.join(map(str, sorted(nearest)))}"


def _integer(axis: str, word: str) -> int:
    if not word.isdecimal():
        msg = f"--{axis} {word!r} is not a whole number; give a size, e.g. --{axis} {USUAL}"
        raise WrongRequest(msg)
    return int(word)


def _joined(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{axis}={value}" for axis, value in sizes.items())


@dataclass(frozen=True)
class _Plan:
    """What all cases have in common, and what they take in turn."""

    op: Op
    kernel: Kernel
    sizes: Mapping[str, int]
    params: Mapping[str, Sequence[str]]
    families: Sequence[str]


def _cases(plan: _Plan, request: Request, dtype: str, config: str, offset: int) -> Iterator[Case]:
    """Value families, layouts and parameters in turn; the first is plain, to be read first."""
    layouts, families = plan.kernel.layouts, plan.families
    named = config != DEFAULT and not request.configs
    for index in range(-(-request.cases // SHARE) if named else request.cases):
        turn = index + offset if index else 0
        yield Case(
            kernel=plan.kernel.name,
            sizes=tuple(plan.sizes.items()),
            dtype=dtype,
            params=tuple(
                (name, labels[turn % len(labels)]) for name, labels in plan.params.items()
            ),
            without=plan.op.groups if index % 3 == 1 else (),
            values=families[turn % len(families)],
            layout=layouts[turn % len(layouts)],
            config=config,
            seed=request.seed + index,
        )


def _judged(check: Check, case: Case) -> Judgement:
    """The judgement of a case; what the kernel itself does wrong, too much memory too, is in it."""
    from harness.exhaustion import is_exhaustion

    try:
        return check.judge_against_reference(case)
    except Exception as error:
        if not is_exhaustion(error):
            raise
        sizes = dict(case.sizes)
        largest = max(sizes, key=sizes.__getitem__)
        msg = (
            f"{_joined(sizes)}: memory does not hold the inputs and their reference "
            f"({str(error).partition(chr(10))[0]}); give a smaller --{largest}"
        )
        raise WrongRequest(msg) from error


def _checked(request: Request, kernel: Kernel, arch: str, cases: Iterator[Case]) -> Group:
    """The first failing case ends its group: the next one would say the same again."""
    from harness.check import Check, Settings

    cell = Cell(kernel.name, arch, Layer.NUMERIC)
    check = Check(cell=cell, dtype=None, settings=Settings(seed=request.seed), reproduce=str)
    start, worst, unfair, count, where = time.perf_counter(), 0.0, 0, 0, ""
    problems: tuple[str, ...] = ()
    for case in cases:
        judgement = _judged(check, case)
        count, unfair = count + 1, unfair + judgement.unfair
        problems = judgement.problems
        if not judgement.unfair and (problems or judgement.worst >= worst):
            worst, where = max(worst, judgement.worst), case.id
        if problems:
            break
    if count == unfair:
        problems = ("every case is beyond float32 itself, so nothing was checked",)
    seconds = time.perf_counter() - start
    return Group(case.dtype, case.config, count, unfair, worst, where, problems, seconds)
