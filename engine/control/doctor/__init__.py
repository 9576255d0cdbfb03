"""The doctor: finds problems in a live workspace, and repairs derived tables.

`examine` runs the checks and reports findings, each with its remedy; it changes nothing. `repair` compares the nest
copies and all tables that views fill with their sources, and delivers what is missing.
"""

from engine.control.doctor.examination import Report, examine
from engine.control.doctor.findings import Finding
from engine.control.doctor.repairs import repair

__all__ = ["Finding", "Report", "examine", "repair"]
