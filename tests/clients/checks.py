"""What the scripts in boto3 share: a client, and checks that count what fails."""

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
OWNER = ("AKIDANCHORHOLDOWNER0", "anchorhold-owner-secret-for-development-only")
HOST = ("AKIDANCHORHOLDHOST00", "anchorhold-host-secret-for-development-only")
failed = 0


def client(access_key, secret, service="kms", region=None):
    return boto3.client(
        service,
        region_name=region,
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

def code(name, wanted, call, **arguments):
    """For errors that botocore has no class for."""
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        check(name, found == wanted, found)
    else:
        check(name, False, "no error")


def end():
    print(f"{failed} failed" if failed else "all passed")
    sys.exit(1 if failed else 0)
