package import Foundation
import PolicyEngine
import Sealing
package import Vocabulary

// The same acts and answers in plain values, for doors that know nothing of policies.

/// What is wrong with one answer to a data set's form.
package struct AnswerFault: Sendable, Equatable {
    package let field: String
    /// A closed code, for pages in their reader's language.
    package let code: String
    /// In English.
    package let text: String

    package static var codes: [String] { DataForm.Fault.Code.allCases.map(\.rawValue) }
}

extension GatewayFile {
    private static let digestBytesMax = 1 << 30

    /// SHA-256 of a file of up to a gigabyte, which stays where it is.
    package static func digest(_ file: URL, role: String) throws -> Digest {
        guard let handle = try? FileHandle(forReadingFrom: file) else {
            throw GatewayError(.notFound, "the \(role) cannot be read")
        }
        defer { try? handle.close() }
        var stream = SHA256Stream()
        var count = 0
        while true {
            guard let chunk = try? handle.read(upToCount: 1 << 20) ?? Data() else {
                throw GatewayError(.notFound, "the \(role) cannot be read")
            }
            if chunk.isEmpty { return stream.finalize() }
            count += chunk.count
            guard count <= digestBytesMax else { throw GatewayError(.usage, "the \(role) is longer than a gigabyte") }
            stream.update([UInt8](chunk))
        }
    }
}

extension KnownName {
    /// What an approval can be given under.
    package static var conditions: [String] { Condition.Kind.allCases.map(\.rawValue) }
}

extension Gateway {
    /// - Parameter conditions: a list of objects with `code` and `value`.
    package func review(
        _ id: RequestID, _ verdict: Verdict, comment: String, conditions: JSON, ifStill revision: String? = nil,
        by reviewer: PersonID
    ) throws {
        guard let values = conditions.arrayValue else { throw GatewayError(.usage, "conditions are a list") }
        guard values.count <= Condition.perVoteMax else {
            throw GatewayError(.usage, "an approval has at most \(Condition.perVoteMax) conditions")
        }
        var read: [Condition] = []
        for (number, value) in values.enumerated() {
            do throws(QuestionError) { read.append(try Condition(json: value)) } catch {
                throw GatewayError(.usage, "conditions[\(number)] \(error.reason)")
            }
        }
        try review(id, verdict, comment: comment, conditions: read, ifStill: revision, by: reviewer)
    }

    /// - Parameter documents: a list of documents as the request form has them.
    package func renewRequest(
        _ id: RequestID, termMonths: Int, documents: JSON, once: String? = nil, by person: PersonID
    ) throws -> RequestID {
        let values = documents.arrayValue ?? []
        let read = try values.enumerated().map { try Self.document($1, at: "documents[\($0)]") }
        return try renewRequest(id, termMonths: termMonths, documents: read, once: once, by: person)
    }

    package func addDocument(_ document: JSON, to id: RequestID, by person: PersonID) throws {
        try addDocument(Self.document(document, at: "document"), to: id, by: person)
    }

    private static func document(_ json: JSON, at place: String) throws -> AccessQuestion.Document {
        do throws(QuestionError) { return try AccessQuestion.Document(json: json) } catch {
            throw GatewayError(.usage, "\(place): \(error.member) \(error.reason)")
        }
    }

    /// The data set's own form as JSON; `nil` where it asks for none.
    package func formJSON(of dataset: DatasetID, by person: PersonID) throws -> JSON? {
        try dataForm(of: dataset, by: person)?.json
    }

    /// What is wrong with answers to a data set's form as it stands; nothing where it has none.
    package func answerFaults(_ answers: JSON, of dataset: DatasetID, by person: PersonID) throws -> [AnswerFault] {
        guard let version = try dataForm(of: dataset, by: person) else { return [] }
        return version.form.faults(in: answers, now: clock.now()).map {
            AnswerFault(field: $0.field, code: $0.code.rawValue, text: $0.text)
        }
    }

    /// JSON Schema of a form's file, for editors.
    package static var formSchema: JSON { DataForm.schema }
}
