"""The format of spool files (src/buffer/spool/spool_file.h), for tests that look into them and damage them."""
import pathlib
import struct

HEADER = struct.Struct("!8sHHI16sQQI")  # its CRC follows
SUMMARY = struct.Struct("!4sIQQQQQI")  # likewise
HEADER_SIZE = HEADER.size + 4 + SUMMARY.size + 4
BLOCK = struct.Struct("!4sIII")
BLOCK_MAGIC = b"\xfeMCB"


def _table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_crc(data):
    return data + struct.pack("!I", crc32c(data))


def header(number, collector=bytes(16), version=1):
    return with_crc(HEADER.pack(b"MCSPOOL\0", version, HEADER_SIZE, 0, collector, number, 0, 0))


def summary(blocks, rows, size, first_us, last_us):
    frames = size - HEADER_SIZE - blocks * BLOCK.size
    return with_crc(SUMMARY.pack(b"SEAL", blocks, rows, frames, first_us, last_us, size, 0))


def change_header(path, **changes):
    """Gives a file another collector or version, under a sound CRC."""
    data = bytearray(path.read_bytes())
    fields = dict(zip(("magic", "version", "size", "_", "collector"), HEADER.unpack_from(data)))
    number = HEADER.unpack_from(data)[5]
    fields.update(changes)
    new = header(number, fields["collector"], fields["version"])
    path.write_bytes(new + bytes(data[len(new) :]))


def blocks(data):
    """(begin, end) of the blocks of a sound file; end is behind the last of its bytes."""
    found, at = [], HEADER_SIZE
    while at < len(data):
        magic, length, _, _ = BLOCK.unpack_from(data, at)
        assert magic == BLOCK_MAGIC
        found.append((at, at + BLOCK.size + length))
        at += BLOCK.size + length
    return found


def name(number, suffix=".batch"):
    return f"{number:020}{suffix}"


def batches(directory, suffix=".batch"):
    """The files of all batches, by number."""
    return sorted(p for p in pathlib.Path(directory).iterdir() if p.name.endswith(suffix))


def number(path):
    return int(path.name.partition(".")[0])


def flip(path, offset, mask=0x10):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def truncate(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


def snapshot(directory):
    """Everything in a directory, to tell whether it was touched."""
    return {
        str(p.relative_to(directory)): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
        for p in sorted(pathlib.Path(directory).rglob("*"))
    }
