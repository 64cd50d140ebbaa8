"""JSON documents that say which schema they are of: read with the same words wherever they lie."""

from __future__ import annotations

import json
from typing import Any


def parsed(
    text: str, *, where: object, schema: int, invalid: type[ValueError], again: str
) -> dict[str, Any]:
    """The fields of the document in ``text``, which stands at ``where``.

    Raises ``invalid`` for what is not JSON or of another schema; ``again`` says what to do then.
    """
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{where}: not JSON ({error}); the file is broken or was cut off while written"
        raise invalid(msg) from error
    if not isinstance(fields, dict) or fields.get("schema") != schema:
        found = fields.get("schema") if isinstance(fields, dict) else fields
        msg = f"{where}: schema={found!r}, this version reads {schema}; {again}"
        raise invalid(msg)
    return fields
