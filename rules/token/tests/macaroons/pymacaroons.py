"""The other side of pymacaroons.rs: JSON on standard input, JSON on standard output."""

import json
import sys

from pymacaroons import MACAROON_V1, MACAROON_V2, Macaroon, Verifier
from pymacaroons.serializers import JsonSerializer

asked = json.load(sys.stdin)
answer = {"accepted": [], "refused": [], "narrowed": []}


def read(form, text):
    return Macaroon.deserialize(text, JsonSerializer() if form == "json" else None)


def verifies(root, discharges):
    verifier = Verifier()
    for predicate in asked["known"]:
        verifier.satisfy_exact(predicate)
    try:
        return verifier.verify(root, asked["secret"], discharges)
    except Exception:
        return False


for form in ["v1", "v2", "json"]:
    root, discharge = [read(form, text) for text in asked[form]]
    if verifies(root, [discharge]):
        answer["accepted"].append(form)
    del root.caveats[0]
    if not verifies(root, [discharge]):
        answer["refused"].append(form)

for form, version in [("v1", MACAROON_V1), ("v2", MACAROON_V2), ("json", MACAROON_V2)]:
    root = Macaroon("http://example.org/", "keyid", asked["secret"], version=version)
    root.add_first_party_caveat(asked["known"][0])
    root.add_third_party_caveat("http://auth.example.org/", asked["third_secret"], "who")
    discharge = Macaroon("http://auth.example.org/", "who", asked["third_secret"], version=version)
    discharge.add_first_party_caveat(asked["known"][1])
    bound = root.prepare_for_request(discharge)
    serializer = JsonSerializer() if form == "json" else None
    answer["minted_" + form] = [one.serialize(serializer) for one in (root, bound)]

for caveat in ["method = GET", "weather = fine"]:
    ours = Macaroon.deserialize(asked["service"])
    ours.add_first_party_caveat(caveat)
    answer["narrowed"].append(ours.serialize())

json.dump(answer, sys.stdout)
