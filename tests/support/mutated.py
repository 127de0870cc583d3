"""Run-log files with faults of every kind: the same number always gives the same file."""

import gzip
import io
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relayd.commands.demo.fleet.runlogs import make_runlog
from tests.support.daemon import START
from tests.support.signing import SigningNode, make_key_and_cert, sign_runlog

MAX_SIZE: Final = 20_000

NODE = make_key_and_cert("node1")
OTHER = make_key_and_cert("node2")
#: In the nodes list, but without a certificate.
BARE = make_key_and_cert("bare")
#: Not in the nodes list, but with a certificate.
STRANGER = make_key_and_cert("stranger")
#: Another key of NODE, which the server does not know.
RENEWED = make_key_and_cert("node1", key=make_key_and_cert("renewed").key)


def zipped(data: bytes) -> bytes:
    """Return a zip archive of one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.log", data)
    return buffer.getvalue()


@dataclass
class Draft:
    """A file in the making: each step of a mutation changes some of it."""

    rng: random.Random
    node: SigningNode
    name: str
    archive: str = ""
    data: bytes = b""

    def spoil(self, data: bytes) -> bytes:
        """Return data with a few bytes replaced, removed, inserted or repeated."""
        for _ in range(self.rng.randint(1, 3)):
            at = self.rng.randrange(len(data) + 1)
            end = at + self.rng.choice([1, 1, 1, 2, 8, 64])
            part = data[at:end]
            new = self.rng.choice([self.rng.randbytes(len(part)), b"", b"\n", part * 2])
            data = data[:at] + new + data[end:]
        return data


def text_of(node: SigningNode) -> bytes:
    """Return the plain run log of a node."""
    return make_runlog(node.node_id, START, reports=4)


def in_text(draft: Draft) -> None:
    """Sign a spoiled text."""
    draft.data = sign_runlog(draft.spoil(text_of(draft.node)).replace(b"\0", b""), draft.node)


def in_reports(draft: Draft) -> None:
    """Sign a text of another node, without reports, or without any character."""
    texts = [text_of(OTHER if draft.node is NODE else NODE), b"no report\n", b"", b"\n \n"]
    draft.data = sign_runlog(draft.rng.choice(texts), draft.node)


def in_signed_text(draft: Draft) -> None:
    """Replace a word after it was signed."""
    words = (b"@@", b"@#", b"Common", b"control", b"+00:00")
    draft.data = draft.data.replace(draft.rng.choice(words), b"!", 1)


def in_signature(draft: Draft) -> None:
    """Replace the signature's base64 characters, keeping the form."""
    at = draft.data.index(b'filename="smime.p7s"') + 24 + draft.rng.randrange(1500)
    draft.data = draft.data[:at] + draft.rng.choice([b"A", b"/", b"="]) + draft.data[at + 1 :]


def in_mime(draft: Draft) -> None:
    """Spoil the header, or leave it out."""
    head = draft.data[:300]
    draft.data = draft.rng.choice([draft.spoil(head), b"", b"\n" + head]) + draft.data[300:]


def in_signer(draft: Draft) -> None:
    """Sign with the key of another node, or with one that the server does not know."""
    signer = draft.rng.choice([OTHER, RENEWED, BARE, STRANGER])
    draft.data = sign_runlog(text_of(draft.node), signer)


def in_size(draft: Draft) -> None:
    """Make it larger than the maximum, by its text or by what follows the message."""
    long = text_of(draft.node) + b" " * MAX_SIZE
    draft.data = draft.rng.choice([draft.data + bytes(MAX_SIZE), sign_runlog(long, draft.node)])


def nothing(_draft: Draft) -> None:
    """Leave the message as it is."""


def in_archive(draft: Draft) -> None:
    """Spoil the packed file."""
    draft.data = draft.spoil(draft.data)


def truncate(draft: Draft) -> None:
    """Cut the file anywhere."""
    draft.data = draft.data[: draft.rng.randrange(len(draft.data) + 1)]


def empty(draft: Draft) -> None:
    """Leave nothing of the file, or only white space."""
    draft.data = draft.rng.choice([b"", b"\n\n", gzip.compress(b""), zipped(b"")])


def in_name(draft: Draft) -> None:
    """Change a character of the name, its extension, or its date."""
    at = draft.rng.randrange(len(draft.name) + 1)
    char = draft.rng.choice(["", "_", "@", "9", "\x1b", "\udcff", "é", "\u202e", ".", "%"])
    draft.name = draft.rng.choice(
        [
            draft.name[:at] + char + draft.name[at + 1 :],
            draft.name.replace(".log", draft.rng.choice([".txt", ".LOG", "", ".log.log"])),
            draft.name.replace("2026-", "2026-13", 1),
            f".{draft.name}",
        ]
    )


def in_extension(draft: Draft) -> None:
    """Name another archive form than that of the file."""
    draft.name = draft.name.removesuffix(draft.archive) + draft.rng.choice(["", ".gz", ".zip"])


Step = Callable[[Draft], None]

#: Before packing, and after it. Most files keep most of their properties.
MESSAGES: Final[list[Step]] = [
    *[nothing] * 9,
    *[in_text, in_reports, in_signed_text, in_signature, in_mime, in_signer, in_size],
]
PACKED: Final[list[Step]] = [*[nothing] * 9, in_archive, truncate, empty, in_name, in_extension]
PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zip": zipped,
}


def make_draft(number: int) -> Draft:
    """Return the file of this number, always the same."""
    rng = random.Random(number)
    node = rng.choice([*[NODE] * 12, OTHER, BARE, STRANGER])
    date = f"2026-03-01T{number // 60:02}:{number % 60:02}:00+00:00"
    archive = rng.choice(["", "", ".gz", ".zip"])
    name = rng.choice([f"{date}@{node.node_id}.log", f"{node.node_id}_{date}.log"])
    draft = Draft(rng, node, name + archive, archive, sign_runlog(text_of(node), node))
    rng.choice(MESSAGES)(draft)
    draft.data = PACK[archive](draft.data)
    rng.choice(PACKED)(draft)
    return draft


def put(draft: Draft, directory: Path) -> None:
    """Write the file; a few are something else of that name."""
    path = directory / draft.name
    kind = draft.rng.randrange(100)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    else:
        path.write_bytes(draft.data)
    if kind == 2:
        os.link(path, directory / f"{draft.name}.second-name")
