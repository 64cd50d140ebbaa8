"""Types and tensors that are made once: each is what Triton makes, whatever was made before it."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest
import triton.language as tl

from harness import _emulated_types

DTYPES: Final = (tl.float32, tl.int32, tl.int1)
SHAPES: Final = ([4], [8], [4, 8], [8, 4], [1])


def said(made: Any) -> dict[str, str]:  # noqa: ANN401 - Triton's objects have no types
    return {name: str(value) for name, value in vars(made).items()}


def as_in_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter does while a kernel runs; other types are made first."""
    for owner, name, replacement in _emulated_types.PATCHES:
        monkeypatch.setattr(owner, name, replacement)
    for dtype, shape in product(DTYPES, SHAPES):
        tl.tensor(None, tl.block_type(dtype, shape))


@pytest.mark.parametrize(("dtype", "shape"), [*product(DTYPES, SHAPES)])
def test_a_type_and_a_tensor_are_tritons(
    monkeypatch: pytest.MonkeyPatch,
    dtype: Any,  # noqa: ANN401 - as above
    shape: list[int],
) -> None:
    native = tl.block_type(dtype, shape)
    tensor = said(tl.tensor(None, native))
    as_in_a_launch(monkeypatch)
    assert said(tl.block_type(dtype, shape)) == said(native)
    assert said(tl.tensor(None, tl.block_type(dtype, shape))) == tensor
