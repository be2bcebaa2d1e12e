"""The length that a shared library of Linux (an ELF file) must have.

The system maps a library into memory without reading it: where the file ends too soon, since a disk was full or a copy
was broken off, the first access to what is missing ends the process with SIGBUS.
"""

import struct
from pathlib import Path

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
HEADER = struct.Struct("<32xQQ6xHHHH2x")  # e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum
SEGMENT = struct.Struct("<8xQ16xQ16x")  # p_offset, p_filesz


def needed_bytes(path: Path) -> int:
    """Bytes up to the end of the last part that the file's tables name; 0 if it is of another format."""
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
