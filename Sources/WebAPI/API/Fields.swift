import Gateway
import Vocabulary

/// The members of a JSON body or the pairs of a query, read one by one; what nobody asked for is refused at the end.
struct Fields {
    private var left: [String: JSON]
    /// What the thing is called when it is to blame.
    private let place: String

    init(body: JSON?) throws(Problem) {
        guard let members = (body ?? .object([:])).objectValue else {
            throw .invalid("The body is not a JSON object. Nothing was done.")
        }
        left = members
        place = "body"
    }

    init(query: [(name: String, value: String)]) throws(Problem) {
        var members: [String: JSON] = [:]
        for (name, value) in query {
            guard members.updateValue(.string(value), forKey: name) == nil else {
                throw Self.fault(name, "is given twice")
            }
        }
        left = members
        place = "query"
    }

    /// Refuses whatever was not read.
    func finish() throws(Problem) {
        guard let name = left.keys.min() else { return }
        // A name that is not one of ours may be anything.
        throw Self.fault(
            name.utf8.count <= 40 && name.allSatisfy { $0.isASCII && ($0.isLetter || $0 == "_") } ? name : "…",
            "is not known in this \(place)")
    }

    static func fault(_ name: String, _ reason: String) -> Problem {
        .invalid("'\(name)' \(reason). Nothing was done.", [Problem.FieldFault(name, reason)])
    }

    func holds(_ name: String) -> Bool { left[name] != nil }

    /// Each is right by itself, and both cannot be meant.
    static func contradiction(_ name: String, _ other: String) -> Problem {
        var problem = Problem(
            status: 422, code: "invalid", title: "This makes no sense as asked",
            detail: "'\(name)' and '\(other)' are two answers to one question. Nothing was done.")
        problem.fields = [Problem.FieldFault(name, "is not given beside '\(other)'")]
        return problem
    }

    mutating func json(_ name: String) -> JSON? {
        left.removeValue(forKey: name)
    }

    /// - Parameter lengthMax: in Unicode scalars, as JSON Schema counts.
    mutating func optionalText(_ name: String, lengthMax: Int) throws(Problem) -> String? {
        guard let value = json(name) else { return nil }
        guard let text = value.stringValue else { throw Self.fault(name, "is not a string") }
        guard text.unicodeScalars.count <= lengthMax else {
            throw Self.fault(name, "is longer than \(lengthMax) characters")
        }
        return text
    }

    mutating func text(_ name: String, lengthMax: Int, lengthMin: Int = 1) throws(Problem) -> String {
        guard let text = try optionalText(name, lengthMax: lengthMax) else { throw Self.fault(name, "is missing") }
        guard text.unicodeScalars.count >= lengthMin else { throw Self.fault(name, "is empty") }
        return text
    }

    mutating func optionalID<Noun>(_ name: String) throws(Problem) -> Identifier<Noun>? {
        guard let text = try optionalText(name, lengthMax: Limits.identifierBytesMax) else { return nil }
        guard let id = try? Identifier<Noun>(text) else {
            throw Self.fault(name, "is not a name: letters, digits, . _ : - and a letter or digit first")
        }
        return id
    }

    mutating func id<Noun>(_ name: String) throws(Problem) -> Identifier<Noun> {
        guard let id: Identifier<Noun> = try optionalID(name) else { throw Self.fault(name, "is missing") }
        return id
    }

    mutating func optionalChoice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, _: Choice.Type = Choice.self
    ) throws(Problem) -> Choice? where Choice.RawValue == String {
        guard let text = try optionalText(name, lengthMax: 64) else { return nil }
        guard let choice = Choice(rawValue: text) else {
            throw Self.fault(name, "is none of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        return choice
    }

    mutating func choice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, _: Choice.Type = Choice.self
    ) throws(Problem) -> Choice where Choice.RawValue == String {
        guard let choice: Choice = try optionalChoice(name) else { throw Self.fault(name, "is missing") }
        return choice
    }

    mutating func choices<Choice: RawRepresentable & CaseIterable & Hashable>(
        _ name: String, _: Choice.Type = Choice.self
    ) throws(Problem) -> Set<Choice> where Choice.RawValue == String {
        guard let values = json(name)?.arrayValue, !values.isEmpty, values.count <= Choice.allCases.count else {
            throw Self.fault(name, "is not a list of at least one and different names")
        }
        var chosen: Set<Choice> = []
        for value in values {
            guard let choice = value.stringValue.flatMap(Choice.init), chosen.insert(choice).inserted else {
                throw Self.fault(
                    name,
                    "is not a list of different names of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))"
                )
            }
        }
        return chosen
    }

    mutating func optionalBool(_ name: String) throws(Problem) -> Bool? {
        guard let value = json(name) else { return nil }
        guard let truth = value.boolValue else { throw Self.fault(name, "is not true or false") }
        return truth
    }

    mutating func optionalTexts(_ name: String, countMax: Int, lengthMax: Int) throws(Problem) -> [String]? {
        guard let value = json(name) else { return nil }
        guard let values = value.arrayValue, (1...countMax).contains(values.count) else {
            throw Self.fault(name, "is not a list of 1 to \(countMax) texts")
        }
        var texts: [String] = []
        for value in values {
            guard let text = value.stringValue, (1...lengthMax).contains(text.unicodeScalars.count) else {
                throw Self.fault(name, "is not a list of texts of 1 to \(lengthMax) characters")
            }
            texts.append(text)
        }
        return texts
    }

    /// An integer of a body, or its digits in a query.
    mutating func optionalNumber(_ name: String, in range: ClosedRange<Int64>) throws(Problem) -> Int64? {
        guard let value = json(name) else { return nil }
        let number =
            value.integerValue
            ?? value.stringValue.flatMap { text in Int64(text).flatMap { "\($0)" == text ? $0 : nil } }
        guard let number, place == "query" || value.integerValue != nil else {
            throw Self.fault(name, "is not a whole number")
        }
        guard range.contains(number) else {
            throw Self.fault(name, "is not from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    /// The page that a list's query asks for.
    mutating func page(order: PageRequest.Order = .newest) throws -> PageRequest {
        let order = try optionalChoice("order", PageRequest.Order.self) ?? order
        let after = try optionalText("after", lengthMax: 256)
        let limit = try optionalNumber("limit", in: 1...Int64(PageRequest.limitMax))
        do throws(GatewayError) {
            return try PageRequest(
                order: order, after: after.map { text throws(GatewayError) in try Cursor(text) },
                limit: limit.map(Int.init) ?? PageRequest.limitDefault)
        } catch {
            // A cursor of another list is well formed, and makes no sense here.
            var problem = Problem(
                status: 422, code: "invalid", title: "This makes no sense as asked",
                detail: "'after' cannot be used: \(error.publicDescription). Nothing was done.")
            problem.fields = [Problem.FieldFault("after", error.publicDescription)]
            throw problem
        }
    }
}
