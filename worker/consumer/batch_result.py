"""What a batch came to, for whoever settles it, counts it and asks for trainings."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch came to. `received = applied + duplicates + dead-lettered + redelivered`."""

    scores: list[bytes] = field(default_factory=list)
    signals: int = 0
    outcomes: int = 0
    labelled: int = 0
    duplicates: int = 0
    redelivered: int = 0
    dead_lettered: int = 0
    #: Fields of events that are none of ours, passed over.
    unknown_fields: int = 0
    #: Provided values that signals did not bring.
    missing_features: int = 0
    #: Entries that the server had no more, handled with their bytes from the archive.
    restored: int = 0

    def __add__(self, other: BatchResult) -> BatchResult:
        return BatchResult(
            self.scores + other.scores,
            self.signals + other.signals,
            self.outcomes + other.outcomes,
            self.labelled + other.labelled,
            self.duplicates + other.duplicates,
            self.redelivered + other.redelivered,
            self.dead_lettered + other.dead_lettered,
            self.unknown_fields + other.unknown_fields,
            self.missing_features + other.missing_features,
            self.restored + other.restored,
        )
