"""The contents of the Debian package."""

import importlib.util
import py_compile
import sys
from pathlib import Path

from tools.deb import HOME, Python, compile_modules


def test_compiled_modules_are_compiled_again(tmp_path: Path) -> None:
    """No compiled file depends on the modification time of its source, or root would rewrite it."""
    python = Python.find(Path(sys.executable))
    site = tmp_path / HOME / "lib" / f"python{python.version}"
    site.mkdir(parents=True)
    sources = [site / "first.py", site / "second.py"]
    for source in sources:
        source.write_text("answer = 42\n")
    py_compile.compile(str(sources[0]), doraise=True)
    compile_modules(tmp_path, python)
    compiled = [Path(importlib.util.cache_from_source(str(source))) for source in sources]
    # PEP 552: bit 0 of the word after the magic number says that a hash follows, not a time.
    assert [path.read_bytes()[4:8] for path in compiled] == [b"\1\0\0\0"] * 2
