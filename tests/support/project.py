"""Where the source tree is, and the reference data next to it."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
CONF: Final = ROOT / "conf"
UNITS: Final = ROOT / "systemd"
#: Signed run logs and keys of real agents; not part of the project.
VECTORS: Final = Path(os.environ.get("RELAYD_VECTORS", ROOT.parent / "shared" / "vectors"))
