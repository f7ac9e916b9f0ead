"""A model's files under a manifest, and the door through which MLflow loads them.

A model is a handful of text files (LightGBM's text format and JSON). `manifest.json` beside them names the
kind of model and the SHA-256 of every file; nothing is handed to a parser before the whole folder has been
verified, because a corrupt LightGBM file aborts the process.

MLflow stores only the name of this module and the folder (its `loader_module` way of saving), so loading a
registered model runs the installed package and no code or pickle out of the artefact store.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clv.errors import ModelError

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"

# What reads the files of each kind of model; the grading has nothing: it is scales and edges, not a forecast.
PREDICTORS: Mapping[str, tuple[str, str] | None] = {
    "lifetime-value": ("clv.models.lifetime_value", "LifetimeValue.from_files"),
    "payment-delay": ("clv.models.payment_record", "read_payment_model"),
    "prospect-value": ("clv.models.prospect_value", "ProspectValue.from_files"),
    "grading": None,
}


def sha256(content: bytes) -> str:
    """The SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_folder(folder: Path, kind: str, files: Mapping[str, str]) -> str:
    """Writes `files` (name -> text) and their manifest into the new `folder`; returns the manifest's SHA-256.

    Raises ModelError for an unknown `kind`, no files, or a name that is not a plain file name.
    """
    if kind not in PREDICTORS:
        raise ModelError(f"expected a model of kind {', '.join(PREDICTORS)}, found {kind!r}.")
    if not files:
        raise ModelError(f"expected the files of a {kind} model, found none.")
    folder.mkdir(parents=True)
    for name, text in files.items():
        if Path(name).name != name or name in {MANIFEST, ".", ".."} or "\\" in name:
            raise ModelError(f"expected plain file names in a {kind} model, found {name!r}. Rename it.")
        (folder / name).write_bytes(text.encode())
    hashes = {name: sha256(files[name].encode()) for name in sorted(files)}
    manifest = json.dumps({"kind": kind, "files": hashes}, indent=2).encode()
    (folder / MANIFEST).write_bytes(manifest)
    return sha256(manifest)


def read_folder(folder: Path, manifest_sha256: str | None = None) -> tuple[str, dict[str, str]]:
    """The kind of the model in `folder` and its files (name -> text), all verified first.

    Every file must have the hash the manifest names, none may be missing and none extra; the manifest itself
    must have the hash `manifest_sha256` where one is given. The bytes that were hashed are those
    returned. Raises ModelError naming the file and both hashes.
    """
    found = {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }
    manifest = found.pop(MANIFEST, None)
    if manifest is None:
        raise ModelError(_refusal(folder, f"expected {MANIFEST}, found {', '.join(found) or 'nothing'}"))
    if manifest_sha256 is not None and sha256(manifest) != manifest_sha256:
        raise ModelError(
            _refusal(folder, f"{MANIFEST}: expected SHA-256 {manifest_sha256}, found {sha256(manifest)}")
        )
    try:
        content = json.loads(manifest)
        kind, expected = str(content["kind"]), dict(content["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(_refusal(folder, f"{MANIFEST} cannot be read ({error!r})")) from error
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ModelError(_refusal(folder, f"{name}: expected SHA-256 {expected[name]}, found no file"))
        if name not in expected:
            raise ModelError(_refusal(folder, f"{name}: expected no such file, found {sha256(found[name])}"))
        if sha256(found[name]) != expected[name]:
            raise ModelError(
                _refusal(folder, f"{name}: expected SHA-256 {expected[name]}, found {sha256(found[name])}")
            )
    return kind, {name: content.decode() for name, content in found.items()}


def _refusal(folder: Path, finding: str) -> str:
    return (
        f"the model in {folder} is not what was registered: {finding}. "
        "Nothing was loaded; restore the artefacts from a copy, or train and promote again."
    )


def read_model(kind: str, files: Mapping[str, str]) -> Any:
    """The model of a `kind` that predicts, from its verified files; fallbacks are read by the same door."""
    predictor = PREDICTORS[kind]
    if predictor is None:
        return _Grading()
    module, reader = predictor
    return attrgetter(reader)(importlib.import_module(module))(files)


class _Grading:
    """A verified grading: it has no rows to predict."""

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        raise ModelError(
            "expected a model that predicts, found a grading, which holds scales and tier edges. "
            "Grade with pipelines/score.py."
        )


def _load_pyfunc(path: str) -> Any:
    """What `mlflow.pyfunc.load_model` calls: the verified model in the folder `path`, with its `predict`."""
    kind, files = read_folder(Path(path))
    if kind not in PREDICTORS:
        raise ModelError(f"expected a model of kind {', '.join(PREDICTORS)}, found {kind!r} in {path}.")
    return read_model(kind, files)
