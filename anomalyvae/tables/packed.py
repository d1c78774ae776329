"""CSV files packed by gzip (``.csv.gz``), which are unpacked while they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

_MOST_TIMES, _MOST_BYTES = 200, 1 << 28  # beyond both, a file is a decompression bomb


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, of a packed CSV file ".csv.gz".

    Examples
    --------
    >>> suffix_of(Path("drive.1.CSV.gz")), suffix_of(Path("drive.1.mf4")), suffix_of(Path("drive.mf4.gz"))
    ('.csv.gz', '.mf4', '.gz')
    """
    return ".csv.gz" if path.name.lower().endswith(".csv.gz") else path.suffix.lower()


def open_csv(path: Path) -> io.BufferedReader:
    """Open a CSV file for reading bytes, unpacked; reading a damaged or cut one raises ValueError."""
    return io.BufferedReader(_Unpacked(path)) if suffix_of(path) == ".csv.gz" else path.open("rb")


class _Unpacked(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._path, self._file, self._count = path, gzip.GzipFile(path), 0
        self._most = max(_MOST_TIMES * path.stat().st_size, _MOST_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            count = self._file.readinto(target)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{self._path} is damaged or cut ({error}). Copy or export it again.") from error
        self._count += count
        if self._count > self._most:
            raise ValueError(
                f"{self._path} unpacks to more than {_MOST_TIMES} times its size, as no table does. Unpack it, and "
                "check what it holds."
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
