"""Writes files as `torch.save` lays them out, opcode by opcode: without PyTorch, and some of them bad on purpose."""

import struct
import zipfile
from typing import NamedTuple


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    reference: tuple


class WithState(NamedTuple):
    """An object that gets attributes after it is made, as the OrderedDict of `Module.state_dict` does."""

    value: object
    state: dict


def ordered_dict(items=()):
    return Call(Global("collections", "OrderedDict"), (items,) if items else ())


def storage(kind, key, num_elements):
    """kind: "FloatStorage" or the like. key: name of the member that holds the bytes."""
    return Persistent(("storage", Global("torch", kind), key, "cpu", num_elements))


def tensor(stored, first, shape, strides):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (stored, first, tuple(shape), tuple(strides), False, ordered_dict()))


def contiguous_tensor(array, kind, key):
    strides = [stride // array.itemsize for stride in array.strides]
    return tensor(storage(kind, key, array.size), 0, array.shape, strides)


def write_torch_file(path, content, storages, compression=zipfile.ZIP_STORED, extra_members=()):
    """content: what to pickle, of dict, tuple, str, int, bool, None and the classes above. storages: {key: bytes}."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + _opcodes(content) + b".")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in extra_members:
            archive.writestr(name, data)
    return path


def write_state_dict(path, arrays, kind):
    """arrays: {name: array}, all of storage type `kind`, each with a storage of its own."""
    content = {name: contiguous_tensor(array, kind, str(key)) for key, (name, array) in enumerate(arrays.items())}
    return write_torch_file(path, content, {str(key): array.tobytes() for key, array in enumerate(arrays.values())})


def _opcodes(value) -> bytes:
    match value:
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return _opcodes(function) + _opcodes(arguments) + b"R"
        case Persistent(reference):
            return _opcodes(reference) + b"Q"
        case WithState(made, state):
            return _opcodes(made) + _opcodes(state) + b"b"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case dict():
            return b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
        case bool():
            return b"\x88" if value else b"\x89"
        case None:
            return b"N"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
    raise TypeError(value)
