"""boto3, unmodified, against the key service: each operation, and the errors as boto3's exceptions.

Takes the endpoint from AWS_ENDPOINT_URL_KMS, credentials and Region from AWS's usual
variables (the development preset's owner is the default), and AWS_CA_BUNDLE for TLS.
Prints one line per check and ends with 1 if any failed.
"""

import json
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from checks import HOST, OWNER, check, client, code, end, raises

ABSENT = "01234567-89ab-cdef-0123-456789abcdef"

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
raises("UnsupportedOperationException", errors.UnsupportedOperationException, owner.create_key, KeySpec="SM2", KeyUsage="SIGN_VERIFY")

code("ValidationException", "ValidationException", owner.generate_data_key, KeyId=key)
code("an operation that is not there", "UnsupportedOperationException", owner.get_key_last_usage, KeyId=key)
code("an alias without its prefix", "ValidationException", owner.create_alias, AliasName="x", TargetKeyId=key)
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

# Keys, from the first day to the last.
listed = [page["Keys"] for page in owner.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1})]
check("list_keys", {made["KeyId"], other} <= {entry["KeyId"] for page in listed for entry in page})
raises("InvalidMarkerException", errors.InvalidMarkerException, owner.list_keys, Marker="!")
check("disable_key", "ResponseMetadata" in owner.disable_key(KeyId=other))
raises("DisabledException", errors.DisabledException, owner.encrypt, KeyId=other, Plaintext=b"x")
check("enable_key", "ResponseMetadata" in owner.enable_key(KeyId=other))
owner.update_key_description(KeyId=other, Description="described anew")
check("update_key_description", owner.describe_key(KeyId=other)["KeyMetadata"]["Description"] == "described anew")
scheduled = owner.schedule_key_deletion(KeyId=other, PendingWindowInDays=7)
check("schedule_key_deletion", scheduled["KeyState"] == "PendingDeletion" and scheduled["DeletionDate"].year >= 2024)
raises("KMSInvalidStateException", errors.KMSInvalidStateException, owner.encrypt, KeyId=other, Plaintext=b"x")
check("cancel_key_deletion", owner.cancel_key_deletion(KeyId=other)["KeyId"].endswith(other))
owner.enable_key(KeyId=other)

# Aliases and tags.
owner.update_alias(AliasName=alias, TargetKeyId=other)
check("update_alias", owner.describe_key(KeyId=alias)["KeyMetadata"]["KeyId"] == other)
check("list_aliases", [a["AliasName"] for a in owner.list_aliases(KeyId=other)["Aliases"]] == [alias])
owner.delete_alias(AliasName=alias)
raises("NotFoundException: deleted alias", errors.NotFoundException, owner.delete_alias, AliasName=alias)
owner.tag_resource(KeyId=key, Tags=[{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": "2"}])
owner.untag_resource(KeyId=key, TagKeys=["a"])
check("tags", owner.list_resource_tags(KeyId=key)["Tags"] == [{"TagKey": "b", "TagValue": "2"}])
raises("TagException", errors.TagException, owner.tag_resource, KeyId=key, Tags=[{"TagKey": "aws:x", "TagValue": ""}])
raises(
    "LimitExceededException",
    errors.LimitExceededException,
    owner.tag_resource,
    KeyId=key,
    Tags=[{"TagKey": f"k{n}", "TagValue": ""} for n in range(50)],
)
check("list_key_policies", owner.list_key_policies(KeyId=key)["PolicyNames"] == ["default"])

# Cryptography of every kind.
moved = owner.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=other)
check("re_encrypt", owner.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"\x00hello\xff")
pair = owner.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_NIST_P256")
opened = owner.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])["Plaintext"]
check("generate_data_key_pair", opened == pair["PrivateKeyPlaintext"])
closed = owner.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec="ECC_SECG_P256K1")
check("generate_data_key_pair_without_plaintext", "PrivateKeyPlaintext" not in closed and closed["PublicKey"])

rsa = owner.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
sealed = owner.encrypt(KeyId=rsa, Plaintext=b"rsa", EncryptionAlgorithm="RSAES_OAEP_SHA_256")["CiphertextBlob"]
opened = owner.decrypt(KeyId=rsa, CiphertextBlob=sealed, EncryptionAlgorithm="RSAES_OAEP_SHA_256")
check("RSA", opened["Plaintext"] == b"rsa")
signer = owner.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
how = {"KeyId": signer, "Message": b"message", "SigningAlgorithm": "ECDSA_SHA_256"}
signature = owner.sign(**how)["Signature"]
check("sign and verify", owner.verify(**how, Signature=signature)["SignatureValid"])
raises(
    "KMSInvalidSignatureException",
    errors.KMSInvalidSignatureException,
    owner.verify,
    **{**how, "Message": b"massage"},
    Signature=signature,
)
public = owner.get_public_key(KeyId=signer)
check("get_public_key", public["SigningAlgorithms"] == ["ECDSA_SHA_256"])
load_der_public_key(public["PublicKey"]).verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
check("the signature verifies outside", True)
raises("InvalidKeyUsageException", errors.InvalidKeyUsageException, owner.encrypt, KeyId=signer, Plaintext=b"x")
hmac = owner.create_key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")["KeyMetadata"]["KeyId"]
how = {"KeyId": hmac, "Message": b"message", "MacAlgorithm": "HMAC_SHA_256"}
mac = owner.generate_mac(**how)["Mac"]
check("generate_mac and verify_mac", owner.verify_mac(**how, Mac=mac)["MacValid"])
raises("KMSInvalidMacException", errors.KMSInvalidMacException, owner.verify_mac, **how, Mac=b"wrong")
agreeing = owner.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"]
mine = ec.generate_private_key(ec.SECP256R1())
spki = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
shared = owner.derive_shared_secret(KeyId=agreeing, KeyAgreementAlgorithm="ECDH", PublicKey=spki)["SharedSecret"]
theirs = load_der_public_key(owner.get_public_key(KeyId=agreeing)["PublicKey"])
check("derive_shared_secret", shared == mine.exchange(ec.ECDH(), theirs))

# Grants.
arn_of_host = "arn:aws:iam::111122223333:user/host"
granted = owner.create_grant(KeyId=key, GranteePrincipal=arn_of_host, RetiringPrincipal=arn_of_host, Operations=["Encrypt"])
check("create_grant", host.encrypt(KeyId=arn, Plaintext=b"x", GrantTokens=[granted["GrantToken"]])["KeyId"] == arn)
check("list_grants", [g["GrantId"] for g in owner.list_grants(KeyId=key)["Grants"]] == [granted["GrantId"]])
retirable = owner.list_retirable_grants(RetiringPrincipal=arn_of_host)["Grants"]
check("list_retirable_grants", [g["GrantId"] for g in retirable] == [granted["GrantId"]])
check("retire_grant", "ResponseMetadata" in host.retire_grant(GrantToken=granted["GrantToken"]))
granted = owner.create_grant(KeyId=key, GranteePrincipal=arn_of_host, Operations=["Decrypt"])
check("revoke_grant", "ResponseMetadata" in owner.revoke_grant(KeyId=key, GrantId=granted["GrantId"]))
raises("InvalidGrantIdException", errors.InvalidGrantIdException, owner.list_grants, KeyId=key, GrantId=granted["GrantId"])

# Rotation.
check("get_key_rotation_status", not owner.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"])
owner.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
check("enable_key_rotation", owner.get_key_rotation_status(KeyId=key)["RotationPeriodInDays"] == 90)
owner.disable_key_rotation(KeyId=key)
check("disable_key_rotation", not owner.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"])
check("rotate_key_on_demand", owner.rotate_key_on_demand(KeyId=key)["KeyId"])
check("list_key_rotations", len(owner.list_key_rotations(KeyId=key)["Rotations"]) == 1)
opened = owner.decrypt(CiphertextBlob=blob, EncryptionContext=context)
check("old material decrypts", opened["Plaintext"] == b"\x00hello\xff")
code("what does not rotate", "UnsupportedOperationException", owner.enable_key_rotation, KeyId=rsa)

# Material of one's own.
external = owner.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
wanted = {"KeyId": external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
parameters = owner.get_parameters_for_import(**wanted)
oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
material = os.urandom(32)
arriving = {
    "KeyId": external,
    "ImportToken": parameters["ImportToken"],
    "EncryptedKeyMaterial": load_der_public_key(parameters["PublicKey"]).encrypt(material, oaep),
    "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
}
check("import_key_material", owner.import_key_material(**arriving)["KeyMaterialId"])
sealed = owner.encrypt(KeyId=external, Plaintext=b"imported")["CiphertextBlob"]
check("delete_imported_key_material", owner.delete_imported_key_material(KeyId=external)["KeyId"])
raises("KMSInvalidStateException: pending import", errors.KMSInvalidStateException, owner.encrypt, KeyId=external, Plaintext=b"x")
owner.import_key_material(**arriving)
check("imported again", owner.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"imported")
replaced = {**arriving, "EncryptedKeyMaterial": load_der_public_key(parameters["PublicKey"]).encrypt(bytes(32), oaep)}
raises("IncorrectKeyMaterialException", errors.IncorrectKeyMaterialException, owner.import_key_material, **replaced)
raises(
    "InvalidImportTokenException",
    errors.InvalidImportTokenException,
    owner.import_key_material,
    **{**arriving, "ImportToken": b"token"},
)

# Several Regions.
primary = owner.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"]
there = client(*OWNER, region="eu-west-1")
check("replicate_key", owner.replicate_key(KeyId=primary, ReplicaRegion="eu-west-1")["ReplicaKeyMetadata"]["KeyId"] == primary)
raises("AlreadyExistsException: replica", errors.AlreadyExistsException, owner.replicate_key, KeyId=primary, ReplicaRegion="eu-west-1")
sealed = owner.encrypt(KeyId=primary, Plaintext=b"shared")["CiphertextBlob"]
check("decrypted in the other Region", there.decrypt(CiphertextBlob=sealed)["Plaintext"] == b"shared")
owner.update_primary_region(KeyId=primary, PrimaryRegion="eu-west-1")
kind = there.describe_key(KeyId=primary)["KeyMetadata"]["MultiRegionConfiguration"]["MultiRegionKeyType"]
check("update_primary_region", kind == "PRIMARY")

# Who asks.
sts = client(*OWNER, service="sts")
check("sts get_caller_identity", sts.get_caller_identity()["Arn"] == "arn:aws:iam::111122223333:user/owner")
code("sts: another action", "InvalidAction", sts.get_session_token)

end()
