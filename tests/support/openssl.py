"""The openssl command as agents and relays use it: the second opinion on signed messages."""

import subprocess
from pathlib import Path

from tests.support.signing import SigningNode


class OpenSSL:
    """Runs `openssl smime` with files in one directory.

    Args:
        directory: an empty directory for certificates, keys and messages.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def sign(self, text: bytes, node: SigningNode, *options: str, command: str = "smime") -> bytes:
        """Return the text as signed by the agents' command.

        Args:
            text: what to sign.
            node: whose key and certificate.
            options: instead of `-text -nocerts -md sha256`.
            command: `smime`, or `cms` for what only that can make.
        """
        certificate, key = node.write(self.directory)
        given = options or ("-text", "-nocerts", "-md", "sha256")
        source = self.directory / "text"
        source.write_bytes(text)
        signing: list[str | Path] = ["-signer", certificate, "-inkey", key, "-in", source]
        return self._run([command, "-sign", *given, *signing]).stdout

    def verify(self, message: bytes, *nodes: SigningNode, text: bool = True) -> bytes | None:
        """Return the text of a message as the relay's command gives it, None when it refuses."""
        certificates = self.directory / "certificates.pem"
        certificates.write_bytes(b"".join(node.cert_pem for node in nodes))
        source, out = self.directory / "message", self.directory / "out"
        source.write_bytes(message)
        files: list[str | Path] = ["-certfile", certificates, "-in", source, "-out", out]
        options = ["-noverify", "-nointern", *(["-text"] if text else [])]
        verified = self._run(["smime", "-verify", *options, *files], check=False)
        return out.read_bytes() if verified.returncode == 0 else None

    def encrypt(self, text: bytes, node: SigningNode) -> bytes:
        """Return the text encrypted for a node."""
        certificate, _ = node.write(self.directory)
        source = self.directory / "text"
        source.write_bytes(text)
        return self._run(["smime", "-encrypt", "-aes256", "-in", source, certificate]).stdout

    @staticmethod
    def _run(
        arguments: list[str | Path], *, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["openssl", *arguments], capture_output=True, check=check)
