import Vocabulary

/// The rows of a KGX nodes file, column by column. Names and other columns are not kept: a vault holds what runs need.
struct NodeFile {
    /// A column of classes, such as `label` or `label2`, with the names from `label_name`, `label2_name` if there are.
    struct LabelColumn {
        let name: String
        /// A class for each row, −1 where there is none.
        var classes: [Int32] = []
        /// `nil` where the file has no column of names, or no row of that class.
        var classNames: [String?] = []
    }

    /// A column of class sets, such as `labels`, whose fields hold class numbers with `|` between them.
    struct LabelSetColumn {
        /// Stands alone for a row whose classes are not known; a row that is of no class has an empty set.
        static let unknown = UInt16.max
        let name: String
        /// `[rows + 1]`
        var pointers: [UInt64] = [0]
        /// Ascending in each row.
        var classes: [UInt16] = []
        var classNames: [String?] = []
    }

    /// A column of numbers, such as `target`; not a number where there is none.
    struct TargetColumn {
        let name: String
        var values: [Float] = []
    }

    static let noSubject = UInt32.max
    static let codesMax = Int(UInt16.max)

    var ids = IdentifierTable()
    var categories = IdentifierTable()
    /// Each row's category, a number in `categories`.
    var categoryOfRow: [UInt16] = []
    var labels: [LabelColumn] = []
    var labelSets: [LabelSetColumn] = []
    var targets: [TargetColumn] = []
    var split: [UInt8] = []
    /// The people in the data, by their own ids.
    var subjects = IdentifierTable()
    /// Whose data a row is; `noSubject` for rows about nobody, such as genes.
    var subjectOfRow: [UInt32] = []

    var count: Int { ids.count }
}

extension NodeFile {
    /// Columns: `id` and `category`; `label`, `label2`, … (a class) with `label_name`, `label2_name`, …; `labels`,
    /// `labels2`, … (class sets) with `labels_name`, …; `target`, `target2`, … (numbers); `split`; `subject`, the id of
    /// the person that a row belongs to (a sample, a visit). A node with one of `personCategories` (`|` separates
    /// several) is a person, its id its own subject.
    init(_ file: ImportFile, personCategories: Set<String>) throws(VaultError) {
        self.init()
        var table = try TableReader(file, source: .nodes)
        let id = try table.requiredColumn("id")
        let category = try table.requiredColumn("category")
        let subject = table.column("subject")
        let split = table.column("split")
        var labelColumns: [(column: Int, name: Int?)] = []
        var labelSetColumns: [(column: Int, name: Int?)] = []
        var targetColumns: [Int] = []
        for (index, name) in table.columns.enumerated() {
            if Self.isNumbered(name, "label") {
                labelColumns.append((index, table.column(name + "_name")))
                labels.append(LabelColumn(name: name))
            } else if Self.isNumbered(name, "labels") {
                labelSetColumns.append((index, table.column(name + "_name")))
                labelSets.append(LabelSetColumn(name: name))
            } else if Self.isNumbered(name, "target") {
                targetColumns.append(index)
                targets.append(TargetColumn(name: name))
            }
        }
        var isPerson: [Bool] = []

        while try table.next() {
            let (row, isNew) = ids.insert(try table.filledField(id))
            guard isNew else { throw table.error(.duplicateNode, id, "this id stands in an earlier line too") }
            guard row < Limits.nodesMax else { throw table.error(.tooMany, id, "more than \(Limits.nodesMax) nodes") }

            let (code, isNewCode) = categories.insert(try table.filledField(category))
            guard code <= Self.codesMax else {
                throw table.error(.tooMany, category, "more than \(Self.codesMax + 1) categories")
            }
            if isNewCode {
                isPerson.append(
                    categories.text(code).split(separator: "|").contains { personCategories.contains(String($0)) })
            }
            categoryOfRow.append(UInt16(code))

            if let subject, !table.field(subject).isEmpty {
                subjectOfRow.append(try Self.subjectNumber(in: &subjects, table, subject))
            } else if isPerson[code] {
                subjectOfRow.append(try Self.subjectNumber(in: &subjects, table, id))
            } else {
                subjectOfRow.append(Self.noSubject)
            }

            for (position, columns) in labelColumns.enumerated() {
                try labels[position].append(from: table, columns.column, columns.name)
            }
            for (position, columns) in labelSetColumns.enumerated() {
                try labelSets[position].append(from: table, columns.column, columns.name)
            }
            for (position, column) in targetColumns.enumerated() {
                try targets[position].append(from: table, column)
            }
            if let split {
                let word = try Self.splitWord(table, split)
                if word != .none, !lastRowIsLabelled {
                    throw table.error(.badSplit, split, "a node without a label cannot be in \(Self.word(word))")
                }
                self.split.append(word.rawValue)
            } else {
                self.split.append(Split.none.rawValue)
            }
        }
        guard count > 0 else {
            throw VaultError(.badHeader, in: .nodes, at: .line(2, column: 1), "there is no node")
        }
    }

    private static func isNumbered(_ name: String, _ stem: String) -> Bool {
        name.hasPrefix(stem) && name.dropFirst(stem.count).allSatisfy { $0.isASCII && $0.isNumber }
    }

    /// Of the column `label`, or of any set or target.
    private var lastRowIsLabelled: Bool {
        labels.first { $0.name == "label" }?.classes.last ?? -1 >= 0
            || labelSets.contains { $0.classes.last != LabelSetColumn.unknown || $0.lastRowIsEmpty }
            || targets.contains { $0.values.last?.isNaN == false }
    }

    private static func subjectNumber(
        in subjects: inout IdentifierTable, _ table: borrowing TableReader, _ column: Int
    ) throws(VaultError) -> UInt32 {
        let (number, isNew) = subjects.insert(table.field(column))
        if isNew { try checkSubject(table, column) }
        return UInt32(number)
    }

    /// Subjects are named on the command line and in records, so they must be identifiers.
    static func checkSubject(_ table: borrowing TableReader, _ column: Int) throws(VaultError) {
        do throws(IdentifierError) {
            _ = try SubjectID(table.text(column))
        } catch {
            throw table.error(.badIdentifier, column, error.description)
        }
    }

    private static func splitWord(_ table: borrowing TableReader, _ column: Int) throws(VaultError) -> Split {
        switch table.text(column) {
        case "none": .none
        case "train": .train
        case "val": .validation
        case "test": .test
        default: throw table.error(.badSplit, column, "a split is one of none, train, val, test")
        }
    }

    private static func word(_ split: Split) -> String {
        switch split {
        case .none: "none"
        case .train: "train"
        case .validation: "val"
        case .test: "test"
        }
    }
}

extension NodeFile.LabelColumn {
    fileprivate mutating func append(
        from table: borrowing TableReader, _ column: Int, _ nameColumn: Int?
    ) throws(VaultError) {
        guard let label = Self.number(table.field(column)) else {
            throw table.error(
                .badLabel, column, "a label is -1 or a class number from 0 to \(Limits.classesMax - 1)")
        }
        classes.append(label)
        guard let nameColumn else {
            if label >= 0 { extend(to: Int(label)) }
            return
        }
        let text = table.text(nameColumn)
        guard label >= 0 else {
            guard text.isEmpty else { throw table.error(.badLabel, nameColumn, "a class name without a class") }
            return
        }
        guard !text.isEmpty else { throw table.error(.badLabel, nameColumn, "a class without a name") }
        extend(to: Int(label))
        guard classNames[Int(label)] ?? text == text else {
            throw table.error(.badLabel, nameColumn, "the class has another name in an earlier line")
        }
        classNames[Int(label)] = text
    }

    private mutating func extend(to label: Int) {
        while classNames.count <= label { classNames.append(nil) }
    }

    /// −1 or a class number, in its shortest form.
    fileprivate static func number(_ bytes: UnsafeRawBufferPointer) -> Int32? {
        if bytes.elementsEqual("-1".utf8) { return -1 }
        guard (1...4).contains(bytes.count), bytes.count == 1 || bytes[0] != UInt8(ascii: "0") else { return nil }
        var number: Int32 = 0
        for byte in bytes {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            number = number * 10 + Int32(byte - UInt8(ascii: "0"))
        }
        return number < Limits.classesMax ? number : nil
    }
}

extension NodeFile.LabelSetColumn {
    fileprivate var lastRowIsEmpty: Bool { pointers.count > 1 && pointers[pointers.count - 2] == pointers.last }

    fileprivate mutating func append(
        from table: borrowing TableReader, _ column: Int, _ nameColumn: Int?
    ) throws(VaultError) {
        let text = table.text(column)
        let names = nameColumn.map { table.text($0).split(separator: "|", omittingEmptySubsequences: false) }
        defer { pointers.append(UInt64(classes.count)) }
        if text == "-1" || text == "none" {
            if let nameColumn, !table.text(nameColumn).isEmpty {
                throw table.error(.badLabel, nameColumn, "a class name without a class")
            }
            if text == "-1" { classes.append(Self.unknown) }
            return
        }
        var last = -1
        let numbers = text.split(separator: "|", maxSplits: Limits.classesMax, omittingEmptySubsequences: false)
        if let nameColumn, names?.count != numbers.count {
            throw table.error(.badLabel, nameColumn, "as many names as classes, with | between them")
        }
        for (position, word) in numbers.enumerated() {
            var bytes = Array(word.utf8)
            let number = bytes.withUnsafeMutableBytes { NodeFile.LabelColumn.number(UnsafeRawBufferPointer($0)) } ?? -1
            guard number > last else {
                throw table.error(
                    .badLabel, column,
                    "labels are -1, none, or ascending class numbers from 0 to \(Limits.classesMax - 1), such as 0|3|7")
            }
            last = Int(number)
            while classNames.count <= last { classNames.append(nil) }
            if let nameColumn, let name = names?[position] {
                guard !name.isEmpty else { throw table.error(.badLabel, nameColumn, "a class without a name") }
                guard classNames[last] ?? String(name) == name else {
                    throw table.error(.badLabel, nameColumn, "the class has another name in an earlier line")
                }
                classNames[last] = String(name)
            }
            classes.append(UInt16(number))
        }
    }
}

extension NodeFile.TargetColumn {
    fileprivate mutating func append(from table: borrowing TableReader, _ column: Int) throws(VaultError) {
        let text = table.text(column)
        guard !text.isEmpty else {
            values.append(.nan)
            return
        }
        guard text.utf8.count <= 40, text.utf8.allSatisfy({ "+-.eE0123456789".utf8.contains($0) }),
            let value = Float(text), value.isFinite
        else { throw table.error(.badLabel, column, "a target is empty or a decimal number that float32 can hold") }
        values.append(value)
    }
}
