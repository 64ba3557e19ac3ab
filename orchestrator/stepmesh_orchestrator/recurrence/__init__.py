"""When what recurs is due: cron in a time zone, and intervals. See rule.py."""

from stepmesh_orchestrator.recurrence.checking import ScheduleInvalid, check
from stepmesh_orchestrator.recurrence.rule import COUNTED, Met, Rule, rule_of

__all__ = ["COUNTED", "Met", "Rule", "ScheduleInvalid", "check", "rule_of"]
