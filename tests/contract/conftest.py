"""Graphs are exported once, whatever is then made of them, and whichever process of the tests does it."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from torch import nn

from build_engines import export
from serve.types import ComponentSpec


@pytest.fixture(scope="package", autouse=True)
def each_graph_is_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most of a build's time goes into the trace of a module; the same one comes to the same files."""
    base, write = tmp_path_factory.getbasetemp(), export.write
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"
    folder.mkdir(exist_ok=True)

    def write_or_copy(spec: ComponentSpec, module: nn.Module, lengths: Mapping[str, int], path: Path, opset: int):
        made = folder / _key(spec, module, lengths, opset)
        if not made.exists():
            write(spec, module, lengths, path, opset)
            whole = Path(tempfile.mkdtemp(dir=folder)) / "graph"
            shutil.copytree(path.parent, whole)
            with suppress(OSError):  # another process was as far at the same time
                whole.rename(made)
        shutil.copytree(made, path.parent, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write", write_or_copy)
        yield


def _key(spec: ComponentSpec, module: nn.Module, lengths: Mapping[str, int], opset: int) -> str:
    made_of = hashlib.sha256(repr((spec, type(module), module, sorted(lengths.items()), opset)).encode())
    made_of.update(str(export.LARGE_BYTES).encode())
    for name, tensor in module.state_dict().items():
        made_of.update(f"{name} {tensor.dtype}".encode())
        made_of.update(tensor.float().numpy().tobytes())
    return made_of.hexdigest()
