"""The errors of each generated case as a record keeps them: compact, one entry a case.

Two measures. ``errors`` has the worst element's error in units of its budget. Where the output is
rounded to few bits that says little of accuracy, since the rounding itself nearly fills the budget
in some element of every case; ``rms_errors`` does there, the root mean square error in ulps.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

WORST: Final = "errors"  # names among a record's figures
RMS: Final = "rms_errors"
DIGITS: Final = 3  # significant ones: what is finer than a part in a thousand is no drift
_LARGEST: Final = 1e300  # JSON has no infinity


class InvalidErrors(ValueError):
    """A figure ``errors`` or ``rms_errors`` that maps no keys of cases to errors."""


def key_of(case_id: str) -> str:
    """What stands for a case: 8 hex digits, the CRC-32 of its id.

    Two of 1,000 cases of a check share a key with a probability of 1 in 9,000.
    """
    return f"{zlib.crc32(case_id.encode()):08x}"


def rounded(error: float) -> float:
    """An error with as many digits as a record keeps; NaN counts as infinite."""
    finite = _LARGEST if math.isnan(error) else min(error, _LARGEST)
    return float(f"{finite:.{DIGITS}g}")


def errors_of(figures: Mapping[str, object], measure: str = WORST) -> Mapping[str, float]:
    """The errors by key of case among a record's figures; empty where its check compares none.

    Raises InvalidErrors naming the entry that is no error.
    """
    found = figures.get(measure, {})
    if not isinstance(found, dict):
        msg = f"{measure}={found!r} is a {type(found).__name__}, not errors by the key of a case"
        raise InvalidErrors(msg)
    for key, error in found.items():
        if isinstance(error, bool) or not isinstance(error, (int, float)) or not error >= 0:
            msg = f"{measure}[{key!r}]={error!r} is no error; a number of at least 0 is needed"
            raise InvalidErrors(msg)
    return found
