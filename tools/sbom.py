"""Write what relayd is made of: packaging/relayd.cdx.json (CycloneDX) and docs/licences.md.

    python -m tools.sbom              write both
    python -m tools.sbom --check      change nothing; fail when one of them is not current

Names, versions and hashes come from requirements.lock, licences from the packages as installed.
The documents carry no date and no random number: they change when the lock does, so a diff of
two releases shows what came, went and moved.

Source: CycloneDX 1.6 JSON, https://cyclonedx.org/docs/1.6/json/.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from tools.lock import REPOSITORY, Locked, direct_dependencies, runtime_lock

SBOM: Final = Path("packaging/relayd.cdx.json")
LICENCES: Final = Path("docs/licences.md")

#: Why relayd depends on what it depends on. A new dependency needs its line here.
REASONS: Final = {
    "asyncpg": "PostgreSQL's binary protocol and COPY",
    "click": "command lines",
    "cryptography": "signatures, certificates, hashes",
    "h11": "HTTP/1.1 under Hypercorn, with limits of relayd's own",
    "httpcore2": "HTTP connections to other policy servers, reused and pinned",
    "hypercorn": "the HTTP server",
    "msgspec": "typed TOML and JSON whose errors name the key",
    "prometheus-client": "metrics",
    "quart": "routes, requests and answers of the HTTP API",
    "quart-trio": "Quart on Trio",
    "rich": "tables and live pictures in a terminal",
    "structlog": "structured logs",
    "trio": "tasks, cancellation, sockets, processes",
    "trio-asyncio": "lets asyncpg run on Trio",
}

#: Licences of packages whose metadata leave it open which one it is, from their licence files.
REVIEWED: Final = {
    "itsdangerous": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
}
#: SPDX identifiers of trove classifiers. "BSD License" is not among them: there are several.
_CLASSIFIERS: Final = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}

_HEADER: Final = """\
# Licences

What a running relayd consists of besides Python's standard library, from `requirements.lock`:
{direct} direct dependencies and {indirect} that these bring in. `make sbom` writes this page, and
`packaging/relayd.cdx.json`, a CycloneDX bill of materials with the hashes of every package; CI
fails when one of them is not current. relayd itself is under Apache-2.0. What the demo, the tests
and the tools need besides is not part of an installation. The wheels of cryptography contain
OpenSSL (Apache-2.0) and libraries in Rust; they bring bills of their own, in `sboms` beside their
metadata.

"""


class LicenceError(ValueError):
    """A package's metadata name no licence, or one that nobody has looked at."""


def licence(name: str, about: Message) -> str:
    """Return the SPDX expression of a package's licence.

    Args:
        name: the package, normalised.
        about: its core metadata.

    Raises:
        LicenceError: the metadata do not say; someone must look and fill `REVIEWED`.
    """
    if expression := about.get("License-Expression"):
        return str(expression)
    if name in REVIEWED:
        return REVIEWED[name]
    classifiers = [text for text in about.get_all("Classifier") or () if text.startswith("License")]
    if not classifiers or any(text not in _CLASSIFIERS for text in classifiers):
        raise LicenceError(f"{name}: which licence? Its metadata say {classifiers}")
    return " OR ".join(sorted(_CLASSIFIERS[text] for text in classifiers))


def installed_licences(packages: Iterable[str]) -> dict[str, str]:
    """Return the licence of each package, by name, from the environment this runs in.

    Raises:
        LicenceError: a package is not installed, or does not say.
    """
    found = {}
    for name in packages:
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError as error:
            raise LicenceError(f"{name}: not installed here; make install") from error
        found[name] = licence(name, about)  # type: ignore[arg-type]
    return found


def bill(
    version: str, packages: Mapping[str, Locked], direct: Iterable[str], licences: Mapping[str, str]
) -> dict[str, Any]:
    """Return the bill of materials as CycloneDX JSON."""
    relayd = _component("application", "relayd", version, "Apache-2.0")
    needs = {name: [] for name in packages}  # type: dict[str, list[str]]
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
    lines = ["| direct | version | licence | for |", "| --- | --- | --- | --- |"]
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
    """Return the text of both documents, by their path below `root`."""
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
    """Return the documents that are not there or not current."""
    return [path for path, text in documents(root).items() if _read(root / path) != text]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main() -> int:
    """Write or check the documents; return the exit code."""
    parser = argparse.ArgumentParser(description="Write what relayd is made of.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    if parser.parse_args().check:
        old = stale()
        for path in old:
            sys.stderr.write(f"{path} is not current: run make sbom\n")
        return 1 if old else 0
    for path, text in documents().items():
        (REPOSITORY / path).parent.mkdir(exist_ok=True)
        (REPOSITORY / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
