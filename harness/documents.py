"""JSON documents that say which schema they are of: read with the same words wherever they lie."""

from __future__ import annotations

import json
import reprlib
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable


def _refuse_constant(word: str) -> NoReturn:
    msg = f"{word} is no number"
    raise ValueError(msg)


# Python's own reads NaN and Infinity, which JSON does not have.
DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def parsed(
    text: str, *, where: object, schema: int, invalid: type[ValueError], again: str
) -> dict[str, Any]:
    """The fields of the document in ``text``, which stands at ``where``.

    Raises ``invalid`` for what is not JSON or of another schema; ``again`` says what to do then.
    """
    try:
        fields = DECODER.decode(text)
    except (ValueError, RecursionError) as error:  # also for numbers of 4,300 digits; for "[[[..."
        msg = f"{where}: not JSON ({error}); the file is broken or was cut off while written"
        raise invalid(msg) from error
    if not isinstance(fields, dict) or fields.get("schema") != schema:
        found = fields.get("schema") if isinstance(fields, dict) else fields
        msg = f"{where}: schema={reprlib.repr(found)}, this version reads {schema}; {again}"
        raise invalid(msg)
    return fields


def all_words(found: Iterable[object]) -> bool:
    """Whether each of them is a string: no Python code runs for each of 100,000."""
    return {str}.issuperset(map(type, found))
