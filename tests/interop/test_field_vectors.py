"""Run logs that real agents or their surroundings made, and that were once read wrongly."""

import ssl

import pytest

from relayd.runlog.filename import parse_name
from relayd.runlog.model import RunLog, RunLogName, Verified
from relayd.runlog.parser import parse
from relayd.runlog.signature.certificates import read_certificate
from relayd.runlog.signature.smime import verify
from tests.support.project import VECTORS

FIELD = VECTORS / "field"


@pytest.mark.skipif(not FIELD.is_dir(), reason="Rudder's test data are not here")
@pytest.mark.parametrize(
    ("name", "pem", "suffix", "reports"),
    [
        pytest.param(
            "embedded-certificate", "ca-issued.pem", "b1.log", None, marks=pytest.mark.fault("F12")
        ),
        pytest.param(
            "embedded-certificate", "serial-0.pem", "b0.log", None, marks=pytest.mark.fault("F12")
        ),
        pytest.param(
            "start-offset-without-colon", "cert.pem", ".log", 3, marks=pytest.mark.fault("F16")
        ),
        pytest.param(
            "bom-before-first-line", "cert.pem", ".log", None, marks=pytest.mark.fault("F19")
        ),
    ],
)
def test_run_log_of_the_field_is_read(
    name: str, pem: str, suffix: str, reports: int | None
) -> None:
    """The run log is accepted as a complete one, with all its reports."""
    (path,) = (FIELD / name).glob(f"2026*{suffix}")
    known = read_certificate(ssl.PEM_cert_to_DER_cert((FIELD / name / pem).read_text()))[1]
    parsed = parse_name(path.name)
    assert isinstance(parsed, RunLogName)
    verified = verify(path.read_bytes(), [known])
    assert isinstance(verified, Verified)
    run_log = parse(verified.content, parsed.node_id)
    assert isinstance(run_log, RunLog)
    assert run_log.complete
    assert run_log.broken == 0
    assert reports in (None, run_log.reports)
