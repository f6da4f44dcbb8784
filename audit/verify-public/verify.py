"""Verifies an unpacked Sekisho audit export with public programs that know nothing of Sekisho.

    python3 -m venv VENV && VENV/bin/pip install -r audit/verify-public/requirements.txt
    VENV/bin/python audit/verify-public/verify.py FOLDER [SCHEMA]

bagit checks the files, pymerkle the tree, fhir.resources the audit events' structure and the table below their codes,
jsonschema the records of the tables (with audit/events.schema.json), roc-validator a run's RO-Crate (with the context
that the package rocrate carries); without network.
The signature and the proofs are Go's to check: audit/verify-go. Exits with 0 only when everything holds.
"""
import base64
import csv
import importlib.resources
import io
import json
import os
import re
import sys
import tempfile

import bagit
import requests
import requests_cache
import urllib3
from fhir.resources.R4B.bundle import Bundle
from jsonschema import Draft202012Validator
from pymerkle import InmemoryTree
from rocrate_validator import services
from rocrate_validator.models import Severity

DCM = "http://dicom.nema.org/resources/ontology/DCM"
LIFE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
BALP = "https://profiles.ihe.net/ITI/BALP/"
# What fhir.resources does not check: which codes a system has (DICOM PS3.16 CID 400-403, HL7 terminology, IHE BALP).
CODES = {
    DCM: {
        "110100": "Application Activity", "110101": "Audit Log Used", "110106": "Export", "110107": "Import",
        "110113": "Security Alert", "110114": "User Authentication", "110122": "Login", "110123": "Logout",
        "110126": "Node Authentication", "110128": "Network Configuration", "110129": "Security Configuration",
        "110136": "Security Roles Changed", "110137": "User Security Attributes Changed", "110150": "Application",
    },
    LIFE: {code: None for code in ("amend", "verify", "extract", "destroy", "disclose", "transform")},
    BALP + "CodeSystem/AuthZsubType": {"AuthZ-Consent": "Authorization Decision using Roles and Consent"},
    "http://terminology.hl7.org/CodeSystem/v3-ParticipationType": {"IRCP": "information recipient"},
    "http://terminology.hl7.org/CodeSystem/v3-RoleClass": {"PROV": "healthcare provider"},
    "http://terminology.hl7.org/CodeSystem/extra-security-role-type": {"authserver": "authorization server"},
    "http://terminology.hl7.org/CodeSystem/audit-entity-type": {"1": "Person", "2": "System Object"},
    "http://terminology.hl7.org/CodeSystem/object-role": {"1": "Patient", "13": "Security Resource"},
    "http://terminology.hl7.org/CodeSystem/security-source-type": {"6": "Security Server"},
    "http://hl7.org/fhir/resource-types": {"Consent": "Consent"},
}
AUTHZ = BALP + "StructureDefinition/IHE.BasicAudit.AuthZconsent"


def need(condition, words):
    if not condition:
        sys.exit(f"REFUSED: {words}")


def check_bag(folder):
    bagit.Bag(folder).validate()
    return f"bagit: {len(bagit.Bag(folder).payload_entries())} files"


def check_tree(data):
    """The entries of a whole log lead to the root that its head states."""
    log = os.path.join(data, "log")
    if json.load(open(os.path.join(data, "scope.json")))["scope"] != "whole":
        return "pymerkle: not the whole log, left to the proofs"
    lines = open(os.path.join(log, "checkpoint"), encoding="utf-8").read().split("\n")
    size, root = int(lines[1]), base64.b64decode(lines[2])
    tree = InmemoryTree(algorithm="sha256")
    for bundle in range(0, (size + 255) // 256):
        count = min(256, size - bundle * 256)
        name = f"{bundle % 1000:03d}"
        rest = bundle // 1000
        while rest:
            name = f"x{rest % 1000:03d}/{name}"
            rest //= 1000
        path = os.path.join(log, "tile/entries", name + ("" if count == 256 else f".p/{count}"))
        raw = open(path, "rb").read()
        for _ in range(count):
            length = int.from_bytes(raw[:2], "big")
            tree.append_entry(raw[2:2 + length])
            raw = raw[2 + length:]
        need(not raw, f"{path} has bytes after its last entry")
    need(tree.get_state() == root, "the entries do not lead to the stated root")
    return f"pymerkle: {size} entries lead to the stated root"


def codings(node):
    if isinstance(node, dict):
        if "system" in node and "code" in node:
            yield node
        for value in node.values():
            yield from codings(value)
    elif isinstance(node, list):
        for value in node:
            yield from codings(value)


def check_event(event):
    where = event["id"]
    for coding in codings(event):
        system, code = coding["system"], coding["code"]
        if system == "urn:sekisho:audit-event" or system.startswith("http://purl.obolibrary.org/obo/"):
            continue
        need(system in CODES, f"{where}: unknown code system {system}")
        need(code in CODES[system], f"{where}: {system} has no code {code}")
        if CODES[system][code]:
            need(coding.get("display") == CODES[system][code], f"{where}: {code} is not displayed as {CODES[system][code]}")
    need(event["action"] in ("C", "R", "U", "D", "E"), f"{where}: action {event['action']}")
    need(event["outcome"] in ("0", "4", "8", "12"), f"{where}: outcome {event['outcome']}")
    need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["recorded"]), f"{where}: recorded")
    if AUTHZ not in event.get("meta", {}).get("profile", []):
        return None
    # IHE BALP 1.1, StructureDefinition IHE.BasicAudit.AuthZconsent.
    need(event["type"]["code"] == "110113" and event["action"] == "E", f"{where}: not a security alert")
    need([c["code"] for c in event["subtype"]] == ["AuthZ-Consent"], f"{where}: subtype")
    kinds = [agent["type"]["coding"][0]["code"] for agent in event["agent"]]
    need(sorted(kinds) == ["110150", "IRCP", "PROV", "authserver"], f"{where}: agents {kinds}")
    for kind, agent in zip(kinds, event["agent"]):
        need("who" in agent and agent["requestor"] == (kind == "IRCP"), f"{where}: agent {kind}")
        need(("network" in agent) == (kind == "110150"), f"{where}: network of {kind}")
    types = [entity["type"]["code"] for entity in event["entity"]]
    need(types.count("1") == 1 and types.count("Consent") >= 1 and len(types) == 2, f"{where}: entities {types}")
    return "permit" if event["outcome"] == "0" else "deny"


def check_events(documents):
    count, decisions = 0, {"permit": 0, "deny": 0}
    for name in sorted(os.listdir(documents)):
        if not name.endswith(".fhir.json"):
            continue
        text = open(os.path.join(documents, name), encoding="utf-8").read()
        Bundle.model_validate_json(text)
        for entry in json.loads(text).get("entry", []):
            decision = check_event(entry["resource"])
            if decision:
                decisions[decision] += 1
            count += 1
    need(count > 0, "there are no audit events")
    return f"fhir.resources: {count} AuditEvents, {decisions['permit']} permits, {decisions['deny']} denies"


def check_records(documents, schema):
    validator = Draft202012Validator(json.load(open(schema, encoding="utf-8")))
    Draft202012Validator.check_schema(validator.schema)
    count = 0
    for name in sorted(os.listdir(documents)):
        if not name.endswith(".csv"):
            continue
        for row in csv.DictReader(open(os.path.join(documents, name), encoding="utf-8", newline="")):
            record = {key: value for key, value in row.items() if value != "" and key not in ("index", "time", "leaf")}
            for number in ("sequence", "count", "fence"):
                if number in record:
                    record[number] = int(record[number])
            if "detail" in record:
                record["detail"] = json.loads(record["detail"])
            if "reasons" in record:
                record["reasons"] = record["reasons"].split(" ")
            errors = [error.message for error in validator.iter_errors(record)]
            need(not errors, f"{name}, entry {row['index']}: {errors[:1]}")
            count += 1
    return f"jsonschema: {count} records fit their event's schema"


CONTEXT = "https://w3id.org/ro/crate/1.1/context"


def put_context_into(cache):
    """The validator takes the crate's context from its cache of web pages: it gets there from a package."""
    text = importlib.resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
    need(json.loads(text)["@id"] == CONTEXT, f"the package rocrate has not the context {CONTEXT}")
    page = urllib3.HTTPResponse(
        io.BytesIO(text), {"Content-Type": "application/ld+json"}, 200, preload_content=False, request_url=CONTEXT)
    request = requests.Request("GET", CONTEXT).prepare()
    session = requests_cache.CachedSession(cache, backend="sqlite", expire_after=-1)
    session.cache.save_response(requests.adapters.HTTPAdapter().build_response(request, page))
    session.close()


def check_crate(documents):
    """A run's crate fits the Process Run profile, wherever that says that it must."""
    if not os.path.exists(os.path.join(documents, "ro-crate-metadata.json")):
        return "roc-validator: no run's crate here"
    with tempfile.TemporaryDirectory() as folder:
        cache = os.path.join(folder, "pages")
        put_context_into(cache)
        result = services.validate({
            "rocrate_uri": documents, "profile_identifier": "process-run-crate", "offline": True, "cache_path": cache,
            "requirement_severity": Severity.REQUIRED, "skip_availability_check": True, "metadata_only": False,
        })
        issues = [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]
    need(not issues, f"roc-validator: {issues[:5]}")
    return f"roc-validator: a valid Process Run Crate, {len(result.executed_checks)} checks"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: verify.py FOLDER [SCHEMA]")
    folder = sys.argv[1]
    data = os.path.join(folder, "data")
    documents = os.path.join(data, "documents")
    print(check_bag(folder))
    print(check_tree(data))
    if os.path.isdir(documents):
        print(check_events(documents))
        print(check_crate(documents))
        if len(sys.argv) == 3:
            print(check_records(documents, sys.argv[2]))


main()
