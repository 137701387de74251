"""What the listener asks of whoever wants to know of its detections. All is called by the listener's thread."""

from typing import Any

from runtime.audio.hops import Samples


class Sink:
    """Nothing here may hold up the audio: what takes long has a thread of its own and a bounded queue before it."""

    def hop(self, hop: Samples) -> None:
        """A hop of audio, after the models have heard it and before its detections are published."""

    def gap(self) -> None:
        """What was heard before does not belong to what will be heard."""

    def publish(self, detection: dict[str, Any]) -> None:
        """A detection: time_s, keyword, score, bundle, and file where there are several."""

    def finish(self) -> None:
        """The audio has ended, and nobody is in a hurry: finish what was begun."""

    def close(self) -> None:
        """Let go of everything, in less than a second."""
