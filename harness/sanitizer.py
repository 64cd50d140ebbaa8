"""The sanitize layer: a kernel's cases in a process of their own under each of the tools.

memcheck sees accesses outside any allocation, which guard zones see as writes only and within 4
KiB; racecheck unordered accesses to shared memory; initcheck reads of what nobody wrote; synccheck
barriers that some threads miss. A run counts only with the tool's summary, with every case ended
and with a launch seen.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from harness import expression
from harness.case import DEFAULT, parse
from harness.sanitized import BEGINS, ENDS
from harness.sanitizer_report import Report
from harness.sanitizer_report import parse as parse_report
from harness.selection import kind_of
from harness.subjects import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.case import Case
    from harness.check import Check
    from harness.declare import Kernel, Op, OutputSpec

KIND: Final = "sanitize"  # what ids of this layer's cases end in
TOOLS: Final = ("memcheck", "racecheck", "initcheck", "synccheck")
EXITS: Final = 86  # what the tool exits with where it found something
SECONDS: Final = 400.0  # of one run; the tools slow a kernel down ten to a hundred times
_TRIED: Final = 16  # generated cases of a configuration, of which two are run
_AXIS: Final = 1100  # a pipeline of several stages goes round a few times
_ELEMENTS: Final = 2**16
_NAME: Final = "compute-sanitizer"
_TOOLKIT: Final = Path("/usr/local/cuda/bin")
_OPTIONS: Final = {
    # API calls fail by design too: cuda-core asks the driver for functions that it may lack.
    # Padding sets allocations apart, so that what is beyond one is not within the next.
    "memcheck": ("--report-api-errors", "no", "--padding", "4096"),
}


@dataclass(frozen=True)
class Sanitizer:
    """The tool at hand, and what its runs need to know."""

    path: str
    arch: str
    declare: tuple[str, ...] = ()
    seconds: float = SECONDS

    def command(self, tool: str, cases: Sequence[Case], log: Path) -> list[str]:
        """The command line that runs ``cases`` under ``tool``, with its report in ``log``."""
        path = os.pathsep.join(each for each in sys.path if each)
        declare = [f"--declare={target}" for target in self.declare]
        return [
            *("/usr/bin/env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", f"PYTHONPATH={path}"),
            *(self.path, "--tool", tool, "--error-exitcode", str(EXITS), "--log-file", str(log)),
            *("--show-backtrace", "no", "--print-limit", "200", *_OPTIONS.get(tool, ())),
            *(sys.executable, "-m", "harness.sanitized", "--arch", self.arch, *declare),
            *(case.id for case in cases),
        ]


@dataclass(frozen=True)
class Outcome:
    """What one run came to; ``code`` is None where it was ended for taking too long."""

    tool: str
    report: Report
    code: int | None
    begun: tuple[str, ...]  # ids of cases
    ended: int
    launches: int
    words: str  # the last that the process or the tool said
    seconds: float

    @property
    def open_case(self) -> str:
        """The case that had begun when the process ended, or nothing."""
        return self.begun[-1] if len(self.begun) > self.ended else ""


@dataclass(frozen=True)
class Finding:
    """Something wrong under a tool, and the case that it belongs to, or nothing."""

    words: str
    case: str


def find(given: Path | None = None) -> str:
    """The path of compute-sanitizer; raises Unavailable, saying how to get it."""
    for place in (str(given),) if given else (_NAME, str(_TOOLKIT / _NAME)):
        if found := shutil.which(place):
            return found
    msg = (
        f"{given or _NAME} is not on this machine; it comes with the CUDA toolkit "
        "(cuda-sanitizer): put it on the PATH or name it with --compute-sanitizer PATH"
    )
    raise Unavailable(msg)


def check_cell(check: Check) -> None:
    """Run the cell's cases under every tool at once; raises ParityFailure, or Unavailable."""
    settings = check.settings
    sanitizer = Sanitizer(
        path=find(settings.sanitizer),
        arch=check.cell.arch,
        declare=settings.declare,
    )
    cases = _cases_of(check)
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        runs = [pool.submit(judge, sanitizer, tool, cases) for tool in TOOLS]
        done = dict(zip(TOOLS, (run.result() for run in runs), strict=True))
    check.figures["cases"] = len(cases)
    check.figures["tools"] = {
        tool: {
            "errors": outcome.report.errors,
            "warnings": outcome.report.warnings,
            "launches": outcome.launches,
            "seconds": round(outcome.seconds, 1),
        }
        for tool, (outcome, _) in done.items()
    }
    findings = [found for _, several in done.values() for found in several]
    if findings:
        named = next((found.case for found in findings if found.case), "")
        check.fail([found.words for found in findings], f"{named}/{KIND}" if named else "")


def _cases_of(check: Check) -> list[Case]:
    only = check.settings.only
    if only is not None:
        return [parse(kind_of(only)[0])]
    cases = cases_of(check.op, check.kernel, seed=check.settings.seed)
    return cases[:: -(-len(cases) // (check.settings.cases or len(cases)))]


def cases_of(op: Op, kernel: Kernel, *, seed: int = 0) -> list[Case]:
    """Two generated cases of every configuration, dtypes in turn, that write outputs.

    Small ones, since the tools are slow; but of some the one with the longest sums, in which a
    pipeline gets under way, and the one with the most work, which has several tiles and a tail.
    """
    from harness import strategies
    from harness.explore import Search, explore

    limits = strategies.Limits(axis=_AXIS, elements=_ELEMENTS)
    chosen: list[Case] = []
    for index, config in enumerate((DEFAULT, *kernel.configs)):
        dtype = op.dtypes[index % len(op.dtypes)]
        found: list[Case] = []
        explore(
            strategies.cases(op, kernel, dtype=dtype, config=config, limits=limits),
            Search(found.append),
            examples=_TRIED,
            run_seed=zlib.crc32(f"{seed}/{op.name}/{KIND}/{index}".encode()),
            scope=KIND,
            database=None,
        )
        writing = [case for case in found if any(_work(op, case))]
        longest = max(writing, key=lambda case: (_longest(op, case), _work(op, case)))
        others = [case for case in writing if case is not longest]
        chosen += [longest, *sorted(others, key=lambda case: _work(op, case))[-1:]]
    return chosen


def _longest(op: Op, case: Case) -> int:
    """The size of the longest axis that an output sums over."""
    words = " ".join(spec.sums_over or "" for spec in op.outputs.values()).split()
    axes = frozenset[str]().union(*(expression.axes(word) for word in words))
    return max((case.size_of[axis] for axis in axes), default=1)


def _work(op: Op, case: Case) -> list[int]:
    """Terms summed for all elements of each output, the most first."""
    sizes = case.size_of
    work = (math.prod(out.dims(sizes)) * _summed(out, case) for out in op.outputs.values())
    return sorted(work, reverse=True)


def _summed(spec: OutputSpec, case: Case) -> int:
    words = (spec.sums_over or "1").split()
    return math.prod(expression.evaluate(word, case.size_of) for word in words)


def judge(
    sanitizer: Sanitizer, tool: str, cases: Sequence[Case]
) -> tuple[Outcome, tuple[Finding, ...]]:
    """Run all cases under one tool; what is wrong is traced to a case by running fewer."""
    outcome = run(sanitizer, tool, cases)
    if not (words := problems(outcome, len(cases))):
        return outcome, ()
    case = outcome.open_case
    if not case and outcome.report.wrong:
        case = narrow(sanitizer, tool, cases)
    where = f"on {case}" if case else f"on {len(cases)} cases together, on none of them alone"
    return outcome, tuple(Finding(f"{tool} {where}: {each}", case) for each in words)


def narrow(sanitizer: Sanitizer, tool: str, cases: Sequence[Case]) -> str:
    """The id of one of ``cases``, which together show a finding, that shows one alone; or nothing.

    A run takes many seconds, so what was seen is not run again.
    """
    seen = True
    while len(cases) > 1:
        middle = len(cases) // 2
        seen = bool(run(sanitizer, tool, cases[:middle]).report.wrong)
        cases = cases[:middle] if seen else cases[middle:]
    return cases[0].id if seen or run(sanitizer, tool, cases).report.wrong else ""


def problems(outcome: Outcome, cases: int) -> list[str]:
    """Words for all that is wrong with a run of so many cases; none for a clean one."""
    report = outcome.report
    if report.wrong:
        late = outcome.code is None
        return [*map(str, report.wrong), *[f"and did not end; {outcome.words}"] * late]
    ended = f"exited {outcome.code}, having ended {outcome.ended} of {cases} cases"
    found = (
        (outcome.code is None, f"did not end within {outcome.seconds:.0f} s; {outcome.words}"),
        (report.errors is None, f"left no summary; {ended}; {outcome.words}"),
        (report.errors, f"counts {report.errors} errors of a form not known; {outcome.words}"),
        (outcome.code, f"found nothing, but {ended}; {outcome.words}"),
        (outcome.ended < cases, f"found nothing in less than it was given: it {ended}"),
        (not outcome.launches, "found nothing, but saw no launch: a fallback computed this"),
    )
    return [words for wrong, words in found if wrong][:1]


def run(sanitizer: Sanitizer, tool: str, cases: Sequence[Case]) -> Outcome:
    """Run cases in a process under ``tool``; what it started ends with it."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log, said = Path(folder, "report"), Path(folder, "said")
        with said.open("wb") as file:
            code = _end_of(sanitizer.command(tool, cases, log), file, sanitizer.seconds)
        report = log.read_text("utf-8", "replace") if log.exists() else ""
        words = said.read_text("utf-8", "replace")
    lines = words.splitlines()
    ends = [line.removeprefix(ENDS) for line in lines if line.startswith(ENDS)]
    others = [line for line in lines if line.strip() and not line.startswith((BEGINS, ENDS))]
    return Outcome(
        tool=tool,
        report=parse_report(report),
        code=code,
        begun=tuple(line.removeprefix(BEGINS) for line in lines if line.startswith(BEGINS)),
        ended=len(ends),
        launches=sum(map(int, ends)),
        words=" | ".join(others[-3:] or report.splitlines()[-3:])[-600:] or "it said nothing",
        seconds=time.monotonic() - begin,
    )


def _end_of(command: list[str], said: IO[bytes], seconds: float) -> int | None:
    process = subprocess.Popen(
        command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own; the watched process too
    except ProcessLookupError:
        return
    finally:
        process.wait()
