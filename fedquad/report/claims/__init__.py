"""The verdict on each of the paper's claims, from the csv files of the figures alone."""

from fedquad.report.claims.judging import PREDICATES, judge, judged_items
from fedquad.report.claims.verdict import VERDICTS

__all__ = ["PREDICATES", "VERDICTS", "judge", "judged_items"]
