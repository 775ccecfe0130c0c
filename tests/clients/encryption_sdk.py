"""The AWS Encryption SDK for Python, unmodified, over our key service.

seal KEY_ARN (commit|signed) PLAINTEXT MESSAGE    open KEY_ARN MESSAGE PLAINTEXT    cached KEY_ARN COUNT
The endpoint, CA, Region and credentials come from AWS's usual variables.
"""

import sys

import aws_encryption_sdk
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

SUITES = {
    "commit": Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
    "signed": Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384,
}
CONTEXT = {"purpose": "interoperation", "zeta": "last", "alpha": "ä"}


def main(action, key, *rest):
    client = aws_encryption_sdk.EncryptionSDKClient(
        commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
    )
    provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key])
    if action == "seal":
        suite, source, target = rest
        with open(source, "rb") as plaintext, open(target, "wb") as message:
            with client.stream(
                mode="e",
                source=plaintext,
                key_provider=provider,
                encryption_context=CONTEXT,
                algorithm=SUITES[suite],
            ) as stream:
                for piece in stream:
                    message.write(piece)
    elif action == "open":
        source, target = rest
        with open(source, "rb") as message, open(target, "wb") as plaintext:
            with client.stream(mode="d", source=message, key_provider=provider) as stream:
                for piece in stream:
                    plaintext.write(piece)
                for name, value in CONTEXT.items():
                    assert stream.header.encryption_context.get(name) == value, name
    elif action == "cached":
        # One data key for all messages, and one request to open it.
        materials = aws_encryption_sdk.CachingCryptoMaterialsManager(
            master_key_provider=provider,
            cache=aws_encryption_sdk.LocalCryptoMaterialsCache(capacity=10),
            max_age=600.0,
        )
        sealed = []
        for number in range(int(rest[0])):
            message, _ = client.encrypt(
                source=f"message {number}".encode(), materials_manager=materials, encryption_context=CONTEXT
            )
            sealed.append(message)
        for number, message in enumerate(sealed):
            plaintext, _ = client.decrypt(source=message, materials_manager=materials)
            assert plaintext == f"message {number}".encode(), number
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
