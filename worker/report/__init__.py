"""The evaluation as a page and as a picture."""

from worker.report.page import html
from worker.report.picture import png

__all__ = ["html", "png"]
