"""The object stores as fixtures."""

from tests.support.object_stores import gcs, s3, store

__all__ = ["gcs", "s3", "store"]
