"""What a run of the listener is and has counted: whoever shows it, such as the dashboard, reads it here."""

from typing import Any

from runtime.ear import Ear
from runtime.journal import Journal


class Status:
    def __init__(self, journal: Journal, ears: list[Ear], config: str | None) -> None:
        self.journal = journal
        self.ears = ears  # those that listen now
        self.config = config  # the configuration file
        self.hop_samples = ears[0].engine.hop_samples
        self.hops = self.detections = self.clipped_hops = 0

    @property
    def keywords(self) -> list[str]:
        return [keyword for ear in self.ears for keyword in ear.keywords]

    def summary(self) -> dict[str, Any]:
        """Totals of the run."""
        return {"event": "summary", "time_s": round(self.journal.time_s, 3), "hops": self.hops,
                "detections": self.detections, "clipped_hops": self.clipped_hops, "events": dict(self.journal.counts)}
