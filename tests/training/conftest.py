import pytest

from training.windows import windows


@pytest.fixture
def few_hums(monkeypatch):
    monkeypatch.setattr(windows, "HUMS", 2)
