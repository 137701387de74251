"""Change the thresholds of an existing bundle, in its manifest and in the metadata of its models."""

import json
import shutil
from pathlib import Path

import onnx

from export.folder.complete import MANIFEST, new_folder, write_last
from export.folder.manifest import fingerprint
from export.forms.binary import with_thresholds


def set_thresholds(bundle: Path, thresholds: list[float]) -> None:
    """All of it or nothing: the bundle is replaced as a whole. Raises OSError."""
    bundle = bundle.resolve()  # a link stays a link, to the new folder; and "." has a name
    with new_folder(bundle) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        manifest = json.loads((bundle / MANIFEST).read_text())
        manifest["threshold"] = thresholds
        for path in folder.glob("*.onnx"):
            proto = onnx.load(path)
            metadata = {item.key: item.value for item in proto.metadata_props}
            onnx.helper.set_model_props(proto, metadata | {"threshold": json.dumps(thresholds)})
            path.write_bytes(proto.SerializeToString(deterministic=True))
            manifest["files"][path.name] = fingerprint(path)
        for path in folder.glob("*.bin"):
            path.write_bytes(with_thresholds(path.read_bytes(), thresholds))
            manifest["files"][path.name] = fingerprint(path)
        write_last(folder, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
