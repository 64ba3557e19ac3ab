"""cronsim's walk through the calendar, on days that begin later than at midnight because the clocks leap over it (Cairo, Beirut, Santiago).

cronsim goes on from the midnight that is none, and so misses the hour after it.
"""

from __future__ import annotations

from datetime import UTC

from cronsim import CronSim


class RealDays(CronSim):
    """A day begins with its first minute that really comes."""

    def advance_month(self) -> None:
        """See `CronSim`."""
        super().advance_month()
        self._land()

    def advance_day(self) -> bool:
        """See `CronSim`."""
        is_other = super().advance_day()
        self._land()
        return is_other

    def _land(self) -> None:
        if self.dt.tzinfo is not None:
            self.dt = self.dt.astimezone(UTC).astimezone(self.dt.tzinfo)
