"""Sets up each job on a fresh machine and runs it, with the versions of constraints.txt."""

import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
RECORDS = Path("build", "records")
# A worker runs neighbours, which share what is costly to make, until it is idle. There is one for
# each core: threads of torch's and NumPy's own would only wait for each other, busily.
WORKERS = ("--numprocesses=auto", "--dist=worksteal")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def install(session: nox.Session, *requirements: str, groups: tuple[str, ...]) -> None:
    """Install what a job needs at the pinned versions.

    Bytecode is left to the first import: compiling all of torch takes longer than installing it.
    The import then has to keep it, whatever the caller's environment says: without it, torch takes
    6 seconds of CPU time in each of the many processes that import it, and 2.5 with it.
    """
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # as good as absent
    session.install(
        "--no-compile",
        "--constraint=constraints.txt",
        *requirements,
        *nox.project.dependency_groups(PROJECT, *groups),
    )


@nox.session
def parity(session: nox.Session) -> None:
    """Run every kernel through every layer; arguments go to pytest, such as --kernel NAME."""
    install(session, "--editable=.[cuda,cutedsl,e2e]", groups=("tests",))
    RECORDS.mkdir(parents=True, exist_ok=True)
    session.run(
        *("python", "-m", "pytest"),
        "--ignore=suites/meta",
        *WORKERS,
        f"--records={RECORDS / 'parity.jsonl'}",
        *session.posargs,
        env=ONE_THREAD,
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run all suites and the harness's own tests; arguments go to pytest."""
    install(session, "--editable=.[cuda,cutedsl,e2e]", groups=("tests",))
    session.run("python", "-m", "pytest", *WORKERS, *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules, format and import contracts; `-- --fix` repairs what can be repaired."""
    install(session, groups=("lint",))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types in strict mode, tests included."""
    install(session, *PROJECT["project"]["dependencies"], groups=("types",))
    session.run("mypy", *session.posargs)


@nox.session(venv_backend="none")
def gate(session: nox.Session) -> None:
    """Judge records by the contract; nothing is installed. `-- --arch sm90 --records DIR`.

    Exit status 0 for green, 1 for red, 2 for what cannot be judged: `session.run` knows no third.
    """
    command = [sys.executable, "-m", "harness.gate", *session.posargs]
    if status := subprocess.run(command, check=False).returncode:
        raise SystemExit(status)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the harness costs and, on a GPU, kernels beside bf16; ratios of one run."""
    install(session, "--editable=.[cuda,cutedsl,e2e]", groups=("tests",))
    session.run("python", "-m", "suites.bench")


@nox.session
def browser(session: nox.Session) -> None:
    """Try the gate's page in the Chromium of this machine."""
    install(session, "--editable=.", groups=("tests",))
    session.run("python", "-m", "pytest", "-m", "browser", "suites/meta", *session.posargs)


@nox.session
def calibrate(session: nox.Session) -> None:
    """Try the budget on thousands of correct results; `-- --device cuda --write` keeps them."""
    install(session, "--editable=.[e2e]", groups=("tests",))
    session.run("python", "-m", "suites.calibrate", *session.posargs)


@nox.session
def power(session: nox.Session) -> None:
    """Plant faults in the kernels and count which are caught; arguments such as --quick go on."""
    install(session, "--editable=.", groups=("tests",))
    session.run("python", "-m", "harness.power", *session.posargs)
