"""Shows that ``transformers`` does not take the folder ``kernels`` for Hugging Face's ``kernels``.

``transformers`` (5.17 and 5.23 were read) asks for a package importable as ``kernels``, takes the
version of the distribution that provides it, and imports names from it if the version lies in a
narrow range (0.16 to 0.17, and 0.18.2 to 0.19). It finds, for this project:

- installed: the version of ``kernel-parity``, as long as outside that range: not available;
- a checkout on the path: no distribution, so it imports ``kernels`` for a ``__version__`` that it
  must not have, and that module imports nothing: not available;
- the distribution ``kernels`` beside this one: an ImportError, as its names are not found here
  (or this project's not there); ``suites.e2e.model.load`` says so.

So nothing needs to be switched off; but a version of this project inside the range would break
``transformers``, and that is what the check is for.

``python -m suites.e2e.isolation`` is the fresh process: it loads the encoder and prints a Probe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from suites.e2e import model, sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT: Final = Path(__file__).parents[2]
OURS: Final = "kernels"
_LIMIT: Final = 300  # seconds; loading takes 10


class ProbeFailed(RuntimeError):
    """The fresh process ended without an answer; the message carries its last words."""


@dataclass(frozen=True)
class Probe:
    """What a fresh process saw: transformers' answer, modules of ours, and the dense embeddings."""

    available: bool
    imported: tuple[str, ...]
    embeddings: str


def probe(*, hidden: bool, folder: Path | None = None) -> Probe:
    """Load the encoder in a fresh process, with the folder ``kernels`` in reach or hidden from it.

    Raises ProbeFailed.
    """
    command = [sys.executable, "-m", "suites.e2e.isolation"]
    command += ["--hidden"] * hidden
    command += [] if folder is None else ["--model", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode:
        msg = f"the probe with hidden={hidden!r} exited {done.returncode}: {done.stderr[-2000:]}"
        raise ProbeFailed(msg)
    answer = json.loads(done.stdout)
    return Probe(answer["available"], tuple(answer["imported"]), answer["embeddings"])


def failures(folder: Path | None = None) -> tuple[str, ...]:
    """What is wrong with how ``transformers`` takes to the folder ``kernels``; empty if nothing."""
    beside, without = probe(hidden=False, folder=folder), probe(hidden=True, folder=folder)
    words = []
    if beside.available:
        words.append(
            "transformers takes the folder 'kernels' for Hugging Face's package; hold the version "
            "of this distribution against its KERNELS_MIN_VERSION and KERNELS_MAX_VERSION"
        )
    if loaded := [name for name in beside.imported if name != OURS]:
        words.append(f"loading the dense encoder imported {loaded}, which it has no business with")
    if beside.embeddings != without.embeddings:
        words.append("the dense embeddings differ with the folder 'kernels' in reach and hidden")
    return tuple(words)


def _answer(folder: Path | None) -> Probe:
    from transformers.utils import is_kernels_available

    encoder = model.load(folder)
    embeddings = encoder.embed(sentences.few(1).sentences)
    imported = [name for name in sys.modules if name.partition(".")[0] == OURS]
    return Probe(
        bool(is_kernels_available()),
        tuple(sorted(name for name in imported if sys.modules[name] is not None)),
        hashlib.sha256(embeddings.numpy().tobytes()).hexdigest(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the encoder, print what was seen as JSON."""
    parser = argparse.ArgumentParser("python -m suites.e2e.isolation", description=main.__doc__)
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("--hidden", action="store_true", help="make the folder 'kernels' absent")
    options = parser.parse_args(arguments)
    if options.hidden:
        sys.modules[OURS] = None  # type: ignore[assignment] # the import system's word for: absent
    sys.stdout.write(json.dumps(asdict(_answer(options.model))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
