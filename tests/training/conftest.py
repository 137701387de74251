import pytest

from training.windows import sources


@pytest.fixture
def few_hums(monkeypatch):
    monkeypatch.setattr(sources, "HUMS", 2)
