"""The int8 step in onnxruntime's mobile format, for those who build an onnxruntime that holds nothing else.

Beside `model.int8.ort` lies the list of operators that such a minimal build needs (`--include_ops_by_config`). A
minimal build folds no constants, so here they are folded: the DFT's basis and filters alone make some 400 KB.
"""

import contextlib
import io
import logging
from pathlib import Path

from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

SOURCE, MOBILE, OPERATORS = "model.int8.onnx", "model.int8.ort", "model.int8.required_operators.config"


def export_ort(folder: Path) -> None:
    """Write both files beside the folder's SOURCE."""
    logger = logging.getLogger("ort_format_model.utils")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            convert_onnx_models_to_ort(folder / SOURCE, folder, [OptimizationStyle.Fixed], target_platform="arm")
    finally:
        logger.setLevel(level)
    operators = folder / OPERATORS  # the list names the file with its folder, which is gone when the bundle is there
    operators.write_text(operators.read_text().replace(f"{folder.resolve()}/", ""))
