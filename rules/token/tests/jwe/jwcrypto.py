"""The other side of main.rs: JSON on standard input, JSON on standard output."""

import json
import sys

from jwcrypto import jwe, jwk

asked = json.load(sys.stdin)
key = jwk.JWK.from_pem(asked["pem"].encode())

opened = jwe.JWE()
opened.deserialize(asked["sealed"], key)

header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": key.thumbprint(), "typ": asked["typ"]}
sealed = jwe.JWE(asked["plaintext"].encode(), json.dumps(header))
sealed.add_recipient(key)

json.dump({"opened": opened.payload.decode(), "sealed": sealed.serialize(compact=True)}, sys.stdout)
