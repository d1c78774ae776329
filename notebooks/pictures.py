"""Run the notebooks, and write their pictures to `pictures/`; the first cell shows the one that a notebook ends in.

    python notebooks/pictures.py                     # or: make notebooks
    python notebooks/pictures.py 05_bias_audit       # one of them

Notebooks are stored without outputs, which no review could read. The pictures are what a code host shows instead.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
COLOURS, MOST = 64, 900  # of a picture: colours, and pixels of width


def main() -> None:
    """Write the pictures of all notebooks, or of those that are named."""
    import nbformat
    from nbclient import NotebookClient

    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for path in sorted(FOLDER.glob("*.ipynb")):
        if sys.argv[1:] and path.stem not in sys.argv[1:]:
            continue
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as place:
            NotebookClient(
                notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": place}}
            ).execute()
        *earlier, last = pictures_of(notebook)
        named = {f"{path.stem}-{number}": picture for number, picture in enumerate(earlier, start=1)}
        for name, picture in (named | {path.stem: last}).items():
            target = FOLDER / "pictures" / f"{name}.png"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(small(base64.b64decode(picture)))
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def pictures_of(notebook: Any) -> list[str]:
    """The pictures that its cells show after a run, as base64."""
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [data["image/png"] for data in shown if "image/png" in data]


def small(png: bytes) -> bytes:
    """A picture with few colours, and no wider than a page."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((MOST, MOST))
    file = io.BytesIO()
    picture.quantize(COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
