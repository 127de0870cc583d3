"""Benchmarks of parser and verification in this process, without I/O or event loop."""

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from benchmarks import naive
from benchmarks.corpus import REPORTS, Sample
from benchmarks.measure import median, ratio, say, seconds_per_call, take_turns
from benchmarks.table import Figure
from relayd.runlog.copytext import read_copy
from relayd.runlog.model import RunLog, Verified
from relayd.runlog.parser import parse
from relayd.runlog.signature.smime import verify


def verified(sample: Sample) -> bytes:
    """Return the verified content of a sample; if relayd refuses it, the benchmark is void."""
    result = verify(sample.message, [sample.node.known])
    if not isinstance(result, Verified):
        raise TypeError(f"relayd refuses its own sample: {result}")
    return result.content


def parsed(sample: Sample) -> RunLog:
    """Return the parsed run log of a sample."""
    result = parse(verified(sample), sample.node.id)
    if not isinstance(result, RunLog):
        raise TypeError(f"relayd refuses its own sample: {result}")
    return result


def measure_parser(sample: Sample, rounds: int) -> list[Figure]:
    """Compare microseconds per report of relayd's parser and the naive one, which must agree."""
    content = verified(sample)
    rows = [(row.component, row.msg, row.key_value) for row in read_copy(parsed(sample).copy)]
    if rows != [(row[5], row[8], row[6]) for row in naive.parse(content)]:
        raise ValueError("relayd's parser and the naive one disagree")
    say(f"parser: {len(rows)} reports, {len(content)} bytes")
    figures = take_turns(
        {
            "relayd": lambda: seconds_per_call(lambda: parse(content, sample.node.id)),
            "naive": lambda: seconds_per_call(lambda: naive.parse(content)),
        },
        rounds,
    )
    per_report = median(figures, "relayd") / len(rows) * 1e6
    return [
        Figure(
            f"parser, per report ({REPORTS} in a run log)",
            f"{per_report:.2f} µs",
            f"naive: {median(figures, 'naive') / len(rows) * 1e6:.1f} µs",
            f"{ratio(figures, 'naive', 'relayd'):.1f} x faster",
            "≤ 2 µs",
            per_report <= 2,
        )
    ]


def measure_verification(sample: Sample, rounds: int, directory: Path) -> list[Figure]:
    """Compare verification with the RSA operation in it, a naive one and the openssl command."""
    public = sample.node.key.public_key()
    # As large as the signed attributes of such a message, which are what RSA signs.
    attributes = b"\x31" + bytes(230)
    signature = sample.node.key.sign(attributes, padding.PKCS1v15(), SHA256())
    command = _openssl(sample, directory)
    certificates = [sample.node.known]
    say(f"verification: {len(sample.message)} bytes")
    figures = take_turns(
        {
            "relayd": lambda: seconds_per_call(lambda: verify(sample.message, certificates)),
            "RSA": lambda: seconds_per_call(
                lambda: public.verify(signature, attributes, padding.PKCS1v15(), SHA256())
            ),
            "naive": lambda: seconds_per_call(
                lambda: naive.verify(sample.message, [sample.node.certificate])
            ),
            "openssl": lambda: seconds_per_call(
                lambda: subprocess.run(command, check=True, capture_output=True)
            ),
        },
        rounds,
    )
    to_rsa = ratio(figures, "relayd", "RSA")
    took = f"{median(figures, 'relayd') * 1e6:.0f} µs"
    return [
        Figure(
            f"verification, RSA-4096, {len(sample.message) / 1000:.1f} kB",
            took,
            f"bare RSA operation: {median(figures, 'RSA') * 1e6:.0f} µs",
            f"{to_rsa:.2f} x",
            "≤ 1.9 x",
            to_rsa <= 1.9,
        ),
        Figure(
            "",
            took,
            f"generic ASN.1 decoder: {median(figures, 'naive') * 1e6:.0f} µs",
            f"{ratio(figures, 'naive', 'relayd'):.1f} x faster",
        ),
        Figure(
            "",
            took,
            f"`openssl smime -verify`: {median(figures, 'openssl') * 1e3:.1f} ms",
            f"{ratio(figures, 'openssl', 'relayd'):.0f} x faster",
        ),
    ]


def _openssl(sample: Sample, directory: Path) -> list[str]:
    message, certificate = directory / "message", directory / "certificate.pem"
    message.write_bytes(sample.message)
    certificate.write_bytes(sample.node.pem)
    return [
        *("openssl", "smime", "-verify", "-noverify", "-nointern", "-text"),
        *("-certfile", str(certificate), "-in", str(message), "-out", "/dev/null"),
    ]
