import Vocabulary

/// What is to be predicted for each row of an image: the bytes of its section, the split, and what is counted of them.
struct ImageTargets {
    /// Of `ImageSection.labels`, `.labelSets` or `.targets`.
    private(set) var bytes: [UInt8]
    /// Rows of which nothing is known are in none.
    private(set) var split: [UInt8]
    let classes: Int
    private(set) var labelled = [Int](repeating: 0, count: Split.allCases.count)
    private(set) var trainingByClass: [Int]

    /// - Parameter labels: a class for each row, −1 where there is none.
    init(classes labels: [Int32], of classes: Int, _ split: [UInt8]) throws(VaultError) {
        bytes = labels.withUnsafeBytes { Array($0) }
        // The section itself says which rows have a class, so the split stays as it was imported.
        self.split = split
        self.classes = classes
        trainingByClass = Array(repeating: 0, count: classes)
        for (label, part) in zip(labels, split) where label >= 0 {
            guard trainingByClass.indices.contains(Int(label)) else { throw Self.unknownClass }
            if try count(part) == .train { trainingByClass[Int(label)] += 1 }
        }
    }

    /// - Parameter sets: the classes of each row; `LabelSetColumn.unknown` alone where they are not known.
    init(sets: [ArraySlice<UInt16>], of classes: Int, _ split: [UInt8]) throws(VaultError) {
        let rowBytes = (classes + 7) / 8
        bytes = Array(repeating: 0, count: sets.count * rowBytes)
        self.split = split
        self.classes = classes
        trainingByClass = Array(repeating: 0, count: classes)
        for (row, set) in sets.enumerated() {
            guard set.first != NodeFile.LabelSetColumn.unknown else {
                self.split[row] = Split.none.rawValue
                continue
            }
            let use = try count(split[row])
            for label in set {
                guard trainingByClass.indices.contains(Int(label)) else { throw Self.unknownClass }
                bytes[row * rowBytes + Int(label) / 8] |= 1 << (label % 8)
                if use == .train { trainingByClass[Int(label)] += 1 }
            }
        }
    }

    /// - Parameter values: not a number where there is none.
    init(values: [Float], _ split: [UInt8]) throws(VaultError) {
        var known = values
        self.split = split
        classes = 1
        trainingByClass = []
        bytes = []
        for (row, value) in values.enumerated() {
            if value.isNaN {
                known[row] = 0
                self.split[row] = Split.none.rawValue
            } else {
                _ = try count(split[row])
            }
        }
        bytes = known.withUnsafeBytes { Array($0) }
    }

    private mutating func count(_ part: UInt8) throws(VaultError) -> Split {
        guard let use = Split(rawValue: part) else { throw VaultError(.tampered, "a row has an unknown split") }
        labelled[Int(part)] += 1
        return use
    }

    private static var unknownClass: VaultError { VaultError(.tampered, "a row has an unknown class") }
}
