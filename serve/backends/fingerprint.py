"""What a compiled component was made from, as short texts that differ where that differs."""

import ast
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fractions import Fraction
from functools import cache
from math import prod
from pathlib import Path
from types import FunctionType
from typing import BinaryIO

from serve.types import ComponentSpec

SAMPLE_BYTES = 4096
SAMPLES = 3
"""Of each tensor: its beginning, middle and end. Training moves whole tensors, so weights of 24 GB are told apart by
a few megabytes of them."""
BLOCKS = 256
"""Of a file whose tensors cannot be found."""
DIGITS = 32
_LENGTH_BYTES = 8
_WEIGHT_FILES = (".safetensors", ".bin")


def of_spec(spec: ComponentSpec) -> str:
    """Of all that the spec declares but its name and its code."""
    declared = asdict(spec) | {"name": "", "code": ""}
    text = json.dumps(declared, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@cache
def of_code(module: type) -> str:
    """Of what a module's class computes: its statements, and those of the classes, functions and constants of the same
    package that it names, in turn. Comments, docstrings and layout do not count, nor does what other packages do."""
    package = module.__module__.partition(".")[0]
    texts: dict[str, str] = {}
    left: list[type | FunctionType] = [module]
    while left:
        one = left.pop()
        name = f"{one.__module__}.{one.__qualname__}"
        if name in texts:
            continue
        tree = _statements(one)
        texts[name] = ast.unparse(tree)
        for used, value in _named(tree, vars(sys.modules[one.__module__])):
            if isinstance(value, type | FunctionType) and value.__module__.partition(".")[0] == package:
                left.append(value)
            elif isinstance(value, str | int | float | tuple):
                texts[f"{one.__module__}.{used}"] = repr(value)
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_weights(folder: Path) -> str:
    """Of the configuration and the weights in a part's folder of diffusers' layout: every tensor's name, type, shape
    and place, and samples of its bytes. Raises OSError."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix in _WEIGHT_FILES:
            for piece in _pieces(path):
                digest.update(piece)
    return digest.hexdigest()[:DIGITS]


def numbers_in(folder: Path) -> int:
    """How many numbers the weights in a part's folder are, of each tensor once: a folder may hold it in several
    precisions. Where files are no safetensors, taken to be of 2 bytes each. Raises OSError."""
    counts: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            head, _ = _header(file, path.stat().st_size)
        tensors = json.loads(head or b"{}")
        counts |= {name: prod(tensor["shape"]) for name, tensor in tensors.items() if name != "__metadata__"}
    return sum(counts.values()) or sum(path.stat().st_size // 2 for path in folder.glob("*.bin"))


def _pieces(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield f"{path.name} {size}".encode()
    with path.open("rb") as file:
        head, spans = _header(file, size) if path.suffix == ".safetensors" else (b"", [])
        yield head
        for begin, end in spans or [(0, size)]:
            for place in _places(begin, end, SAMPLES if spans else BLOCKS):
                file.seek(place)
                yield file.read(min(SAMPLE_BYTES, end - place))


def _header(file: BinaryIO, size: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The header of a safetensors file, and where in it each tensor's bytes begin and end
    (https://huggingface.co/docs/safetensors, "Format"); nothing where the file is none."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    head = file.read(min(length, size))
    start = _LENGTH_BYTES + length
    try:
        tensors = json.loads(head)
        offsets = [tensor["data_offsets"] for name, tensor in tensors.items() if name != "__metadata__"]
        return head, [(start + begin, start + end) for begin, end in offsets]
    except (ValueError, KeyError, TypeError, AttributeError):
        return b"", []


def _places(begin: int, end: int, samples: int) -> Iterator[int]:
    last = max(begin, end - SAMPLE_BYTES)
    for index in range(samples):
        yield begin + (last - begin) * index // max(1, samples - 1)


def _statements(one: type | FunctionType) -> ast.Module:
    tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _named(tree: ast.Module, names: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            yield node.id, names[node.id]


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(type(value).__name__)
