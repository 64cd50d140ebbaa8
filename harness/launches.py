"""Every kernel launch is seen, with grid, arguments and options; no package is edited for it."""

from __future__ import annotations

import contextlib
import inspect
import operator
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Executor",
    "Launch",
    "capture_launches",
    "executing",
    "name_launches",
    "record_launches",
    "report_launch",
    "suspended",
]


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of one kernel.

    ``arguments`` refers to the very objects that the kernel got, in the order of its parameters and
    with defaults filled in: nothing is copied, and a list of launches keeps its tensors alive.
    ``constants`` names those that are compiled into the kernel. ``options`` holds what belongs to
    the launch and not to the kernel's signature (Triton: ``num_warps``, ``num_stages``, ...).
    ``function`` is the backend's handle of the kernel: a ``JITFunction`` for Triton.
    """

    backend: str
    name: str
    module: str
    function: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        """Which kernel it is, as records say it: ``triton:kernels.norm.triton._rms_norm``."""
        return f"{self.backend}:{self.module}.{self.name}"

    def __str__(self) -> str:
        return f"{self.module}.{self.name}[{', '.join(map(str, self.grid))}]"


Executor = Callable[[Launch, Callable[[], Any]], Any]
"""Runs a launch in its own way; calling the second argument runs it as its launcher would."""


class _State:
    """What the open scopes of this process ask for; launches of every thread are seen."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.scopes = 0
        self.capturing = 0
        self.recorders: list[list[Launch]] = []
        self.names: list[set[str]] = []
        self.executors: list[Executor] = []
        self.originals: list[tuple[type, str, Any]] = []
        self.hidden = threading.local()

    @property
    def is_hidden(self) -> bool:
        return bool(getattr(self.hidden, "depth", 0))

    @property
    def redirects(self) -> bool:
        return not self.is_hidden and bool(self.capturing or self.executors)


_state = _State()


def report_launch(launch: Launch) -> bool:
    """Tell every open scope about a launch; true when the launcher shall go on and execute it.

    For launchers other than Triton's: to be called right before the launch, everything checked.
    """
    if _state.is_hidden:
        return True
    for recorder in _state.recorders:
        recorder.append(launch)
    for names in _state.names:
        names.add(launch.identity)
    return not _state.capturing


@contextlib.contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Yield a list that fills with the launches of the scope, while they execute as usual.

    What an ``@triton.autotune`` decorator launches in order to measure is left out; the launch that
    it then makes is not.
    """
    recorded: list[Launch] = []
    with _intercepting():
        _state.recorders.append(recorded)
        try:
            yield recorded
        finally:
            _remove(_state.recorders, recorded)


@contextlib.contextmanager
def name_launches() -> Iterator[set[str]]:
    """Yield a set that fills with the identity of each kernel that another scope sees launched.

    It only listens: Triton's launches are seen while a scope of `record_launches` or one of those
    built on it is open. No tensor is kept alive, so it may last for a whole check.
    """
    names: set[str] = set()
    _state.names.append(names)
    try:
        yield names
    finally:
        _remove(_state.names, names)


@contextlib.contextmanager
def capture_launches() -> Iterator[list[Launch]]:
    """Yield a list that fills with the launches of the scope, none of which executes.

    No GPU is needed. A launch returns None here, so code that goes on with the compiled kernel that
    Triton returns does not work in this scope. ``@triton.autotune`` measures nothing: the first of
    its configs is taken (the first that ``early_config_prune`` leaves, where there is one), and the
    choice is not remembered. ``@triton.heuristics`` work as usual.
    """
    with record_launches() as recorded:
        _state.capturing += 1
        try:
            yield recorded
        finally:
            _state.capturing -= 1


@contextlib.contextmanager
def executing(executor: Executor) -> Iterator[None]:
    """Let ``executor`` run the Triton launches of the scope, the innermost scope first.

    Autotuned kernels take their first config, as in `capture_launches`.
    """
    with _intercepting():
        _state.executors.append(executor)
        try:
            yield
        finally:
            _remove(_state.executors, executor)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Let the launches of this thread pass unseen and unchanged, whatever scopes are open."""
    hidden = _state.hidden
    hidden.depth = getattr(hidden, "depth", 0) + 1
    try:
        yield
    finally:
        hidden.depth -= 1


def _remove(items: list[Any], item: Any) -> None:
    """Remove by identity, from the end: equal lists of launches are not the same list."""
    for index in reversed(range(len(items))):
        if items[index] is item:
            del items[index]
            return


@contextlib.contextmanager
def _intercepting() -> Iterator[None]:
    """Replace Triton's launch functions from the first scope's start to the last scope's end."""
    with _state.lock:
        if _state.scopes == 0:
            _install()
        _state.scopes += 1
    try:
        yield
    finally:
        with _state.lock:
            _state.scopes -= 1
            if _state.scopes == 0:
                _uninstall()


def _install() -> None:
    try:
        from triton.compiler import CompiledKernel
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.jit import JITFunction
    except ImportError:  # the kernels of other backends are still reported
        return
    for owner, name, wrap in (
        (JITFunction, "run", _wrap_run),
        (Autotuner, "run", _wrap_autotuner_run),
        (Autotuner, "_bench", _wrap_bench),
        (CompiledKernel, "__getitem__", _wrap_getitem),
    ):
        original = vars(owner)[name]
        _state.originals.append((owner, name, original))
        setattr(owner, name, wrap(original))


def _uninstall() -> None:
    while _state.originals:
        owner, name, original = _state.originals.pop()
        setattr(owner, name, original)


def _wrap_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """`JITFunction.run`, through which ``kernel[grid](...)`` and ``kernel.warmup(...)`` go."""

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if _state.is_hidden:
            return original(self, *args, grid=grid, warmup=warmup, **kwargs)
        if warmup:  # compiles for the current device, and there is none to emulate
            return (
                None
                if _state.redirects
                else original(self, *args, grid=grid, warmup=True, **kwargs)
            )
        launch = _describe(self, args, kwargs, grid)
        if not report_launch(launch):
            return None

        def proceed() -> Any:
            return original(self, *args, grid=launch.grid, warmup=False, **kwargs)

        if not _state.executors:
            return proceed()
        return _state.executors[-1](launch, proceed)

    return run


def _describe(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Any) -> Launch:
    names = function.signature.parameters
    options = {name: value for name, value in kwargs.items() if name not in names}
    by_name = {name: value for name, value in kwargs.items() if name in names}
    try:
        bound = function.signature.bind(*args, **by_name)
    except TypeError as error:
        msg = f"{function.__module__}.{function.__name__}: {error}"
        raise TypeError(msg) from error
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    return Launch(
        backend="triton",
        name=function.__name__,
        module=function.__module__,
        function=function,
        grid=_resolve_grid(function, grid, arguments),
        arguments=arguments,
        options=options,
        constants=frozenset(p.name for p in function.params if p.is_constexpr),
    )


def _resolve_grid(function: Any, grid: Any, arguments: dict[str, Any]) -> tuple[int, ...]:
    resolved = grid(arguments) if callable(grid) else grid
    try:
        return tuple(operator.index(extent) for extent in resolved)
    except TypeError as error:
        name = f"{function.__module__}.{function.__name__}"
        msg = f"{name}: grid={resolved!r} is not a sequence of integers; pass 1 to 3 of them"
        raise TypeError(msg) from error


def _wrap_autotuner_run(original: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _state.redirects:
            return original(self, *args, **kwargs)
        # Nothing goes to `self.cache`: a real launch later must still measure.
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = _first_config(self, kwargs)
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        try:
            return self.fn.run(*args, **kwargs, **config.all_kwargs())
        finally:
            self.nargs = None

    return run


def _first_config(autotuner: Any, kwargs: dict[str, Any]) -> Any:
    configs = autotuner.configs
    if autotuner.early_config_prune is not None:
        configs = list(autotuner.early_config_prune(configs, autotuner.nargs, **kwargs))
    if not configs:
        name = f"{autotuner.base_fn.__module__}.{autotuner.base_fn.__name__}"
        count = len(autotuner.configs)
        msg = f"{name}: early_config_prune left none of {count} configs; it must leave one"
        raise ValueError(msg)
    return configs[0]


def _wrap_bench(original: Callable[..., Any]) -> Callable[..., Any]:
    def bench(self: Any, *args: Any, **kwargs: Any) -> Any:
        with suspended():
            return original(self, *args, **kwargs)

    return bench


def _wrap_getitem(original: Callable[..., Any]) -> Callable[..., Any]:
    """`CompiledKernel.__getitem__`, the launch of what ``kernel.warmup(...)`` returned."""

    def getitem(self: Any, grid: Any) -> Any:
        launcher = original(self, grid)

        def run(*args: Any, **kwargs: Any) -> Any:
            if not report_launch(_describe_compiled(self, args, grid)):
                return None
            return launcher(*args, **kwargs)

        return run

    return getitem


def _describe_compiled(kernel: Any, args: tuple[Any, ...], grid: Any) -> Launch:
    function = getattr(kernel.src, "fn", None)
    names = list(inspect.signature(function.fn).parameters) if function is not None else []
    return Launch(
        backend="triton",
        name=kernel.name if function is None else function.__name__,
        module="" if function is None else function.__module__,
        function=kernel if function is None else function,
        grid=_resolve_grid(function or kernel.src, grid, {}),
        arguments=dict(zip(names or map(str, range(len(args))), args, strict=False)),
        options={
            name: getattr(kernel.metadata, name) for name in ("num_warps", "num_stages", "num_ctas")
        },
        constants=frozenset()
        if function is None
        else frozenset(p.name for p in function.params if p.is_constexpr),
    )
