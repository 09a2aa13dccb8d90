"""The fixtures of the other tests."""

from tests.conftest import assets as assets
