"""Read a pickle as a description: nothing that it names is looked up, made or called.

A pickle is a program. Here its calls are only written down, as :class:`Call`, and it may name nothing but what
its reader expects. Python's own unpickler, and that of ``torch.load`` with ``weights_only=True``, are not used:
deep tuples as keys of a dict crash both, and a few bytes can make both take all memory or run for ever.
"""

import pickletools
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

T = TypeVar("T")

MAX_STEPS = 100_000  # instructions of a pickle; that of a whole network has about 3,000

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], object]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}


class UnfitFileError(Exception):
    """A file cannot be imported, as the message says; save it again as the message asks."""


@dataclass(frozen=True)
class Name:
    """A class or a function that a pickle names, as ``module.name``."""

    path: str


@dataclass(eq=False)
class Call:
    """What a pickle would have called, and the state that it would have given to the result."""

    path: str
    args: tuple[object, ...]
    state: object = None


def refuse(reference: object) -> object:
    """No pickle of this kind refers to something outside of it."""
    raise UnfitFileError("it refers to something outside of its pickle")


def read(stream: BinaryIO, names: Container[str], find: Callable[[object], object] = refuse) -> object:
    """What the pickle at the position of ``stream`` holds; the stream is then behind it. Protocols 0 to 5.

    Numbers, texts, bytes, tuples, lists and dicts are themselves, an ``OrderedDict`` is a dict, anything else is
    a :class:`Call` or a :class:`Name`. Keys of dicts are texts or whole numbers. ``find`` gives what a
    reference to something outside (a persistent id) means. The stream must have all in memory.

    Raises:
        UnfitFileError: it names something that is not in ``names``, is damaged, or is no such pickle.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of odd escapes in names
            return _Reader(names, find).run(stream)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UnfitFileError("it is damaged, cut off, or no such file") from error


class _Reader:
    """A stack, as Python's unpickler has it."""

    def __init__(self, names: Container[str], find: Callable[[object], object]) -> None:
        self._names = names
        self._find = find
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stack under each mark
        self._memo: dict[int, object] = {}

    def run(self, stream: BinaryIO) -> object:
        for step, (op, value, _) in enumerate(pickletools.genops(stream)):
            if step > MAX_STEPS:
                raise UnfitFileError(f"its pickle has more than {MAX_STEPS:,} instructions: too many for a network")
            if op.name == "STOP":
                break
            self._do(op, value)
        return self._stack.pop()

    def _do(self, op: pickletools.OpcodeInfo, value: object) -> None:
        stack = self._stack
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[_require(value, int)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[_require(value, int)])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[op.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append(_EMPTY[op.name]())
            case "TUPLE" | "LIST" | "DICT":
                self._collect(op.name, self._take_marked())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._collect("TUPLE", self._take(int(op.name[-1])))
            case "APPEND" | "SETITEM":
                _add(self._take(1 if op.name == "APPEND" else 2), stack[-1])
            case "APPENDS" | "SETITEMS":
                items = self._take_marked()
                _add(items, self._stack[-1])
            case "GLOBAL":
                self._name(_require(value, str).replace(" ", "."))
            case "STACK_GLOBAL":
                self._name(".".join(_require(part, str) for part in self._take(2)))
            case "REDUCE" | "NEWOBJ":
                function, args = self._take(2)
                stack.append(_note(_require(function, Name).path, _require(args, tuple)))
            case "BUILD":
                (state,) = self._take(1)
                if not isinstance(stack[-1], dict):  # that of an OrderedDict is of no use here
                    _require(stack[-1], Call).state = state
            case "BINPERSID":
                stack.append(self._find(stack.pop()))
            case _ if not op.stack_before and value is not None and op.stack_after[0] is not pickletools.anyobject:
                stack.append(value)  # a number, a text, bytes
            case _:
                raise UnfitFileError(f"its pickle has the instruction {op.name}, which no such file needs")

    def _name(self, path: str) -> None:
        if path not in self._names:
            raise UnfitFileError(f"it names {path[:100]!r}, which no file of this kind needs; nothing of it was run")
        self._stack.append(Name(path))

    def _collect(self, kind: str, items: list[object]) -> None:
        if kind == "DICT":
            made: dict[object, object] = {}
            _add(items, made)
            self._stack.append(made)
        else:
            self._stack.append(tuple(items) if kind == "TUPLE" else items)

    def _take(self, count: int) -> list[object]:
        if len(self._stack) < count:
            raise IndexError("the stack is too short")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _take_marked(self) -> list[object]:
        taken, self._stack = self._stack, self._below.pop()
        return taken


def _note(path: str, args: tuple[object, ...]) -> object:
    """A call; that for an ``OrderedDict`` gives a dict, which the instructions that follow fill."""
    return {} if path == "collections.OrderedDict" and not args else Call(path, args)


def _add(items: list[object], target: object) -> None:
    """Append to a list, or set pairs of a dict. Keys are texts and whole numbers: a deep tuple cannot be hashed."""
    if isinstance(target, list):
        target.extend(items)
        return
    made = _require(target, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        made[key if isinstance(key, str) else _require(key, int)] = value


def _require(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value
