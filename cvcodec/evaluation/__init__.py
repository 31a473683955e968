"""Two videos in step -> report: matching in time, measuring, averaging, drawing."""

from cvcodec.evaluation.alignment import ALIGNMENTS, Aligned, Pair
from cvcodec.evaluation.measure import evaluate
from cvcodec.evaluation.picture import side_by_side
from cvcodec.evaluation.report import DEFAULT_METRICS, METRICS, KeptFrame, Rate, Report

__all__ = [
    "ALIGNMENTS",
    "DEFAULT_METRICS",
    "METRICS",
    "Aligned",
    "KeptFrame",
    "Pair",
    "Rate",
    "Report",
    "evaluate",
    "side_by_side",
]
