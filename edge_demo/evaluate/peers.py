"""microWakeWord's own models on the same streams."""

import json
import subprocess
import tempfile
from pathlib import Path

from edge_demo.evaluate.false_accepts import rate_figures
from edge_demo.evaluate.negatives import Stream
from edge_demo.evaluate.recordings import progress
from training.data import recordings as data
from training.data.recordings import SAMPLE_RATE, to_float

ROOT = Path(__file__).resolve().parents[2]


def peer_figures(python: str, streams: list[Stream]) -> dict[str, dict]:
    """False accepts of microWakeWord's models, at their own thresholds. python: of an environment that has them.

    Raises DataError.
    """
    columns: dict[str, dict] = {}
    for stream in progress(streams, "peers"):
        with tempfile.NamedTemporaryFile(suffix=".f32") as file:
            for recording in stream.recordings:
                to_float(recording.read()).tofile(file)
            file.flush()
            hours = file.tell() / 4 / SAMPLE_RATE / 3600
            command = [python, "-m", "edge_demo.bench.peers", file.name]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.splitlines() or ["it ended without a message"])[-1]
            raise data.DataError(f"{python}: {reason}; make .venv-peers/ready")
        for model, events in json.loads(done.stdout).items():
            column = columns.setdefault(f"microWakeWord:{model}", {})
            column[f"{stream.name}_at_operating_point"] = rate_figures(events, hours)
    return columns
