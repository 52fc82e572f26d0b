"""Results -> tables, figures and HTML pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.reports.describe import report_context
    from fundusgrade.reports.explained import Explanation, explain
    from fundusgrade.reports.html.context import ReportContext
    from fundusgrade.reports.html.page import report_html

__all__ = ["Explanation", "ReportContext", "explain", "report_context", "report_html"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Explanation": "explained",
        "ReportContext": "html.context",
        "explain": "explained",
        "report_context": "describe",
        "report_html": "html.page",
    },
)
