"""Asks Cedar what our engine was asked, and compares.

usage: cedar.py FOLDER

FOLDER holds schema.cedarschema, and for each number N: N.cedar (our policy as Cedar text), N.json (what the context needs
of the policy: roles, authors, diseases) and N.jsonl (a line for each question: its input and our verdict). The facts that
Cedar cannot compute are computed here from the raw input, independently of the engine.

Prints `agreed: PERMITS of QUESTIONS permitted` and exits 0 when Cedar allows exactly what we permit and no rule failed.
"""

import calendar
import datetime
import json
import pathlib
import re
import sys

import cedarpy


def milliseconds(text):
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)


def plus_months(moment, months):
    day = datetime.datetime.fromtimestamp(moment / 1000, datetime.timezone.utc)
    month = day.year * 12 + day.month - 1 + months
    year, month = divmod(month, 12)
    last = calendar.monthrange(year, month + 1)[1]
    day = day.replace(year=year, month=month + 1, day=min(day.day, last))
    return round(day.timestamp() * 1000)


def months_held(granted, now):
    months = -1
    while plus_months(granted, months + 1) <= now:
        months += 1
    return months


def purpose(given):
    known = {"ancestry", "methods", "commercial", "notForProfit", "genetic"}
    facts = {name: given[name] for name in known if name in given}
    diseases = given.get("diseases", [])
    return facts | {
        "codes": given["codes"],
        "diseases": diseases,
        "diseaseCodesValid": all(re.fullmatch(r"MONDO:[0-9]{7}", code) for code in diseases),
        "researchTypes": given.get("researchTypes", []),
    }


def with_kinds(diseases, parents):
    found = set(diseases)
    grew = True
    while grew:
        grew = False
        for child, above in parents.items():
            if child not in found and any(parent in found for parent in above):
                found.add(child)
                grew = True
    return sorted(found)


def tally(votes, roles, excluded):
    excluded = {person.lower() for person in excluded}
    counted = [v for v in votes if v["role"] in roles and v["person"].lower() not in excluded]
    return (
        len({v["person"].lower() for v in counted if v["approves"]}),
        any(not v["approves"] for v in counted),
    )


def visas(given, now):
    held = given.get("visas", [])
    return [f"{v['type']} by {v['by']}" for v in held if milliseconds(v["expires"]) > now]


def context(given, policy):
    ask = given["ask"]
    if ask == "progress":
        return {"figure": given["figure"], "cohort": given["cohort"]}
    if ask == "release":
        reviews, rejected = tally(given["votes"], policy["releaseRoles"], [given["researcher"]])
        return {
            "cohort": given["cohort"],
            "checks": [c["check"] for c in given["checks"]],
            "failedChecks": [c["check"] for c in given["checks"] if not c["passed"]],
            "reviews": reviews,
            "rejected": rejected,
        }
    now = milliseconds(given["now"])
    facts = {"now": now, "requester": given["requester"], "purpose": purpose(given["purpose"])}
    if ask == "access":
        for name in ("termMonths", "country", "institution", "project"):
            if name in given:
                facts[name] = given[name]
        ethics = [d for d in given["documents"] if d["kind"] == "ethics"]
        if ethics:
            # An approval without an end holds for good.
            facts["ethicsUntil"] = max(
                milliseconds(d["expires"]) if "expires" in d else 2**62 for d in ethics
            )
        excluded = [given["requester"]] + given.get("people", []) + ([] if policy["authorMayApprove"] else given["authors"])
        approvals, rejected = tally(given["votes"], policy["approvalRoles"], excluded)
        if "breakGlass" in given:
            emergency = given["breakGlass"]
            granted, refused = tally(given["votes"], [policy["breakGlassApprover"]], excluded)
            facts["breakGlass"] = {
                "reasoned": sum(not c.isspace() for c in emergency["reason"]) >= 10,
                "minutes": emergency["minutes"], "unreviewed": emergency["unreviewed"],
                "approvals": granted, "rejected": refused,
            }
        return facts | {
            "agreements": given["agreements"],
            "visas": visas(given, now),
            "approvals": approvals,
            "rejected": rejected,
            "revoked": given.get("revoked", False),
        }
    facts |= {name: given[name] for name in ("target", "cohort", "hoursUsed", "hoursAsked")}
    facts["visas"] = visas(given, now)
    if "grant" in given:
        grant = given["grant"]
        granted = milliseconds(grant["granted"])
        facts["grant"] = {
            "dataset": grant["dataset"],
            # Whoever is named on a grant holds it, too.
            "holder": given["requester"] if given["requester"] in grant.get("people", []) else grant["holder"],
            "purpose": purpose(grant["purpose"]),
            "diseasesWithKinds": with_kinds(grant["purpose"].get("diseases", []), policy["diseases"]),
            "granted": granted,
            "expires": milliseconds(grant["expires"]),
            "monthsHeld": months_held(granted, now),
            "revoked": grant["revoked"],
            "emergency": grant.get("emergency", False),
            "obligations": [o["code"] for o in grant["obligations"]],
        } | {name: grant[name] for name in ("country", "institution", "project") if name in grant}
    if "device" in given:
        device = given["device"]
        facts["device"] = {
            "pool": device["pool"],
            "evidence": ["software", "tpm", "hw-tee"].index(device["evidence"]),
        }
        if "rttMicroseconds" in device:
            facts["device"]["rttMicroseconds"] = device["rttMicroseconds"]
    return facts


def main(folder):
    schema = (folder / "schema.cedarschema").read_text()
    questions = permits = 0
    for text in sorted(folder.glob("*.cedar")):
        policies = text.read_text()
        validated = cedarpy.validate_policies(policies, schema)
        if not validated.validation_passed:
            sys.exit(f"{text.name}: {[str(error) for error in validated.errors][:3]}")
        policy = json.loads(text.with_suffix(".json").read_text())
        cases = [json.loads(line) for line in text.with_suffix(".jsonl").read_text().splitlines()]
        requests = [
            {
                "principal": 'Person::"anyone"',
                "action": f'Action::"{case["input"]["ask"]}"',
                "resource": f'Dataset::"{case["input"]["dataset"]}"',
                "context": context(case["input"], policy),
            }
            for case in cases
        ]
        for case, answer in zip(cases, cedarpy.is_authorized_batch(requests, policies, [], schema)):
            questions += 1
            permits += answer.allowed
            if answer.diagnostics.errors:
                sys.exit(f"{text.name}: a rule failed: {answer.diagnostics.errors[:3]} on {json.dumps(case)}")
            if answer.allowed != (case["verdict"] == "permit"):
                said = "allows" if answer.allowed else "denies"
                sys.exit(f"{text.name}: Cedar {said}: {json.dumps(case)} {answer.diagnostics.reasons}")
    print(f"agreed: {permits} of {questions} permitted")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
