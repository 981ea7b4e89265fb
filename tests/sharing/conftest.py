import pytest
from huggingface_hub import constants

from tests.sharing.fake_hub import FakeHub, serving


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback that huggingface_hub takes for the real one, an empty cache, and no token."""
    with serving(FakeHub()) as running:
        use(monkeypatch, running.endpoint, tmp_path / "cache")
        yield running


def use(monkeypatch, endpoint, cache):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"  # made from ENDPOINT when it is imported
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
