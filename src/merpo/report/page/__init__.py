"""`merpo report`'s page: one HTML file that needs no network, readable on a phone, in light and dark."""

from merpo.report.page.document import page
from merpo.report.page.material import RunView, Trace, Traces

__all__ = ["RunView", "Trace", "Traces", "page"]
