"""Runs on one thread: the volumes are tiny."""

from tests.inference.conftest import compiled, few_threads  # noqa: F401 - fixtures
