"""Write the bill of materials, packaging/relayd.cdx.json (CycloneDX), and docs/licences.md.

    python -m tools.sbom              write both
    python -m tools.sbom --check      change nothing; fail if one of them is stale

Names, versions and hashes come from requirements.lock, licences from the installed packages. The
documents contain no date and no random number, so a diff of two releases shows exactly which
packages were added, removed or updated.

Source: CycloneDX 1.6 JSON, https://cyclonedx.org/docs/1.6/json/.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

from tools.lock import REPOSITORY, Locked, direct_dependencies, runtime_lock

SBOM: Final = Path("packaging/relayd.cdx.json")
LICENCES: Final = Path("docs/licences.md")

#: Why relayd has each direct dependency. A new one needs a line here.
REASONS: Final = {
    "asyncpg": "PostgreSQL's binary protocol and COPY",
    "click": "command lines",
    "cryptography": "signatures, certificates, hashes",
    "h11": "HTTP/1.1 under Hypercorn, with relayd's own limits",
    "httpcore2": "HTTP connections to other policy servers, reused and pinned",
    "httpx2": "HTTP requests to other policy servers",
    "hypercorn": "the HTTP server",
    "libpass": "passwords of uploads, in the forms of htpasswd",
    "msgspec": "typed TOML and JSON, with errors that name the key",
    "prometheus-client": "metrics",
    "quart": "routes, requests and answers of the HTTP API",
    "quart-trio": "Quart on Trio",
    "rich": "tables and live displays in a terminal",
    "structlog": "structured logs",
    "trio": "tasks, cancellation, sockets, processes",
    "trio-asyncio": "lets asyncpg run on Trio",
}

#: Licences of packages with ambiguous metadata, from their licence files.
REVIEWED: Final = {
    "itsdangerous": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "libpass": "BSD-3-Clause",
}
#: SPDX identifiers of trove classifiers. Not "BSD License", which may be one of several.
_CLASSIFIERS: Final = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}

_HEADER: Final = """\
# Licences

The packages that relayd needs at run time in addition to Python's standard library, from \
`requirements.lock`: {direct} direct dependencies and {indirect} indirect ones.
`make sbom` writes this page and `packaging/relayd.cdx.json`, a CycloneDX bill of materials with \
the hashes of every package; CI fails if one of them is stale.
relayd itself is licensed under Apache-2.0.
Packages that only the demo, the tests and the tools need are not part of an installation.
The wheels of cryptography contain OpenSSL (Apache-2.0) and libraries written in Rust, and their \
own bills of materials in the directory `sboms` of their metadata.

"""


class LicenceError(ValueError):
    """The metadata of a package name no licence, or one that has not been reviewed."""


class CoreMetadata(Protocol):
    """The core metadata of a package, as much of them as is used here."""

    def get_all(self, name: str) -> list[Any] | None:
        """Return all values of a field; None if there are none."""


def licence(name: str, about: CoreMetadata) -> str:
    """Return the SPDX expression of a package's licence.

    Args:
        name: the package, normalised.
        about: its core metadata.

    Raises:
        LicenceError: the metadata are ambiguous; read the licence and add it to `REVIEWED`.
    """
    if expressions := about.get_all("License-Expression"):
        return str(expressions[0])
    if name in REVIEWED:
        return REVIEWED[name]
    classifiers = [text for text in about.get_all("Classifier") or () if text.startswith("License")]
    if not classifiers or any(text not in _CLASSIFIERS for text in classifiers):
        raise LicenceError(f"{name}: unclear licence, its classifiers are {classifiers}")
    return " OR ".join(sorted(_CLASSIFIERS[text] for text in classifiers))


def installed_licences(packages: Iterable[str]) -> dict[str, str]:
    """Return the licence of each package, by name, from the packages installed here.

    Raises:
        LicenceError: a package is not installed, or its licence is unclear.
    """
    found = {}
    for name in packages:
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError as error:
            raise LicenceError(f"{name}: not installed; run make install") from error
        found[name] = licence(name, about)
    return found


def bill(
    version: str, packages: Mapping[str, Locked], direct: Iterable[str], licences: Mapping[str, str]
) -> dict[str, Any]:
    """Return the bill of materials as CycloneDX JSON."""
    relayd = _component("application", "relayd", version, "Apache-2.0")
    needs: dict[str, list[str]] = {name: [] for name in packages}
    for package in packages.values():
        for parent in needs.keys() & set(package.needed_by):
            needs[parent].append(package.name)
    refs = {name: _purl(name, package.version) for name, package in packages.items()}
    graph = [_edges(relayd["bom-ref"], (refs[name] for name in direct))]
    graph += [_edges(refs[name], (refs[child] for child in needs[name])) for name in packages]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": relayd},
        "components": [
            _component("library", name, package.version, licences[name])
            | {"hashes": [{"alg": "SHA-256", "content": text} for text in package.hashes]}
            for name, package in packages.items()
        ],
        "dependencies": graph,
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _component(kind: str, name: str, version: str, spdx: str) -> dict[str, Any]:
    reference = _purl(name, version)
    single = " " not in spdx
    return {
        "type": kind,
        "bom-ref": reference,
        "name": name,
        "version": version,
        "purl": reference,
        "licenses": [{"license": {"id": spdx}} if single else {"expression": spdx}],
    }


def _edges(reference: str, needs: Iterable[str]) -> dict[str, Any]:
    return {"ref": reference, "dependsOn": sorted(needs)}


def page(packages: Mapping[str, Locked], direct: Iterable[str], licences: Mapping[str, str]) -> str:
    """Return docs/licences.md.

    Raises:
        KeyError: a direct dependency has no line in `REASONS`.
    """
    own = sorted(direct)
    others = [name for name in packages if name not in own]
    lines = ["| direct | version | licence | used for |", "| --- | --- | --- | --- |"]
    lines += [f"| {_cells(packages, licences, name)} | {REASONS[name]} |" for name in own]
    lines += ["", "| indirect | version | licence | needed by |", "| --- | --- | --- | --- |"]
    for name in others:
        parents = ", ".join(parent for parent in packages[name].needed_by if parent in packages)
        lines.append(f"| {_cells(packages, licences, name)} | {parents} |")
    header = _HEADER.format(direct=len(own), indirect=len(others))
    return header + "\n".join(lines) + "\n"


def _cells(packages: Mapping[str, Locked], licences: Mapping[str, str], name: str) -> str:
    return f"{name} | {packages[name].version} | {licences[name]}"


def documents(root: Path = REPOSITORY) -> dict[Path, str]:
    """Return the text of both documents, by path relative to `root`."""
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(pyproject)["project"]["version"]
    direct = direct_dependencies(pyproject)
    packages = runtime_lock(root)
    licences = installed_licences(packages)
    materials = bill(version, packages, direct, licences)
    return {
        SBOM: json.dumps(materials, indent=2) + "\n",
        LICENCES: page(packages, direct, licences),
    }


def stale(root: Path = REPOSITORY) -> list[Path]:
    """Return the documents that are missing or stale."""
    return [path for path, text in documents(root).items() if _read(root / path) != text]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main() -> int:
    """Write or check the documents and return the exit code."""
    parser = argparse.ArgumentParser(description="Write the bill of materials and the licences.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if stale")
    if parser.parse_args().check:
        old = stale()
        for path in old:
            sys.stderr.write(f"{path} is stale: run make sbom\n")
        return 1 if old else 0
    for path, text in documents().items():
        (REPOSITORY / path).parent.mkdir(exist_ok=True)
        (REPOSITORY / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
