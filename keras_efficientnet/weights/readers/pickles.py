"""Reads pickles without running anything that they name."""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MAX_ARGUMENTS = 8  # of a function that a pickle names; PyTorch passes at most 7
MAX_INTEGER = 2**60  # of an integer in a shape or a key; below 2**61 - 1 an integer is its own hash

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
IGNORED = {"PROTO", "FRAME", "STOP"}


class PickleReader:
    """Builds the dictionaries, lists, tuples, numbers and strings that a pickle holds.

    `pickletools` only decodes the operations; each is carried out here, and any other operation is an error. A pickle
    calls functions by their names: it gets those of `functions`, or an error. Attributes are not set.

    A few bytes can ask for much work: to pass a million arguments again and again, or to hash tuples of tuples. So
    arguments are few, and keys of dictionaries are strings or small integers.

    Args:
        functions: (module, name) -> the function or value that stands for it.
        load_reference: returns the object that a persistent identifier refers to.
    """

    def __init__(self, functions: Mapping[tuple[str, str], Any], load_reference: Callable[[Any], Any]):
        self._functions, self._load_reference = functions, load_reference
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: BinaryIO) -> Any:
        """Returns the object in the next pickle of a stream.

        Raises:
            pickle.UnpicklingError: the pickle asks for anything but data. A damaged pickle raises other errors, too.
        """
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in VALUES:
                self._stack.append(argument)
            elif name in CONSTANTS:
                self._stack.append(CONSTANTS[name])
            elif name in EMPTY:
                self._stack.append(EMPTY[name]())
            elif name in OPERATIONS:
                OPERATIONS[name](self, argument)
            elif name not in IGNORED:
                raise pickle.UnpicklingError(f"it has the operation {name}, which PyTorch never writes")
        return self._stack.pop()

    def _mark(self, _):
        self._marks.append(len(self._stack))

    def _pop_mark(self, _=None):
        return self._pop(len(self._stack) - self._marks.pop())

    def _pop(self, count):
        """Removes the last `count` objects from the stack and returns them."""
        if count > len(self._stack):
            raise pickle.UnpicklingError("it takes more objects than it made")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def _put(self, key):
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def _get(self, key):
        self._stack.append(self._memo[key])

    def _find(self, names):
        """Pushes the function that "module name" stands for; without `names` they are on the stack."""
        module, name = self._pop(2) if names is None else names.split(" ", 1)
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("it asks for a function whose name is not text")
        if (module, name) not in self._functions:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code; nothing was run")
        self._stack.append(self._functions[module, name])

    def _call(self, _):
        function, arguments = self._pop(2)
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError(f"it calls a function with more than {MAX_ARGUMENTS} arguments")
        self._stack.append(function(*arguments))

    def _refer(self, identifier):
        self._stack.append(self._load_reference(self._pop(1)[0] if identifier is None else identifier))

    def _append(self, items):
        if type(self._stack[-1]) is not list:
            raise pickle.UnpicklingError("it appends to an object that is not a list")
        self._stack[-1].extend(items)

    def _set(self, items):
        mapping, keys = self._stack[-1], items[::2]
        if type(mapping) is not dict or not all(type(key) is str or is_small_integer(key) for key in keys):
            raise pickle.UnpicklingError("its keys are not names")
        mapping.update(zip(keys, items[1::2], strict=True))


def is_small_integer(value: Any) -> bool:
    """Returns whether `value` is an integer that is its own hash."""
    return type(value) is int and abs(value) < MAX_INTEGER


def _push_tuple(count):
    return lambda reader, _: reader._stack.append(tuple(reader._pop(count)))


OPERATIONS: dict[str, Callable[[PickleReader, Any], Any]] = {
    "MARK": PickleReader._mark,
    "POP": lambda reader, _: reader._pop(1),
    "POP_MARK": PickleReader._pop_mark,
    "GLOBAL": PickleReader._find,
    "STACK_GLOBAL": PickleReader._find,
    "REDUCE": PickleReader._call,
    "NEWOBJ": PickleReader._call,  # a class called as a function
    "BUILD": lambda reader, _: reader._pop(1),
    "PERSID": PickleReader._refer,
    "BINPERSID": PickleReader._refer,
    "TUPLE": lambda reader, _: reader._stack.append(tuple(reader._pop_mark())),
    "APPEND": lambda reader, _: reader._append(reader._pop(1)),
    "APPENDS": lambda reader, _: reader._append(reader._pop_mark()),
    "SETITEM": lambda reader, _: reader._set(reader._pop(2)),
    "SETITEMS": lambda reader, _: reader._set(reader._pop_mark()),
}
OPERATIONS |= {f"TUPLE{count}": _push_tuple(count) for count in (1, 2, 3)}
OPERATIONS |= {name: PickleReader._put for name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")}
OPERATIONS |= {name: PickleReader._get for name in ("GET", "BINGET", "LONG_BINGET")}
