package import Foundation
import Vocabulary

/// A graph in clear, read from files, for tests and benchmarks only: the product reads graphs from its vault.
package struct PlainGraph: Sendable {
    package let nodes: Int
    package let features: Int
    package let classes: Int
    /// Both directions of each edge, ascending in each row, no loops.
    package let rowPointers: [UInt64]
    package let columns: [UInt32]
    /// [nodes, features]
    package var values: [Float]
    package let labels: [Int32]
    package let split: [UInt8]
    /// The same edges by predicate, (subject, object), for typed models.
    package var relations: [String: [(UInt32, UInt32)]] = [:]
    /// [nodes, ⌈classes / 8⌉] bits, for multi-label tasks; see `ImageSection.labelSets`.
    package var labelSets: [UInt8] = []
    /// [nodes], for regression.
    package var targets: [Float] = []

    package init(
        features: Int, classes: Int, rowPointers: [UInt64], columns: [UInt32], values: [Float], labels: [Int32],
        split: [UInt8]
    ) {
        nodes = rowPointers.count - 1
        self.features = features
        self.classes = classes
        self.rowPointers = rowPointers
        self.columns = columns
        self.values = values
        self.labels = labels
        self.split = split
    }

    /// An undirected simple graph from pairs in any order, with repeats and loops to be dropped.
    package init(
        nodes: Int, pairs: [(UInt32, UInt32)], features: Int, classes: Int, values: [Float], labels: [Int32],
        split: [UInt8]
    ) {
        var keys: [UInt64] = []
        keys.reserveCapacity(pairs.count * 2)
        for (a, b) in pairs where a != b {
            keys.append(UInt64(a) << 32 | UInt64(b))
            keys.append(UInt64(b) << 32 | UInt64(a))
        }
        keys.sort()
        var pointers = Array(repeating: UInt64(0), count: nodes + 1)
        var columns: [UInt32] = []
        columns.reserveCapacity(keys.count)
        var previous: UInt64?
        for key in keys where key != previous {
            pointers[Int(key >> 32) + 1] += 1
            columns.append(UInt32(truncatingIfNeeded: key))
            previous = key
        }
        for row in 0..<nodes { pointers[row + 1] += pointers[row] }
        self.init(
            features: features, classes: classes, rowPointers: pointers, columns: columns, values: values,
            labels: labels, split: split)
    }
}

// MARK: - Files

package struct PlainGraphError: Error { package let reason: String }

extension PlainGraph {
    /// A folder in the KGX-like form: `nodes.tsv`, `edges.tsv` or `edges.tsv.gz`, `features.npy` or its three CSR parts.
    package init(kgx folder: URL) throws {
        let nodeRows = try Self.table(Data(contentsOf: folder.appendingPathComponent("nodes.tsv")))
        guard let header = nodeRows.first, let id = header.firstIndex(of: "id"),
            let label = header.firstIndex(of: "label"), let split = header.firstIndex(of: "split")
        else { throw PlainGraphError(reason: "nodes.tsv lacks id, label or split") }
        let rows = nodeRows.dropFirst()
        var index: [Substring: UInt32] = [:]
        for (number, row) in rows.enumerated() { index[row[id]] = UInt32(number) }
        let labels = rows.map { Int32($0[label]) ?? -1 }
        let names: [Substring: Split] = ["train": .train, "val": .validation, "test": .test, "none": .none]

        let plain = folder.appendingPathComponent("edges.tsv")
        let edges =
            FileManager.default.fileExists(atPath: plain.path)
            ? try Data(contentsOf: plain) : try Self.gunzipped(folder.appendingPathComponent("edges.tsv.gz"))
        let edgeRows = try Self.table(edges)
        guard let edgeHeader = edgeRows.first, let subject = edgeHeader.firstIndex(of: "subject"),
            let object = edgeHeader.firstIndex(of: "object")
        else { throw PlainGraphError(reason: "edges.tsv lacks subject or object") }
        let predicate = edgeHeader.firstIndex(of: "predicate")
        var relations: [String: [(UInt32, UInt32)]] = [:]
        let pairs = try edgeRows.dropFirst().map { row in
            guard let a = index[row[subject]], let b = index[row[object]] else {
                throw PlainGraphError(reason: "an edge names an unknown node")
            }
            if let predicate { relations[String(row[predicate]), default: []].append((a, b)) }
            return (a, b)
        }
        let (values, width) = try Self.features(folder, nodes: rows.count)
        self.init(
            nodes: rows.count, pairs: pairs, features: width, classes: Int(labels.max() ?? -1) + 1, values: values,
            labels: labels, split: rows.map { (names[$0[split]] ?? Split.none).rawValue })
        self.relations = relations
    }

    /// Raw little-endian arrays as `Benchmarks/training/rmat.py` writes them.
    package init(arrays folder: URL, features: Int, classes: Int) throws {
        func read<Element: BitwiseCopyable>(_ name: String, _: Element.Type) throws -> [Element] {
            let data = try Data(contentsOf: folder.appendingPathComponent(name))
            return data.withUnsafeBytes { bytes in
                Array(unsafeUninitializedCapacity: bytes.count / MemoryLayout<Element>.size) { buffer, count in
                    UnsafeMutableRawBufferPointer(buffer).copyMemory(from: bytes)
                    count = bytes.count / MemoryLayout<Element>.size
                }
            }
        }
        self.init(
            features: features, classes: classes, rowPointers: try read("indptr.bin", UInt64.self),
            columns: try read("indices.bin", UInt32.self), values: try read("features.bin", Float.self),
            labels: try read("labels.bin", Int32.self), split: try read("split.bin", UInt8.self))
    }

    private static func table(_ data: Data) throws -> [[Substring]] {
        String(decoding: data, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: true).map {
            $0.split(separator: "\t", omittingEmptySubsequences: false)
        }
    }

    private static func gunzipped(_ file: URL) throws -> Data {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["gzip", "-dc", file.path]
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw PlainGraphError(reason: "gzip failed") }
        return data
    }

    private static func features(_ folder: URL, nodes: Int) throws -> (values: [Float], width: Int) {
        let dense = folder.appendingPathComponent("features.npy")
        if FileManager.default.fileExists(atPath: dense.path) {
            let (values, shape) = try array(dense, Float.self)
            guard shape.count == 2, shape[0] == nodes else { throw PlainGraphError(reason: "features.npy's shape") }
            return (values, shape[1])
        }
        let (pointers, _) = try array(folder.appendingPathComponent("features_indptr.npy"), Int64.self)
        let (indices, _) = try array(folder.appendingPathComponent("features_indices.npy"), Int32.self)
        let (data, _) = try array(folder.appendingPathComponent("features_data.npy"), Float.self)
        let meta = try JSONSerialization.jsonObject(
            with: Data(contentsOf: folder.appendingPathComponent("meta.json")))
        guard let width = (meta as? [String: Any])?["features"] as? Int else {
            throw PlainGraphError(reason: "meta.json lacks features")
        }
        var values = Array(repeating: Float(0), count: nodes * width)
        for row in 0..<nodes {
            for entry in Int(pointers[row])..<Int(pointers[row + 1]) {
                values[row * width + Int(indices[entry])] = data[entry]
            }
        }
        return (values, width)
    }

    /// NumPy's format 1.0, C order.
    private static func array<Element: BitwiseCopyable>(
        _ file: URL, _: Element.Type
    ) throws -> (values: [Element], shape: [Int]) {
        let data = try Data(contentsOf: file)
        guard data.count > 10, data.starts(with: [0x93] + "NUMPY".utf8) else {
            throw PlainGraphError(reason: "not a .npy file")
        }
        let headerBytes = Int(data[8]) | Int(data[9]) << 8
        let header = String(decoding: data[10..<10 + headerBytes], as: UTF8.self)
        guard let open = header.range(of: "'shape': ("), let close = header[open.upperBound...].firstIndex(of: ")")
        else { throw PlainGraphError(reason: "a .npy header without a shape") }
        let shape = header[open.upperBound..<close].split(separator: ",").compactMap {
            Int($0.trimmingCharacters(in: .whitespaces))
        }
        let count = shape.reduce(1, *)
        let body = data.dropFirst(10 + headerBytes)
        guard body.count == count * MemoryLayout<Element>.size else {
            throw PlainGraphError(reason: "a .npy file of another length")
        }
        let values = [Element](unsafeUninitializedCapacity: count) { buffer, initialized in
            _ = UnsafeMutableRawBufferPointer(buffer).withMemoryRebound(to: UInt8.self) { body.copyBytes(to: $0) }
            initialized = count
        }
        return (values, shape)
    }
}
