"""The AWS CLI, unmodified, against the key service: aws_cli.py AWS, where AWS is the program.

The endpoint, the CA and the credentials are in AWS's usual variables.
"""

import base64
import json
import subprocess
import sys

from checks import check, end

program = sys.argv[1]


def run(*arguments):
    done = subprocess.run([program, "kms", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def aws(*arguments):
    code, out, err = run(*arguments)
    check(arguments[0], code == 0, err)
    return json.loads(out) if out.strip() else {}


def file(name, text):
    """Bytes as both of the CLI's versions take them: from a file."""
    with open(name, "wb") as target:
        target.write(base64.b64decode(text))
    return f"fileb://{name}"


def fails(kind, *arguments):
    code, _, err = run(*arguments)
    check(f"{arguments[0]}: {kind}", code != 0 and f"({kind})" in err, err)


key = aws("create-key", "--description", "by the CLI", "--tags", "TagKey=a,TagValue=b")["KeyMetadata"]["KeyId"]
aws("create-alias", "--alias-name", "alias/cli", "--target-key-id", key)
fails("AlreadyExistsException", "create-alias", "--alias-name", "alias/cli", "--target-key-id", key)
check("its alias", aws("describe-key", "--key-id", "alias/cli")["KeyMetadata"]["KeyId"] == key)
check("its tag", aws("list-resource-tags", "--key-id", key)["Tags"] == [{"TagKey": "a", "TagValue": "b"}])
text = base64.b64encode(b"hello").decode()
plain = file("plain", text)
context = ("--encryption-context", "purpose=test")
blob = aws("encrypt", "--key-id", key, "--plaintext", plain, *context)["CiphertextBlob"]
blob = file("blob", blob)
check("opened", aws("decrypt", "--ciphertext-blob", blob, *context)["Plaintext"] == text)
fails("InvalidCiphertextException", "decrypt", "--ciphertext-blob", blob)
data_key = aws("generate-data-key", "--key-id", key, "--key-spec", "AES_256")
check("32 bytes", len(base64.b64decode(data_key["Plaintext"])) == 32)
check("random", len(base64.b64decode(aws("generate-random", "--number-of-bytes", "8")["Plaintext"])) == 8)
policy = aws("get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"]
aws("put-key-policy", "--key-id", key, "--policy-name", "default", "--policy", policy)
fails("MalformedPolicyDocumentException", "put-key-policy", "--key-id", key, "--policy-name", "default", "--policy", "{}")
check("listed", key in [entry["KeyId"] for entry in aws("list-keys")["Keys"]])
aws("enable-key-rotation", "--key-id", key)
check("rotates", aws("get-key-rotation-status", "--key-id", key)["KeyRotationEnabled"])
signer = aws("create-key", "--key-spec", "ECC_NIST_P256", "--key-usage", "SIGN_VERIFY")["KeyMetadata"]["KeyId"]
how = ("--key-id", signer, "--message", plain, "--signing-algorithm", "ECDSA_SHA_256")
signature = file("signature", aws("sign", *how)["Signature"])
check("valid", aws("verify", *how, "--signature", signature)["SignatureValid"])
aws("disable-key", "--key-id", key)
fails("DisabledException", "encrypt", "--key-id", key, "--plaintext", plain)
check("scheduled", aws("schedule-key-deletion", "--key-id", key)["KeyState"] == "PendingDeletion")
fails("KMSInvalidStateException", "enable-key", "--key-id", key)
fails("NotFoundException", "describe-key", "--key-id", "alias/none")
check("no key stores", aws("describe-custom-key-stores")["CustomKeyStores"] == [])
end()
