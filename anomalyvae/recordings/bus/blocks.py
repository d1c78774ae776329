"""The blocks of a measurement file (MDF) are checked before asammdf follows their links.

A cut or damaged file can send a reader in circles or make it reserve any amount of memory. Here every link must lead to
a complete block of the right kind, no block of a list may come twice, and counts must fit the size of the file (ASAM
MDF 4.1, chapter "Block structure"; MDF 3.3 for older files).

In MDF 4, a block is a header (its kind, its length, the number of its links), the links, which are offsets of other
blocks, or 0, and the body.
"""

from __future__ import annotations

import mmap
import struct
import warnings
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

_HEADER = struct.Struct("<4s4xQQ")  # of a block
_FINALIZED = b"MDF     "
_DATA = (b"##DT", b"##DV", b"##DZ", b"##DL", b"##HL", b"##LD", b"##SD", b"##RD", b"##DI", b"##RV", b"##RI")
_TEXT = (b"##TX", b"##MD")
# The kinds of blocks that the first links of a block lead to, and those of all other links (none: not followed).
_LINKS: dict[bytes, tuple[list[tuple[bytes, ...]], tuple[bytes, ...]]] = {
    b"##HD": ([(b"##DG",), (b"##FH",), (b"##CH",), (b"##AT",), (b"##EV",), _TEXT], ()),
    b"##DG": ([(b"##DG",), (b"##CG",), _DATA, _TEXT], ()),
    b"##CG": ([(b"##CG",), (b"##CN",), _TEXT, (b"##SI",), (b"##SR",), _TEXT], ()),
    b"##CN": ([(b"##CN",), (b"##CN", b"##CA"), _TEXT, (b"##SI",), (b"##CC",), (*_DATA, b"##AT"), _TEXT], ()),
    b"##CA": ([(b"##CN", b"##CA")], ()),
    b"##FH": ([(b"##FH",), _TEXT], ()),
    b"##AT": ([(b"##AT",), _TEXT, _TEXT, _TEXT], ()),
    b"##EV": ([(b"##EV",)], ()),
    b"##CH": ([(b"##CH",), (b"##CH",)], ()),
    b"##SR": ([(b"##SR",)], ()),
    b"##SI": ([_TEXT], _TEXT),
    b"##CC": ([_TEXT, _TEXT, _TEXT, (b"##CC",)], (*_TEXT, b"##CC")),
    b"##HL": ([(b"##DL",)], ()),
    b"##DL": ([(b"##DL",)], _DATA),
    b"##LD": ([(b"##LD",)], _DATA),
}
# Members of lists, and blocks that begin a list: only one link may lead to them.
_ONCE = {b"##DG", b"##CG", b"##CN", b"##CA", b"##DL", b"##LD", b"##HL", b"##FH", b"##AT", b"##EV", b"##CH", b"##SR"}
_VALUES = 5  # the link of a channel to its values of varying length
_FEWEST_LINKS = 4  # of the blocks whose bodies are read here
_NO_VALUE = {3, 6}  # types of channels that number the records: nothing is stored
_DEEPEST = 20  # levels of channels composed of others
_INFLATED = 1032  # the largest factor by which deflate expands data


def check_blocks(path: Path) -> None:
    """Refuse a measurement file (MDF 2, 3 or 4) that is cut or damaged: ValueError says near which byte."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if not view[:8].startswith((b"MDF", b"UnFinMF")):
            raise ValueError(f"{path} begins with {view[:8]!r}; a measurement file begins with MDF. Export it as MF4.")
        more = 0
        if view[8:9] == b"4":
            walk = _Walk(view, finalized=view[:8] == _FINALIZED)
            offset, more = walk.damage(), walk.more
        else:
            offset = _damage_of_version_3(view)
    if offset is not None:
        raise ValueError(
            f"{path} is an MDF file that is cut or damaged near byte {offset:,}. Copy it again, or repair it with the "
            f"logger's software."
        )
    if more:
        warnings.warn(
            f"{path} has {more:,} bytes of records that its groups do not count, and that are not read. Copy it again, "
            f"or compare it with what the logger's software shows.",
            stacklevel=3,
        )


class _Walk:
    """A walk over the blocks that can be reached from the header."""

    def __init__(self, view: mmap.mmap, finalized: bool) -> None:
        self._view, self._finalized = view, finalized
        self.more = 0  # bytes of records that no group counts

    def damage(self) -> int | None:
        """Return the offset of a broken block; None if there is none."""
        todo: list[tuple[int, tuple[bytes, ...]]] = [(64, (b"##HD",))]  # offsets of blocks, and their possible kinds
        seen: set[int] = set()
        while todo:
            offset, kinds = todo.pop()
            kind, links = self._block(offset)
            again = offset in seen
            if kind not in kinds or (again and kind in _ONCE) or not (again or self._fits(offset, kind, links)):
                return offset
            if not again:
                seen.add(offset)
                todo += self._to_check(kind, links)
        return None

    def _to_check(self, kind: bytes, links: tuple[int, ...]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """Yield the links of a block to others, and the kinds that each of these may have."""
        first, others = _LINKS.get(kind, ([], ()))
        for index, (link, kinds) in enumerate(zip(links, chain(first, repeat(others)), strict=False)):
            # A channel with values in another group leads to that group, as the list of groups does.
            to_group = kind == b"##CN" and index == _VALUES and self._block(link)[0] == b"##CG"
            if link and kinds and not to_group:
                yield link, kinds

    def _block(self, offset: int) -> tuple[bytes, tuple[int, ...]]:
        """Return a block's kind and links; an empty kind if the block is not complete."""
        size = len(self._view)
        if offset + _HEADER.size > size:
            return b"", ()
        kind, length, count = _HEADER.unpack_from(self._view, offset)
        open_ended = kind == b"##DT" and not self._finalized  # the last block was being written
        if not open_ended and (length < _HEADER.size or offset + length > size):
            return b"", ()
        if _HEADER.size + 8 * count > (size - offset if open_ended else length):
            return b"", ()
        return kind, struct.unpack_from(f"<{count}Q", self._view, offset + _HEADER.size) if kind in _LINKS else ()

    def _fits(self, offset: int, kind: bytes, links: tuple[int, ...]) -> bool:
        """Return whether the counts of a block fit the file."""
        if kind in (b"##HD", b"##DG", b"##CG", b"##CN") and len(links) < _FEWEST_LINKS:
            return False
        try:
            if kind == b"##DZ":
                original, packed = struct.unpack_from("<QQ", self._view, offset + 32)
                length = _HEADER.unpack_from(self._view, offset)[1]
                return packed <= length - 48 and original <= _INFLATED * max(packed, 1)
            return kind != b"##DG" or self._records_fit(_body(offset, links), links)
        except struct.error:
            return False

    def _records_fit(self, body: int, links: tuple[int, ...]) -> bool:
        """Return whether a data group (DG) stores the records that its channel groups (CG) count."""
        id_size = self._view[body]
        if id_size not in (0, 1, 2, 4, 8):
            return False
        needed, varying = 0, False
        for group, group_links in self._list(links[1], b"##CG"):
            # cycles, flags (1: values of varying length) and sizes of a record and of its invalidation bits
            cycles, flags, size, invalidation = struct.unpack_from("<8xQH6xLL", self._view, _body(group, group_links))
            if flags & 1:
                varying = True
                continue
            needed += cycles * (id_size + size + invalidation)
            if not self._channels_fit(group_links[1], size, depth=0):
                return False
        if self._finalized:
            stored = self._bytes_of(links[2])
            self.more += 0 if varying else max(stored - needed, 0)
            return needed <= stored
        return True

    def _channels_fit(self, first: int, size: int, depth: int) -> bool:
        """Return whether the channels of a list, and their parts, lie within a record."""
        if depth > _DEEPEST:
            return False
        for offset, links in self._list(first, b"##CN"):
            kind, _, _, bit, byte, bits = struct.unpack_from("<BBBBLL", self._view, _body(offset, links))
            if kind not in _NO_VALUE and (bit > 7 or byte + (bit + bits + 7) // 8 > size):
                return False
            if not self._channels_fit(links[1], size, depth + 1):
                return False
        return True

    def _list(self, offset: int, wanted: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the blocks of a list, up to the first that is broken or repeated, which the walk refuses."""
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            kind, links = self._block(offset)
            if kind != wanted or len(links) < _FEWEST_LINKS:
                return
            yield offset, links
            offset = links[0]

    def _bytes_of(self, offset: int) -> int:
        """Return the bytes of records in a data block, or in a list of them."""
        todo, seen, total = [offset], set(), 0
        while todo:
            offset = todo.pop()
            if not offset or offset in seen:
                continue
            seen.add(offset)
            kind, links = self._block(offset)
            if kind == b"##DZ":
                total += struct.unpack_from("<Q", self._view, offset + 32)[0]
            elif kind in (b"##DT", b"##DV", b"##DI"):
                total += _HEADER.unpack_from(self._view, offset)[1] - _HEADER.size
            else:
                todo += links
        return total


def _body(offset: int, links: tuple[int, ...]) -> int:
    """Return where the body of a block begins."""
    return offset + _HEADER.size + 8 * len(links)


class _Damage(Exception):  # noqa: N818
    """A block is broken; the argument is its offset."""


def _damage_of_version_3(view: mmap.mmap) -> int | None:
    """Return the offset of a broken block of an MDF 2 or 3 file; None if there is none."""
    order = ">" if any(view[24:26]) else "<"
    seen: set[int] = set()

    def listed(kind: bytes, offset: int, form: str) -> Iterator[tuple[int, tuple[int, ...]]]:
        while offset:
            complete = offset + 4 + struct.calcsize(order + form) <= len(view)
            if offset in seen or not complete or view[offset : offset + 2] != kind:
                raise _Damage(offset)
            seen.add(offset)
            values = struct.unpack_from(order + form, view, offset + 4)
            yield offset, values
            offset = values[0]

    try:
        if len(view) < 72 or view[64:66] != b"HD":
            return 64
        for _, (_, groups, _, data, _, id_size) in listed(b"DG", struct.unpack_from(order + "I", view, 68)[0], "4I2H"):
            needed = 0
            for offset, (_, channels, _, _, _, size, cycles) in listed(b"CG", groups, "3I3HI"):
                needed += cycles * (size + id_size)
                if data + needed > len(view):
                    return offset
                for channel, (*_, bit, bits) in listed(b"CN", channels, "5IH160x2H"):
                    byte = 0
                    if struct.unpack_from(order + "H", view, channel + 2)[0] >= 228:  # not in MDF 2
                        byte = struct.unpack_from(order + "H", view, channel + 226)[0]
                    if (bit + bits + 7) // 8 + byte > size:
                        return channel
    except _Damage as damage:
        return int(damage.args[0])
    except struct.error:
        return len(view)
    return None
