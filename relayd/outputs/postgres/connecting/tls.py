"""TLS to a server as libpq sets it up: which files it reads, and what it verifies with them."""

import os
import ssl
import stat
import warnings
from pathlib import Path
from typing import Final

from relayd.outputs.postgres.connecting.surroundings import reachable
from relayd.outputs.postgres.connecting.target import Target
from relayd.outputs.postgres.faults import ConnectError, Step
from relayd.system.shortage import words_of

_FOLDER: Final = ".postgresql"
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
#: Permissions that a private key must not have: its owner's, and root's that a group may read.
_KEY_TOO_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO
_ROOT_KEY_TOO_OPEN: Final = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO


def make_context(target: Target) -> ssl.SSLContext:
    """Return the context for one connection; the files are read now.

    Raises:
        ConnectError: a file is missing or cannot be used; the text names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    _set_versions(context, target)
    _trust(context, target)
    _identify(context, target)
    if target.options.get("sslkeylogfile"):
        context.keylog_filename = target.options["sslkeylogfile"]
    return context


def _set_versions(context: ssl.SSLContext, target: Target) -> None:
    lowest = target.options.get("ssl_min_protocol_version") or "TLSv1.2"
    highest = target.options.get("ssl_max_protocol_version")
    with warnings.catch_warnings():  # of old versions, which the operator asked for
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _version(lowest)
        if highest:
            context.maximum_version = _version(highest)


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.upper().replace("TLSV", "TLSv").replace(".", "_")]


def _trust(context: ssl.SSLContext, target: Target) -> None:
    """Verify the server if there are authorities to do it with, which some modes demand."""
    named, mode = target.options.get("sslrootcert", ""), target.ssl_mode
    path = target.surroundings.file(named, f"{_FOLDER}/root.crt")
    if named == "system":
        context.set_default_verify_paths()
    elif path is not None and reachable(path):
        _load_authorities(context, path)
        _load_revocations(context, target)
    elif mode.startswith("verify"):
        where = path or f"~/{_FOLDER}/root.crt"
        detail = f"{where} does not exist; sslmode={mode} needs the certificates of authorities"
        raise ConnectError(detail, Step.FILE)
    else:
        return
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = mode == "verify-full"


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _need_readable(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        detail = f"{path}: no certificates that can be used: {error.reason or error}"
        raise ConnectError(detail, Step.FILE) from error


def _load_revocations(context: ssl.SSLContext, target: Target) -> None:
    named, folder = target.options.get("sslcrl", ""), target.options.get("sslcrldir", "")
    path = None if folder and not named else target.surroundings.file(named, f"{_FOLDER}/root.crl")
    path = path if path is not None and reachable(path) else None
    if path is None and not (folder and Path(folder).is_dir()):
        return
    if path is not None:
        _need_readable(path)
    try:
        context.load_verify_locations(cafile=path, capath=folder or None)
    except ssl.SSLError as error:
        detail = f"{path}: no revocations that can be used: {error.reason or error}"
        raise ConnectError(detail, Step.FILE) from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def client_certificate(target: Target) -> Path | None:
    """Return the certificate that the server gets if it asks for one."""
    named = target.options.get("sslcert", "")
    path = target.surroundings.file(named, f"{_FOLDER}/postgresql.crt")
    return None if target.options.get("sslcertmode") == "disable" else path


def _identify(context: ssl.SSLContext, target: Target) -> None:
    """Load the client's certificate and key; without a certificate the server may ask in vain."""
    options, surroundings = target.options, target.surroundings
    certificate = client_certificate(target)
    if certificate is None:
        return
    try:
        certificate.stat()
    except _ABSENT:
        return
    except OSError as error:
        raise _unreadable(certificate, error) from error
    key = surroundings.file(options.get("sslkey", ""), f"{_FOLDER}/postgresql.key")
    _need_readable(certificate)
    if key is None:
        raise ConnectError(f"{certificate} has no private key: set sslkey", Step.FILE)
    _check_key(key)
    try:
        context.load_cert_chain(certificate, key, password=options.get("sslpassword", ""))
    except ssl.SSLError as error:
        detail = f"{certificate} and {key}: {error.reason or error}"
        raise ConnectError(detail, Step.FILE) from error


def _check_key(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise ConnectError(f"{path}: expected a file with a private key", Step.FILE)
    if status.st_mode & (_KEY_TOO_OPEN if status.st_uid else _ROOT_KEY_TOO_OPEN):
        mode = stat.S_IMODE(status.st_mode)
        detail = f"{path}: mode {mode:04o} exposes the private key, expected 0600"
        raise ConnectError(f"{detail}, or 0640 for root's", Step.FILE)
    _need_readable(path)


def _need_readable(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConnectError:
    return ConnectError(f"{path}: {words_of(error)}", Step.FILE)
