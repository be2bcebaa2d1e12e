"""Opens the compiled library, if it is whole and built from the sources that stand here."""

import ctypes
import json
import os
import struct
from contextlib import suppress
from ctypes import POINTER
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..table import HASH
from . import sources

TARGETS = ("amx", "avx512", "avx2", "portable")  # fastest first, as dispatch.cpp tries them
MOST = "PROXYKERNELS_CPU"  # an environment variable: the fastest of them that may be taken

MAGIC = b"\x7fELF\x02\x01"  # of Linux's libraries (ELF files) of 64 bits, little endian
HEADER = struct.Struct("<32xQQ6xHHHH2x")  # e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum
SEGMENT = struct.Struct("<8xQ16xQ16x")  # p_offset, p_filesz


@cache
def opened(path: Path) -> ctypes.CDLL:
    """The library in a file. It says what it was built from, and nothing else of it is called before.

    Raises:
        RuntimeError: it was built from other sources, is cut short, or is no library of this system.
    """
    try:
        size, needed = path.stat().st_size, needed_bytes(path)
    except OSError as error:
        raise RuntimeError(refusal(path, f"it cannot be read: {error}")) from error
    if size < needed:
        raise RuntimeError(refusal(path, f"it is cut short: {size:,} bytes of {needed:,}"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(refusal(path, f"the system does not load it: {error}")) from error
    try:
        function = library["proxykernels_interface"]
    except AttributeError:
        raise RuntimeError(refusal(path, "it was built by an older version")) from None
    function.restype, function.argtypes = ctypes.c_char_p, []
    told = dict(line.partition(": ")[::2] for line in function().decode().splitlines())
    if told.get("sources") != sources.fingerprint():
        raise RuntimeError(refusal(path, "the C++ sources have changed since it was built"))
    if told.get("table") != HASH:
        raise RuntimeError(refusal(path, "kernels/table.py, which lists neuron models and operations, has changed"))
    return library


def needed_bytes(path: Path) -> int:
    """Bytes up to the end of the last part that the tables of an ELF file name; 0 if it is of another format.

    The system maps a library into memory without reading it: where the file ends too soon, since a disk was full or a
    copy was broken off, the first access to what is missing ends the process with SIGBUS.
    """
    with open(path, "rb") as file:
        start = file.read(HEADER.size)
        if not start or start[: len(MAGIC)] != MAGIC[: len(start)]:
            return 0
        if len(start) < HEADER.size:
            return HEADER.size
        segments_at, sections_at, segment_size, segments, section_size, sections = HEADER.unpack(start)
        ends = [segments_at + segment_size * segments, sections_at + section_size * sections]
        if segment_size == SEGMENT.size and ends[0] <= path.stat().st_size:
            file.seek(segments_at)
            ends += [offset + size for offset, size in SEGMENT.iter_unpack(file.read(segment_size * segments))]
    return max(ends)


def table(find: Any, functions: type[ctypes.Structure], target: str | None) -> tuple[str, Any]:
    """The name of an instruction set, and the functions that ``find`` has for it: of ``target``, or of the fastest one
    that this machine runs (None); functions of None if it cannot run the target.

    The environment variable PROXYKERNELS_CPU names the fastest set that counts as this machine's, as
    ATEN_CPU_CAPABILITY does for torch.

    Raises:
        ValueError: it names no instruction set.
    """
    most = os.environ.get(MOST) or TARGETS[0]
    if most not in TARGETS:
        raise ValueError(f"the environment variable {MOST} must be one of {', '.join(TARGETS)}, got {most!r}")
    find.restype, find.argtypes = POINTER(functions), [ctypes.c_char_p]
    for name in TARGETS[TARGETS.index(most) :]:
        if target in (name, None) and (found := find(name.encode())):
            return name, found.contents
    return target or most, None


def refusal(path: Path, reason: str) -> str:
    advice = f"build it again with `{install_command()}`"
    return f"proxykernels' compiled library {path} does not belong to this version ({reason}): {advice}"


def install_command() -> str:
    """The command that builds the library that belongs to these files."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "setup.py").is_file():
        return f"pip install -e {checkout}"
    source = "proxykernels"  # of a package index, unless pip noted another place
    with suppress(metadata.PackageNotFoundError):
        if noted := metadata.distribution(source).read_text("direct_url.json"):
            place = json.loads(noted)
            source = f"{place['vcs_info']['vcs']}+{place['url']}" if "vcs_info" in place else place["url"]
    if source.endswith(".whl"):  # the same one again, from which nothing is built
        source = "FOLDER-OF-THE-SOURCES"
    return f"pip install --force-reinstall --no-cache-dir --no-deps {source}"  # or pip takes the wheel it made before
