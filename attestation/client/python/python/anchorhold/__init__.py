"""Attested TLS: requests that end in an enclave of an image that you have named, or in an error.

    import anchorhold, anchorhold.requests

    enclave = anchorhold.Connector(pcrs={0: "…96 hexadecimal digits…"})
    with anchorhold.requests.session(enclave) as session:
        session.get("https://cards.example:8443/")

TLS ends in this package's native part, which gives no plaintext and takes none before the attestation document of this
very handshake and channel was verified. `verify` judges a document by itself.
"""

from ._anchorhold import AttestationError
from ._channel import Attested, Connector
from ._verifier import AWS_NITRO, Admitted, verify

__all__ = ["AWS_NITRO", "Admitted", "AttestationError", "Attested", "Connector", "verify"]
