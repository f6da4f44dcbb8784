package import Gateway
package import Vocabulary

// The API's words for what the gateway tells: `openapi.yaml` describes each. Members are there even where they are
// null, so that a reader need not guess what a missing one means.

extension JSON {
    fileprivate static func optional(_ text: String?) -> JSON { text.map(JSON.string) ?? .null }
    static func strings(_ texts: [String]) -> JSON { .array(texts.map(JSON.string)) }
    fileprivate static func time(_ time: Timestamp) -> JSON { .string(time.description) }
    static func count(_ number: Int) -> JSON { .integer(Int64(number)) }
}

extension Page {
    func json(_ item: (Item) -> JSON) -> JSON {
        ["items": .array(items.map(item)), "next": .optional(next?.description)]
    }
}

extension ApprovalsMissing {
    var json: JSON { ["count": .count(count), "roles": .strings(roles)] }
}

extension VoteEntry {
    var json: JSON {
        [
            "person": .string(person.text), "role": .string(role), "approves": .bool(approves), "time": .time(time),
            "comment": .string(comment), "conditions": .array(conditions),
        ]
    }
}

extension RequestEntry {
    var json: JSON {
        var members: [String: JSON] = [
            "request": .string(id.text), "dataset": .string(dataset.text), "requester": .string(requester.text),
            "purpose": .strings(purpose), "filed": .time(filed), "changed": .time(changed),
            "state": .string(state.name), "summary": .string(state.words), "waiting_for": .null, "missing": .null,
            "grant": .null, "reasons": [], "explanations": [], "votes": .array(votes.map(\.json)),
            "revision": .string(revision.text), "people": .strings(people.map(\.text)),
            "follows": .optional(follows?.text), "followed_by": .optional(followedBy?.text),
            "documents": .array(documents), "actions": .strings(actions.map(\.rawValue)),
        ]
        members["grant"] = .optional(state.grant?.text)
        switch state {
        case .waiting(let missing):
            members["waiting_for"] = .string(missing.words)
            members["missing"] = missing.json
        case .granted, .withdrawn, .over, .closing: break
        case .refused(let reasons):
            members["reasons"] = .strings(reasons.map(\.code))
            members["explanations"] = .strings(reasons.map(\.text))
        }
        return .object(members)
    }
}

extension ReviewEntry {
    var json: JSON {
        var members: [String: JSON] = [
            "dataset": .string(dataset.text), "owner": .string(owner.text), "since": .time(since),
            "waiting_for": .string(missing.words), "missing": missing.json, "votes": .array(votes.map(\.json)),
            "may_review": .bool(mayReview), "revision": .string(revision.text), "request": .null, "run": .null,
        ]
        switch subject {
        case .request(let id):
            members["kind"] = "request"
            members["request"] = .string(id.text)
        case .emergency(let id):
            members["kind"] = "emergency"
            members["request"] = .string(id.text)
        case .release(let id):
            members["kind"] = "release"
            members["run"] = .string(id.text)
        }
        return .object(members)
    }
}

extension GrantEntry {
    var json: JSON {
        [
            "grant": .string(grant.id.text), "request": .string(grant.request.text),
            "dataset": .string(grant.dataset.text), "researcher": .string(grant.researcher.text),
            "granted": .time(grant.granted), "expires": .time(grant.expires), "expired": .bool(isExpired),
            "people": .strings(grant.people.map(\.text)),
            "purpose": .strings(purpose), "origin": .string(grant.origin.rawValue),
            "revocation": revocation?.json ?? .null,
            "obligations": .array(obligations.map { ["code": .string($0.code), "value": .string($0.value)] }),
        ]
    }
}

extension RunEntry {
    var json: JSON {
        [
            "run": .string(id.text), "dataset": .string(dataset.text), "version": .string(version.text),
            "researcher": .string(researcher.text), "grant": .optional(grant?.text), "asked": .time(asked),
            "changed": .time(changed), "stage": .string(stage.rawValue), "end": .optional(end?.rawValue),
            "waiting_for": .optional(missing?.words), "missing": missing?.json ?? .null, "reasons": .strings(reasons),
            "explanations": .strings(words), "epochs": ["done": .count(epochs.done), "of": .count(epochs.of)],
            "model": .optional(model?.text), "devices_lost": .strings(devicesLost.map(\.text)),
            "revision": .string(revision.text),
        ]
    }
}

extension RunTimeline.Stage {
    var json: JSON {
        ["stage": .string(stage.rawValue), "milliseconds": .integer(Int64((seconds * 1000).rounded()))]
    }
}

extension ReleaseEntry {
    var json: JSON {
        [
            "run": .string(run.text), "dataset": .string(dataset.text), "researcher": .string(researcher.text),
            "candidate": .string(candidate), "checked": .time(checked), "checks_failed": .strings(checksFailed),
            "state": .string(state.rawValue), "votes": .array(votes.map(\.json)), "revision": .string(revision.text),
        ]
    }

    func json(with candidate: CandidateSummary, _ duties: ReleaseDuties) -> JSON {
        var members = json.objectValue ?? [:]
        members["obligations"] = ["hash": .string(duties.hash.hex), "items": duties.json]
        members["artefacts"] = .array(
            candidate.artefacts.map { ["name": .string($0.name), "bytes": .count($0.bytes)] })
        members["checks"] = .array(
            candidate.checks.map {
                ["check": .string($0.name), "passed": .bool($0.passed), "finding": .string($0.finding)]
            })
        return .object(members)
    }
}

extension CaseRecord {
    var json: JSON {
        [
            "index": .integer(Int64(index)), "time": .time(time), "key": .string(key), "leaf": .string(leafHash.hex),
            "core": core,
        ]
    }
}

extension AuditHit {
    var json: JSON {
        var members = record.json.objectValue ?? [:]
        members["case"] = .string(id.description)
        return .object(members)
    }
}

extension DatasetSummary {
    package var json: JSON {
        [
            "dataset": .string(dataset.text), "version": .string(version.text), "root": .string(root.hex),
            "nodes": .count(nodes), "edges": .count(edges), "features": .count(features), "persons": .count(persons),
        ]
    }
}

extension NodeSummary {
    var json: JSON {
        [
            "node": .string(id.text), "pool": .string(pool), "address": .string(address), "state": .string(state),
            "holder": holder?.json ?? .null, "answered": answered.map(JSON.time) ?? .null,
            "silent_since": silentSince.map(JSON.time) ?? .null,
        ]
    }
}

extension NodeHolder {
    fileprivate var json: JSON {
        [
            "run": .string(run.text), "since": .time(since), "lease_until": leaseUntil.map(JSON.time) ?? .null,
            "ends_by": endsBy.map(JSON.time) ?? .null, "seconds_left": secondsLeft.map(JSON.count) ?? .null,
        ]
    }
}

extension PersonRecord {
    var json: JSON { ["person": .string(id.text), "roles": .strings(roles.map(\.rawValue).sorted())] }
}

extension AccessKey {
    var json: JSON {
        let kind: JSON =
            switch kind {
            case .token: "token"
            case .certificate: "certificate"
            }
        return [
            "token": .string(id.text), "kind": kind, "person": .string(person.text),
            "scopes": .strings(scopes.map(\.rawValue).sorted()), "created": .time(created), "expires": .time(expires),
            "revoked": .bool(revoked),
        ]
    }
}

// MARK: - Live events

extension RunEvent {
    /// The event's name in a stream, and what it tells.
    package var json: JSON {
        switch self {
        case .stage(let stage): ["event": "stage", "stage": .string(stage.rawValue)]
        case .epoch(let progress):
            [
                "event": "epoch", "epoch": .count(progress.epoch), "epochs": .count(progress.epochs),
                "seconds_left": .count(progress.secondsLeft),
                "figures": .array(
                    progress.figures.map { ["name": .string($0.name), "thousandths": .count($0.thousandths)] }),
            ]
        case .held(let error): ["event": "held", "code": .string(error.code.rawValue), "why": .string("\(error)")]
        case .deviceLost(let node): ["event": "device-lost", "device": .string(node.text)]
        case .waiting(let who): ["event": "waiting", "waiting_for": .string(who)]
        case .closed(let end): ["event": "closed", "end": .string(end.rawValue)]
        }
    }
}

extension RunEvent {
    /// Reads what `json` writes.
    package init?(_ json: JSON?) {
        guard let json, let name = json["event"]?.stringValue else { return nil }
        func number(_ name: String) -> Int? { json[name]?.integerValue.map(Int.init) }
        switch name {
        case "stage":
            guard let stage = json["stage"]?.stringValue.flatMap(RunStage.init) else { return nil }
            self = .stage(stage)
        case "epoch":
            guard let epoch = number("epoch"), let epochs = number("epochs"), let left = number("seconds_left"),
                let figures = json["figures"]?.arrayValue
            else { return nil }
            self = .epoch(
                EpochProgress(
                    epoch: epoch, epochs: epochs, secondsLeft: left,
                    figures: figures.compactMap { figure in
                        guard let name = figure["name"]?.stringValue, let value = figure["thousandths"]?.integerValue
                        else { return nil }
                        return ShownFigure(name: name, thousandths: Int(value))
                    }))
        case "held":
            guard let code = json["code"]?.stringValue.flatMap(GatewayError.Code.init),
                let why = json["why"]?.stringValue
            else { return nil }
            self = .held(GatewayError(told: code, why))
        case "device-lost":
            guard let node = json["device"]?.stringValue.flatMap({ try? NodeID($0) }) else { return nil }
            self = .deviceLost(node)
        case "waiting": self = .waiting(for: json["waiting_for"]?.stringValue ?? "")
        case "closed":
            guard let end = json["end"]?.stringValue.flatMap(RunEnd.init) else { return nil }
            self = .closed(end)
        default: return nil
        }
    }
}
