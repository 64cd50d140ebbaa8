"""One launch of a Triton kernel is executed on the CPU, and Triton is left as it was found.

Imports triton: only `harness.emulation` imports this, when it is first used.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import types
from typing import TYPE_CHECKING, Any

import numpy as np

# The first two keep what they find in triton.language: they must find it unpatched.
import triton.compiler.code_generator
import triton.experimental.gluon.language  # noqa: F401
import triton.language as tl
import triton.language.extra.cuda as cuda_language
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from harness import _emulated_builder, _emulated_reduction, _emulated_syntax, _emulated_types
from harness.emulation import NotEmulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.launches import Launch

__all__ = ["execute"]

_MISSING = object()
_Patch = tuple[Any, str, Any]

# "Maximum x-, y- and z-dimension of a grid of thread blocks" of the CUDA C++ Programming Guide.
_GRID_LIMITS = (2**31 - 1, 65535, 65535)


def execute(launch: Launch, proceed: Callable[[], Any], *, debug: bool) -> Any:
    """Run the programs of ``launch`` one after another; CUDA tensors are left to their GPU."""
    kernel = f"{launch.module}.{launch.name}"
    devices = {tensor.device.type for tensor in _tensors(launch.arguments.values())}
    if "cuda" in devices:
        return proceed()
    if devices - {"cpu"}:
        msg = f"{kernel} has arguments on {sorted(devices)!r}; emulation needs tensors on 'cpu'"
        raise ValueError(msg)
    if launch.function.is_gluon():
        raise NotEmulated(kernel, "it is written in Gluon, whose layouts only a GPU has")
    _require_grid(kernel, launch.grid)
    debug = bool(debug or launch.options.get("debug", launch.function.debug))
    options = interpreter.interpreter_builder.options
    overflow = options.sanitize_overflow and debug  # computed for assertions, which are off else
    options = dataclasses.replace(options, debug=debug, sanitize_overflow=overflow)
    with (
        _applied([*_patches().everywhere, (interpreter.interpreter_builder, "options", options)]),
        _naming(kernel),
        np.errstate(all="ignore"),
    ):
        _run_programs(launch)
    return None


def _tensors(arguments: Any) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, TensorDescriptor):
            yield argument.base
        elif isinstance(argument, tuple | list):
            yield from _tensors(argument)
        elif hasattr(argument, "data_ptr") and hasattr(argument, "device"):
            yield argument


def _require_grid(kernel: str, grid: tuple[int, ...]) -> None:
    if not 1 <= len(grid) <= len(_GRID_LIMITS):
        msg = f"{kernel}: grid={grid!r} has {len(grid)} extents; a grid has 1 to 3"
        raise ValueError(msg)
    for extent, limit, axis in zip(grid, _GRID_LIMITS, "xyz", strict=False):
        if not 0 <= extent <= limit:
            msg = f"{kernel}: grid={grid!r} has {extent} programs along {axis}; allowed: 0..{limit}"
            raise ValueError(msg)


@contextlib.contextmanager
def _naming(kernel: str) -> Iterator[None]:
    """Turn what the interpreter lacks into NotEmulated, and tell of others where they arose."""
    builder = interpreter.interpreter_builder
    try:
        yield
    except _emulated_builder.Unsupported as error:
        raise NotEmulated(kernel, str(error)) from error
    except AttributeError as error:
        if error.obj is builder or error.obj is builder.options:
            raise NotEmulated(kernel, f"Triton's interpreter has no {error.name!r}") from error
        raise
    except Exception as error:
        program, grid = (getattr(builder, name, None) for name in ("grid_idx", "grid_dim"))
        error.add_note(f"raised while emulating {kernel}, program {program} of grid {grid}")
        raise


def _run_programs(launch: Launch) -> None:
    _Interpreted.generation += 1
    function = _interpreted(launch.function)
    arguments = {
        param.name: _argument(launch.arguments[param.name], param)
        for param in launch.function.params
        if param.name in launch.arguments
    }
    grid = (*launch.grid, 1, 1)[:3]
    builder = interpreter.interpreter_builder
    builder.set_grid_dim(*grid)
    for program in itertools.product(*map(range, grid)):
        builder.set_grid_idx(*program)
        function(**arguments)


# --- arguments


def _argument(value: Any, param: Any) -> Any:
    """Give an argument the type that Triton's launcher gives it."""
    if param.is_constexpr:
        return value
    annotated = param.annotation_type
    dtype = tl.str_to_ty(annotated, None) if annotated and not annotated.startswith("*") else None
    return _typed(value, dtype)


def _typed(value: Any, dtype: Any) -> Any:
    if isinstance(value, tl.constexpr):
        return value.value
    if isinstance(value, bool | int | float):
        return _scalar(np.array([value]), dtype or _type_of(value))
    if isinstance(value, TensorDescriptor) or hasattr(value, "data_ptr"):
        return interpreter._implicit_cvt(value)
    if isinstance(value, tuple):
        return interpreter._tuple_create(value, [_typed(item, None) for item in value])
    return value


def _type_of(value: Any) -> Any:
    """A number is a scalar of one type on a GPU, where a Python number takes its neighbour's."""
    if isinstance(value, bool):
        return tl.int1
    if isinstance(value, float):
        return tl.float32
    if -(2**31) <= value < 2**31:
        return tl.int32
    return tl.int64 if -(2**63) <= value < 2**63 else tl.uint64


def _scalar(data: Any, dtype: Any) -> Any:
    if dtype.is_floating():
        handle = _emulated_builder.block(data.astype(np.float64), dtype)
    elif data.dtype.kind == "f":
        msg = f"argument {data[0]!r} is declared as {dtype}; pass an integer"
        raise TypeError(msg)
    else:
        handle = interpreter.TensorHandle(data.astype(interpreter._get_np_dtype(dtype)), dtype)
    return tl.core.tensor(handle, dtype)


# --- the kernel's source, as Python that the interpreter can run


@dataclasses.dataclass
class _Interpreted:
    """A kernel's function with globals of its own, so that its module is not written to."""

    generation = 0  # of launches: the kernel's globals may have changed between two

    source: str
    function: types.FunctionType
    names: frozenset[str]
    seen: int = -1

    def refresh(self, original: types.FunctionType) -> None:
        """Take over the current globals, with what was imported by name from Triton replaced."""
        if self.seen == _Interpreted.generation:
            return
        self.seen = _Interpreted.generation
        namespace = self.function.__globals__
        namespace.update(original.__globals__)
        namespace.update(inspect.getclosurevars(original).nonlocals)
        for name in self.names & namespace.keys():
            namespace[name] = _patches().by_name.get(id(namespace[name]), namespace[name])


_cache: dict[types.FunctionType, _Interpreted] = {}


def _interpreted(kernel: Any) -> types.FunctionType:
    entry = _cache.get(kernel.fn)
    if entry is None or entry.source is not kernel.src:
        entry = _cache[kernel.fn] = _rewritten(kernel)
    entry.refresh(kernel.fn)
    return entry.function


def _rewritten(kernel: Any) -> _Interpreted:
    """Compile the kernel's source, changed as the interpreter's own FunctionRewriter changes it."""
    original = kernel.fn
    tree = ast.parse(kernel.src)
    _strip_annotations(tree.body[0])
    tree = interpreter.ASTTransformer().visit(_emulated_syntax.Rewriter().visit(tree))
    ast.fix_missing_locations(tree)
    ast.increment_lineno(tree, _lines_before(kernel))
    namespace = {
        "__builtins__": original.__globals__.get("__builtins__", __builtins__),
        "interpreter_semantic": interpreter.interpreter_semantic,
        "_InterpreterComparison": getattr(interpreter, "_InterpreterComparison", None),
        **_emulated_syntax.MEANINGS,
        **_emulated_syntax.BUILTINS,
    }
    code = compile(tree, original.__code__.co_filename, "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102  - the source of the function that is being called
    function = namespace[original.__name__]
    function.__defaults__ = original.__defaults__
    function.__kwdefaults__ = original.__kwdefaults__
    return _Interpreted(kernel.src, function, frozenset(_names(function.__code__)))


def _strip_annotations(function: Any) -> None:
    """Neither annotations nor defaults are evaluated again: they may name what is gone by now."""
    function.returns = None
    arguments = function.args
    for argument in [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
    ]:
        if argument is not None:
            argument.annotation = None
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(None) for default in arguments.kw_defaults]


def _lines_before(kernel: Any) -> int:
    """How many lines of its file come before the kernel's ``def``."""
    for index, line in enumerate(kernel.raw_src):
        if line.lstrip().startswith("def "):
            return int(kernel.starting_line_number) + index - 1
    return 0


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


# --- what is different in Triton while a launch runs


@contextlib.contextmanager
def _applied(patches: list[_Patch]) -> Iterator[None]:
    before: list[_Patch] = []
    try:
        for owner, name, value in patches:
            before.append((owner, name, vars(owner).get(name, _MISSING)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


@dataclasses.dataclass(frozen=True)
class _Patches:
    """What is replaced during a launch: Triton's language, its interpreter, calls of helpers.

    ``by_name`` has the replacements of what a kernel's module may have imported by name, by the
    identity of the original.
    """

    everywhere: tuple[_Patch, ...]
    by_name: dict[int, Any]


@functools.cache
def _patches() -> _Patches:
    methods = [
        (interpreter.InterpreterBuilder, name, f) for name, f in _emulated_builder.METHODS.items()
    ]
    functions = [
        (interpreter, name, f)
        for name, f in _emulated_builder.MODULE_FUNCTIONS.items()
        if hasattr(interpreter, name)
    ]
    language = [*_language_patches(), *_member_patches(), *_library_patches()]
    return _Patches(
        everywhere=(
            *language,
            *methods,
            *functions,
            *_emulated_types.PATCHES,
            (JITFunction, "__call__", _call_helper),
        ),
        by_name={
            id(vars(owner)[name]): value
            for owner, name, value in language
            if inspect.ismodule(owner)
        },
    )


def _call_helper(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A jitted function that a kernel calls is interpreted as well."""
    return _interpreted(self)(*args, **kwargs)


def _language_patches() -> list[_Patch]:
    """The interpreter's own replacements in ``triton.language``: it makes them once, to be seen."""
    probe = types.FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(probe)
    try:
        places = {(id(owner), name): owner for owner, name, _ in scope._changes}
        return [(owner, name, vars(owner)[name]) for (_, name), owner in places.items()]
    finally:
        scope.restore()


def _member_patches() -> list[_Patch]:
    """``x.sum(...)`` finds a JITFunction, which does not bind ``x``; ``reduce`` is ours."""
    members = [
        (tl.tensor, name, _bound(member))
        for name, member in vars(tl.tensor).items()
        if isinstance(member, JITFunction)
    ]
    reductions = [
        (owner, name, getattr(_emulated_reduction, name))
        for owner in (tl, tl.core, tl.tensor)
        for name in ("reduce", "associative_scan")
    ]
    index = (tl.tensor, "__index__", lambda self: int(self.handle.data.item()))
    return [*members, *reductions, index]


def _bound(member: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return member(self, *args, **kwargs)

    return call


def _library_patches() -> list[_Patch]:
    """CUDA's extras are builtins as well; ``extra.libdevice`` has stubs that stand for CUDA's."""
    libraries = [cuda_libdevice, cuda_language]
    patches = [
        (library, name, _with_semantic(member))
        for library in libraries
        for name, member in vars(library).items()
        if tl.core.is_builtin(member)
    ]
    stubs = [
        (libdevice, name, _with_semantic(getattr(cuda_libdevice, name)))
        for name, stub in vars(libdevice).items()
        if inspect.isfunction(stub) and tl.core.is_builtin(getattr(cuda_libdevice, name, None))
    ]
    return [*patches, *stubs]


def _with_semantic(builtin: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        return builtin(*args, **{**kwargs, "_semantic": interpreter.interpreter_semantic})

    return called
