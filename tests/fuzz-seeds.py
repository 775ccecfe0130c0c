"""Writes seeds for fuzz targets into folders of a folder.

`attestation`: the documents that AWS has signed, where they are, the conformance corpus, and the certificates of both
in the form that `attestation_verify` makes documents from. `cpio`, `eif` and `layer`: small archives and images with
each kind of entry in them."""

import base64
import gzip
import io
import json
import pathlib
import re
import struct
import sys
import tarfile

top = pathlib.Path(sys.argv[1])
for name in ["attestation", "cpio", "eif", "layer"]:
    (top / name).mkdir(parents=True, exist_ok=True)
folder = top / "attestation"
documents = [path.read_bytes() for path in pathlib.Path("../shared/attestation-documents").glob("*.cbor")]
for case in sorted(pathlib.Path("attestation/corpus/cases").rglob("*.case")):
    _, _, body = case.read_text().partition("\n\n")
    documents.append(base64.b64decode(body))
for number, document in enumerate(documents):
    (folder / f"document-{number}").write_bytes(document)
    certificates = []
    # A byte string of 256 bytes or more that begins like a certificate.
    for found in re.finditer(rb"\x59(..)\x30\x82", document, re.DOTALL):
        start = found.start() + 3
        certificates.append(document[start : start + int.from_bytes(found[1], "big")])
    # Documents bring the leaf first, the target takes it last.
    certificates = (certificates[1:] + certificates[:1])[-7:]
    (folder / f"certificates-{number}").write_bytes(
        bytes([len(certificates)])
        + b"".join(len(der).to_bytes(2, "big") + der for der in certificates)
    )


def cpio(entries):
    """An archive in the newc format: name, mode, number of names, inode, data."""
    archive = b""
    for name, mode, names, inode, data in [*entries, ("TRAILER!!!", 0, 1, 0, b"")]:
        fields = [inode, mode, 0, 0, names, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return archive


MANIFEST = b'[job]\ncommand = ["/job"]\n'
plain = cpio(
    [
        (".", 0o40755, 2, 1, b""),
        ("dev/null", 0o20666, 1, 2, b""),
        ("job", 0o100755, 1, 3, b"\x7fELF\2\1" + bytes(58)),
        ("link", 0o120777, 1, 4, b"job"),
        ("one", 0o100644, 2, 5, b""),
        ("two", 0o100644, 2, 5, b"data"),
        ("var/lib/dpkg/status", 0o100644, 1, 6, b"Package: a\nVersion: 1\nStatus: install ok installed\n"),
    ]
)
said = cpio([("anchorhold/anchorhold.toml", 0o100644, 1, 1, MANIFEST)])
(top / "cpio/plain").write_bytes(plain)
(top / "cpio/manifest").write_bytes(said)


def eif(sections):
    """An image; the target mends the checksum."""
    body, offsets, sizes = b"", [], []
    for kind, data in sections:
        offsets.append(548 + len(body))
        sizes.append(len(data))
        body += struct.pack(">HHQ", kind, 0, len(data)) + data
    table = [*offsets, *[0] * (32 - len(offsets)), *sizes, *[0] * (32 - len(sizes))]
    return b".eif" + struct.pack(">HHQQHH64QII", 4, 0, 1 << 28, 1, 0, len(sections), *table, 0, 0) + body


metadata = {
    "ImageName": "n",
    "ImageVersion": "v",
    "BuildMetadata": {
        "BuildTime": "t",
        "BuildTool": "b",
        "BuildToolVersion": "1",
        "OperatingSystem": "Linux",
        "KernelVersion": "6",
    },
    "DockerInfo": None,
    "CustomMetadata": None,
}
start = [(1, b"kernel"), (2, b"quiet"), (5, json.dumps(metadata).encode())]
packed = gzip.compress(plain, mtime=0)
(top / "eif/plain").write_bytes(eif([*start, (3, plain), (3, said)]))
(top / "eif/gzip").write_bytes(eif([*start, (3, packed), (3, packed), (3, said)]))
(top / "eif/one").write_bytes(eif([*start, (3, said)]))
# Not a signature, but of a signature's shape.
certificate, cose = b"-----BEGIN", b"\xd2\x84\x44\xa1\x01\x38\x22\xa0\x40\x40"
shape = b"\x81\xa2\x73signing_certificate\x4a" + certificate + b"\x69signature\x4a" + cose
(top / "eif/signed").write_bytes(eif([*start, (3, said), (4, shape)]))


def layer(*entries, form=tarfile.PAX_FORMAT):
    """A layer's archive: name, type, link's target, data."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, kind, target, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, len(data)
            archive.addfile(entry, io.BytesIO(data))
    # Without the padding to whole records, which only costs the fuzzer time.
    end = file.getvalue().rstrip(b"\0")
    return end + bytes(-len(end) % 512 + 1024)


lower = layer(
    ("etc", tarfile.DIRTYPE, "", b""),
    ("etc/passwd", tarfile.REGTYPE, "", b"root:x:0:0::/:/bin/sh\n"),
    ("lib", tarfile.SYMTYPE, "usr/lib", b""),
    ("usr/lib/a", tarfile.REGTYPE, "", b"a"),
    ("usr/lib/b", tarfile.LNKTYPE, "usr/lib/a", b""),
)
upper = layer(
    ("lib/c", tarfile.REGTYPE, "", b"c"),
    ("etc/.wh.passwd", tarfile.REGTYPE, "", b""),
    ("usr/.wh..wh..opq", tarfile.REGTYPE, "", b""),
)
(top / "layer/two").write_bytes(lower + bytes(len(upper) % len(lower)) + upper)
(top / "layer/lower").write_bytes(lower * 2)
for form, name in [(tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "gnu")]:
    long = layer(("d/" * 80 + "f", tarfile.REGTYPE, "", b"f"), form=form)
    (top / "layer" / name).write_bytes(long * 2)
