"""Reads a page of the documentation and does what it says, in the current folder: ``python reader.py PAGE BIN``.

Blocks of Python share their names. Other blocks without a language are commands of bash. A block that does not run has
a language of its own (``text``, ``toml``, ``js``), or this comment above it: ``<!-- not run: the reason -->``. BIN is a
folder of commands that stand in for what a test cannot do (see `write_commands`).
"""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+?) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = {"text", "toml", "js", "json"}


def blocks(page):
    """The number of the line, the language, the reason why it is not run, and the content of each block of a page."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        reason, language, content = match.groups()
        yield text[: match.start(3)].count("\n") + 1, language, reason, content


def read(page, bin_folder):
    """Do what a page says; the first block that fails ends it."""
    names = {"__name__": "__main__"}
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    for line, language, reason, content in blocks(page):
        if reason is not None or language in NOT_RUN:
            continue
        print(f"{page.name}:{line} {language or 'bash'}", flush=True)
        if language == "python":
            exec(compile("\n" * (line - 1) + content, str(page), "exec"), names)  # noqa: S102
        elif language in ("", "bash"):
            subprocess.run(["bash", "-euo", "pipefail", "-c", content], env=environment, check=True)  # noqa: S607
        else:
            raise ValueError(f"{page}:{line} is a block of {language!r}, which the reader does not know.")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        read(Path(sys.argv[1]), sys.argv[2])
