"""Runners by integer ids that mean the same in every process, and never another runner.

An op of ``torch.library`` takes tensors and numbers, so a runner goes through a graph as a number.
It is made of the runner's kind and name and of how often the name was registered before:

==========  ============================================================================
bits        meaning
==========  ============================================================================
63..20      the first 43 bits of BLAKE2b of kind and name
19..0       the generation: 0 for the first runner of this name in a process, then 1, ...
==========  ============================================================================

So ids depend neither on the order of registrations nor on the process, and an id whose runner was
released stays unknown: the name's next runner has the next generation.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HASH_BITS: Final = 43  # 10,000 names have a common hash once in 170,000 times, and are told
GENERATION_BITS: Final = 20
_LISTED: Final = 8  # of the known runners, in a message


class UnknownRunner(LookupError):
    """An id of which this process has no runner: it was released, or never registered here."""


@dataclass(frozen=True)
class Registered:
    """A runner as it was registered. ``resolve`` returns it, or None once its owner is gone."""

    id: int
    kind: str
    name: str
    resolve: Callable[[], object | None]


@dataclass
class _Name:
    """Who owns the bits of a hash, and how many runners it has had."""

    kind: str
    name: str
    generations: int = 0


class Registry:
    """Runners by id. Every method may be called from any thread, and from a finalizer."""

    def __init__(
        self, *, hash_bits: int = HASH_BITS, generation_bits: int = GENERATION_BITS
    ) -> None:
        self._hash_bits = hash_bits
        self._generation_bits = generation_bits
        # A finalizer runs wherever garbage is collected: also in a thread that is in here already.
        self._lock = threading.RLock()
        self._names: dict[int, _Name] = {}
        self._live: dict[int, Registered] = {}

    def register(self, kind: str, name: str, runner: object, *, keep: bool = True) -> int:
        """Register a runner and return its id.

        Args:
            kind: which op may call it.
            name: what tells it from the others of its kind: the qualified name of a layer.
            runner: what the op calls.
            keep: whether the registry keeps the runner alive until its release. If not, the runner
                is released when its last owner lets go of it.

        Raises:
            TypeError: the name is not a string.
            ValueError: it is empty, or its hash is that of another name.
            OverflowError: the name had as many runners as there are generations.

        """
        _check_name(name)
        key = _key(kind, name, self._hash_bits)
        resolve = (lambda: runner) if keep else weakref.ref(runner)
        with self._lock:
            owner = self._names.setdefault(key, _Name(kind, name))
            _check_owner(owner, kind, name, 2**self._generation_bits)
            at = key << self._generation_bits | owner.generations
            made = Registered(at, kind, name, resolve)
            owner.generations += 1
            self._live[made.id] = made
        if not keep:
            weakref.finalize(runner, self._forget, made.id).atexit = False
        return made.id

    def release(self, runner_id: int) -> None:
        """Forget a runner; its id stays unknown for good. Raises UnknownRunner for an unknown id.

        A call that has begun ends with the runner it found.
        """
        if not self._forget(runner_id):
            raise self._unknown(runner_id)

    def find(self, runner_id: int, kind: str) -> tuple[Registered, object]:
        """The runner of an id; UnknownRunner if there is none, TypeError if of another kind."""
        with self._lock:
            found = self._live.get(runner_id)
        runner = found.resolve() if found else None
        if found is None or runner is None:
            raise self._unknown(runner_id)
        if found.kind != kind:
            msg = (
                f"runner_id={runner_id} is the {found.kind} runner {found.name!r}; this op calls "
                f"{kind} runners: pass the id of one"
            )
            raise TypeError(msg)
        return found, runner

    def known(self) -> tuple[Registered, ...]:
        """All runners, by name."""
        with self._lock:
            live = tuple(self._live.values())
        return tuple(sorted(live, key=lambda each: (each.name, each.id)))

    def _forget(self, runner_id: int) -> bool:
        with self._lock:
            return self._live.pop(runner_id, None) is not None

    def _unknown(self, runner_id: int) -> UnknownRunner:
        key, generation = divmod(runner_id, 2**self._generation_bits)
        with self._lock:
            owner = self._names.get(key)
        known = self.known()
        if owner is None or generation >= owner.generations:
            why = "is not registered in this process"
            remedy = "register the runner by the name it had where the id was taken"
        else:
            why = f"was the {owner.kind} runner {owner.name!r}, which is released"
            same = [each.id for each in known if (each.kind, each.name) == (owner.kind, owner.name)]
            remedy = f"trace again: the name is {same[-1]} now" if same else "register it again"
        return UnknownRunner(f"runner_id={runner_id} {why}; {_listed(known)}: {remedy}")


def _key(kind: str, name: str, bits: int) -> int:
    digest = blake2b(f"{kind}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        msg = f"name={name!r} is a {type(name).__name__}; pass a string, such as a layer's name"
        raise TypeError(msg)
    if not name:
        msg = f"name={name!r} is empty; pass what tells the runner from others: a layer's name"
        raise ValueError(msg)


def _check_owner(owner: _Name, kind: str, name: str, generations: int) -> None:
    if (owner.kind, owner.name) != (kind, name):
        msg = (
            f"name={name!r} of a {kind} runner has the hash of {owner.name!r} of a {owner.kind} "
            f"runner; rename one of them"
        )
        raise ValueError(msg)
    if owner.generations == generations:
        msg = f"name={name!r} was registered {generations} times; use another name"
        raise OverflowError(msg)


def _listed(known: tuple[Registered, ...]) -> str:
    if not known:
        return "no runner is"
    shown = ", ".join(f"{each.name!r} ({each.id})" for each in known[:_LISTED])
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"registered are {shown}{more}"
