"""What HDF5 files from elsewhere must not do: lead to other files, or declare data that they do not hold.

HDF5 would follow links, external storage and virtual datasets to any file that this process may read, and allocate what
a header asks for.
"""

from __future__ import annotations

import math
from typing import Any

import h5py

from engine.core.errors import InputError

CHUNK_BYTES = 1 << 31
"""Of one chunk at most: HDF5 holds it whole, however little of it is read."""


def refuse_other_files(file: h5py.File, source: str) -> None:
    """Raise InputError, naming `source`, where anything in a file leads to another file or is a link at all."""
    seen = set()
    queue: list[Any] = [file]
    while queue:
        group = queue.pop()
        for child in _names(group, source):
            link = group.get(child, getlink=True)
            if not isinstance(link, h5py.HardLink):
                name = f"{group.name.rstrip('/')}/{child}"
                raise InputError(f"{source}: {name} is a link, expected a file without links")
            item = group[child]
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise InputError(f"{source}: {item.name} is kept in another file, expected all data in the file itself")
            address = h5py.h5o.get_info(item.id).addr
            if isinstance(item, h5py.Group) and address not in seen:
                seen.add(address)
                queue.append(item)


def _names(group: Any, source: str) -> list[str]:
    names = list(group)
    if not all(isinstance(name, str) for name in names):  # h5py gives others as bytes
        raise InputError(f"{source}: {group.name} holds a name that is no UTF-8 text, expected one that is")
    return names


def check_stored(dataset: h5py.Dataset, file_bytes: int, source: str) -> None:
    """Refuse a dataset that is larger than what the file holds of it, before anything is allocated for it."""
    if dataset.size == 0:
        return
    declared = f"{source}: {dataset.name} declares {dataset.nbytes} bytes ({'x'.join(map(str, dataset.shape))} "
    declared += f"{dataset.dtype})"
    if dataset.chunks is None:
        compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
        offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if not compact and (offset is None or stored < dataset.nbytes or offset + stored > file_bytes):
            raise InputError(f"{declared} and the file of {file_bytes} bytes does not hold them, expected a whole file")
        return
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > CHUNK_BYTES:
        raise InputError(f"{declared} in chunks of {chunk} bytes, expected chunks of at most {CHUNK_BYTES}")
    needed = math.prod(-(-size // part) for size, part in zip(dataset.shape, dataset.chunks, strict=True))
    written = dataset.id.get_num_chunks()
    if written < needed:
        raise InputError(f"{declared} in {needed} chunks and the file holds {written}, expected a whole file")
