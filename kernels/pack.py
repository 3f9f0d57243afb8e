#!/usr/bin/env python3
"""usage: kernels/pack.py VMLINUX OUT

Writes an ELF image with the same bytes at the same addresses, and without what nobody has to read: the linker aligns the
kernel's parts to 2 MiB and fills the gaps (with int3 in text, with zeros elsewhere), which is half of the file. Gaps become
the space between two segments; long runs of zeros become the end of a segment whose size in memory is larger than in the
file, as for any .bss. Sections and symbols go, notes (the PVH entry) stay. Prints the sizes, as members of a JSON object.
"""
import os
import struct
import sys

PAGE = 4096
# A shorter gap is cheaper to read than another segment is to look up.
SHORTEST_GAP = 16 * PAGE
PT_LOAD, PT_NOTE, PF_X = 1, 4, 1
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def fail(message):
    sys.exit(f"pack.py: {message}")


def read_segments(image, path):
    if len(image) < HEADER.size or image[:6] != b"\x7fELF\x02\x01":
        fail(f"{path} is no 64-bit little-endian ELF file")
    header = HEADER.unpack_from(image)
    offset, size, count = header[5], header[9], header[10]
    if size != SEGMENT.size or offset + size * count > len(image):
        fail(f"{path} has a broken segment table")
    return header, [SEGMENT.unpack_from(image, offset + i * size) for i in range(count)]


def pieces(data, memory_size, fillers):
    """Splits a segment into (offset, bytes, size in memory), leaving out long runs of pages that are only filler."""
    kinds = []  # one for each page: the filler byte it is made of, or None
    for at in range(0, len(data), PAGE):
        page = data[at:at + PAGE]
        kinds.append(next((f for f in fillers if page.count(f) == len(page)), None))
    cuts, start = [], 0
    while start < len(kinds):
        end = start + 1
        while end < len(kinds) and kinds[end] == kinds[start]:
            end += 1
        if kinds[start] is not None and (end - start) * PAGE >= SHORTEST_GAP:
            cuts.append((start * PAGE, min(end * PAGE, len(data)), kinds[start]))
        start = end
    result, start = [], 0
    for gap_start, gap_end, filler in cuts + [(len(data), memory_size, b"\0")]:
        # Zeros belong to the segment; int3 does not have to be anywhere.
        end = gap_end if filler == b"\0" else gap_start
        if end > start:
            result.append((start, data[start:gap_start], end - start))
        start = gap_end
    return result


def pack(image, path):
    header, segments = read_segments(image, path)
    loads, notes, body = [], [], bytearray()
    for kind, flags, offset, virtual, physical, file_size, memory_size, _ in segments:
        if offset + file_size > len(image):
            fail(f"{path} is truncated")
        data = image[offset:offset + file_size]
        if kind == PT_LOAD:
            fillers = (b"\xcc", b"\0") if flags & PF_X else (b"\0",)
            for start, piece, size in pieces(data, memory_size, fillers):
                loads.append((flags, virtual + start, physical + start, piece, size))
        elif kind == PT_NOTE:
            notes.append((flags, virtual, physical, data))
    position = -(-(HEADER.size + SEGMENT.size * (len(loads) + len(notes))) // PAGE) * PAGE
    table, first = [], position
    for flags, virtual, physical, piece, size in loads:
        # File offset and address agree modulo a page, so that a loader may map what it does not copy.
        position += (physical - position) % PAGE
        body += b"\0" * (position - first - len(body)) + piece
        table.append(SEGMENT.pack(PT_LOAD, flags, position, virtual, physical, len(piece), size, PAGE))
        position += len(piece)
    for flags, virtual, physical, data in notes:
        position += -position % 4
        body += b"\0" * (position - first - len(body)) + data
        table.append(SEGMENT.pack(PT_NOTE, flags, position, virtual, physical, len(data), len(data), 4))
        position += len(data)
    out = bytearray(HEADER.pack(*header[:5], HEADER.size, 0, *header[7:9], SEGMENT.size, len(table), 0, 0, 0))
    out += b"".join(table)
    return bytes(out + b"\0" * (first - len(out)) + body), sum(size for *_, size in loads)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    try:
        with open(source, "rb") as f:
            image, memory_bytes = pack(f.read(), source)
        with open(target, "wb") as f:
            f.write(image)
        os.chmod(target, 0o755)
        print(f' "file_bytes": {len(image)},\n "memory_bytes": {memory_bytes}')
    except OSError as error:
        fail(error)


main()
