"""Refused files, as the running relayd lists them."""

from relayd.control.client import Control
from relayd.overview.documents import from_document
from relayd.overview.fleet import Refusals


def refused_files(control: Control, reason: str, limit: int) -> Refusals:
    """Return the refused files with one reason; raises the errors of `Control`."""
    return from_document(control.get(f"/refused/{reason}", limit=limit), Refusals)
