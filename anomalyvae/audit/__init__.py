"""Audits of a data set: sparse and dense regions, outliers, duplicates, leaks, groups, and sample weights."""

from anomalyvae.audit.auditing import Audit, audit
from anomalyvae.audit.report import as_html, as_markdown, as_text

__all__ = ["Audit", "as_html", "as_markdown", "as_text", "audit"]
