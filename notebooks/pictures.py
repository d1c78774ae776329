"""Run the notebooks, and write the picture that each ends in to `pictures/`, where its first cell shows it.

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
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = [output["data"]["image/png"] for output in code[-1].outputs if "image/png" in output.get("data", {})]
        target = FOLDER / "pictures" / f"{path.stem}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(small(base64.b64decode(shown[-1])))
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


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
