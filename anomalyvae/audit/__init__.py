"""Audits of a data set: sparse and dense regions, duplicates, leaks, groups, and sample weights."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.audit.auditing import Audit, audit
    from anomalyvae.audit.report import as_html, as_markdown, as_text

__all__ = ["Audit", "as_html", "as_markdown", "as_text", "audit"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Audit": "anomalyvae.audit.auditing",
        "as_html": "anomalyvae.audit.report",
        "as_markdown": "anomalyvae.audit.report",
        "as_text": "anomalyvae.audit.report",
        "audit": "anomalyvae.audit.auditing",
    },
)
