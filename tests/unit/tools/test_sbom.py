"""The bill of materials and the page of licences are current and complete."""

import json
from email.message import Message
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing

from tools.lock import REPOSITORY, runtime_lock
from tools.sbom import REASONS, SBOM, LicenceError, installed_licences, licence, page, stale

#: Licences that an Apache-2.0 program may be distributed with, without further obligations.
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "PSF-2.0"}


@pytest.fixture(scope="module")
def text() -> str:
    return (REPOSITORY / SBOM).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def materials(text: str) -> Any:
    return json.loads(text)


@pytest.mark.fault("D.7")
def test_sbom_documents_are_current() -> None:
    """Bill of materials and licences match the lock."""
    assert stale() == [], "run make sbom"


def test_sbom_is_valid_cyclonedx(text: str) -> None:
    """The bill of materials is valid CycloneDX."""
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem


@pytest.mark.fault("D.7")
def test_sbom_lists_every_runtime_package_with_its_hashes(materials: Any) -> None:
    """Each runtime package is in the bill, with the locked version and hashes."""
    listed = {
        part["name"]: (part["version"], {each["content"] for each in part["hashes"]})
        for part in materials["components"]
    }
    assert listed == {
        name: (package.version, set(package.hashes)) for name, package in runtime_lock().items()
    }


def test_sbom_graph_reaches_everything_from_relayd(materials: Any) -> None:
    """Every package in the bill is needed by relayd or by something that relayd needs."""
    edges = {node["ref"]: set(node["dependsOn"]) for node in materials["dependencies"]}
    reached = {materials["metadata"]["component"]["bom-ref"]}
    new = set(reached)
    while new:
        new = set().union(*(edges[name] for name in new)) - reached
        reached |= new
    assert reached == edges.keys()
    assert len(reached) == 1 + len(materials["components"])


@pytest.mark.fault("D.7")
def test_every_runtime_licence_is_permissive() -> None:
    """Every package of an installation has a licence that requires no more than a notice."""
    spdx = get_spdx_licensing()
    for name, expression in installed_licences(runtime_lock()).items():
        assert spdx.validate(expression).errors == [], name
        assert set(spdx.license_keys(expression)) <= PERMISSIVE, name


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT AND PSF-2.0")], "MIT AND PSF-2.0"),
        ([("Classifier", "License :: OSI Approved :: MIT License")], "MIT"),
        (
            [
                ("Classifier", "License :: OSI Approved :: MIT License"),
                ("Classifier", "License :: OSI Approved :: Apache Software License"),
                ("Classifier", "Topic :: Internet"),
            ],
            "Apache-2.0 OR MIT",
        ),
    ],
)
def test_licence_is_read_from_metadata(fields: list[tuple[str, str]], expected: str) -> None:
    """The licence expression is used if there is one, else the classifiers."""
    assert licence("package", _metadata(fields)) == expected


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Classifier", "License :: OSI Approved :: BSD License")],
        [("License", "see LICENSE")],
    ],
    ids=["nothing", "ambiguous", "prose"],
)
def test_unclear_licence_must_be_reviewed(fields: list[tuple[str, str]]) -> None:
    """A package without a clear licence is an error until it has been reviewed."""
    with pytest.raises(LicenceError, match="package"):
        licence("package", _metadata(fields))


def test_direct_dependency_without_reason_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is not written if a direct dependency has no reason."""
    packages = runtime_lock()
    monkeypatch.delitem(REASONS, "trio")
    with pytest.raises(KeyError, match="trio"):
        page(packages, ["trio"], dict.fromkeys(packages, "MIT"))


def _metadata(fields: list[tuple[str, str]]) -> Message:
    about = Message()
    for key, value in fields:
        about[key] = value
    return about
