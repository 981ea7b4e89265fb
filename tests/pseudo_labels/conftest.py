"""Runs on one thread: the volumes are tiny."""

from tests.inference.conftest import few_threads  # noqa: F401 - a fixture
