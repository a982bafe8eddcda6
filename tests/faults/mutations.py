# SPDX-License-Identifier: Apache-2.0
"""Seeded damage to the bytes of a file: flips, cuts, insertions, copies, swapped numbers; loaded with runpy."""

import random
import re
import struct
import zlib

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
NASTY = (
    b"nan",
    b"-inf",
    b"1e999",
    b"-1",
    b"0",
    b"4294967296",
    b"99999999999999999999",
    b"1e308",
    b"",
    b"x",
    b"\xff",
    b"0x1",
)
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to three random mutations; the same generator state gives the same result."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(KINDS)(data, rng) if data else data
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def _set(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([rng.randrange(256)]) + data[position + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _drop(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + 1 + int(rng.expovariate(0.1)) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data) + 1)
    return data[:position] + rng.randbytes(1 + int(rng.expovariate(0.2))) + data[position:]


def _copy(data: bytes, rng: random.Random) -> bytes:
    start, position = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    return data[:position] + data[start : start + 1 + int(rng.expovariate(0.02))] + data[position:]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Replace one of the first numbers of a text or header by a nasty one or by another number of it."""
    found = list(NUMBER.finditer(data[:4096]))
    if not found:
        return _set(data, rng)
    match, other = rng.choice(found), rng.choice(found)
    new = rng.choice((*NASTY, other[0], other[0], str(rng.randrange(100000)).encode()))
    return data[: match.start()] + new + data[match.end() :]


def _integer(data: bytes, rng: random.Random) -> bytes:
    """Overwrite 2, 4 or 8 bytes, early ones more often, with a number on the edge of its range."""
    position = min(int(rng.expovariate(0.01)), len(data) - 1)
    value = rng.choice(EDGES)
    piece = rng.choice((struct.pack("<Q", value), struct.pack("<I", value), struct.pack(">I", value)))
    return data[:position] + piece + data[position + len(piece) :]


def _line(data: bytes, rng: random.Random) -> bytes:
    """Delete, double or swap lines."""
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    action = rng.randrange(3)
    if action == 0:
        del lines[first]
    elif action == 1:
        lines.insert(second, lines[first])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


KINDS = (_flip, _set, _cut, _drop, _insert, _copy, _number, _integer, _line)


def repair_png(data: bytes) -> bytes:
    """Return a PNG with right checksums again, so that damage reaches the decoder."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : position + 8 + length]
        out += data[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(out)
