"""The lives of a scaled fleet's replicas: when each was asked for, took calls, left and was gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto


class Stage(Enum):
    """Part of a life."""

    ABSENT = auto()
    STARTING = auto()
    RUNNING = auto()
    LEAVING = auto()


@dataclass(slots=True)
class ReplicaLives:
    """Each place of the fleet has a replica or none; a place is used again.

    Args:
        stages: by place.
        asked_s: when the one that is there was asked for.
        lives: how many have been there, so that an earlier one's timers do nothing.
        replica_s: seconds of replicas that are gone, from the decision to the end.
    """

    stages: list[Stage]
    asked_s: list[float] = field(default_factory=list)
    lives: list[int] = field(default_factory=list)
    replica_s: float = 0.0

    @classmethod
    def of(cls, places: int, running: int) -> ReplicaLives:
        """Return the lives at the start: the first places run."""
        stages = [Stage.RUNNING if place < running else Stage.ABSENT for place in range(places)]
        return cls(stages, [0.0] * places, [0] * places)

    def at(self, stage: Stage) -> list[int]:
        """Return the places in a stage, those asked for last first."""
        found = [place for place, now in enumerate(self.stages) if now is stage]
        return sorted(found, key=lambda place: (-self.asked_s[place], -place))

    def ask(self, time_s: float) -> int | None:
        """Give a place to a new replica and return it, None if all are taken."""
        place = next((place for place, now in enumerate(self.stages) if now is Stage.ABSENT), None)
        if place is not None:
            self.stages[place], self.asked_s[place] = Stage.STARTING, time_s
            self.lives[place] += 1
        return place

    def end(self, place: int, time_s: float) -> None:
        """Note that the replica at a place is gone."""
        self.stages[place] = Stage.ABSENT
        self.replica_s += time_s - self.asked_s[place]

    def total_s(self, time_s: float) -> float:
        """Return the seconds of all replicas so far."""
        there = [place for place, now in enumerate(self.stages) if now is not Stage.ABSENT]
        return self.replica_s + sum(time_s - self.asked_s[place] for place in there)
