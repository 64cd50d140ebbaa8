"""The types of blocks in Triton's interpreter, each made once: they take most of its time.

Every operation of a kernel makes a type and a tensor anew, with a shape that is a tuple of typed
constants, and a name. Those of one shape have it in common here; nothing changes them.

Imports triton: only `harness.emulation` imports this, when it is first used.
"""

from __future__ import annotations

from typing import Any, Final

import triton.language as tl
from triton.language.semantic import TritonSemantic

__all__ = ["PATCHES"]

_native_type = tl.block_type.__init__
_native_tensor = tl.tensor.__init__
_native_broadcast = TritonSemantic.broadcast_impl_value
_shapes: dict[tuple[int, ...], Any] = {}
_types: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
_tensors: dict[tuple[int, ...], dict[str, Any]] = {}
_OWN: Final = ("handle", "type", "dtype")  # what a tensor has not by its shape


def _init_type(self: Any, element_ty: Any, shape: Any) -> None:
    """As the original; the same for all of one format and shape."""
    lengths = tuple([each.value if isinstance(each, tl.constexpr) else each for each in shape])
    plain = type(element_ty) is tl.dtype and all(type(each) is int for each in lengths)
    known = _types.get((element_ty.name, lengths)) if plain else None
    if known is not None:
        vars(self).update(known)
        return
    _native_type(self, element_ty, shape)
    if plain:
        self.shape = _shapes.setdefault(lengths, self.shape)
        _types[element_ty.name, lengths] = dict(vars(self))


def _init_tensor(self: Any, handle: Any, type: Any) -> None:  # noqa: A002  - the original's name
    """As the original; what follows from a shape is the same for all of it."""
    lengths = tuple(type.shape.values) if type.is_block() else ()
    known = _tensors.get(lengths)
    if known is None:
        _native_tensor(self, handle, type)
        _tensors[lengths] = {name: v for name, v in vars(self).items() if name not in _OWN}
        return
    vars(self).update(known)
    self.handle, self.type, self.dtype = handle, type, type.scalar


def _broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
    """As the original, which compares lengths one by one; blocks of one shape stay as they are."""
    if lhs.type.is_block() and rhs.type.is_block() and lhs.type.shape is rhs.type.shape:
        return lhs, rhs
    return _native_broadcast(self, lhs, rhs)


PATCHES: Final = (
    (tl.block_type, "__init__", _init_type),
    (tl.tensor, "__init__", _init_tensor),
    (TritonSemantic, "broadcast_impl_value", _broadcast),
)
"""Methods by their class and name."""
