from pathlib import Path

import pytest

from tests.support.openssl import OpenSSL


@pytest.fixture
def openssl(tmp_path: Path) -> OpenSSL:
    """The openssl command, with a directory of its own."""
    directory = tmp_path / "openssl"
    directory.mkdir()
    return OpenSSL(directory)
