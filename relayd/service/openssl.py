"""Which OpenSSL is at work: TLS uses the interpreter's, signatures that of `cryptography`."""

import re
import ssl
from typing import Final

# What `cryptography.hazmat.backends.openssl` asks too, which would cost a relay 0.3 MB.
from cryptography.hazmat.bindings._rust import openssl as bundled

#: The first release of each branch that is mended of what is known (openssl-library.org,
#: vulnerabilities); newer branches came later than these.
FLOORS: Final = {(3, 0): 21, (3, 5): 7, (3, 6): 3}

_VERSION: Final = re.compile(r"OpenSSL ([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?:[^0-9].*)?")


def warnings() -> list[str]:
    """Return one line for each library in use that is older than it should be.

    Distributors mend old versions without another number, so this is a hint to look, no verdict.
    """
    libraries = (("TLS", ssl.OPENSSL_VERSION), ("signatures", bundled.openssl_version_text()))
    return [
        f"{text}, in use for {use}, has known weaknesses unless its distributor has mended it"
        for use, text in libraries
        if is_old(text)
    ]


def is_old(text: str) -> bool:
    """Judge a version as the library tells it; what is no OpenSSL is not judged.

    Args:
        text: for example `OpenSSL 3.0.19 27 Jan 2026`.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        return False
    major, minor, patch = (int(part) for part in found.groups())
    floor = FLOORS.get((major, minor))
    return (major, minor) < max(FLOORS) if floor is None else patch < floor
