"""Results -> tables, figures and HTML pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.reports.describe import report_context
    from fundusgrade.reports.html.context import ReportContext
    from fundusgrade.reports.html.page import report_html

__all__ = ["ReportContext", "report_context", "report_html"]

__getattr__ = lazy_attributes(
    __name__,
    {"ReportContext": "html.context", "report_context": "describe", "report_html": "html.page"},
)
