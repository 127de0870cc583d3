"""The OpenSSL releases in use: the interpreter's for TLS, and that of `cryptography`."""

import re
import ssl
from typing import Final

# `cryptography.hazmat.backends.openssl` reads the version from here too, but costs 0.3 MB.
from cryptography.hazmat.bindings._rust import openssl as bundled

from relayd.commands.check.model import Finding, Site, warning

#: The first release of each branch without known vulnerabilities (openssl-library.org,
#: vulnerabilities); newer branches appeared after these.
FLOORS: Final = {(3, 0): 21, (3, 5): 7, (3, 6): 3}

_VERSION: Final = re.compile(r"OpenSSL ([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?:[^0-9].*)?")


async def check(_site: Site) -> list[Finding]:
    """Check the releases of both libraries."""
    return judge(tls=ssl.OPENSSL_VERSION, signatures=bundled.openssl_version_text())


def judge(*, tls: str, signatures: str) -> list[Finding]:
    """Return a finding for each library that may have known vulnerabilities.

    Distributions fix old releases without changing the number, so these are only warnings.

    Args:
        tls: version of the library that TLS uses.
        signatures: version of the library that verifies signatures.
    """
    what = "it has known vulnerabilities, unless the distribution has fixed them in this release"
    fix = "install the security updates of the distribution"
    found: list[Finding] = []
    if is_old(tls):
        found.append(warning("openssl.old", f"{tls} (TLS)", what, fix))
    if is_old(signatures):
        fix = f"{fix}, or a newer cryptography package"
        found.append(warning("openssl.old", f"{signatures} (signatures)", what, fix))
    return found


def is_old(text: str) -> bool:
    """Return whether a release is older than the floor of its branch; False if not OpenSSL.

    Args:
        text: the version as the library reports it, such as `OpenSSL 3.0.19 27 Jan 2026`.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        return False
    major, minor, patch = (int(part) for part in found.groups())
    floor = FLOORS.get((major, minor))
    return (major, minor) < max(FLOORS) if floor is None else patch < floor
