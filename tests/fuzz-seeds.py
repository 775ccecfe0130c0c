"""Writes seeds for the fuzz targets of attestation documents into a folder: the documents that AWS has
signed, where they are, the conformance corpus, and the certificates of both in the form that
`attestation_verify` makes documents from."""

import base64
import pathlib
import re
import sys

folder = pathlib.Path(sys.argv[1])
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
