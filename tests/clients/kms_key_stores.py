"""boto3, unmodified, and custom key stores: each operation on them, and the errors as boto3's exceptions.

kms_key_stores.py CLUSTER OTHER CERTIFICATE PASSWORD: two clusters of the service's, whose trust anchors differ.
"""

import sys

from checks import OWNER, check, client, code, end, raises

cluster, other, certificate, password = sys.argv[1:]
certificate = open(certificate).read()
kms = client(*OWNER)
errors = kms.exceptions

wanted = {
    "CustomKeyStoreName": "vault",
    "CloudHsmClusterId": cluster,
    "TrustAnchorCertificate": certificate,
    "KeyStorePassword": password,
}
raises(
    "CloudHsmClusterNotFoundException",
    errors.CloudHsmClusterNotFoundException,
    kms.create_custom_key_store,
    **{**wanted, "CloudHsmClusterId": "cluster-abcdefg2345"},
)
raises(
    "IncorrectTrustAnchorException",
    errors.IncorrectTrustAnchorException,
    kms.create_custom_key_store,
    **{**wanted, "TrustAnchorCertificate": "none"},
)
code("an external key store", "UnsupportedOperationException", kms.create_custom_key_store, CustomKeyStoreName="x", CustomKeyStoreType="EXTERNAL_KEY_STORE")
code("no password", "ValidationException", kms.create_custom_key_store, **{k: v for k, v in wanted.items() if k != "KeyStorePassword"})
store = kms.create_custom_key_store(**wanted)["CustomKeyStoreId"]
check("create_custom_key_store", store.startswith("cks-"), store)
raises("CloudHsmClusterInUseException", errors.CloudHsmClusterInUseException, kms.create_custom_key_store, **{**wanted, "CustomKeyStoreName": "x"})
raises(
    "CustomKeyStoreNameInUseException",
    errors.CustomKeyStoreNameInUseException,
    kms.create_custom_key_store,
    **{**wanted, "CloudHsmClusterId": other},
)


def entry():
    found = kms.describe_custom_key_stores(CustomKeyStoreId=store)["CustomKeyStores"]
    check("describe_custom_key_stores", len(found) == 1, found)
    return found[0]


first = entry()
check("its entry", first["CloudHsmClusterId"] == cluster and first["CustomKeyStoreType"] == "AWS_CLOUDHSM", first)
check("not connected yet", first["ConnectionState"] == "DISCONNECTED" and first["CreationDate"].year >= 2024, first)
pages = kms.get_paginator("describe_custom_key_stores").paginate(PaginationConfig={"PageSize": 1})
check("paginated", [s["CustomKeyStoreName"] for page in pages for s in page["CustomKeyStores"]] == ["vault"])
absent = {"CustomKeyStoreId": "cks-00000000000000000"}
for call in (kms.connect_custom_key_store, kms.disconnect_custom_key_store, kms.delete_custom_key_store, kms.update_custom_key_store):
    raises("CustomKeyStoreNotFoundException", errors.CustomKeyStoreNotFoundException, call, **absent)
wrong_state = errors.CustomKeyStoreInvalidStateException
here = {"CustomKeyStoreId": store}
raises("disconnected already", wrong_state, kms.disconnect_custom_key_store, **here)
raises("no keys yet", wrong_state, kms.create_key, Origin="AWS_CLOUDHSM", **here)
raises("no randomness yet", wrong_state, kms.generate_random, NumberOfBytes=1, **here)

kms.update_custom_key_store(**here, KeyStorePassword="wrong password")
kms.connect_custom_key_store(**here)
found = entry()
check("a wrong password", (found["ConnectionState"], found["ConnectionErrorCode"]) == ("FAILED", "INVALID_CREDENTIALS"), found)
raises("failed: no second try", wrong_state, kms.connect_custom_key_store, **here)
kms.disconnect_custom_key_store(**here)
raises(
    "CloudHsmClusterNotRelatedException",
    errors.CloudHsmClusterNotRelatedException,
    kms.update_custom_key_store,
    **here,
    CloudHsmClusterId=other,
)
kms.update_custom_key_store(**here, KeyStorePassword=password, NewCustomKeyStoreName="renamed")
check("connect_custom_key_store", "ResponseMetadata" in kms.connect_custom_key_store(**here))
found = entry()
check("connected", (found["ConnectionState"], found["CustomKeyStoreName"]) == ("CONNECTED", "renamed"), found)
raises("a password while connected", wrong_state, kms.update_custom_key_store, **here, KeyStorePassword=password)

made = kms.create_key(Origin="AWS_CLOUDHSM", **here)["KeyMetadata"]
check("create_key", made["CustomKeyStoreId"] == store and made["CloudHsmClusterId"] == cluster and made["KeyState"] == "Enabled", made)
key = made["KeyId"]
blob = kms.encrypt(KeyId=key, Plaintext=b"hello", EncryptionContext={"a": "b"})["CiphertextBlob"]
opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
check("encrypt and decrypt", opened["Plaintext"] == b"hello")
raises("another context", errors.InvalidCiphertextException, kms.decrypt, CiphertextBlob=blob)
data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
check("generate_data_key", kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"])
check("generate_random", len(kms.generate_random(NumberOfBytes=32, **here)["Plaintext"]) == 32)
unsupported = errors.UnsupportedOperationException
raises("no rotation", unsupported, kms.enable_key_rotation, KeyId=key)
raises("no rotation on demand", unsupported, kms.rotate_key_on_demand, KeyId=key)
raises("no pairs", unsupported, kms.generate_data_key_pair, KeyId=key, KeyPairSpec="ECC_NIST_P256")
raises("no replicas", unsupported, kms.replicate_key, KeyId=key, ReplicaRegion="eu-west-1")
raises("no Regions", unsupported, kms.create_key, Origin="AWS_CLOUDHSM", MultiRegion=True, **here)
raises("CustomKeyStoreHasCMKsException", errors.CustomKeyStoreHasCMKsException, kms.delete_custom_key_store, **here)

check("disconnect_custom_key_store", "ResponseMetadata" in kms.disconnect_custom_key_store(**here))
state = kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]
check("Unavailable", state == "Unavailable", state)
raises("KMSInvalidStateException", errors.KMSInvalidStateException, kms.decrypt, CiphertextBlob=blob, EncryptionContext={"a": "b"})
kms.connect_custom_key_store(**here)
opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
check("connected again", opened["Plaintext"] == b"hello")

second = kms.create_custom_key_store(**{**wanted, "CloudHsmClusterId": other, "CustomKeyStoreName": "second"})["CustomKeyStoreId"]
check("delete_custom_key_store", "ResponseMetadata" in kms.delete_custom_key_store(CustomKeyStoreId=second))

end()
