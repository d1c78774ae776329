"""The ONNX file of a model: read, checked and opened. `anomalyvae.export` writes it."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from anomalyvae.bundle.card import GRAPH, inconsistent, read_bundle
from anomalyvae.fleet import Fleet
from anomalyvae.lazy import not_installed
from anomalyvae.scoring.columns import READ, quoted
from anomalyvae.untrusted import read_json

try:
    import onnxruntime
except ModuleNotFoundError as error:
    raise not_installed(error, "scoring", "onnxruntime") from error

FORMAT = 3  # of the metadata; it rises when an older version of the package can no longer read the file
METADATA = "anomalyvae"  # the key of the metadata in the file; they are JSON
MATRIX = "rows"  # the input that takes all columns as one matrix
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

_KEYS: dict[str, tuple[type, ...]] = {
    "model_id": (str,), "columns": (list, NoneType), "n_features": (int,), "kinds": (dict,), "inputs": (str,),
    "criterion": (str,), "units": (dict,), "windowing": (dict, NoneType), "offset": (float, int),
    "training": (dict,), "calibration": (dict,),
}  # fmt: skip
_SHARED = ("model_id", "offset", "units", "windowing")  # with the card of a bundle
_REQUIRED = ("anomaly_score", "p_value", "is_outlier")
# The last entry of the metadata: the tag of `metadata_props`, its length, a key, and the tag of a value of 64 letters.
_SEAL = bytes([0x72, 85, 0x0A, 17]) + b"anomalyvae.sha256" + bytes([0x12, 64])
_SEAL_BYTES = len(_SEAL) + 64


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was opened, and what it says about its model."""

    path: Path
    sha256: str
    session: "onnxruntime.InferenceSession"
    metadata: dict[str, Any]


def open_onnx(path: Path, providers: str | Sequence[str]) -> OnnxFile:
    """Open an ONNX file, or that of a bundle.

    Raises FileNotFoundError for a path without a file, ValueError for a file of another origin or a newer format, or
    one that was changed.
    """
    path, content, card = _read_file(path)
    session = _session(path, content, providers)
    metadata = _read_metadata(session, path)
    if card is not None and any(card[key] != metadata[key] for key in _SHARED):
        raise inconsistent(path.parent, f"its {GRAPH} is of another model")
    if metadata.get("sealed"):  # older files are not
        _refuse_changed(path, content)
    return OnnxFile(path, hashlib.sha256(content).hexdigest(), session, metadata)


def _read_file(path: Path) -> tuple[Path, bytes, dict[str, Any] | None]:
    """An ONNX file, its content and, in a bundle, the card beside it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Pass the folder of a fitted model, or an exported ONNX file.")
    if path.is_file():
        content, card = path.read_bytes(), None
    else:
        card, parts = read_bundle(path, GRAPH)
        if GRAPH not in parts:
            raise ValueError(f"The bundle {path} has no ONNX file. Score with load({str(path)!r}) instead.")
        path, content = path / GRAPH, parts[GRAPH]
    if content[-_SEAL_BYTES:].startswith(_SEAL):
        _refuse_changed(path, content)
    return path, content, card


def _refuse_changed(path: Path, content: bytes) -> None:
    if content != seal(content[:-_SEAL_BYTES]):
        raise ValueError(f"{path} was changed after it was exported. Export the model again.")


def seal(content: bytes) -> bytes:
    """Append to an ONNX file one more entry of its metadata: the sha256 of all before it.

    Protocol buffers may be concatenated, so that this needs no other package, neither here nor where it is checked.
    """
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def _session(path: Path, content: bytes, providers: str | Sequence[str]) -> "onnxruntime.InferenceSession":
    available = onnxruntime.get_available_providers()
    wanted = [p for p in (CUDA, CPU) if p in available] if providers == "auto" else list(providers)
    unknown = [provider for provider in wanted if provider not in available]
    if isinstance(providers, str) and providers != "auto":
        raise ValueError(f"Got providers={providers!r}, expected 'auto' or a list. Pass a list such as ['{CPU}'].")
    if unknown:
        raise ValueError(
            f"This onnxruntime lacks the providers {quoted(unknown)}; it has {quoted(available)}. Install one that has "
            "them, or pass providers='auto'."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised here, in one line
    options.intra_op_num_threads = 1  # each thread scores its own blocks: the operators are too small to be shared

    def start(chosen: list[str]) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(content, options, providers=chosen, disable_fallback=True)

    try:
        try:
            session = start(wanted)
        except Exception:
            if CUDA not in wanted:
                raise
            session = start([CPU])
    except Exception as error:  # onnxruntime has an own class for every failure
        raise ValueError(f"onnxruntime cannot read {path}. Export the model again. (It says: {error})") from error
    if CUDA in wanted and CUDA not in session.get_providers():
        warnings.warn(
            "This onnxruntime supports CUDA but finds no CUDA device that it can use. Scoring runs on the CPU.",
            stacklevel=4,
        )
    return session


def _read_metadata(session: "onnxruntime.InferenceSession", path: Path) -> dict[str, Any]:
    """The metadata of a file. A ValueError says that it has none of ours, or that they do not fit its graph."""
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA)  # it may be no UTF-8, a ValueError
        metadata = read_json(text or "")
        number = metadata["format"]
        if not isinstance(number, int):
            raise TypeError("format")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"The ONNX file {path} does not describe a model of anomalyvae. Pass one that 'anomalyvae export' wrote."
        ) from error
    if number not in (2, FORMAT):
        remedy = "Update anomalyvae" if number > FORMAT else "Export the model again"
        raise ValueError(f"{path} is of format {number}, expected {FORMAT}. {remedy}.")
    if number == 2:
        metadata["criterion"] = metadata.pop("score", None)
    if not metadata.keys() >= _KEYS.keys():
        raise ValueError(f"The model's description in {path} is incomplete. Export the model again.")
    wrong = _wrong_key(metadata)
    if wrong is not None:
        raise ValueError(f"The model's description in {path} has a wrong {wrong}. Export the model again.")
    expected = [MATRIX] if metadata["inputs"] == "matrix" else metadata["columns"]
    names = {output.name for output in session.get_outputs()}
    if [put.name for put in session.get_inputs()] != expected or not ({*_REQUIRED} <= names or "label" in names):
        raise ValueError(f"The graph in {path} has other inputs or outputs than it describes. Export the model again.")
    return metadata


def _wrong_key(metadata: dict[str, Any]) -> str | None:
    """The first key whose value cannot have been written; None if there is none."""
    for name, kinds in _KEYS.items():
        if type(metadata[name]) not in kinds:
            return name
    evidence, columns = metadata["calibration"].get("evidence"), metadata["columns"]
    if not (isinstance(evidence, float | int) and evidence > 0):
        return "calibration"
    if columns is not None and not all(isinstance(name, str) for name in columns):
        return "columns"
    known = all(kind in tuple(READ) for kind in metadata["kinds"].values())
    if not known or not metadata["kinds"].keys() <= set(columns or ()):
        return "kinds"
    if metadata.get("fleet") is not None:
        try:
            Fleet.from_dict(metadata["fleet"])
        except ValueError:
            return "fleet"
    return None
