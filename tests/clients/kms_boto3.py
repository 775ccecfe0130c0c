"""boto3, unmodified, against the key service: each operation, and the errors as boto3's exceptions.

Takes the endpoint from AWS_ENDPOINT_URL_KMS, credentials and Region from AWS's usual
variables (the development preset's owner is the default), and AWS_CA_BUNDLE for TLS.
Prints one line per check and ends with 1 if any failed.
"""

import json
import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
OWNER = ("AKIDANCHORHOLDOWNER0", "anchorhold-owner-secret-for-development-only")
HOST = ("AKIDANCHORHOLDHOST00", "anchorhold-host-secret-for-development-only")
ABSENT = "01234567-89ab-cdef-0123-456789abcdef"
failed = 0


def client(access_key, secret):
    return boto3.client(
        "kms",
        endpoint_url=os.environ["AWS_ENDPOINT_URL_KMS"],
        aws_access_key_id=access_key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def check(name, holds, detail=""):
    global failed
    failed += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {name}{' ' + str(detail) if detail and not holds else ''}")


def raises(name, exception, call, **arguments):
    try:
        call(**arguments)
    except exception as error:
        answer = error.response
        check(name, bool(answer["ResponseMetadata"].get("RequestId")), answer)
        return answer["Error"]["Message"]
    except Exception as error:  # noqa: BLE001 - any other one is the failure that is looked for
        check(name, False, repr(error))
    else:
        check(name, False, "no error")
    return ""


owner = client(
    os.environ.get("AWS_ACCESS_KEY_ID", OWNER[0]),
    os.environ.get("AWS_SECRET_ACCESS_KEY", OWNER[1]),
)
host = client(*HOST)
errors = owner.exceptions

made = owner.create_key(Description="made by boto3")["KeyMetadata"]
check("create_key", made["KeyState"] == "Enabled" and made["Enabled"], made)
check("dates are dates", made["CreationDate"].year >= 2024, made["CreationDate"])
key, arn = made["KeyId"], made["Arn"]
check("describe_key", owner.describe_key(KeyId=arn)["KeyMetadata"] == made)

alias = f"alias/boto3-{key[:8]}"
check("create_alias", "ResponseMetadata" in owner.create_alias(AliasName=alias, TargetKeyId=key))
raises("AlreadyExistsException", errors.AlreadyExistsException, owner.create_alias, AliasName=alias, TargetKeyId=key)
raises("InvalidAliasNameException", errors.InvalidAliasNameException, owner.create_alias, AliasName="x", TargetKeyId=key)

policy = owner.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
check("get_key_policy", json.loads(policy)["Statement"][0]["Effect"] == "Allow")
check("put_key_policy", "ResponseMetadata" in owner.put_key_policy(KeyId=key, PolicyName="default", Policy=policy))
raises(
    "MalformedPolicyDocumentException",
    errors.MalformedPolicyDocumentException,
    owner.put_key_policy,
    KeyId=key,
    PolicyName="default",
    Policy="{}",
)

context = {"purpose": "test", "ümlaut": "ß"}
sealed = owner.encrypt(KeyId=alias, Plaintext=b"\x00hello\xff", EncryptionContext=context)
check("encrypt", sealed["KeyId"] == arn and sealed["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT")
blob = sealed["CiphertextBlob"]
opened = owner.decrypt(CiphertextBlob=blob, EncryptionContext=context)
check("decrypt", opened["Plaintext"] == b"\x00hello\xff" and opened["KeyId"] == arn)
opened = owner.decrypt(CiphertextBlob=blob, EncryptionContext=context, KeyId=alias)
check("decrypt with the key named", opened["Plaintext"] == b"\x00hello\xff")

data_key = owner.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
check("generate_data_key", len(data_key["Plaintext"]) == 32)
opened = owner.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context)
check("the data key decrypts to itself", opened["Plaintext"] == data_key["Plaintext"])
closed = owner.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=64)
check("generate_data_key_without_plaintext", "Plaintext" not in closed)
check("its length", len(owner.decrypt(CiphertextBlob=closed["CiphertextBlob"])["Plaintext"]) == 64)
check("generate_random", len(owner.generate_random(NumberOfBytes=1024)["Plaintext"]) == 1024)

other = owner.create_key()["KeyMetadata"]["KeyId"]
raises("InvalidCiphertextException: another context", errors.InvalidCiphertextException, owner.decrypt, CiphertextBlob=blob)
raises("InvalidCiphertextException: garbage", errors.InvalidCiphertextException, owner.decrypt, CiphertextBlob=b"garbage")
raises(
    "IncorrectKeyException",
    errors.IncorrectKeyException,
    owner.decrypt,
    CiphertextBlob=blob,
    EncryptionContext=context,
    KeyId=other,
)
raises("NotFoundException: key", errors.NotFoundException, owner.describe_key, KeyId=ABSENT)
raises("NotFoundException: alias", errors.NotFoundException, owner.describe_key, KeyId="alias/none")
raises("InvalidArnException", errors.InvalidArnException, owner.describe_key, KeyId="arn:aws:s3:::x")
raises("DryRunOperationException", errors.DryRunOperationException, owner.encrypt, KeyId=key, Plaintext=b"x", DryRun=True)
raises(
    "InvalidGrantTokenException",
    errors.InvalidGrantTokenException,
    owner.encrypt,
    KeyId=key,
    Plaintext=b"x",
    GrantTokens=["token"],
)
raises("UnsupportedOperationException", errors.UnsupportedOperationException, owner.create_key, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")


def code(name, wanted, call, **arguments):
    """For errors that botocore has no class for."""
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        check(name, found == wanted, found)
    else:
        check(name, False, "no error")


code("ValidationException", "ValidationException", owner.generate_data_key, KeyId=key)
code("an operation that is not there", "UnsupportedOperationException", owner.get_public_key, KeyId=key)
code("AccessDeniedException", "AccessDeniedException", host.encrypt, KeyId=key, Plaintext=b"x")
code(
    "InvalidSignatureException",
    "InvalidSignatureException",
    client(OWNER[0], "wrong").generate_random,
    NumberOfBytes=1,
)
code(
    "UnrecognizedClientException",
    "UnrecognizedClientException",
    client("AKIDNOBODY0000000000", "wrong").generate_random,
    NumberOfBytes=1,
)
code(
    "a Recipient that is no document",
    "ValidationException",
    owner.decrypt,
    CiphertextBlob=blob,
    EncryptionContext=context,
    Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"garbage"},
)

print(f"{failed} failed" if failed else "all passed")
sys.exit(1 if failed else 0)
