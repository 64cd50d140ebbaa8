"""Stands in for compute-sanitizer: what each tool is known to report, and all ways to end."""

from __future__ import annotations

import os
from typing import Final

CLEAN: Final = {
    "memcheck": "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n",
    "racecheck": (
        "========= COMPUTE-SANITIZER\n"
        "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
    ),
    "initcheck": "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n",
    "synccheck": "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n",
}
FAULTY: Final = {
    "memcheck": (
        "========= COMPUTE-SANITIZER\n"
        "========= Invalid __global__ write of size 4 bytes\n"
        "=========     at scale(const float *, float *, int)+0xa0 in scale.cu:9\n"
        "=========     by thread (64,0,0) in block (3,0,0)\n"
        "=========     Access to 0x7f7a4e000400 is out of bounds\n"
        "=========     and is 1 bytes after the nearest allocation at 0x7f7a4e000000 of size "
        "1,024 bytes\n"
        "========= \n"
        "========= Invalid __global__ write of size 4 bytes\n"
        "=========     at scale(const float *, float *, int)+0xa0 in scale.cu:9\n"
        "=========     by thread (65,0,0) in block (3,0,0)\n"
        "=========     Access to 0x7f7a4e000404 is out of bounds\n"
        "========= \n"
        '========= Program hit cudaErrorLaunchFailure (error 719) due to "unspecified launch '
        'failure" on CUDA API call to cudaDeviceSynchronize.\n'
        "=========     Saved host backtrace up to driver entry point at error\n"
        "========= \n"
        "========= Target application returned an error\n"
        "========= ERROR SUMMARY: 3 errors\n"
    ),
    "racecheck": (
        "========= COMPUTE-SANITIZER\n"
        "========= Error: Race reported between Write access at sums(float *)+0x430 in sums.cu:46\n"
        "=========     and Read access at sums(float *)+0x770 in sums.cu:55 [248 hazards]\n"
        "=========     and Read access at sums(float *)+0x7a0 in sums.cu:55 [248 hazards]\n"
        "========= \n"
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
    ),
    "initcheck": (
        "========= COMPUTE-SANITIZER\n"
        "========= Uninitialized __global__ memory read of size 2 bytes\n"
        "=========     at 0x100 in /work/sums.cu:30:sums(const __half *, float *)\n"
        "=========     by thread (98,0,0) in block (194,0,0)\n"
        "=========     Address 0x7fbbca800000\n"
        "========= \n"
        "========= Host API memory access error at host access to 0x7f7fcdc01200 of size 400 "
        "bytes\n"
        "=========     Uninitialized access at 0x7f7fcdc01300 on access by cudaMemcpy source\n"
        "========= \n"
        "========= ERROR SUMMARY: 2 errors\n"
    ),
    "synccheck": (
        "========= COMPUTE-SANITIZER\n"
        "========= Barrier error detected. Divergent thread(s) in block.\n"
        "=========     at sums_kernel+0x15520\n"
        "=========     by thread (128,0,0) in block (0,0,0)\n"
        "========= \n"
        "========= Target application returned an error\n"
        "========= ERROR SUMMARY: 1 error\n"
    ),
}
NAP: Final = f"613.{os.getpid()}"  # seconds: what else sleeps does not sleep so long
_SCRIPT: Final = """#!{python}
import subprocess, sys, time

CLEAN, FAULTY, MODE, AT = {clean!r}, {faulty!r}, {mode!r}, {at!r}

words = sys.argv[1:]
options = dict(zip(words, words[1:]))
tool, log = options["--tool"], options["--log-file"]
program = words[words.index({python!r}) :]
cases = [word for word in program if ",seed=" in word]
code = 0
if MODE == "runs":
    code = subprocess.run(program).returncode
for index, case in enumerate([] if MODE == "runs" else cases):
    print("sanitized-begins " + case, flush=True)
    if MODE == "hangs":
        print("waiting for a barrier", flush=True)
        subprocess.run(["sleep", {nap!r}])
    if MODE == "crashes" and index == 1:
        print("RuntimeError: CUDA error: unspecified launch failure", flush=True)
        code = 1
        break
    if MODE == "stops" and index == 1:
        break
    print("sanitized-ends", 0 if MODE == "falls back" else 2, flush=True)
shows = any(AT in case for case in cases) and not (MODE == "shows together" and len(cases) < 2)
report = FAULTY.get(tool, CLEAN[tool]) if shows else CLEAN[tool]
if report != CLEAN[tool]:
    code = code or int(options["--error-exitcode"])
if MODE == "exits":
    code = 7
if MODE != "silent":
    with open(log, "w") as file:
        file.write(report)
sys.exit(code)
"""


def script(
    python: str, mode: str = "", *, faulty: dict[str, str] | None = None, at: str = ","
) -> str:
    """The source: tools in ``faulty`` report so where a case has ``at`` in its id.

    ``mode`` says what becomes of the program: it ``runs``, ``hangs`` in its first case, ``crashes``
    or ``stops`` in its second, ``falls back`` and launches nothing; or of the tool: it ``exits``
    with a code that nobody knows, is ``silent`` and reports nothing, or what it reports ``shows
    together``, of several cases alone. Otherwise all goes well, or
    is said to.
    """
    return _SCRIPT.format(
        python=python, clean=CLEAN, faulty=faulty or {}, mode=mode, at=at, nap=NAP
    )
